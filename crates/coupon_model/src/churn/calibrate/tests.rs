//! Planted curves, levels and drifts that the calibrators must find again.

use proptest::prelude::*;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use super::*;

/// Sessions of `views` views with logits around the session's own; the outcome by `truth` of its mean logit.
fn sessions(n: usize, views: u32, seed: u64, truth: impl Fn(f64) -> f64) -> Vec<Vec<Scored>> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let one = |_| {
        let centre = rng.gen_range(-3.0..3.0);
        let churned = rng.gen_bool(truth(centre));
        (1..=views).map(|number| Scored { logit: centre as f32, number, churned, weight: 1.0 }).collect()
    };
    (0..n).map(one).collect()
}

fn fit(tune: &[Vec<Scored>], past: &[Vec<Scored>], spread: f64) -> Option<Calibrator> {
    let (tune, past) = (tune.iter().map(Vec::as_slice), past.iter().map(Vec::as_slice));
    Calibrator::fit(tune, past, &Calibrator::IDENTITY, spread)
}

/// Outcomes on a grid with exactly the probabilities of a known line.
#[test]
fn finds_a_planted_line() {
    let truth = Calibrator::line(0.5, -0.3, 1.2);
    let mut sessions = Vec::new();
    for number in [1u32, 2, 5, 20] {
        for i in -300..=300 {
            let logit = i as f32 * 0.01;
            let p = truth.probability(logit, number) as f32;
            for (churned, weight) in [(true, 1000.0 * p), (false, 1000.0 * (1.0 - p))] {
                sessions.push(vec![Scored { logit, number, churned, weight }]);
            }
        }
    }
    let sample = Sample::new(sessions.iter().map(Vec::as_slice));
    let found = sample.platt(Calibrator::IDENTITY.platt, 10.0).unwrap();
    for (a, b) in [(found.slope, 0.5), (found.views, -0.3), (found.intercept, 1.2)] {
        assert!((a - b).abs() < 1e-3, "{found:?}");
    }
}

/// A truth that no line follows: probabilities stand still, then jump. The curve is right on new sessions, the line not.
#[test]
fn a_bent_truth_is_followed_from_a_thousand_buyers_on() {
    let truth = |z: f64| if z < 1.0 { 0.55 } else { 0.95 };
    let gap = |c: &Calibrator| {
        (-29..30).map(|i| f64::from(i) / 10.0).map(|z| (c.probability(z as f32, 1) - truth(z)).abs()).sum::<f64>()
            / 59.0
    };
    let many = fit(&sessions(6000, 5, 1, truth), &[], 1.0).unwrap();
    assert!((2..=MAX_KNOTS).contains(&many.curve.len()), "{many:?}");
    let line = Calibrator { curve: Vec::new(), ..many.clone() };
    assert!(gap(&many) < 0.03 && gap(&line) > 0.05, "curve {}, line {}", gap(&many), gap(&line));
    // A thousand buyers are not reached by 2,000 sessions, however many views they have.
    assert!(fit(&sessions(2000, 50, 1, truth), &[], 1.0).unwrap().curve.is_empty());
}

/// Where the line is right already, the curve stays near it.
#[test]
fn a_straight_truth_is_not_bent() {
    let fitted = fit(&sessions(20_000, 3, 7, sigmoid), &[], 0.1).unwrap();
    assert!(fitted.curve.len() > 10);
    let worst = (-25..=25).map(|i| f64::from(i) / 10.0).map(|z| (fitted.probability(z as f32, 2) - sigmoid(z)).abs());
    assert!(worst.fold(0.0, f64::max) < 0.04);
}

/// The level comes from the whole log while chance explains the difference, and from tune alone after a jump.
#[test]
fn the_level_is_that_of_the_whole_log_unless_it_has_moved() {
    let mean_level = |shift: f64| {
        let fitted = fit(&sessions(1000, 2, 3, |z| sigmoid(z + shift)), &sessions(9000, 2, 4, sigmoid), 1.0).unwrap();
        let judge = sessions(4000, 1, 5, sigmoid);
        Sample::new(judge.iter().map(Vec::as_slice)).offset(&fitted).unwrap().0
    };
    // The offset that sessions without a shift still need: none, or all of the jump taken back.
    assert!(mean_level(0.0).abs() < 0.09, "{}", mean_level(0.0));
    assert!((mean_level(1.5) + 1.5).abs() < 0.2, "{}", mean_level(1.5));
    // By hand: tune says .2 from 100 observations, the past 0 from 900: 1.9 standard errors, so each counts by its size.
    assert!((level(Some((0.2, 100.0)), Some((0.0, 900.0))) - 0.02).abs() < 1e-12);
    assert!(level(Some((3.0, 100.0)), Some((0.0, 900.0))) > 2.99);
    assert_eq!(level(None, Some((1.0, 1.0))) + level(Some((1.0, 1.0)), None), 0.0);
}

#[test]
fn too_little_one_class_and_a_falling_curve_are_refused() {
    assert_eq!(fit(&[], &[], 1.0), None);
    assert_eq!(fit(&sessions(500, 2, 1, |_| 1.0), &[], 1.0), None);
    assert_eq!(fit(&sessions(40, 9, 1, |_| 0.5), &[], 1.0), None);
    assert_eq!(fit(&sessions(5000, 2, 1, |z| sigmoid(-2.0 * z)), &[], 10.0), None);
}

#[test]
fn stored_and_read_back_a_calibrator_is_itself_and_nonsense_is_refused() {
    let fitted = fit(&sessions(6000, 2, 1, sigmoid), &[], 1.0).unwrap();
    let tensors = fitted.tensors();
    let line = tensors[0].2.as_slice().try_into().unwrap();
    assert_eq!(tensors[1].1, [fitted.curve.len(), 2]);
    assert_eq!(Calibrator::from_tensors(line, &tensors[1].2), Ok(fitted));
    assert_eq!(Calibrator::IDENTITY.tensors().len(), 1);
    for bad in [vec![0.0, 0.0, 0.0, 1.0], vec![0.0, 1.0, 1.0, 1.0], vec![0.0; 3], (0..130).map(f64::from).collect()] {
        assert!(Calibrator::from_tensors(line, &bad).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Strictly inside (0, 1) and never falling, whatever it was fitted to and wherever it is asked.
    #[test]
    fn rises_strictly_inside(
        outcomes in prop::collection::vec((0u8..7, any::<bool>(), 1u8..4), 2500..3000),
        logits in prop::collection::vec(prop_oneof![-6f32..6.0, -1e6f32..1e6], 2..40),
        number in 1u32..200,
    ) {
        let tune: Vec<Vec<Scored>> = outcomes.iter().map(|&(z, churned, n)| {
            let logit = f32::from(z) - 3.0;
            (1..=u32::from(n)).map(|number| Scored { logit, number, churned, weight: 1.0 }).collect()
        }).collect();
        let Some(fitted) = fit(&tune, &[], 0.1) else { return Ok(()) };
        let mut logits = logits;
        logits.sort_by(f32::total_cmp);
        let p: Vec<f64> = logits.iter().map(|z| fitted.probability(*z, number)).collect();
        prop_assert!(p.iter().all(|p| *p > 0.0 && *p < 1.0));
        prop_assert!(p.is_sorted());
        prop_assert!(fitted.curve.len() <= MAX_KNOTS);
    }
}
