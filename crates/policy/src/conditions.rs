//! Why a session is eligible or not, condition by condition, and what becomes of one that is.

use super::{Moment, Policy, SALT_ARM, SALT_ISSUE, Thresholds, arm, draw};

/// One condition of a policy at one view, and the numbers it compares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Condition {
    /// So many views at least.
    Views { views: u32, least: u32 },
    /// P(purchase) once reached η.
    Interested { max_purchase: f64, eta: f64 },
    /// P(churn) is τ or more now.
    Leaving { churn: f64, tau: f64 },
    /// Policy `random` drew the session, and its view has come; `from` is `None` where it did not draw it.
    Drawn { view: u32, from: Option<u32>, share: f64 },
}

impl Condition {
    /// A probability that is NaN holds nothing.
    pub fn holds(&self) -> bool {
        match *self {
            Condition::Views { views, least } => views >= least,
            Condition::Interested { max_purchase, eta } => max_purchase >= eta,
            Condition::Leaving { churn, tau } => churn >= tau,
            Condition::Drawn { view, from, .. } => from.is_some_and(|from| view >= from),
        }
    }
}

/// The conditions of the thresholds' policy after a view, in the order in which they are told.
pub fn conditions(thresholds: &Thresholds, moment: &Moment) -> impl Iterator<Item = Condition> {
    let t = thresholds;
    let interested = Condition::Interested { max_purchase: moment.max_purchase, eta: t.eta };
    let leaving = Condition::Leaving { churn: moment.churn, tau: t.tau };
    let of_policy = match t.policy {
        Policy::AtRisk => [Some(interested), Some(leaving)],
        Policy::Risk => [Some(leaving), None],
        Policy::Random => {
            let from = t.random_view(moment.unit);
            [Some(Condition::Drawn { view: moment.view, from, share: t.random_share }), None]
        }
    };
    std::iter::once(Condition::Views { views: moment.view, least: t.min_views }).chain(of_policy.into_iter().flatten())
}

/// Whether a session is eligible after a view; live, the first such view is the one that counts. The caller sees to it
/// that there was no checkout or purchase yet.
pub fn eligible(thresholds: &Thresholds, moment: &Moment) -> bool {
    conditions(thresholds, moment).all(|condition| condition.holds())
}

/// The arm a session is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment {
    /// Number of the arm, in order of the arms' names.
    pub arm: usize,
    pub draw: f64,
    /// The probability with which a session gets into that arm.
    pub probability: f64,
}

/// Assigns a session to one of the arms by their shares, of which at least one is above 0.
pub fn assign(seed: &str, shares: &[f64], session: &str) -> Assignment {
    let draw = draw(SALT_ARM, seed, session);
    let arm = arm(draw, shares);
    Assignment { arm, draw, probability: shares[arm] / shares.iter().sum::<f64>() }
}

/// What a campaign does with an eligible session that no rule stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub draw: f64,
    /// The probability with which such a session is issued a coupon; 0 in shadow.
    pub probability: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Issued,
    HeldOut,
    /// The campaign decides and logs, and issues nothing.
    Shadow,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Issued => "issued",
            Outcome::HeldOut => "held out",
            Outcome::Shadow => "shadow",
        }
    }
}

/// Issue or hold out, by a draw: of the sessions that the pacing factor lets pass, the hold-out share gets nothing.
pub fn verdict(live: bool, seed: &str, session: &str, holdout: f64, pacing: f64) -> Verdict {
    let draw = draw(SALT_ISSUE, seed, session);
    let probability = if live { pacing * (1.0 - holdout) } else { 0.0 };
    let outcome = match live {
        false => Outcome::Shadow,
        true if draw < probability => Outcome::Issued,
        true => Outcome::HeldOut,
    };
    Verdict { outcome, draw, probability }
}
