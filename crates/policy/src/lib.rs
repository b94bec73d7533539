//! issue: who gets a coupon, by which draw, under which code.
//!
//! * [`replay`](fn@replay) sets the thresholds of every policy by walking complete sessions as the trigger would;
//! * [`eligible`] is the one rule that the replay and live serving share, [`conditions`](fn@conditions) its reasons;
//! * [`draw`](fn@draw) and [`arm`] are the randomisation, reproducible by anybody with SHA-256; [`assign`] and [`verdict`]
//!   are what is drawn by it;
//! * [`code`] writes and reads coupon codes.

pub mod code;
mod conditions;
mod draw;
mod replay;
#[cfg(test)]
mod tests;
mod thresholds;

pub use conditions::{Assignment, Condition, Outcome, Verdict, assign, conditions, eligible, verdict};
pub use draw::{SALT_ARM, SALT_ISSUE, SALT_VIEW, arm, draw};
pub use replay::replay;
pub use thresholds::{Moment, Policy, ReplayTable, Row, Thresholds};

use coupon_base::Result;
use coupon_base::spec::{self, require};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest `max_views`.
const MOST_VIEWS: usize = 10_000;
/// The longest list of targets.
const MOST_TARGETS: usize = 1000;

/// How thresholds are set. Defaults: `models/issue.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// No coupon before this view of a session.
    pub min_views: u32,
    /// A session was interested if its P(purchase) reached what this many times the target share of sessions reach.
    pub interest_multiplier: f64,
    /// Issuing views beyond this one are counted as this one.
    pub max_views: u32,
    /// The target shares of sessions that thresholds are computed for, ascending; between them they are interpolated.
    pub target_shares: Vec<f64>,
}

impl Spec {
    /// The defaults, overridden by the keys of a JSON object (or null), and validated.
    pub fn read(overrides: &Value) -> Result<Spec> {
        let spec: Spec = spec::read(include_str!("../../../models/issue.json"), overrides)?;
        spec.validate().map(|()| spec)
    }

    /// Refuses values out of range with [`Error::Spec`](coupon_base::Error::Spec).
    pub fn validate(&self) -> Result<()> {
        require((1..=1000).contains(&self.min_views), "min_views", "from 1 to 1000")?;
        require((1.0..=1000.0).contains(&self.interest_multiplier), "interest_multiplier", "from 1 to 1000")?;
        let most = MOST_VIEWS as u32;
        require((self.min_views..=most).contains(&self.max_views), "max_views", "from min_views to 10000")?;
        require((1..=MOST_TARGETS).contains(&self.target_shares.len()), "target_shares", "a list of 1 to 1000 shares")?;
        require(
            self.target_shares.iter().all(|t| *t > 0.0 && *t <= 1.0),
            "target_shares",
            "shares above 0 and at most 1",
        )?;
        require(self.target_shares.is_sorted_by(|a, b| a < b), "target_shares", "in ascending order")
    }
}

impl Default for Spec {
    fn default() -> Spec {
        Spec::read(&Value::Null).expect("models/issue.json is valid: a test reads it")
    }
}
