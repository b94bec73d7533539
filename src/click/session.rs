//! One live session in memory, and the context of the statement that advances it.

use crate::click::campaigns::{self, Campaigns};
use crate::click::serving_state::ServingState;
use crate::models::cache::Decoded;
use crate::pg::error::ok;
use crate::pg::settings;
use crate::pg::statement::Fields;
use coupon_model::live::{Click, LiveSession};
use pgrx::prelude::*;
use std::rc::Rc;

/// A session as it is stored.
pub struct SessionRow {
    pub session: String,
    pub customer: Option<String>,
    pub started_at: i64,
    pub last_at: i64,
    pub segment: u32,
    pub version: Option<Rc<Decoded>>,
    pub decided: Vec<String>,
    pub visit: LiveSession,
    /// It is stored already.
    pub known: bool,
    /// Its state was purged a day after its last click: it is rebuilt before it goes on.
    pub state_purged: bool,
}

/// What the sessions of one statement share.
pub struct StatementContext {
    pub serving: Rc<ServingState>,
    pub active: Option<Rc<Decoded>>,
    pub clock: i64,
}

impl StatementContext {
    pub fn new(serving: Rc<ServingState>) -> StatementContext {
        StatementContext { active: serving.versions.active(), serving, clock: settings::clock() }
    }
}

impl SessionRow {
    /// From the columns of coupon.session, `customer` being column `first` of the row.
    pub fn stored(row: &impl Fields, first: usize, session: &str, serving: &ServingState) -> SessionRow {
        let time = |n: usize| row.field::<TimestampWithTimeZone>(first + n).map_or(0, i64::from);
        let flag = |n: usize| row.field::<bool>(first + n).unwrap_or(false);
        let views = row.field::<i32>(first + 3).unwrap_or(0) as u32;
        let mut visit = LiveSession::stored(views, flag(6), flag(7), row.field(first + 8), row.field(first + 9));
        let version = row.field::<i64>(first + 5).and_then(|number| serving.versions.version(number));
        let state = row.field::<&[u8]>(first + 11);
        if let (Some(version), Some(state)) = (&version, state) {
            ok(visit.restore(&version.version, state));
        }
        SessionRow {
            session: session.to_string(),
            customer: row.field(first),
            started_at: time(1),
            last_at: time(2),
            segment: row.field::<i32>(first + 4).unwrap_or(0) as u32,
            decided: row.field(first + 10).unwrap_or_default(),
            visit,
            known: true,
            state_purged: version.is_some() && state.is_none(),
            version,
        }
    }

    /// A session at its first click, of a customer in `segment`.
    pub fn begin(session: &str, at: i64, segment: u32, context: &StatementContext) -> SessionRow {
        let model_segment = if campaigns::pooled(&context.serving.campaigns, session) { 0 } else { segment };
        SessionRow {
            session: session.to_string(),
            customer: None,
            started_at: at,
            last_at: at,
            segment,
            visit: LiveSession::begin(context.active.as_ref().map(|v| &v.version), model_segment),
            version: context.active.clone(),
            decided: Vec::new(),
            known: false,
            state_purged: false,
        }
    }

    /// Live and when it is rebuilt: one click further.
    pub fn apply(&mut self, click: &Click<impl AsRef<str>>) {
        self.visit.click(self.version.as_ref().map(|v| &v.version), click);
        self.record(click);
    }

    /// The columns that a click changes, but for the score.
    pub fn record(&mut self, click: &Click<impl AsRef<str>>) {
        self.last_at = self.last_at.max(click.at);
        if self.customer.is_none() {
            self.customer = click.customer.as_ref().map(|c| c.as_ref().to_string());
        }
    }

    /// The segment whose churn model scores it: as its state says, or where that was purged, as it began.
    pub fn model_segment(&self, campaigns: &Campaigns) -> u32 {
        match self.state_purged {
            false => self.visit.scoring(),
            true if campaigns::pooled(campaigns, &self.session) => 0,
            true => self.segment,
        }
    }
}
