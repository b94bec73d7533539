//! What a BI tool draws of a classifier: the reliability curve and the ROC curve, of a bounded number of points.

use serde::{Deserialize, Serialize};

/// Most points of a ROC curve, its two ends included.
const POINTS: usize = 100;
/// The normal distribution's 97.5 % point.
const Z: f64 = 1.959963984540054;

/// One score: P(churn), what happened, its weight, and the session it is of.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub churn: f64,
    pub purchased: bool,
    pub weight: f64,
    pub session: u32,
}

/// One of ten bins of equal mass: what was said and what was seen, as P(churn).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// From 1, rising in P(churn).
    pub bin: usize,
    pub predictions: usize,
    pub predicted: f64,
    pub observed: f64,
    /// Wilson's 95 % interval of `observed`.
    pub lower: f64,
    pub upper: f64,
}

/// Predicting churn where P(churn) ≥ `threshold`: the share of buyers, and of leavers, that are called leavers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RocPoint {
    pub threshold: f64,
    pub false_positive_rate: f64,
    pub true_positive_rate: f64,
}

/// The bins that [`super::Metrics::ece`] sums up; those that hold nothing are left out.
///
/// Views of one session share its outcome, so an interval counts a bin's effective number of *sessions*,
/// (Σ weights)² / Σ (weights of a session)²: counting views would call it three times too sure.
pub fn reliability(scores: &[Outcome]) -> Vec<Bin> {
    let mut scores: Vec<&Outcome> = scores.iter().collect();
    scores.sort_by(|a, b| a.churn.total_cmp(&b.churn));
    let total: f64 = scores.iter().map(|s| s.weight).sum();
    let mut bins: Vec<Vec<&Outcome>> = vec![Vec::new(); super::BINS];
    let mut mass = 0.0;
    for s in scores {
        bins[super::bin(mass + 0.5 * s.weight, total)].push(s);
        mass += s.weight;
    }
    let curve = bins.iter_mut().enumerate().filter_map(|(i, members)| {
        let weight: f64 = members.iter().map(|s| s.weight).sum();
        if weight <= 0.0 {
            return None;
        }
        let mean = |of: &dyn Fn(&Outcome) -> f64| members.iter().map(|s| s.weight * of(s)).sum::<f64>() / weight;
        let (predicted, observed) = (mean(&|s| s.churn), mean(&|s| f64::from(u8::from(!s.purchased))));
        let predictions = members.len();
        members.sort_by_key(|s| s.session);
        let of_session = |views: &[&Outcome]| views.iter().map(|s| s.weight).sum::<f64>().powi(2);
        let squares: f64 = members.chunk_by(|a, b| a.session == b.session).map(of_session).sum();
        let (lower, upper) = wilson(observed, weight * weight / squares);
        Some(Bin { bin: i + 1, predictions, predicted, observed, lower, upper })
    });
    curve.collect()
}

/// Wilson's score interval (1927) of a share seen among `n`: never outside [0, 1], never of width zero.
fn wilson(share: f64, n: f64) -> (f64, f64) {
    let z2 = Z * Z / n;
    let centre = (share + 0.5 * z2) / (1.0 + z2);
    let half = Z * (share * (1.0 - share) / n + 0.25 * z2 / n).sqrt() / (1.0 + z2);
    ((centre - half).clamp(0.0, share), (centre + half).clamp(share, 1.0))
}

/// At most 100 points from (0, 0) to (1, 1), at scores a hundredth of the mass apart; empty where only one class is there.
/// The first point's threshold is 1: nobody is called a leaver, scores being below 1.
pub fn roc(scores: &[Outcome]) -> Vec<RocPoint> {
    let mass = |bought: bool| scores.iter().filter(|s| s.purchased == bought).map(|s| s.weight).sum::<f64>();
    let (bought, left) = (mass(true), mass(false));
    if !(bought > 0.0 && left > 0.0) {
        return Vec::new();
    }
    let mut scores: Vec<&Outcome> = scores.iter().collect();
    scores.sort_by(|a, b| b.churn.total_cmp(&a.churn));
    let mut curve = vec![RocPoint { threshold: 1.0, false_positive_rate: 0.0, true_positive_rate: 0.0 }];
    let (mut wrong, mut right) = (0.0, 0.0);
    let distinct: Vec<_> = scores.chunk_by(|a, b| a.churn == b.churn).collect();
    for (i, tied) in distinct.iter().enumerate() {
        let sum = |y: bool| tied.iter().filter(|s| s.purchased == y).map(|s| s.weight).sum::<f64>();
        wrong += sum(true);
        right += sum(false);
        let due = (wrong + right) / (bought + left) * (POINTS - 1) as f64;
        // One point stays for the end, (1, 1).
        if i + 1 == distinct.len() {
            curve.push(RocPoint { threshold: tied[0].churn, false_positive_rate: 1.0, true_positive_rate: 1.0 });
        } else if due >= curve.len() as f64 && curve.len() < POINTS - 1 {
            curve.push(RocPoint {
                threshold: tied[0].churn,
                false_positive_rate: wrong / bought,
                true_positive_rate: right / left,
            });
        }
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(rows: &[(f64, bool, u32)]) -> Vec<Outcome> {
        let one = |&(churn, purchased, session): &(f64, bool, u32)| Outcome { churn, purchased, weight: 1.0, session };
        rows.iter().map(one).collect()
    }

    /// scipy.stats.binomtest(k, n).proportion_ci(method="wilson") for 7 of 10 and 0 of 4.
    #[test]
    fn wilson_agrees_with_scipy() {
        for ((share, n), (lower, upper)) in
            [((0.7, 10.0), (0.3967781475, 0.8922087326)), ((0.0, 4.0), (0.0, 0.4898908365))]
        {
            let ours = wilson(share, n);
            assert!((ours.0 - lower).abs() < 1e-9 && (ours.1 - upper).abs() < 1e-9, "{ours:?}");
        }
    }

    /// A hundred views of one session say as much as one; a hundred sessions say more.
    #[test]
    fn an_interval_counts_sessions() {
        let one: Vec<_> = (0..1000).map(|i| (0.5, i % 1000 < 500, i / 500)).collect();
        let many: Vec<_> = (0..1000).map(|i| (0.5, i % 2 == 0, i)).collect();
        let (one, many) = (reliability(&outcomes(&one)), reliability(&outcomes(&many)));
        assert_eq!((one.len(), many.len()), (10, 10));
        assert!(one.iter().all(|b| b.predictions == 100 && b.upper - b.lower > 0.7));
        assert!(many.iter().all(|b| b.observed == 0.5 && (b.upper - b.lower - 0.192).abs() < 0.002), "{many:?}");
        assert_eq!(reliability(&[]), []);
    }

    #[test]
    fn a_roc_curve_rises_bounded_from_end_to_end_and_its_area_is_the_auroc() {
        let rows: Vec<_> = (0..5000u32)
            .map(|i| (f64::from(i * 7919 % 5000) / 5000.0, i * 104729 % 5000 > i * 7919 % 5000, i))
            .collect();
        let curve = roc(&outcomes(&rows));
        assert!(curve.len() <= POINTS && curve.len() > POINTS - 5, "{}", curve.len());
        assert_eq!((curve[0].false_positive_rate, curve[0].true_positive_rate), (0.0, 0.0));
        let last = curve.last().unwrap();
        assert_eq!((last.false_positive_rate, last.true_positive_rate), (1.0, 1.0));
        assert!(curve.is_sorted_by(|a, b| a.threshold > b.threshold
            && a.false_positive_rate <= b.false_positive_rate
            && a.true_positive_rate <= b.true_positive_rate));
        let trapezium = |w: &[RocPoint]| {
            (w[1].false_positive_rate - w[0].false_positive_rate) * (w[1].true_positive_rate + w[0].true_positive_rate)
        };
        let area = 0.5 * curve.windows(2).map(trapezium).sum::<f64>();
        let (churn, purchased): (Vec<_>, Vec<_>) = rows.iter().map(|r| (r.0, r.1)).unzip();
        let auroc = super::super::Metrics::of(&churn, &purchased, None).unwrap().auroc.unwrap();
        assert!((area - auroc).abs() < 1e-3, "{area} against {auroc}");
        assert_eq!(roc(&outcomes(&[(0.3, true, 0), (0.4, true, 1)])), []);
        // Every score the same: the diagonal.
        assert_eq!(roc(&outcomes(&[(0.3, true, 0), (0.3, false, 1)])).len(), 2);
    }
}
