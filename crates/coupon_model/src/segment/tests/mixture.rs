//! Mixtures of Gaussians: planted ones are found, and nothing that customers may be makes one fail.

use super::*;
use crate::segment::mixture::Component;

/// Three correlated Gaussians in spending, two in behaviour: 1,500 customers and the cell that each was planted in, by
/// a generator that a test's Python has too.
fn planted() -> (Vec<Vec<f64>>, Vec<u32>) {
    let mut x = 1u64;
    let mut g = || {
        let mut u = || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..12).map(|_| u()).sum::<f64>() - 6.0
    };
    let mut customers = Vec::new();
    for i in 0..1500 {
        let (c, d, a, b) = (i % 3, f64::from(i % 2), g(), g());
        customers.push(variables([
            [0.0, 40.0, 15.0][c as usize] + 3.0 * a,
            [0.0, 35.0, 25.0][c as usize] + 2.0 * a + 2.0 * b,
            4.0 * d + g(),
            3.0 * g(),
            300.0 * d + 50.0 * g(),
            9.0 * g(),
        ]));
    }
    (customers, (0..1500).map(|i| i % 3 * 2 + i % 2).collect())
}

fn spec(change: Value) -> Spec {
    let mut spec = json!({"method": "gaussian_mixture"});
    change.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
    Spec::read(&spec).unwrap()
}

/// The criteria of scikit-learn 1.9.1 on the same numbers:
///
/// ```python
/// x = 1
/// def u():
///     global x
///     x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
///     return (x >> 11) / 2**53
/// def g(): return sum(u() for _ in range(12)) - 6
/// rows = []
/// for i in range(1500):
///     c = i % 3; a = g(); b = g(); d = i % 2
///     rows.append([[0, 40, 15][c] + 3 * a, [0, 35, 25][c] + 2 * a + 2 * b, 4 * d + g(), 3 * g(),
///                  300 * d + 50 * g(), 9 * g()])
/// rows = np.array(rows)
/// z = (rows - rows.mean(0)) / rows.std(0)
/// for d in (z[:, :2], z[:, 2:]):
///     print([GaussianMixture(k, n_init=3, random_state=0).fit(d).bic(d) for k in range(1, 4)])
/// ```
#[test]
fn planted_gaussians_are_found_and_bic_is_scikit_learns() {
    let (customers, truth) = planted();
    let spec = spec(json!({"max_clusters": 5}));
    let (model, card) = fit(&customers, &spec, 0);
    let chosen: Vec<usize> = card.elbow.iter().filter(|e| e.chosen).map(|e| e.k).collect();
    assert_eq!(chosen, [3, 2], "{:?}", card.elbow);
    let cells: Vec<u32> = customers.iter().map(|c| model.cell(c)).collect();
    assert!(adjusted_rand(&cells, &truth) > 0.97, "{}", adjusted_rand(&cells, &truth));
    let bic = |d: &str, k: usize| card.elbow.iter().find(|e| e.dimension == d && e.k == k).and_then(|e| e.bic).unwrap();
    for (k, peer) in [(1, 5742.31), (2, 2331.66), (3, 787.74)] {
        assert!((bic("spending", k) / peer - 1.0).abs() < 2e-3, "{k}: {} {peer}", bic("spending", k));
    }
    for (k, peer) in [(1, 15286.05), (2, 13459.32)] {
        assert!((bic("behaviour", k) / peer - 1.0).abs() < 1e-3, "{k}: {} {peer}", bic("behaviour", k));
    }
    let reason = card.elbow.iter().find(|e| e.chosen).unwrap().reason.clone();
    assert!(reason.starts_with("BIC 78") && reason.ends_with(", the lowest"), "{reason}");
    assert!(card.elbow.iter().all(|e| e.silhouette.is_none() == (e.k == 1)), "{:?}", card.elbow);

    // The lowest component comes first, the stored model is the same, and cells become segments as ever.
    assert_eq!(model.cell(&variables([0.0, 0.0, 0.0, 0.0, 0.0, 0.0])), 0);
    assert_eq!(model.cell(&variables([40.0, 35.0, 4.0, 0.0, 300.0, 0.0])), 5);
    let bytes = model.to_bytes().unwrap();
    let mut stored = Model::from_bytes(&bytes).unwrap();
    assert_eq!(stored, model);
    let mut card = card;
    let counts = [100, 100, 100, 100, 900, 900].map(|buyers| CellCount { sessions: 10_000, buyers });
    stored.regroup(&counts, &spec, &mut card).unwrap();
    card.describe(&stored, &rows(&customers));
    assert_eq!((card.groups.len(), card.groups[1].cells, card.groups[1].name.as_str()), (2, 2, "big spenders"));
    assert!(card.variables.iter().all(|v| v.std.is_some() && v.edges.is_none()));
    assert_eq!((Card::deserialize(&serde_json::to_value(&card).unwrap()).unwrap(), card.sample), (card.clone(), 1500));
}

/// A customer is given the component of the highest weight times density, by the formula.
#[test]
fn assignment_is_the_most_likely_component() {
    let one = Component { weight: 0.7, mean: vec![0.0, 0.0], whitening: vec![2.0, 0.0, -1.0, 0.5] };
    let two = Component { weight: 0.3, mean: vec![1.0, 2.0], whitening: vec![1.0, 0.0, 0.0, 1.0] };
    // numpy: with W the whitening, ln(.7) + ln(det W) − |W (x − m)|² / 2 at x = (.3, −.2).
    let (z, det) = ([0.6, -0.3 - 0.1], 1.0f64);
    let by_hand = 0.7f64.ln() + det.ln() - 0.5 * (z[0] * z[0] + z[1] * z[1]);
    assert!((one.log_density(&[0.3, -0.2]) - by_hand).abs() < 1e-12);
    let components = [one, two];
    assert_eq!([[0.3, -0.2], [1.0, 2.0]].map(|p| crate::segment::mixture::most_likely(&components, &p)), [0, 1]);
    // Too far from all for any density, still assigned.
    assert_eq!(crate::segment::mixture::most_likely(&components, &[1e6, 1e6]), 1);
}

#[test]
fn little_and_degenerate_input_gives_fewer_components() {
    let spec = spec(json!({"max_clusters": 6}));
    let same = |n: usize| vec![variables([0.1; 6]); n];
    let line: Vec<Vec<f64>> = (0..300).map(|i| variables([f64::from(i); 6])).collect();
    let two: Vec<Vec<f64>> = (0..50).map(|i| variables([f64::from(i % 2); 6])).collect();
    let three: Vec<Vec<f64>> =
        (0..3).map(|i| variables([f64::from(i * i), 1.0, 2.0, 0.0, f64::from(i), 0.0])).collect();
    let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 1e-308, 0.0, 3.0];
    let mut rng = rng(2);
    let bad: Vec<Vec<f64>> = (0..300).map(|_| variables(std::array::from_fn(|_| wild[rng.gen_range(0..8)]))).collect();
    // One customer a million times as rich: further than 38 deviations from all others.
    let mut rich: Vec<Vec<f64>> = (0..3000).map(|_| variables(std::array::from_fn(|_| rng.r#gen()))).collect();
    rich.push(variables([1e6; 6]));
    for (customers, most) in
        [(vec![], 1), (same(1), 1), (same(50), 1), (line, 36), (two, 4), (three, 9), (bad, 36), (rich, 36)]
    {
        let (model, card) = fit(&customers, &spec, 0);
        assert!(model.cells() <= most, "{} of {most}", model.cells());
        assert!(card.elbow.iter().all(|e| e.inertia.is_finite() && e.bic.is_some_and(f64::is_finite)), "{card:?}");
        assert_eq!(Model::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
        assert!(customers.iter().all(|c| (model.cell(c) as usize) < model.cells()));
    }
}

/// The same whatever the number of threads, and a step at a time; a mixture is fitted on a bounded sample.
#[test]
fn results_depend_on_the_seed_alone() {
    let mut rng = rng(3);
    let customers: Vec<Vec<f64>> = (0..6000).map(|_| variables(std::array::from_fn(|_| rng.r#gen()))).collect();
    for method in ["two_dimensional", "gaussian_mixture"] {
        let spec = Spec::read(&json!({"method": method, "max_clusters": 3, "restarts": 2})).unwrap();
        let bytes = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&customers, &spec, seed).0.to_bytes().unwrap())
        };
        let one = bytes(1, 5);
        assert!(one == bytes(1, 5) && one == bytes(3, 5) && one != bytes(1, 6));
        let mut fit = Fit::new(&rows(&customers), &spec.definition(30), &spec, 5).unwrap();
        let ((total, _), mut steps) = (fit.progress(), 0);
        while fit.step() {
            steps += 1;
            assert!(fit.progress().1 <= total);
        }
        assert!(fit.progress() == (total, total) && steps >= total && total > 5);
        let (model, card) = fit.finish();
        assert!(model.to_bytes().unwrap() == one);
        assert_eq!(card.sample, if method == "gaussian_mixture" { 5000 } else { 6000 });
    }
}

#[test]
fn corrupt_mixtures_are_refused() {
    let (model, _) = fit(&planted().0, &spec(json!({"max_clusters": 3})), 0);
    let broken = |change: &dyn Fn(&mut Component)| {
        let mut wrong = model.clone();
        let Cut::Gaussian { components, .. } = &mut wrong.dimensions[0].cut else { panic!("a mixture") };
        change(&mut components[1]);
        Model::from_bytes(&wrong.to_bytes().unwrap())
    };
    assert_eq!(broken(&|_| {}), Ok(model.clone()));
    for change in [
        &|c: &mut Component| c.weight = 0.0,
        &|c: &mut Component| c.weight = 1.5,
        &|c: &mut Component| c.whitening[0] = 0.0,
        &|c: &mut Component| c.whitening[3] = -1.0,
        &|c: &mut Component| c.whitening[1] = 0.1,
        &|c: &mut Component| c.mean[0] = f64::NAN,
    ] as [&dyn Fn(&mut Component); 6]
    {
        assert!(matches!(broken(change), Err(Error::Corrupt(_))));
    }
}
