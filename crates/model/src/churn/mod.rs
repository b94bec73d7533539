//! churn: a session's page views and its segment → the probability that it ends without a purchase.
//!
//! A stacked LSTM over page views, dropout, pooling over the last steps, a feed-forward layer, one logit
//! (Seo & Yoo, IEEE Access 2022); optionally GRU cells, and a convolution before them. One network is trained on all
//! sessions (segment 0, "pooled"); a segment gets its own only where that wins on sessions neither has seen. Training
//! ([`Trainer`]) runs batches through a graph of candle's (`network`); what serves runs without it: a live step
//! ([`Net::step`]), O(1) a view, and a scorer of many views at once (`scorer`). All share inputs and inner loops.
//!
//! Words → [`View`] happens in [`Vocabulary::view`] and `View` → numbers in [`inputs`], for training and serving alike.

mod aligned;
mod alone;
mod batch;
mod calibrate;
mod explain;
mod fit;
pub mod inputs;
mod kernels;
mod math;
mod model;
mod net;
mod network;
mod ops;
mod queue;
mod recurrent;
mod report;
mod scorer;
mod simd;
mod spec;
mod store;
mod sums;
mod trainer;
mod vocabulary;

#[cfg(test)]
mod ops_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod scoring_tests;
#[cfg(test)]
mod tests;

pub use calibrate::Calibrator;
pub use explain::{Contribution, contributions};
pub use fit::EpochReport;
pub use model::{Model, State};
pub use net::{Net, Scratch};
pub use queue::{BATCH_SESSIONS, Buffers, Queue, Queued, Scored, Stream};
pub use report::{Card, Gate, Report, Row, gate, report, report_compared};
pub use simd::{LANES, Level, level as simd_level};
pub use spec::{Features, LossOn, Pooling, RnnType, Spec};
pub(crate) use trainer::PAST;
pub use trainer::{SegmentReport, Step, Trainer};
pub use vocabulary::{Vocabulary, Words};

use coupon_events::events::{Kind, MAX_ATTRIBUTES, Micros};

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
