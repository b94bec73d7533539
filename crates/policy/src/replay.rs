//! Thresholds by replay: complete sessions, walked view by view as the trigger would.

use super::{Moment, Policy, ReplayTable, Row, Spec, Thresholds, eligible};
use coupon_base::Result;

/// Sets the thresholds of every policy for every target of the specification.
///
/// A path is P(churn) after each page view of one complete session, up to and without its first checkout or purchase;
/// every session of the window has one, short and empty ones too, because the target is a share of *all* sessions.
///
/// * `at_risk`: η is the P(purchase) that `interest_ratio` × target of the sessions reach at some view they can still be
///   given a coupon at (so in sessions with at least `min_views` views; views before that one count towards the maximum);
///   τ is then set so that the target share of sessions meets all conditions at one view.
/// * `risk`: τ alone.
/// * `random`: the issuing views of `at_risk`, and the share that makes up for sessions that end before theirs.
///
/// Of the shares that the scores allow (ties are met together) the nearest to the target is taken, the lower if two
/// are; with distinct scores and enough interested sessions that is within half a session. Cost: O(views) a target and
/// a sort of the sessions.
pub fn replay(paths: &[Vec<f64>], spec: &Spec) -> Result<ReplayTable> {
    spec.validate()?;
    let mut replay = ReplayTable::fallback(&paths.iter().map(Vec::len).collect::<Vec<_>>(), spec)?;
    replay.rows = spec.target_shares.iter().map(|&target| row(paths, spec, &replay, target)).collect();
    Ok(replay)
}

/// How many sessions have a view `min_views`, `min_views` + 1, … `max_views`.
pub(super) fn reaching(view_counts: impl Iterator<Item = usize>, spec: &Spec) -> Vec<u64> {
    let (min, max) = (spec.min_views as usize, spec.max_views as usize);
    let mut last = vec![0; max + 1 - min];
    for views in view_counts.filter(|&v| v >= min) {
        last[views.min(max) - min] += 1;
    }
    for i in (1..last.len()).rev() {
        last[i - 1] += last[i];
    }
    last.truncate(last.iter().position(|&n| n == 0).unwrap_or(last.len()));
    last
}

fn row(paths: &[Vec<f64>], spec: &Spec, replay: &ReplayTable, target: f64) -> Row {
    let share = |ratio: f64| (ratio * target * paths.len() as f64).min(paths.len() as f64);
    let highest = |eta: f64, value: fn(&Moment) -> f64| -> Vec<f64> {
        let highest = |path: &Vec<f64>| {
            let met = moments(path).filter(|m| m.view >= spec.min_views && m.max_purchase >= eta).map(|m| value(&m));
            met.filter(|v| !v.is_nan()).fold(f64::NEG_INFINITY, f64::max)
        };
        paths.iter().map(highest).filter(|v| v.is_finite()).collect()
    };
    let eta = threshold(highest(f64::NEG_INFINITY, |m| m.max_purchase), share(spec.interest_multiplier));
    let set = |policy: Policy, eta: f64, tau: f64| {
        let mut thresholds = Thresholds {
            policy,
            target,
            min_views: spec.min_views,
            eta,
            tau,
            realised: 0.0,
            random_share: 1.0,
            views: Vec::new(),
        };
        (thresholds.realised, thresholds.views) = issuing(paths, spec, &thresholds);
        thresholds
    };
    let at_risk = set(Policy::AtRisk, eta, threshold(highest(eta, |m| m.churn), share(1.0)));
    let risk = set(Policy::Risk, 0.0, threshold(highest(f64::NEG_INFINITY, |m| m.churn), share(1.0)));
    let random = replay.random(target, at_risk.views.clone());
    Row { at_risk, risk, random }
}

/// A path's moments, with the maximum so far; a NaN is never the maximum.
fn moments(path: &[f64]) -> impl Iterator<Item = Moment> {
    path.iter().zip(1..).scan(f64::NEG_INFINITY, |max, (&churn, view)| {
        *max = max.max(1.0 - churn);
        Some(Moment { view, max_purchase: *max, churn, unit: 0.0 })
    })
}

/// A threshold that as near as possible to `wanted` of these values reach, halfway to the next lower one, so that a
/// last digit lost on the way through JSON changes nothing.
fn threshold(mut values: Vec<f64>, wanted: f64) -> f64 {
    values.sort_by(|a, b| b.total_cmp(a));
    let (mut count, mut gap) = (0, wanted);
    for (i, value) in values.iter().enumerate() {
        let reached = (i + 1) as f64;
        // Ties are met together: only the last of equals is a place to cut.
        if values.get(i + 1) != Some(value) && (reached - wanted).abs() < gap {
            (count, gap) = (i + 1, (reached - wanted).abs());
        }
    }
    match (count.checked_sub(1).map(|last| values[last]), values.get(count)) {
        (Some(last), Some(&next)) => above(next, last),
        (Some(last), None) => last,
        (None, Some(&first)) => above(first, first.max(1.0).next_up()),
        (None, None) => 1.0,
    }
}

/// The middle of two numbers, or the higher one where there is none between.
fn above(low: f64, high: f64) -> f64 {
    let middle = low + (high - low) / 2.0;
    if middle > low { middle } else { high }
}

/// The share of sessions that these thresholds find eligible, and at which views.
fn issuing(paths: &[Vec<f64>], spec: &Spec, thresholds: &Thresholds) -> (f64, Vec<(u32, f64)>) {
    let mut counts = vec![0u64; spec.max_views as usize + 1];
    for path in paths {
        if let Some(moment) = moments(path).find(|m| eligible(thresholds, m)) {
            counts[moment.view.min(spec.max_views) as usize] += 1;
        }
    }
    let issued: u64 = counts.iter().sum();
    let shares =
        (0..).zip(&counts).filter(|(_, n)| **n > 0).map(|(view, &n)| (view, n as f64 / issued as f64)).collect();
    (issued as f64 / paths.len().max(1) as f64, shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_reached_by_the_nearest_count() {
        let reached = |values: &[f64], wanted: f64| {
            let t = threshold(values.to_vec(), wanted);
            values.iter().filter(|v| **v >= t).count()
        };
        let distinct = [0.9, 0.2, 0.5, 0.7, 0.1];
        assert_eq!([0.0, 0.4, 0.6, 1.5, 2.6, 9.0].map(|w| reached(&distinct, w)), [0, 0, 1, 1, 3, 5]);
        let ties = [0.5, 0.5, 0.5, 0.5, 0.1];
        assert_eq!([1.0, 2.0, 3.0, 4.4, 4.6].map(|w| reached(&ties, w)), [0, 0, 4, 4, 5]);
        let close = [0.5, 0.5f64.next_up(), 1.0];
        assert_eq!([1.0, 2.0, 3.0, 0.0].map(|w| reached(&close, w)), [1, 2, 3, 0]);
        assert_eq!(threshold(vec![], 3.0), 1.0);
    }

    #[test]
    fn sessions_reaching_a_view() {
        let spec = Spec { min_views: 2, max_views: 4, ..Spec::default() };
        assert_eq!(reaching([0, 1, 2, 3, 3, 9].into_iter(), &spec), [4, 3, 1]);
        assert_eq!(reaching([0, 1].into_iter(), &spec), [0; 0]);
    }
}
