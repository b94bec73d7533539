//! Policies and their thresholds.

use super::{MOST_TARGETS, MOST_VIEWS, Spec};
use coupon_base::Error;
use coupon_base::Result;
use serde::{Deserialize, Serialize};

/// So many training sessions must have gone on to the view at which `random` issues before their share is believed. From
/// fewer, or none, dividing by it would draw many times the target, up to every visitor.
const ENOUGH_SESSIONS: f64 = 30.0;

/// Which sessions get the coupons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Was interested (P(purchase) once reached η) and is leaving (P(churn) now ≥ τ).
    AtRisk,
    /// P(churn) now ≥ τ: the papers' literal words.
    Risk,
    /// A coin, at a view number drawn from those at which `at_risk` issues.
    Random,
}

impl Policy {
    pub const ALL: [Policy; 3] = [Policy::AtRisk, Policy::Risk, Policy::Random];

    pub fn name(self) -> &'static str {
        match self {
            Policy::AtRisk => "at_risk",
            Policy::Risk => "risk",
            Policy::Random => "random",
        }
    }

    pub fn parse(name: &str) -> Option<Policy> {
        Policy::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// When one policy finds a session eligible, for one target share of sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub policy: Policy,
    /// The share of all sessions that should become eligible.
    pub target: f64,
    /// No session is eligible before this view.
    pub min_views: u32,
    /// η: the P(purchase) that a session must have reached; 0 where the policy does not ask.
    pub eta: f64,
    /// τ: the P(churn) that a session must have now; 0 where the policy does not ask.
    pub tau: f64,
    /// The share of all sessions that do become eligible, in the replay.
    pub realised: f64,
    /// The share of sessions that `random` draws: above the target where enough sessions show how many end before their
    /// view; 1 for others.
    pub random_share: f64,
    /// View numbers and their shares (sum 1): where this policy's sessions became eligible; `random` draws from it.
    pub views: Vec<(u32, f64)>,
}

/// What is known of a session after one view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Number of the view, from 1.
    pub view: u32,
    /// Highest P(purchase) = 1 − P(churn) after any view so far, this one included.
    pub max_purchase: f64,
    /// P(churn) after this view.
    pub churn: f64,
    /// The session's [`draw`](fn@super::draw) with [`SALT_VIEW`](super::SALT_VIEW), in [0, 1).
    pub unit: f64,
}

impl Thresholds {
    /// Whether these are shares, probabilities and a distribution.
    fn sane(&self) -> bool {
        // η and τ may stand just above every probability; sums are rounded.
        let unit = |x: f64| (0.0..=1.0 + 1e-9).contains(&x);
        let sum: f64 = self.views.iter().map(|v| v.1).sum();
        self.target > 0.0
            && [self.target, self.eta, self.tau, self.realised, self.random_share].into_iter().all(unit)
            && self.views.len() <= MOST_VIEWS
            && self.views.is_sorted_by(|a, b| a.0 < b.0)
            && self.views.iter().all(|v| v.0 >= self.min_views && unit(v.1))
            && (self.views.is_empty() || (sum - 1.0).abs() < 1e-6)
    }

    /// The view from which policy `random` finds a session with this draw eligible; None if the coin says no.
    pub(super) fn random_view(&self, unit: f64) -> Option<u32> {
        if unit >= self.random_share || unit.is_nan() {
            return None;
        }
        // Given that it is below the share, unit / share is uniform again: one draw serves both questions.
        let (quantile, mut end) = (unit / self.random_share, 0.0);
        let later = |&&(_, share): &&(u32, f64)| {
            end += share;
            quantile < end
        };
        self.views.iter().find(later).or(self.views.last()).map(|v| v.0)
    }
}

/// The thresholds of all policies for one target share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub at_risk: Thresholds,
    pub risk: Thresholds,
    pub random: Thresholds,
}

/// What a replay found: a row a target, for the card and for campaigns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayTable {
    /// Sessions replayed, short ones included.
    pub sessions: u64,
    /// How many of them had a view `min_views`, `min_views` + 1, … `max_views`; ends where it is 0.
    pub reaching: Vec<u64>,
    pub min_views: u32,
    /// In ascending order of target; empty where there is no churn model.
    pub rows: Vec<Row>,
}

impl ReplayTable {
    /// For a log without a churn model: only policy `random`, at the first eligible view. `view_counts` are the page
    /// views of each complete session.
    pub fn fallback(view_counts: &[usize], spec: &Spec) -> Result<ReplayTable> {
        spec.validate()?;
        Ok(ReplayTable {
            sessions: view_counts.len() as u64,
            reaching: super::replay::reaching(view_counts.iter().copied(), spec),
            min_views: spec.min_views,
            rows: Vec::new(),
        })
    }

    /// Refuses with [`Error::Corrupt`] what no replay can have found.
    pub fn check(&self) -> Result<()> {
        let reaching =
            self.reaching.is_sorted_by(|a, b| a >= b) && self.reaching.first().is_none_or(|n| *n <= self.sessions);
        let ascending = self.rows.is_sorted_by(|a, b| a.at_risk.target < b.at_risk.target);
        let row = |row: &Row| {
            let all = [(Policy::AtRisk, &row.at_risk), (Policy::Risk, &row.risk), (Policy::Random, &row.random)];
            all.iter().all(|(policy, t)| {
                t.policy == *policy && t.target == row.at_risk.target && t.min_views == self.min_views && t.sane()
            })
        };
        let sizes = self.min_views >= 1 && self.reaching.len() <= MOST_VIEWS && self.rows.len() <= MOST_TARGETS;
        if sizes && reaching && ascending && self.rows.iter().all(row) {
            Ok(())
        } else {
            Err(Error::Corrupt("thresholds that no replay can have found".into()))
        }
    }

    /// The thresholds of a policy for any target share. Between two targets of the replay, η, τ, the realised share and
    /// the shares of views are interpolated linearly; the share that `random` draws is computed exactly from them.
    /// Refused, but for `random`: with [`Error::Spec`] a target outside the replayed ones, or where there are none; with
    /// [`Error::InsufficientData`] where no session was eligible in the replay, because its thresholds are above every score that
    /// was seen and say nothing of a score that was not.
    pub fn thresholds(&self, policy: Policy, target: f64) -> Result<Thresholds> {
        if !(target > 0.0 && target <= 1.0) {
            return Err(Error::Spec(format!("the target share {target} is not above 0 and at most 1")));
        }
        let found = self.between(policy, target);
        if policy != Policy::Random {
            let found = found.ok_or_else(|| match (self.rows.first(), self.rows.last()) {
                (Some(a), Some(b)) => Error::Spec(format!(
                    "the target share {target} is not between {} and {}",
                    a.at_risk.target, b.at_risk.target
                )),
                _ => Error::Spec(format!("policy {} needs a churn model", policy.name())),
            })?;
            if found.realised > 0.0 {
                return Ok(found);
            }
            return Err(Error::InsufficientData(format!(
                "none of the {} sessions of the training was eligible under policy {} at the target share {target}",
                self.sessions,
                policy.name()
            )));
        }
        // Outside the replayed targets the nearest one's views serve.
        let nearest = match self.rows.first() {
            Some(row) if target < row.random.target => Some(&row.random.views),
            _ => self.rows.last().map(|row| &row.random.views),
        };
        let views = found.map(|f| f.views).or(nearest.cloned()).unwrap_or_default();
        Ok(self.random(target, views))
    }

    fn between(&self, policy: Policy, target: f64) -> Option<Thresholds> {
        let of = |row: &Row| match policy {
            Policy::AtRisk => row.at_risk.clone(),
            Policy::Risk => row.risk.clone(),
            Policy::Random => row.random.clone(),
        };
        let above = self.rows.iter().position(|row| row.at_risk.target >= target)?;
        let high = of(&self.rows[above]);
        if high.target == target {
            return Some(high);
        }
        let low = of(self.rows.get(above.checked_sub(1)?)?);
        let part = (target - low.target) / (high.target - low.target);
        let mix = |a: f64, b: f64| a + (b - a) * part;
        Some(Thresholds {
            policy,
            target,
            min_views: self.min_views,
            eta: mix(low.eta, high.eta),
            tau: mix(low.tau, high.tau),
            realised: mix(low.realised, high.realised),
            random_share: 1.0,
            views: mixture(&low.views, &high.views, part),
        })
    }

    /// Policy `random` at a target: drawing a share q of sessions, of which those go on to their view, makes
    /// q · Σ P(view) · P(session reaches view) of them eligible. Where too few sessions tell that probability, q is the
    /// target: never more, whoever comes.
    pub(super) fn random(&self, target: f64, mut views: Vec<(u32, f64)>) -> Thresholds {
        if views.is_empty() {
            views.push((self.min_views, 1.0));
        }
        let reach = |view: u32| {
            let index = view.saturating_sub(self.min_views) as usize;
            self.reaching.get(index).copied().unwrap_or(0) as f64 / self.sessions.max(1) as f64
        };
        let go_on: f64 = views.iter().map(|&(view, share)| share * reach(view)).sum();
        let seen = go_on * self.sessions as f64;
        let random_share = if seen < ENOUGH_SESSIONS { target } else { (target / go_on).min(1.0) };
        Thresholds {
            policy: Policy::Random,
            target,
            min_views: self.min_views,
            eta: 0.0,
            tau: 0.0,
            realised: random_share * go_on,
            random_share,
            views,
        }
    }
}

/// The mixture (1 − part)·a + part·b of two distributions that are in order of view.
fn mixture(a: &[(u32, f64)], b: &[(u32, f64)], part: f64) -> Vec<(u32, f64)> {
    // One of the two may be empty, where no session became eligible; then the other speaks alone.
    let part = if a.is_empty() {
        1.0
    } else if b.is_empty() {
        0.0
    } else {
        part
    };
    let mut all: Vec<(u32, f64)> = a.iter().map(|v| (v.0, v.1 * (1.0 - part))).collect();
    all.extend(b.iter().map(|v| (v.0, v.1 * part)));
    all.retain(|v| v.1 > 0.0);
    all.sort_by_key(|v| v.0);
    all.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    all
}
