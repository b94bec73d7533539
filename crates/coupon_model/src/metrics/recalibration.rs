//! Logistic recalibration: the line that the logits would have to be put through to mean what they say (Cox 1958).

use super::Scored;

/// Steps of Newton's method; where the classes separate the slope runs away and never settles.
const STEPS: usize = 60;
const SETTLED: f64 = 1e-9;

/// (slope, intercept) of P(churn): the slope of the fit of outcome on logit with a free intercept, and the intercept of
/// the fit with slope 1 ("calibration in the large"; positive: more churn than was said). 1 and 0 are perfect. `None`
/// where there is no such number: one class, the same score everywhere (no slope), classes that separate (no slope).
pub(super) fn recalibration(scored: &[Scored]) -> (Option<f64>, Option<f64>) {
    if !(scored.iter().any(|s| s.1 && s.2 > 0.0) && scored.iter().any(|s| !s.1 && s.2 > 0.0)) {
        return (None, None);
    }
    let intercept = fit(scored, |[_, h1, h2], [_, g]| (h2 > 0.0 && h1.is_finite()).then(|| [0.0, g / h2]));
    let slope = fit(scored, |[h0, h1, h2], [g0, g1]| {
        let determinant = h0 * h2 - h1 * h1;
        let step = [(h2 * g0 - h1 * g1) / determinant, (h0 * g1 - h1 * g0) / determinant];
        (determinant > 1e-12 * h0 * h2).then_some(step)
    });
    (slope.map(|w| w[0]), intercept.map(|w| w[1]))
}

/// Newton's method on (slope, intercept) from (1, 0), each step halved until the log loss falls; `direction` makes a full
/// step of curvature (ss, si, ii) and gradient.
fn fit(scored: &[Scored], direction: impl Fn([f64; 3], [f64; 2]) -> Option<[f64; 2]>) -> Option<[f64; 2]> {
    let total: f64 = scored.iter().map(|s| s.2).sum();
    let (mut from, mut step, mut lowest) = ([1.0, 0.0], [0.0; 2], f64::INFINITY);
    for _ in 0..STEPS {
        let w = [from[0] - step[0], from[1] - step[1]];
        let (mut loss, mut curve, mut gradient) = (0.0, [0.0; 3], [0.0; 2]);
        for &(p, bought, weight) in scored {
            let p = p.clamp(1e-15, 1.0 - 1e-15);
            let logit = (p / (1.0 - p)).ln();
            let z = w[0] * logit + w[1];
            let q = 1.0 / (1.0 + (-z).exp());
            let (weight, error) = (weight / total, q - f64::from(u8::from(!bought)));
            let c = weight * q * (1.0 - q);
            loss += weight * softplus(if bought { z } else { -z });
            curve = [curve[0] + c * logit * logit, curve[1] + c * logit, curve[2] + c];
            gradient = [gradient[0] + weight * error * logit, gradient[1] + weight * error];
        }
        if loss > lowest {
            step = step.map(|d| 0.5 * d);
        } else {
            (from, lowest) = (w, loss);
            step = direction(curve, gradient)?;
        }
        // Halved so far, too: near the lowest point rounding decides which loss is lower.
        if step.iter().all(|d| d.abs() < SETTLED) {
            return Some(from);
        }
    }
    None
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
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
