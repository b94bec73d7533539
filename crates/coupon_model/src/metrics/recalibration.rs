//! Logistic recalibration: the line that the logits would have to be put through to mean what they say (Cox 1958).

use super::Scored;
use crate::math::{Observation, logistic};

/// (slope, intercept) of P(churn): the slope of the fit of outcome on logit with a free intercept, and the intercept of
/// the fit with slope 1 ("calibration in the large"; positive: more churn than was said). 1 and 0 are perfect. `None`
/// where there is no such number: one class, the same score everywhere (no slope), classes that separate (no slope).
pub(super) fn recalibration(scored: &[Scored]) -> (Option<f64>, Option<f64>) {
    if !(scored.iter().any(|s| s.1 && s.2 > 0.0) && scored.iter().any(|s| !s.1 && s.2 > 0.0)) {
        return (None, None);
    }
    let logits = scored.iter().map(|&(p, bought, weight)| {
        let p = p.clamp(1e-15, 1.0 - 1e-15);
        ((p / (1.0 - p)).ln(), !bought, weight)
    });
    let both = logits.clone().map(|(logit, outcome, weight)| Observation {
        inputs: [logit, 1.0],
        offset: 0.0,
        outcome,
        weight,
    });
    let level = logits.map(|(logit, outcome, weight)| Observation { inputs: [1.0], offset: logit, outcome, weight });
    let slope = logistic(both, [1.0, 0.0], 0.0).map(|found| found.weights[0]);
    (slope, logistic(level, [0.0], 0.0).map(|found| found.weights[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    /// Rounding near the lowest point once kept the method from settling, and now and then a card lacked a number.
    #[test]
    fn many_scores_always_settle() {
        for seed in 0..40 {
            let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(seed);
            let one = |_| {
                let p: f64 = rng.gen_range(0.01..0.99);
                (p, rng.r#gen::<f64>() > p, 1.0)
            };
            let scored: Vec<Scored> = (0..20_000).map(one).collect();
            let (slope, intercept) = recalibration(&scored);
            // The standard errors are .012 and .018.
            assert!((slope.unwrap() - 1.0).abs() < 0.06 && intercept.unwrap().abs() < 0.09, "{slope:?} {intercept:?}");
        }
    }
}
