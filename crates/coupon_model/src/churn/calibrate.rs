//! From logits to probabilities that mean what they say.

use super::math::softplus;

/// Platt scaling with the view number: logit' = slope · logit + views · ln(view number) + intercept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Platt {
    pub slope: f64,
    pub views: f64,
    pub intercept: f64,
}

/// One scored view: the raw logit of churn, its number in the session (1..), whether the session churned, its weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scored {
    pub logit: f32,
    pub number: u32,
    pub churned: bool,
    pub weight: f32,
}

impl Platt {
    /// Changes nothing.
    pub const IDENTITY: Platt = Platt { slope: 1.0, views: 0.0, intercept: 0.0 };

    /// The calibrated logit; bounded, so that every probability is strictly inside 0 and 1.
    pub(super) fn logit(&self, logit: f32, number: u32) -> f64 {
        let z = self.slope * f64::from(logit) + self.views * f64::from(number.max(1)).ln() + self.intercept;
        z.clamp(-30.0, 30.0)
    }

    /// P(churn).
    pub fn probability(&self, logit: f32, number: u32) -> f64 {
        1.0 / (1.0 + (-self.logit(logit, number)).exp())
    }

    /// Log loss of a scored view.
    pub(super) fn loss(&self, s: &Scored) -> f64 {
        let z = self.logit(s.logit, s.number);
        softplus(if s.churned { -z } else { z })
    }

    /// Penalised maximum likelihood by Newton's method: each number is expected within `spread` of `centre`'s.
    ///
    /// The views of one session share one outcome, so that all views together count as `sessions` observations, not as
    /// their own number. `None` where it does not end in a rising curve: then the logits are better left alone.
    pub(super) fn fit(scored: &[Scored], sessions: usize, centre: Platt, spread: f64) -> Option<Platt> {
        let centre = [centre.slope, centre.views, centre.intercept];
        let precision = 1.0 / (spread * spread);
        let total: f64 = scored.iter().map(|s| f64::from(s.weight)).sum();
        let share = if total > 0.0 { sessions as f64 / total } else { 0.0 };
        let mut w = centre;
        for _ in 0..50 {
            let mut gradient = [0.0; 3];
            let mut hessian = [[0.0; 3]; 3];
            for k in 0..3 {
                gradient[k] = (w[k] - centre[k]) * precision;
                hessian[k][k] = precision;
            }
            for s in scored {
                let x = [f64::from(s.logit), f64::from(s.number.max(1)).ln(), 1.0];
                let z = w[0] * x[0] + w[1] * x[1] + w[2];
                let p = 1.0 / (1.0 + (-z).exp());
                let weight = share * f64::from(s.weight);
                let error = weight * (p - f64::from(u8::from(s.churned)));
                let curve = weight * p * (1.0 - p);
                for a in 0..3 {
                    gradient[a] += error * x[a];
                    for b in 0..3 {
                        hessian[a][b] += curve * x[a] * x[b];
                    }
                }
            }
            let step = solve(hessian, gradient)?;
            let mut moved = 0f64;
            for k in 0..3 {
                // Bounded, because a full Newton step may overshoot where the curve is flat.
                let d = step[k].clamp(-2.0, 2.0);
                w[k] -= d;
                moved = moved.max(d.abs());
            }
            if moved < 1e-9 {
                break;
            }
        }
        let [slope, views, intercept] = w;
        (w.iter().all(|v| v.is_finite()) && slope > 0.0).then_some(Platt { slope, views, intercept })
    }
}

/// Gaussian elimination of a positive definite system.
fn solve(mut a: [[f64; 3]; 3], mut b: [f64; 3]) -> Option<[f64; 3]> {
    for k in 0..3 {
        if a[k][k].is_nan() || a[k][k].abs() < 1e-12 {
            return None;
        }
        for r in k + 1..3 {
            let factor = a[r][k] / a[k][k];
            let pivot = a[k];
            a[r].iter_mut().zip(pivot).skip(k).for_each(|(x, p)| *x -= factor * p);
            b[r] -= factor * b[k];
        }
    }
    for k in (0..3).rev() {
        for c in k + 1..3 {
            b[k] -= a[k][c] * b[c];
        }
        b[k] /= a[k][k];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted: outcomes drawn on a grid with exactly the probabilities of a known curve are found again.
    #[test]
    fn finds_a_planted_curve() {
        let truth = Platt { slope: 0.5, views: -0.3, intercept: 1.2 };
        let mut scored = Vec::new();
        for number in [1u32, 2, 5, 20] {
            for i in -30..=30 {
                let logit = i as f32 * 0.1;
                let p = truth.probability(logit, number) as f32;
                scored.push(Scored { logit, number, churned: true, weight: 1000.0 * p });
                scored.push(Scored { logit, number, churned: false, weight: 1000.0 * (1.0 - p) });
            }
        }
        let found = Platt::fit(&scored, 1_000_000, Platt::IDENTITY, 10.0).unwrap();
        for (a, b) in [(found.slope, 0.5), (found.views, -0.3), (found.intercept, 1.2)] {
            assert!((a - b).abs() < 1e-3, "{found:?}");
        }
    }

    #[test]
    fn one_class_stays_finite_and_a_falling_curve_is_refused() {
        let one = |logit, churned| Scored { logit, number: 1, churned, weight: 1.0 };
        let all: Vec<_> = (0..100).map(|i| one(i as f32 * 0.01, true)).collect();
        if let Some(platt) = Platt::fit(&all, 100, Platt::IDENTITY, 1.0) {
            assert!(platt.probability(0.5, 3).is_finite());
        }
        let falling: Vec<_> = (0..100).map(|i| one(i as f32 * 0.1 - 5.0, i < 50)).collect();
        assert_eq!(Platt::fit(&falling, 100, Platt::IDENTITY, 10.0), None);
    }
}
