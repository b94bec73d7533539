//! The small numerics that several stages share.

use linfa_linalg::cholesky::Cholesky;
use linfa_linalg::triangular::{SolveTriangular, UPLO};
use ndarray::{Array1, Array2};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Newton steps, those that were halved included. Where the classes separate the weights run away and never settle.
const STEPS: usize = 60;
/// Mean log loss below which an outcome is never in doubt: the classes separate.
const CERTAIN: f64 = 1e-9;
/// Weights have settled when the next step moves none by more.
const SETTLED: f64 = 1e-9;

/// 1 / (1 + e^−x).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + e^x) without overflow: the log loss of a logit.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// ln Σ e^x without overflow; −∞ for none.
pub fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let high = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if high.is_finite() { high + terms.map(|x| (x - high).exp()).sum::<f64>().ln() } else { high }
}

/// The solution of a small positive definite system; `None` where there is none, or rounding would make it.
pub fn solve(a: &Array2<f64>, b: &Array1<f64>) -> Option<Array1<f64>> {
    // A unit diagonal, so that a pivot's size says how much of its row is left, whatever its unit.
    let scale = a.diag().mapv(|d| d.sqrt().recip());
    let column = scale.clone().insert_axis(ndarray::Axis(1));
    let lower = (a * &scale * &column).cholesky().ok()?;
    if !lower.diag().iter().all(|d| d * d > 1e-12) {
        return None;
    }
    let b = (b * &scale).insert_axis(ndarray::Axis(1));
    let half = lower.solve_triangular(&b, UPLO::Lower).ok()?;
    let x = lower.t().solve_triangular(&half, UPLO::Upper).ok()?.remove_axis(ndarray::Axis(1)) * scale;
    x.iter().all(|x| x.is_finite()).then_some(x)
}

/// One observation of a [`logistic`] regression of `D` weights.
#[derive(Debug, Clone, Copy)]
pub struct Observation<const D: usize> {
    pub inputs: [f64; D],
    /// Added to the logit.
    pub offset: f64,
    pub outcome: bool,
    pub weight: f64,
}

/// What [`logistic`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic<const D: usize> {
    pub weights: [f64; D],
    /// Curvature of the loss: the inverse of the weights' covariance.
    pub information: Array2<f64>,
}

/// Logistic regression by Newton's method from `start`, each step halved until the log loss falls. Each weight is
/// expected at `start`, with this precision (the inverse of a variance); 0: anywhere. `None` where there is no such
/// fit: one class, classes that separate, inputs that depend on each other.
pub fn logistic<const D: usize>(
    observations: impl Iterator<Item = Observation<D>> + Clone,
    start: [f64; D],
    precision: f64,
) -> Option<Logistic<D>> {
    let total: f64 = observations.clone().map(|o| o.weight).sum();
    let (mut from, mut step, mut lowest) = (start, [0.0; D], f64::INFINITY);
    let mut information = [[0.0; D]; D];
    for _ in 0..STEPS {
        let w: [f64; D] = std::array::from_fn(|k| from[k] - step[k]);
        let (mut loss, mut gradient, mut curve) = (0.0, [0.0; D], [[0.0; D]; D]);
        for k in 0..D {
            let away = w[k] - start[k];
            loss += 0.5 * precision * away * away;
            gradient[k] = precision * away;
            curve[k][k] = precision;
        }
        for Observation { inputs, offset, outcome, weight } in observations.clone() {
            let z = offset + w.iter().zip(&inputs).map(|(w, x)| w * x).sum::<f64>();
            let p = sigmoid(z);
            loss += weight * softplus(if outcome { -z } else { z });
            let error = weight * (p - f64::from(u8::from(outcome)));
            let bend = weight * p * (1.0 - p);
            for a in 0..D {
                gradient[a] += error * inputs[a];
                for b in 0..D {
                    curve[a][b] += bend * inputs[a] * inputs[b];
                }
            }
        }
        if loss / total > lowest {
            step = step.map(|d| 0.5 * d);
        } else {
            (from, lowest, information) = (w, loss / total, curve);
            let curve = Array2::from_shape_fn((D, D), |(a, b)| curve[a][b]);
            let direction = solve(&curve, &Array1::from_iter(gradient))?;
            step = std::array::from_fn(|k| direction[k]);
        }
        // Halved so far, too: near the lowest point rounding decides which loss is lower.
        if step.iter().all(|d| d.abs() < SETTLED) {
            let information = Array2::from_shape_fn((D, D), |(a, b)| information[a][b]);
            return (precision > 0.0 || lowest > CERTAIN).then_some(Logistic { weights: from, information });
        }
    }
    None
}

/// At most `most` of the numbers below `of`, all equally likely, in order.
pub fn sample(of: usize, most: usize, seed: u64) -> Vec<usize> {
    if of <= most {
        return (0..of).collect();
    }
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut wanted, mut chosen) = (most, Vec::with_capacity(most));
    // Knuth's selection sampling: in order, without replacement, no memory beside the result.
    for i in 0..of {
        if rng.gen_range(0..of - i) < wanted {
            chosen.push(i);
            wanted -= 1;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use rand::{Rng, SeedableRng};

    #[test]
    fn sums_of_exponentials_neither_overflow_nor_vanish() {
        assert_eq!(log_sum_exp([].into_iter()), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp([-2000.0, f64::NEG_INFINITY].into_iter()), -2000.0);
        assert!((log_sum_exp([1e5, 1e5].into_iter()) - 1e5 - 2f64.ln()).abs() < 1e-9);
        assert!((softplus(-700.0) - (-700f64).exp()).abs() < 1e-300 && softplus(1e5) == 1e5);
        assert_eq!((sigmoid(-1e5), sigmoid(0.0), sigmoid(1e5)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn small_systems_are_solved_or_refused() {
        // numpy.linalg.solve([[4, 1, .5], [1, 3, .2], [.5, .2, 1e-6 + .25]], [1, 2, 3])
        let a = array![[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 0.25 + 1e-6]];
        let x = solve(&a, &array![1.0, 2.0, 3.0]).unwrap();
        assert!((a.dot(&x) - array![1.0, 2.0, 3.0]).iter().all(|d| d.abs() < 1e-9), "{x}");
        // Units twenty orders apart do not make a system singular; rows that depend on each other do.
        let x = solve(&array![[1e-20, 0.0], [0.0, 1e20]], &array![1e-20, 1e20]).unwrap();
        assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] - 1.0).abs() < 1e-12);
        for bad in [array![[1.0, 2.0], [2.0, 4.0]], array![[0.0]], array![[-1.0]], array![[f64::NAN]]] {
            assert_eq!(solve(&bad, &Array1::ones(bad.nrows())), None);
        }
    }

    /// A planted line is found within its standard errors, and so are those.
    #[test]
    fn a_planted_regression_is_found() {
        let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(1);
        let one = |_| {
            let inputs = [1.0, rng.gen_range(-2.0..2.0), rng.gen_range(0.0..3.0)];
            let z = 0.5 - 1.5 * inputs[1] + 0.3 * inputs[2];
            Observation { inputs, offset: 0.2, outcome: rng.gen_bool(sigmoid(z + 0.2)), weight: 1.0 }
        };
        let all: Vec<Observation<3>> = (0..20_000).map(one).collect();
        let found = logistic(all.iter().copied(), [0.0; 3], 0.0).unwrap();
        for (k, truth) in [0.5, -1.5, 0.3].into_iter().enumerate() {
            let mut unit = Array1::zeros(3);
            unit[k] = 1.0;
            let error = solve(&found.information, &unit).unwrap()[k].sqrt();
            assert!((found.weights[k] - truth).abs() < 4.0 * error && error < 0.05, "{found:?} {error}");
        }
        // A strong prior holds the weights where they were expected; one class has no fit without it.
        let held = logistic(all.iter().copied(), [1.0; 3], 1e9).unwrap();
        assert!(held.weights.iter().all(|w| (w - 1.0).abs() < 1e-3));
        let won = all.iter().map(|o| Observation { outcome: true, ..*o });
        assert_eq!(logistic(won.clone(), [0.0; 3], 0.0), None);
        assert!(logistic(won, [0.0; 3], 1.0).is_some());
        assert_eq!(logistic(std::iter::empty::<Observation<1>>(), [0.0], 0.0), None);
    }
}
