//! The running campaigns: their arms, and the thresholds a version gives them.

use crate::models::active;
use crate::models::cache::Decoded;
use crate::pg::statement::{Fields, Statement};
use coupon_base::Error;
use coupon_model::churn::LANES;
use coupon_model::live::LiveSession;
use coupon_policy::{Assignment, Moment, Policy, SALT_VIEW, Thresholds, Verdict, assign, draw, verdict};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

pub struct Arm {
    pub name: String,
    pub policy: Policy,
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
    salt: String,
    pub arms: Vec<Arm>,
    shares: Vec<f64>,
    /// The draws of the sessions asked for last, as many as go side by side: each of their clicks asks again, and hashing
    /// costs 0.3 µs a draw.
    drawn: RefCell<VecDeque<Drawn>>,
    /// By the version's digest and the arm.
    thresholds: RefCell<Vec<(String, usize, Found)>>,
}

/// Thresholds, or why there are none.
type Found = Result<Rc<Thresholds>, Rc<str>>;

/// What was drawn for a session so far.
#[derive(Default)]
struct Drawn {
    session: String,
    arm: Option<Assignment>,
    view: Option<f64>,
}

/// What was drawn for a session; the one longest ago makes room.
fn drawn<'a>(kept: &'a mut VecDeque<Drawn>, session: &str) -> &'a mut Drawn {
    let found = kept.iter().position(|drawn| drawn.session == session);
    let at = found.unwrap_or_else(|| {
        kept.truncate(LANES - 1);
        kept.push_front(Drawn { session: session.to_string(), ..Drawn::default() });
        0
    });
    &mut kept[at]
}

/// By priority, then name.
pub type Campaigns = Vec<Rc<Campaign>>;

thread_local! {
    static RUNNING: Statement = const { Statement::new(
        c"SELECT campaign, state, salt, target, holdout, holdout_next, holdout_from, per_session, categories, \
          zones IS NOT NULL FROM coupon.campaign WHERE state IN ('shadow', 'live') ORDER BY priority DESC, \
          campaign COLLATE \"C\"", &[]) };
    // In the order of SQL's own draw (coupon.arm_of): it counts the shares one by one.
    static ARMS: Statement = const { Statement::new(
        c"SELECT campaign, arm, policy, segments, ranking, share FROM coupon.arm ORDER BY arm COLLATE \"C\"", &[]) };
}

/// The running campaigns as they are now; the serving state keeps them until one changes.
pub fn read() -> Campaigns {
    let mut arms: HashMap<String, Vec<(Arm, f64)>> = HashMap::new();
    for row in ARMS.with(|arms| arms.read([])).iter() {
        let arm = || {
            let popular = row.field::<String>(5)? == "popular";
            let policy = Policy::parse(&row.field::<String>(3)?)?;
            let arm = Arm { name: row.field(2)?, policy, segments: row.field(4)?, popular };
            Some((row.field(1)?, (arm, row.field(6)?)))
        };
        if let Some((campaign, arm)) = arm() {
            arms.entry(campaign).or_default().push(arm);
        }
    }
    let rows = RUNNING.with(|running| running.read([]));
    let campaigns = rows.iter().filter_map(|row| {
        let name: String = row.field(1)?;
        let (arms, shares) = arms.remove(&name)?.into_iter().unzip();
        Some(Rc::new(Campaign {
            live: row.field::<String>(2)? == "live",
            salt: row.field(3)?,
            target: row.field(4)?,
            holdout: row.field(5)?,
            holdout_next: row.field(6).zip(row.field::<TimestampWithTimeZone>(7).map(i64::from)),
            per_session: row.field::<i32>(8)? as usize,
            categories: row.field(9),
            zoned: row.field(10)?,
            name,
            arms,
            shares,
            drawn: RefCell::default(),
            thresholds: RefCell::default(),
        }))
    });
    campaigns.collect()
}

impl Campaign {
    /// The share of eligible sessions that is held out at a time.
    pub fn holdout(&self, clock: i64) -> f64 {
        self.holdout_next.filter(|(_, from)| clock >= *from).map_or(self.holdout, |(share, _)| share)
    }

    /// The arm a session is assigned to.
    pub fn assignment(&self, session: &str) -> Assignment {
        let assign = || assign(&self.salt, &self.shares, session);
        *drawn(&mut self.drawn.borrow_mut(), session).arm.get_or_insert_with(assign)
    }

    /// Issue or hold out, where the rules let a session pass.
    pub fn verdict(&self, session: &str, pacing: f64, clock: i64) -> Verdict {
        verdict(self.live, &self.salt, session, self.holdout(clock), pacing)
    }

    /// A session after its last view, as the policy of one of the arms looks at it.
    pub fn moment(&self, session: &str, visit: &LiveSession, policy: Policy) -> Moment {
        Moment {
            view: visit.views,
            max_purchase: visit.interest.unwrap_or(0.0),
            churn: visit.churn.unwrap_or(0.0),
            // No other policy asks for it, and each click does.
            unit: if policy == Policy::Random { self.view_draw(session) } else { 0.0 },
        }
    }

    /// The arm a session is in; without a draw where there is only one.
    pub fn arm(&self, session: &str) -> usize {
        if self.arms.len() == 1 { 0 } else { self.assignment(session).arm }
    }

    /// Decides at which view a random policy may issue.
    fn view_draw(&self, session: &str) -> f64 {
        let view = || draw(SALT_VIEW, &self.salt, session);
        *drawn(&mut self.drawn.borrow_mut(), session).view.get_or_insert_with(view)
    }

    /// The thresholds of an arm under a version, or why it has none and issues nothing.
    pub fn thresholds(&self, arm: usize, version: &Decoded) -> Found {
        let mut kept = self.thresholds.borrow_mut();
        if let Some((.., found)) = kept.iter().find(|(digest, of, _)| (digest, *of) == (&version.digest, arm)) {
            return found.clone();
        }
        let of = &self.arms[arm];
        let found = thresholds(of.policy, of.segments, self.target, version).map(Rc::new).map_err(Into::into);
        if kept.len() >= 16 {
            kept.clear();
        }
        kept.push((version.digest.clone(), arm, found.clone()));
        found
    }
}

/// The thresholds of a policy under a version. A policy that asks the churn model has none without one: it never becomes
/// a coin.
fn thresholds(policy: Policy, segments: bool, target: f64, version: &Decoded) -> Result<Thresholds, String> {
    let plan = &version.version.plan;
    if policy != Policy::Random && version.version.churn.is_none() {
        return Err(format!("version {} has no churn model", version.number));
    }
    let replay = if segments { &plan.segments } else { &plan.pooled };
    replay.thresholds(policy, target).map_err(|why| match why {
        Error::Spec(why) | Error::InsufficientData(why) => why,
        other => other.to_string(),
    })
}

/// Why an arm would issue nothing under the active version; NULL where it has thresholds.
#[pg_extern(sql = false)]
fn find_threshold_fault(policy: &str, segments: bool, target: f64) -> Option<String> {
    let Some(active) = Spi::connect(active::active) else { return Some("no model is active".into()) };
    let Some(policy) = Policy::parse(policy) else { return Some(format!("there is no policy \"{policy}\"")) };
    thresholds(policy, segments, target, &active).err()
}

/// Whether some running campaign has put the session into an arm that scores without segments.
pub fn pooled(campaigns: &Campaigns, session: &str) -> bool {
    campaigns.iter().any(|c| c.arms.iter().any(|a| !a.segments) && !c.arms[c.arm(session)].segments)
}
