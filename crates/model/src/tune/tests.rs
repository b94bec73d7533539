//! Against random search of the same budget on functions with known minima; and what a search promises.

use super::*;
use crate::churn;
use coupon_base::Error;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use serde_json::json;
use std::f64::consts::PI;

fn parameter(name: &str, low: f64, high: f64, whole: bool, log: bool) -> Parameter {
    Parameter { name: name.into(), range: Range { low, high, log }, whole }
}

/// Hartmann's function of six variables on the unit cube: minimum -3.32237, six local ones (Dixon & Szegö 1978).
fn hartmann(x: &[f64]) -> f64 {
    const A: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const P: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    const C: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
    let exponent = |i: usize| -> f64 { (0..6).map(|j| A[i][j] * (x[j] - P[i][j]).powi(2)).sum() };
    -(0..4).map(|i| C[i] * (-exponent(i)).exp()).sum::<f64>()
}

/// Branin's function: minimum 0.397887 at (-π, 12.275), (π, 2.275) and (9.42478, 2.475).
fn branin(x: f64, y: f64) -> f64 {
    (y - 5.1 / (4.0 * PI * PI) * x * x + 5.0 / PI * x - 6.0).powi(2) + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x.cos() + 10.0
}

/// The shape of the churn specification's space: whole numbers few and many, a logarithm, and a narrow valley in it.
/// Minimum 0 at kernel 3, hidden 40, rate 0.003, length 70.
fn mixed(x: &[f64]) -> f64 {
    let (kernel, hidden, rate, length) = (x[0], x[1].ln(), x[2].ln(), x[3]);
    let slope = rate - 0.003f64.ln() + 0.8 * (hidden - 40f64.ln());
    0.2 * (kernel - 3.0).powi(2)
        + (hidden - 40f64.ln()).powi(2)
        + 4.0 * slope * slope
        + ((length - 70.0) / 40.0).powi(2)
}

fn mixed_space() -> Space {
    Space::of(vec![
        parameter("pool_size", 1.0, 8.0, true, false),
        parameter("hidden_size", 8.0, 256.0, true, true),
        parameter("rate", 1e-4, 1e-1, false, true),
        parameter("length", 10.0, 200.0, true, false),
    ])
}

fn cube(n: usize) -> Space {
    Space::of((0..n).map(|i| parameter(&format!("x{i}"), 0.0, 1.0, false, false)).collect())
}

fn plane() -> Space {
    Space::of(vec![parameter("x", -5.0, 10.0, false, false), parameter("y", 0.0, 15.0, false, false)])
}

fn centre(space: &Space) -> Vec<f64> {
    space.parameters().iter().map(|p| p.at(0.5)).collect()
}

/// The best of `budget` trials.
fn searched(space: &Space, f: &dyn Fn(&[f64]) -> f64, seed: u64, budget: usize) -> f64 {
    let mut search = Search::new(space.clone(), centre(space), 8, seed);
    for _ in 0..budget {
        let point = search.ask().unwrap();
        let loss = f(&point);
        search.tell(point, Some(loss));
    }
    search.best().unwrap()
}

fn drawn(space: &Space, f: &dyn Fn(&[f64]) -> f64, seed: u64, budget: usize) -> f64 {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut point = || -> Vec<f64> { space.parameters().iter().map(|p| p.at(rng.r#gen())).collect() };
    (0..budget).map(|_| f(&point())).fold(f64::INFINITY, f64::min)
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

#[test]
fn the_functions_are_the_published_ones() {
    let hartmann_at = [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573];
    assert!((hartmann(&hartmann_at) + 3.32237).abs() < 1e-5);
    for (x, y) in [(-PI, 12.275), (PI, 2.275), (9.42478, 2.475)] {
        assert!((branin(x, y) - 0.397887).abs() < 1e-5);
    }
    assert!(mixed(&[3.0, 40.0, 0.003, 70.0]).abs() < 1e-12);
}

/// The distance to the minimum that random search leaves with the same 30 trials, against ours: medians of five seeds.
#[test]
fn it_beats_random_search_of_the_same_budget() {
    type Function = dyn Fn(&[f64]) -> f64;
    let functions: [(&str, Space, &Function, f64); 3] = [
        ("Branin", plane(), &|x| branin(x[0], x[1]), 0.397887),
        ("Hartmann 6", cube(6), &hartmann, -3.32237),
        ("mixed", mixed_space(), &mixed, 0.0),
    ];
    for (name, space, f, minimum) in functions {
        let over = |best: &dyn Fn(u64) -> f64| median((1..=5).map(best).collect()) - minimum;
        let (ours, random) = (over(&|seed| searched(&space, f, seed, 30)), over(&|seed| drawn(&space, f, seed, 30)));
        println!("{name}: {ours:.4} above the minimum, random search {random:.4}");
        assert!(ours < random / 2.0, "{name}: {ours} against {random}");
    }
}

/// Told again what it was told before, it asks what it would have asked: on other threads, and with other trials stored
/// between. Two seeds ask differently.
#[test]
fn a_resumed_search_is_the_uninterrupted_one() {
    let asked = |seed: u64, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let space = mixed_space();
            let mut search = Search::new(space.clone(), centre(&space), 5, seed);
            let mut points = Vec::new();
            for i in 0..14 {
                if i == 9 {
                    let mut resumed = Search::new(space.clone(), centre(&space), 5, seed);
                    search.told().iter().cloned().for_each(|t| resumed.tell(t.point, t.loss));
                    search = resumed;
                }
                let point = search.ask().unwrap();
                assert_eq!(search.ask().unwrap(), point, "asking changes nothing");
                points.push(point.clone());
                // One trial in five fails.
                search.tell(point.clone(), (i % 5 != 3).then(|| mixed(&point)));
            }
            points
        })
    };
    let one = asked(7, 1);
    assert_eq!(one, asked(7, 3));
    assert_ne!(one[1..], asked(8, 1)[1..]);
    assert_eq!(one[0], asked(8, 1)[0]);
}

#[test]
fn failures_and_equal_losses_are_survived() {
    let space = mixed_space();
    type Loss = fn(usize) -> Option<f64>;
    let losses: [Loss; 5] = [
        |_| None,
        |_| Some(f64::NAN),
        |_| Some(0.5),
        |i| (i % 2 == 0).then_some(0.5),
        |i| Some(if i % 4 == 0 { 1e300 } else { 0.1 + i as f64 * 1e-3 }),
    ];
    for (kind, loss) in losses.iter().enumerate() {
        let mut search = Search::new(space.clone(), centre(&space), 4, 1);
        for i in 0..12 {
            let point = search.ask().unwrap();
            for (p, v) in space.parameters().iter().zip(&point) {
                assert_eq!(p.snap(*v), *v, "kind {kind}, trial {i}: {} is outside or not snapped", p.name);
            }
            search.tell(point, loss(i));
        }
        assert_eq!(search.best().is_none(), kind < 2);
    }
}

/// Six points, each tried once, then none is left.
#[test]
fn a_space_can_be_exhausted() {
    let space = Space::of(vec![parameter("a", 1.0, 2.0, true, false), parameter("b", 1.0, 3.0, true, false)]);
    let mut search = Search::new(space.clone(), centre(&space), 3, 0);
    let mut seen = Vec::new();
    while let Some(point) = search.ask() {
        assert!(!seen.contains(&point));
        seen.push(point.clone());
        let loss = point[0] * point[1];
        search.tell(point, Some(loss));
    }
    assert_eq!(seen.len(), 6);
    assert_eq!(search.best(), Some(1.0));
}

/// A diverged trial must not hide the differences between good ones.
#[test]
fn a_diverged_trial_does_not_blind_it() {
    let space = cube(2);
    let f = |x: &[f64]| {
        if x[0] > 0.8 { 1e6 } else { (x[0] - 0.31).powi(2) + (x[1] - 0.62).powi(2) }
    };
    let ours = median((1..=5).map(|seed| searched(&space, &f, seed, 25)).collect());
    let random = median((1..=5).map(|seed| drawn(&space, &f, seed, 25)).collect());
    assert!(ours < 1e-3 && ours < random / 5.0, "{ours} against {random}");
}

#[test]
fn the_default_space_fits_the_default_network() {
    let (spec, base) = (Spec::read(&json!(null)).unwrap(), churn::Spec::default());
    let space = Space::new(&spec, &base).unwrap();
    let names: Vec<&str> = space.parameters().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["dense_units", "dropout", "hidden_size", "learning_rate", "max_length", "pool_size"]);
    let start = space.nearest(&base);
    assert_eq!(space.apply(&base, &start).unwrap(), base, "the first trial is the specification as it stands");
    assert_eq!(
        json!(space.overrides(&start)),
        json!({"dropout": 0.2, "dense_units": 32, "hidden_size": 64, "pool_size": 2, "learning_rate": 0.003, "max_length": 100})
    );
    // What is stored as JSON is the same point again.
    let mut search = Search::new(space.clone(), start, 8, 3);
    for i in 0..8 {
        let point = search.ask().unwrap();
        let text = json!(space.overrides(&point)).to_string();
        assert_eq!(space.point(&serde_json::from_str(&text).unwrap()), Some(point.clone()), "{text}");
        search.tell(point, Some(f64::from(i)));
    }
}

#[test]
fn refusals_name_the_key() {
    let refused = |spec: serde_json::Value| {
        let made = Spec::read(&spec).and_then(|s| Space::new(&s, &churn::Spec::default()));
        let Err(Error::Spec(message)) = made else { panic!("{spec} was taken") };
        message
    };
    for (spec, words) in [
        (json!({"epoch": 3}), "unknown field `epoch`"),
        (json!([]), "JSON object"),
        (json!({"epochs": 0}), "epochs must be from 1"),
        (json!({"initial_points": 0}), "initial_points must be from 1"),
        (json!({"space": {"width": {"low": 1, "high": 2}}}), "unknown field `width`"),
        (json!({"space": {"max_pages": {"low": 1, "high": 2}}}), "unknown field `max_pages`"),
        (json!({"space": {"hidden_size": {"low": 1, "high": 2, "step": 1}}}), "unknown field `step`"),
        (json!({"space": {"batch_size": {"low": 1}}}), "missing field `high`"),
        (
            json!({"space": {"hidden_size": {"low": 64, "high": 32}}}),
            "space.hidden_size.high must be finite and above low",
        ),
        (json!({"space": {"hidden_size": {"low": 1.5}}}), "space.hidden_size.low must be a whole number"),
        (json!({"space": {"learning_rate": {"low": 0}}}), "space.learning_rate.low must be finite, above 0 with log"),
        (json!({"space": {"pool_size": {"high": 9}}}), "at its high end: pool_size must be from 1 to 8"),
        (json!({"space": {"dropout": {"low": -0.1}}}), "at its low end: dropout must be from 0 to 0.9"),
        (
            json!({"space": {"hidden_size": {"high": 256}, "pool_size": {"high": 8}}}),
            "at its high end: the state of a live",
        ),
        (
            json!({"space": {"dropout": null, "dense_units": null, "hidden_size": null, "pool_size": null,
                "learning_rate": null, "max_length": null}}),
            "at least one parameter",
        ),
    ] {
        let message = refused(spec.clone());
        assert!(message.contains(words), "{spec}: {message}");
    }
    let one = Spec::read(&json!({"space": {"pool_size": null, "batch_size": {"low": 16, "high": 64}}})).unwrap();
    assert_eq!(Space::new(&one, &churn::Spec::default()).unwrap().parameters().len(), 6);
}

/// The glue waits for a running ask when it is cancelled, and a cancel is served within a second: what it works on is
/// bounded, and holds the best and the latest; so is the time, of which many trials do not take more than few.
#[test]
fn asking_after_many_trials_is_bounded() {
    use super::search::FITTED;
    let space = cube(6);
    let mut search = Search::new(space.clone(), centre(&space), 8, 1);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    // The shortest of three: another program's turn on the processor is no work of ours.
    let timed = |search: &Search| {
        let asks = (0..3).map(|_| {
            let begin = std::time::Instant::now();
            let point = search.ask().unwrap();
            (begin.elapsed().as_secs_f64(), point)
        });
        asks.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    let mut few = f64::NAN;
    for trial in 1..=400 {
        let point: Vec<f64> = space.parameters().iter().map(|p| p.at(rng.r#gen())).collect();
        let loss = hartmann(&point);
        search.tell(point, Some(loss));
        if trial == FITTED {
            few = timed(&search).0;
        }
    }
    let (fitted, losses) = search.fitted().unwrap();
    assert_eq!((fitted.len(), losses.len()), (FITTED, FITTED));
    assert!(fitted.contains(&search.told().last().unwrap()));
    let best = search.best().unwrap();
    assert_eq!(losses.iter().copied().fold(f64::INFINITY, f64::min), best);
    let (many, point) = timed(&search);
    assert!(many < 1.0, "asked after 400 trials in {many:.3} s");
    assert!(many < 5.0 * few, "asked after 400 trials in {many:.3} s, after {FITTED} in {few:.3} s");
    assert!(hartmann(&point) < drawn(&space, &hartmann, 2, 30), "no better than thirty draws");
}
