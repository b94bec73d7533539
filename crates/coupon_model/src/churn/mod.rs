//! churn: a session's page views and its segment → the probability that it ends without a purchase.
//!
//! A stacked LSTM over page views, dropout, max pooling over the last steps, a feed-forward layer, one logit
//! (Seo & Yoo, IEEE Access 2022). One network is trained on all sessions (segment 0, "pooled"); a segment gets its own
//! only where that wins on sessions neither has seen. Training differentiates with candle ([`Trainer`]); scoring is a
//! forward step written by hand ([`Net::step`]), O(1) a view, that shares its inputs and its cell with training.
//!
//! Words → [`View`] happens in [`Vocabulary::view`] and `View` → numbers in [`inputs`], for training and serving alike.

mod batch;
mod calibrate;
mod explain;
mod fit;
mod graph;
pub mod inputs;
mod math;
mod model;
mod net;
mod ops;
mod report;
mod spec;
mod store;
mod trainer;
mod vocabulary;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod scoring_tests;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Queued, Scored, Stream};
pub use calibrate::Platt;
pub use explain::{Contribution, contributions};
pub use fit::EpochReport;
pub use model::{Model, State};
pub use net::{Net, Scratch};
pub use report::{Card, Gate, Pair, Report, gate, report};
pub use spec::{Inputs, Loss, Spec};
pub use trainer::{SegmentReport, Step, Trainer};
pub use vocabulary::{Vocabulary, Words};

use crate::events::{Kind, MAX_ATTRIBUTES, Micros};

/// A page view as the model sees it: texts are numbers of the [`Vocabulary`] (0 absent, 1 unknown, 2.. known).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    pub at: Micros,
    pub kind: Kind,
    pub page: u16,
    pub category: u16,
    /// In the shop's currency; NaN where unknown.
    pub price: f32,
    pub attributes: [u16; MAX_ATTRIBUTES],
}

/// A complete session: checkout and what follows removed, the last three views kept.
#[derive(Debug, Clone, Copy)]
pub struct Example<'a> {
    pub views: &'a [View],
    pub purchased: bool,
    /// 1, or 1 / P(not issued) for a session that was eligible and held out.
    pub weight: f32,
    /// 0 for anonymous.
    pub segment: u32,
}

impl<'a> Example<'a> {
    /// How many views a live classifier does not wait for: the papers' "last three".
    pub const LAST: usize = 3;

    /// The views up to the cut, or `None` for a session of no more than three.
    pub fn cut(&self) -> Option<&'a [View]> {
        self.views.len().checked_sub(Self::LAST).filter(|&n| n > 0).map(|n| &self.views[..n])
    }
}
