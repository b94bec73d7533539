//! How good probabilities are: ranking, calibration, and the lines to hold them against.

mod curve;
mod recalibration;

pub use curve::{Bin, Outcome, RocPoint, reliability, roc};

use serde::{Deserialize, Serialize};

/// Bins of equal mass that calibration is looked at in.
const BINS: usize = 10;

/// Measures of P(churn) against what happened. Everything is weighted where weights are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Scores measured, and how many of them belong to a purchase (counts, not weights).
    pub n: usize,
    pub buyers: usize,
    /// Share of purchases.
    pub base_rate: f64,
    /// Area under the ROC curve, ties counting half; `None` where only one class is there.
    pub auroc: Option<f64>,
    /// Average precision of *purchase*; its line of chance is the base rate. `None` where only one class is there.
    pub auprc: Option<f64>,
    /// Mean squared error of the probability.
    pub brier: f64,
    /// In nats.
    pub log_loss: f64,
    /// Expected calibration error over ten bins of equal mass.
    pub ece: f64,
    /// Logistic recalibration of the outcome on the logit: below 1 the probabilities are too extreme, above too timid.
    /// `None` where it has no finite value (one class, one score, classes that separate).
    pub slope: Option<f64>,
    /// The same with slope 1, calibration in the large: above 0 there was more churn than was said. `None` for one class.
    pub intercept: Option<f64>,
    /// At one half.
    pub accuracy: f64,
    /// The accuracy of always naming the more frequent class.
    pub majority: f64,
}

/// One score: P(churn), whether it was a purchase, its weight.
type Scored = (f64, bool, f64);

impl Metrics {
    /// `None` where nothing has weight, or where lengths differ or a number is not finite: never NaN.
    pub fn of(churn: &[f64], purchased: &[bool], weights: Option<&[f64]>) -> Option<Metrics> {
        let n = churn.len();
        if purchased.len() != n || weights.is_some_and(|w| w.len() != n) {
            return None;
        }
        let mut scored: Vec<Scored> = (0..n).map(|i| (churn[i], purchased[i], weights.map_or(1.0, |w| w[i]))).collect();
        let sane = |&(p, _, w): &Scored| (0.0..=1.0).contains(&p) && w.is_finite() && w >= 0.0;
        let total: f64 = scored.iter().map(|s| s.2).sum();
        if !(scored.iter().all(sane) && total > 0.0 && total.is_finite()) {
            return None;
        }
        let mean = |f: &dyn Fn(f64, bool) -> f64| scored.iter().map(|&(p, y, w)| w * f(p, y)).sum::<f64>() / total;
        let base_rate = mean(&|_, y| f64::from(u8::from(y)));
        let brier = mean(&|p, y| (p - f64::from(u8::from(!y))).powi(2));
        let log_loss = mean(&|p, y| -(if y { 1.0 - p } else { p }).max(1e-15).ln());
        let accuracy = mean(&|p, y| f64::from(u8::from((p >= 0.5) != y)));
        // A stable sort: scores that tie stay in the order they came in.
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (auroc, auprc) = ranking(&scored).unzip();
        let (slope, intercept) = recalibration::recalibration(&scored);
        Some(Metrics {
            n,
            buyers: purchased.iter().filter(|&&y| y).count(),
            base_rate,
            auroc,
            auprc,
            brier,
            log_loss,
            ece: calibration_error(&scored, total),
            slope,
            intercept,
            accuracy,
            majority: base_rate.max(1.0 - base_rate),
        })
    }
}

/// AUROC, and the average precision of purchase: Σ over distinct scores of (rise in recall) · precision.
/// `scored` rises in P(churn), so it falls in P(purchase).
fn ranking(scored: &[Scored]) -> Option<(f64, f64)> {
    let weight = |bought: bool| scored.iter().filter(|s| s.1 == bought).map(|s| s.2).sum::<f64>();
    let (bought, left) = (weight(true), weight(false));
    if !(bought > 0.0 && left > 0.0) {
        return None;
    }
    let (mut wins, mut precision) = (0.0, 0.0);
    let (mut bought_so_far, mut left_so_far) = (0.0, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let sum = |y: bool| tied.iter().filter(|s| s.1 == y).map(|s| s.2).sum::<f64>();
        let (b, l) = (sum(true), sum(false));
        // Pairs that are right: a leaver here scores above every buyer before, and half of those tied.
        wins += l * (bought_so_far + 0.5 * b);
        bought_so_far += b;
        left_so_far += l;
        if b > 0.0 {
            precision += b * bought_so_far / (bought_so_far + left_so_far);
        }
    }
    Some((wins / (bought * left), precision / bought))
}

/// Mean gap between the probability said and the share seen, over ten bins of equal mass.
fn calibration_error(scored: &[Scored], total: f64) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    let mut mass = 0.0;
    for &(p, y, w) in scored {
        let (said, seen) = &mut bins[bin(mass + 0.5 * w, total)];
        *said += w * p;
        *seen += w * f64::from(u8::from(!y));
        mass += w;
    }
    bins.iter().map(|(said, seen)| (said - seen).abs()).sum::<f64>() / total
}

/// The bin that a score's middle falls into.
fn bin(middle: f64, total: f64) -> usize {
    ((middle / total * BINS as f64) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHURN: [f64; 40] = [
        0.5, 0.95, 0.4, 0.05, 0.7, 0.9, 0.2, 0.2, 0.9, 0.7, 0.05, 0.4, 0.95, 0.4, 0.05, 0.7, 0.9, 0.2, 0.1, 0.9, 0.8,
        0.1, 0.4, 0.95, 0.5, 0.05, 0.6, 0.95, 0.3, 0.1, 0.8, 0.8, 0.1, 0.3, 0.95, 0.6, 0.05, 0.5, 0.95, 0.3,
    ];
    const LEFT: [u8; 40] = [
        1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 0,
        1, 0, 1,
    ];

    /// scikit-learn 1.x on the numbers above (y = LEFT, p = CHURN, s = None or 1 + (i % 4) / 2):
    ///
    ///     roc_auc_score(y, p, sample_weight=s); average_precision_score(1 - y, 1 - p, sample_weight=s)
    ///     brier_score_loss(y, p, sample_weight=s); log_loss(y, p, sample_weight=s)
    ///     accuracy_score(y, p >= .5, sample_weight=s); np.average(1 - y, weights=s)
    ///     z = np.log(p / (1 - p)); LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky")
    ///         .fit(z[:, None], y, sample_weight=s).coef_                                        (slope)
    ///     scipy.optimize.brentq(lambda a: (s * (1 / (1 + np.exp(-z - a)) - y)).sum(), -9, 9)    (intercept)
    #[test]
    fn agrees_with_scikit_learn() {
        let weights: Vec<f64> = (0..40).map(|i| 1.0 + f64::from(i % 4) * 0.5).collect();
        let purchased: Vec<bool> = LEFT.iter().map(|&y| y == 0).collect();
        for (weights, theirs) in [
            (None, [0.5792838875, 0.7971819646, 0.3099375, 0.961311956, 0.6, 0.575, 0.1271081108, -0.579755347]),
            (
                Some(&weights[..]),
                [
                    0.5726840364,
                    0.7912318723,
                    0.3136607143,
                    0.9784120494,
                    0.5857142857,
                    0.5571428571,
                    0.1098621487,
                    -0.4716210906,
                ],
            ),
        ] {
            let m = Metrics::of(&CHURN, &purchased, weights).unwrap();
            let (slope, intercept) = (m.slope.unwrap(), m.intercept.unwrap());
            let ours =
                [m.auroc.unwrap(), m.auprc.unwrap(), m.brier, m.log_loss, m.accuracy, m.base_rate, slope, intercept];
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() < 1e-9, "{ours:?} against {theirs:?}");
            }
            assert_eq!((m.n, m.buyers), (40, 23));
        }
    }

    /// Planted: outcomes with exactly the probabilities said, then the same outcomes under logits · 0.5 + 1.
    #[test]
    fn a_planted_miscalibration_is_found_again() {
        let (mut said, mut off, mut purchased, mut weights) = (vec![], vec![], vec![], vec![]);
        for i in -40..=40 {
            let logit = f64::from(i) * 0.1;
            let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
            for bought in [false, true] {
                said.push(sigmoid(logit));
                off.push(sigmoid(0.5 * logit + 1.0));
                purchased.push(bought);
                weights.push(if bought { 1.0 - sigmoid(logit) } else { sigmoid(logit) });
            }
        }
        let of = |p: &[f64]| Metrics::of(p, &purchased, Some(&weights)).unwrap();
        let (right, wrong) = (of(&said), of(&off));
        assert!((right.slope.unwrap() - 1.0).abs() < 1e-9 && right.intercept.unwrap().abs() < 1e-9, "{right:?}");
        // A bin's edge may part the two outcomes of one score.
        assert!(right.ece < 0.02 && wrong.ece > 0.1, "{} {}", right.ece, wrong.ece);
        // logit = 2 · (0.5 · logit + 1) - 2, and on the whole too much churn was said.
        assert!((wrong.slope.unwrap() - 2.0).abs() < 1e-9 && wrong.intercept.unwrap() < -0.5, "{wrong:?}");
        assert_eq!(wrong.auroc, right.auroc);
    }

    /// numpy: q = (arange(40) + .5) / 40; sum(abs(a.mean() - b.mean()) * len(a)) / 40 over array_split(·, 10) is .265.
    #[test]
    fn calibration_error_agrees_with_numpy() {
        let q: Vec<f64> = (0..40).map(|i| (f64::from(i) + 0.5) / 40.0).collect();
        let purchased: Vec<bool> = LEFT.iter().map(|&y| y == 0).collect();
        assert!((Metrics::of(&q, &purchased, None).unwrap().ece - 0.265).abs() < 1e-12);
    }

    #[test]
    fn one_class_none_and_nonsense_never_give_nan() {
        let m = Metrics::of(&[0.3, 0.6], &[true, true], None).unwrap();
        assert_eq!((m.auroc, m.auprc, m.majority), (None, None, 1.0));
        assert_eq!((m.slope, m.intercept), (None, None));
        // Classes that separate have no slope, the same score everywhere has none either.
        let apart = Metrics::of(&[0.2, 0.3, 0.7], &[true, true, false], None).unwrap();
        assert!(apart.slope.is_none() && apart.intercept.is_some_and(f64::is_finite), "{apart:?}");
        let flat = Metrics::of(&[0.5; 4], &[true, false, false, false], None).unwrap();
        assert!(flat.slope.is_none() && (flat.intercept.unwrap() - 3f64.ln()).abs() < 1e-9, "{flat:?}");
        let edge = Metrics::of(&[0.0, 1.0, 0.0, 1.0], &[true, false, false, true], None).unwrap();
        assert!([edge.slope, edge.intercept].iter().flatten().all(|x| x.is_finite()), "{edge:?}");
        for (p, y) in [(vec![], vec![]), (vec![f64::NAN], vec![true]), (vec![0.5], vec![]), (vec![1.5], vec![true])] {
            assert_eq!(Metrics::of(&p, &y, None), None);
        }
        assert_eq!(Metrics::of(&[0.5], &[true], Some(&[0.0])), None);
        assert!(Metrics::of(&[0.0, 1.0], &[false, true], None).unwrap().log_loss.is_finite());
    }

    proptest! {
        /// AUROC is the share of pairs in the right order, by counting them; a weight of 2 is a copy.
        #[test]
        fn auroc_counts_pairs_and_weights_are_copies(rows in prop::collection::vec((0u8..6, any::<bool>(), 1u8..3), 2..40)) {
            let p: Vec<f64> = rows.iter().map(|r| f64::from(r.0) / 6.0).collect();
            let y: Vec<bool> = rows.iter().map(|r| r.1).collect();
            let w: Vec<f64> = rows.iter().map(|r| f64::from(r.2)).collect();
            let weighted = Metrics::of(&p, &y, Some(&w)).unwrap();
            let copies: Vec<_> = rows.iter().flat_map(|r| vec![(f64::from(r.0) / 6.0, r.1); r.2 as usize]).collect();
            let (p, y): (Vec<_>, Vec<_>) = copies.iter().copied().unzip();
            let plain = Metrics::of(&p, &y, None).unwrap();
            let (mut right, mut pairs) = (0.0, 0.0);
            for a in copies.iter().filter(|r| !r.1) {
                for b in copies.iter().filter(|r| r.1) {
                    pairs += 1.0;
                    right += if a.0 > b.0 { 1.0 } else if a.0 == b.0 { 0.5 } else { 0.0 };
                }
            }
            prop_assert_eq!(plain.auroc.is_some(), pairs > 0.0);
            if let (Some(a), Some(b), Some(c)) = (plain.auroc, weighted.auroc, plain.auprc) {
                prop_assert!((a - right / pairs).abs() < 1e-12 && (a - b).abs() < 1e-12);
                prop_assert!((c - weighted.auprc.unwrap()).abs() < 1e-12 && c > 0.0 && c <= 1.0);
            }
            prop_assert!((plain.brier - weighted.brier).abs() < 1e-12);
            prop_assert!([plain.slope, plain.intercept].iter().flatten().all(|x| x.is_finite()));
        }
    }
}
