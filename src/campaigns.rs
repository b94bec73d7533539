//! The running campaigns: their arms, and the thresholds a version gives them.

use crate::cache::Decoded;
use crate::error::{ok, spi};
use coupon_model::issue::{Policy, SALT_ARM, Thresholds, arm, draw};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

pub struct Arm {
    pub name: String,
    policy: Policy,
    pub segments: bool,
    pub popular: bool,
}

/// A campaign that decides: in shadow or live.
pub struct Campaign {
    pub name: String,
    pub live: bool,
    target: f64,
    holdout: f64,
    /// The share that counts from a time on.
    holdout_next: Option<(f64, i64)>,
    pub salt: String,
    pub arms: Vec<Arm>,
    shares: Vec<f64>,
    thresholds: RefCell<HashMap<(String, usize), Rc<Thresholds>>>,
}

/// By priority, then name.
pub type Campaigns = Vec<Rc<Campaign>>;

/// The running campaigns as they are now; [`crate::world`] keeps them until one changes.
pub fn read(client: &SpiClient) -> Campaigns {
    let sql = "SELECT c.campaign, c.state = 'live', c.target, c.holdout, c.salt, array_agg(a.arm ORDER BY a.arm), \
               array_agg(a.policy ORDER BY a.arm), array_agg(a.segments ORDER BY a.arm), \
               array_agg(a.ranking = 'popular' ORDER BY a.arm), array_agg(a.share ORDER BY a.arm), \
               c.holdout_next, c.holdout_from \
               FROM coupon.campaign c JOIN coupon.arm a USING (campaign) WHERE c.state IN ('shadow', 'live') \
               GROUP BY c.campaign ORDER BY c.priority DESC, c.campaign";
    let campaign = |row: SpiHeapTupleData| {
        let names: Vec<String> = spi(row.get(6))?;
        let policies: Vec<String> = spi(row.get(7))?;
        let segments: Vec<bool> = spi(row.get(8))?;
        let popular: Vec<bool> = spi(row.get(9))?;
        let arms = names.into_iter().zip(policies).zip(segments.into_iter().zip(popular));
        let arm = |((name, policy), (segments, popular)): ((String, String), (bool, bool))| {
            Some(Arm { name, policy: Policy::parse(&policy)?, segments, popular })
        };
        Some(Rc::new(Campaign {
            name: spi(row.get(1))?,
            live: spi(row.get(2))?,
            target: spi(row.get(3))?,
            holdout: spi(row.get(4))?,
            salt: spi(row.get(5))?,
            arms: arms.map(arm).collect::<Option<_>>()?,
            shares: spi(row.get(10))?,
            holdout_next: spi(row.get(11)).zip(spi(row.get::<TimestampWithTimeZone>(12)).map(i64::from)),
            thresholds: RefCell::default(),
        }))
    };
    spi(client.select(sql, None, &[])).filter_map(campaign).collect()
}

impl Campaign {
    /// The share of eligible sessions that is held out at a time.
    pub fn holdout(&self, clock: i64) -> f64 {
        self.holdout_next.filter(|(_, from)| clock >= *from).map_or(self.holdout, |(share, _)| share)
    }

    /// The arm of a session, its draw, and the probability with which it got there.
    pub fn arm(&self, session: &str) -> (usize, f64, f64) {
        let draw = draw(SALT_ARM, &self.salt, session);
        let at = arm(draw, &self.shares);
        (at, draw, self.shares[at] / self.shares.iter().sum::<f64>())
    }

    /// The policy an arm follows under a version, and its thresholds.
    pub fn thresholds(&self, arm: usize, version: &Decoded) -> Rc<Thresholds> {
        let key = (version.digest.clone(), arm);
        if let Some(found) = self.thresholds.borrow().get(&key) {
            return found.clone();
        }
        let (plan, arm) = (&version.version.plan, &self.arms[arm]);
        let replay = if arm.segments { &plan.segments } else { &plan.pooled };
        let policy = if version.version.churn.is_some() { arm.policy } else { Policy::Random };
        let found = Rc::new(ok(replay.thresholds(policy, self.target)));
        let mut kept = self.thresholds.borrow_mut();
        if kept.len() >= 16 {
            kept.clear();
        }
        kept.insert(key, found.clone());
        found
    }
}

/// Whether some running campaign has put the session into an arm that scores without segments.
pub fn pooled(campaigns: &Campaigns, session: &str) -> bool {
    campaigns.iter().any(|c| c.arms.iter().any(|a| !a.segments) && !c.arms[c.arm(session).0].segments)
}
