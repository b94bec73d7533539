//! How much memory a training will hold at its peak, added up from counts before any of it is allocated.

use super::Spec;
use crate::churn::inputs::Layout;
use crate::churn::{self, Example, Trainer, View};
use coupon_base::Error;
use coupon_base::Result;
use coupon_base::memory;
use coupon_events::events::{Kind, Log, MAX_ATTRIBUTES};
use coupon_events::sessions::{Session, pause};
use serde::{Deserialize, Serialize};

/// What every training holds beside its data: threads with their stacks and heaps, statements, cards.
const BASE: usize = 32 << 20;

/// Bytes at the peak, and the counts they come from. Everything that grows with the log is in it; what the caller holds
/// beside the log (PostgreSQL's sort, for one) is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    pub events: usize,
    /// Events before a checkout or purchase, of sessions that training may leave out yet.
    pub views: usize,
    pub sessions: usize,
    pub customers: usize,
    /// The log itself, as it is held already.
    pub log_bytes: usize,
    /// Sessions and what is known of their customers: held from the first stage to the last.
    pub ground_bytes: usize,
    /// The churn network with what it learns from, or another stage that needs more.
    pub stage_bytes: usize,
    pub peak_bytes: usize,
}

impl Estimate {
    /// One pass over the log.
    pub fn of(log: &Log, spec: &Spec, check: &mut dyn FnMut() -> Result<()>) -> Result<Estimate> {
        let texts = log.texts.len();
        // Distinct sessions, distinct customers.
        let mut seen = [memory::filled(false, texts)?, memory::filled(false, texts)?];
        let mut distinct = [0; 2];
        let (mut views, mut purchases) = (0, 0);
        for (n, e) in log.events.iter().enumerate() {
            pause(n, check)?;
            views += usize::from(!e.kind.ends());
            purchases += usize::from(e.kind == Kind::Purchase);
            for ((seen, distinct), text) in seen.iter_mut().zip(&mut distinct).zip([e.session, e.customer]) {
                if let Some(seen) = seen.get_mut(text as usize) {
                    *distinct += usize::from(!std::mem::replace(seen, true));
                }
            }
        }
        let [sessions, customers] = distinct;
        let (events, log_bytes) = (log.events.len(), log.bytes());
        // Positions by session and by customer, 4 bytes each; the ends of the customers' groups.
        let a_session = size_of::<Session>() * 9 / 8
            + 8 * spec.segment.definition(spec.sessions.lookback_days).names().count()
            + 4
            + 4
            + 4
            + 4;
        let ground_bytes = 8 * events + 4 * texts + a_session * sessions;
        // While groups are made, each event's owner and each text's end.
        let grouping = 8 * events + 24 * texts;
        let churn = size_of::<View>() * views + size_of::<Example>() * sessions + trainer(spec, sessions, views);
        // Order lines by customer and category, before the cut and after; then the rows of coupon.customer.
        let rank = grouping + 200 * purchases + 200 * customers;
        let stage_bytes = churn.max(rank);
        let peak_bytes = BASE + log_bytes + ground_bytes + stage_bytes;
        Ok(Estimate { events, views, sessions, customers, log_bytes, ground_bytes, stage_bytes, peak_bytes })
    }

    /// What a log needs at the least, whatever is to be done with it.
    pub fn least(log: &Log) -> usize {
        BASE + log.bytes() + 16 * log.events.len() + 28 * log.texts.len()
    }

    /// What is left of a budget for the network when the rest has its share.
    pub(super) fn beside_trainer(&self) -> usize {
        BASE + self.log_bytes
            + self.ground_bytes
            + size_of::<View>() * self.views
            + size_of::<Example>() * self.sessions
    }

    /// # Errors
    /// [`Error::Memory`] where the peak passes the budget; [`Error::OutOfMemory`] where the operating system would not give
    /// what is still to be allocated.
    pub(super) fn fits(&self, log: &Log, budget: usize) -> Result<()> {
        if self.peak_bytes > budget {
            return Err(Error::Memory { needed: self.peak_bytes, budget });
        }
        memory::probe(self.peak_bytes.saturating_sub(log.bytes()))
    }
}

/// No less than [`Trainer::memory`](crate::churn::Trainer::memory) finds when the windows and their words are known.
fn trainer(spec: &Spec, sessions: usize, views: usize) -> usize {
    let (c, s) = (&spec.churn, &spec.sessions);
    let layout = Layout::new(c.features, c.max_pages, c.max_categories, &[c.max_attributes; MAX_ATTRIBUTES]);
    let longest = c.max_length.min(s.max_views);
    // Windows are shares of sessions; those of tune may be longer than the others.
    let tune = views.min((1.5 * s.split[1] * views as f64) as usize + s.max_views);
    let past = views.min(churn::PAST * longest);
    Trainer::bytes(c, &layout, longest * c.batch_size.min(sessions), [tune, past], sessions)
}
