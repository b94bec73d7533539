//! The running campaigns: their arms, and the thresholds a version gives them.

use crate::cache::Decoded;
use crate::error::{ok, spi};
use coupon_model::issue::{Policy, SALT_ARM, SALT_VIEW, Thresholds, arm, draw};
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
    /// It decides only about sessions for which fewer campaigns have decided before.
    pub per_session: usize,
    /// The categories it gives; none: all.
    pub categories: Option<Vec<String>>,
    /// It asks for the zone of the last click.
    pub zoned: bool,
    pub salt: String,
    pub arms: Vec<Arm>,
    shares: Vec<f64>,
    /// The draws of the session asked for last: each of its clicks asks again, and hashing twice costs 0.6 µs.
    drawn: RefCell<Option<(String, Draws)>>,
    thresholds: RefCell<HashMap<(String, usize), Rc<Thresholds>>>,
}

/// The draws of a session in a campaign.
#[derive(Clone, Copy)]
pub struct Draws {
    pub arm: usize,
    pub arm_draw: f64,
    /// The probability with which it got into the arm.
    pub arm_probability: f64,
    /// Decides at which view a random policy may issue.
    pub view: f64,
}

/// By priority, then name.
pub type Campaigns = Vec<Rc<Campaign>>;

/// The running campaigns as they are now; [`crate::world`] keeps them until one changes.
pub fn read(client: &SpiClient) -> Campaigns {
    let sql = "SELECT c.campaign, c.state = 'live', c.target, c.holdout, c.salt, array_agg(a.arm ORDER BY a.arm), \
               array_agg(a.policy ORDER BY a.arm), array_agg(a.segments ORDER BY a.arm), \
               array_agg(a.ranking = 'popular' ORDER BY a.arm), array_agg(a.share ORDER BY a.arm), \
               c.holdout_next, c.holdout_from, c.per_session, c.categories, c.zones IS NOT NULL \
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
            per_session: spi(row.get::<i32>(13))? as usize,
            categories: spi(row.get(14)),
            zoned: spi(row.get(15))?,
            drawn: RefCell::default(),
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

    pub fn draws(&self, session: &str) -> Draws {
        let mut drawn = self.drawn.borrow_mut();
        if let Some((_, draws)) = drawn.as_ref().filter(|(of, _)| of == session) {
            return *draws;
        }
        let arm_draw = draw(SALT_ARM, &self.salt, session);
        let arm = arm(arm_draw, &self.shares);
        let arm_probability = self.shares[arm] / self.shares.iter().sum::<f64>();
        let draws = Draws { arm, arm_draw, arm_probability, view: draw(SALT_VIEW, &self.salt, session) };
        *drawn = Some((session.to_string(), draws));
        draws
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
    campaigns.iter().any(|c| c.arms.iter().any(|a| !a.segments) && !c.arms[c.draws(session).arm].segments)
}
