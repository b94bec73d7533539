mod methods;
mod mixture;

use super::regroup::{ln_stirling, partition};
use super::*;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::json;

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn rows(customers: &[Vec<f64>]) -> Rows {
    let mut rows = Rows::new(customers.first().map_or(6, Vec::len));
    for row in customers {
        rows.push(row);
    }
    rows
}

fn fit(customers: &[Vec<f64>], spec: &Spec, seed: u64) -> (Model, Card) {
    Fit::new(&rows(customers), &spec.definition(30), spec, seed).unwrap().finish()
}

fn variables(v: [f64; 6]) -> Vec<f64> {
    v.to_vec()
}

fn scales(model: &Model) -> Vec<Scale> {
    let of = |d: &Dimension| match &d.cut {
        Cut::Nearest { scales, .. } | Cut::Gaussian { scales, .. } => scales.clone(),
        Cut::Edges(_) => Vec::new(),
    };
    model.dimensions.iter().flat_map(of).collect()
}

#[test]
fn the_specification_is_valid_and_refuses_typos_by_name() {
    assert_eq!(Spec::default().min_sessions, 1000);
    assert_eq!(Spec::read(&json!({"restarts": 2})).unwrap().restarts, 2);
    let message = |spec| Spec::read(&spec).unwrap_err().to_string();
    assert!(message(json!({"restart": 2})).contains("`restart`"));
    assert!(message(json!({"max_clusters": 0})).contains("max_clusters"));
    assert!(message(json!([])).contains("object"));
    assert!(
        message(json!({"method": "som"}))
            .contains("`som`, expected one of `two_dimensional`, `gaussian_mixture`, `rfm`, `none`")
    );
    assert!(message(json!({"clip": 0.3})).contains("clip") && Spec::read(&json!({"clip": 0.99})).is_ok());
    assert!(message(json!({"spending": []})).contains("spending must be a list"));
    assert!(message(json!({"spending": ["money"]})).contains("`money`"));
    assert!(message(json!({"spending": ["visits_last_month"]})).contains("stands twice"));
    assert!(message(json!({"spending": [{"name": "x", "sql": "1"}]})).contains("`sql`"));
    assert!(message(json!({"spending": [{"name": "a b", "expression": "count(*)"}]})).contains("`a b`"));
    assert!(message(json!({"log": ["money"]})).contains("`money`"));
    assert_eq!(
        message(json!({"spending": [{"name": "x", "expression": "sum(prize)"}]})),
        "variable \"x\": there is no column \"prize\""
    );
}

/// Agreement of two labellings beyond chance (Hubert & Arabie 1985): 1 for the same partition, 0 on average for
/// independent ones.
fn adjusted_rand(a: &[u32], b: &[u32]) -> f64 {
    let pairs = |n: f64| n * (n - 1.0) / 2.0;
    let count = |labels: Vec<(u32, u32)>| {
        let mut counts = std::collections::BTreeMap::new();
        labels.into_iter().for_each(|l| *counts.entry(l).or_insert(0.0) += 1.0);
        counts.into_values().map(pairs).sum::<f64>()
    };
    let both = count(a.iter().copied().zip(b.iter().copied()).collect());
    let (left, right) = (count(a.iter().map(|&l| (l, 0)).collect()), count(b.iter().map(|&l| (l, 0)).collect()));
    let expected = left * right / pairs(a.len() as f64);
    (both - expected) / ((left + right) / 2.0 - expected)
}

/// Three spending clusters and two behaviour clusters, far apart: six cells, found again.
#[test]
fn planted_clusters_are_found() {
    let mut rng = rng(1);
    let (mut customers, mut truth) = (Vec::new(), Vec::new());
    for _ in 0..1500 {
        let (spending, behaviour) = (rng.gen_range(0..3u32), rng.gen_range(0..2u32));
        let mut near = |centre: f64, spread: f64| centre + spread * (rng.r#gen::<f64>() + rng.r#gen::<f64>() - 1.0);
        let (money, habit) = ([0.0, 40.0, 16.0][spending as usize], f64::from(behaviour));
        customers.push(variables([
            near(money, 5.0),
            near(money, 5.0),
            near(1.0 + 4.0 * habit, 1.5),
            near(2.0 * habit, 0.7),
            near(200.0 + 300.0 * habit, 90.0),
            near(3.0 + 9.0 * habit, 3.0),
        ]));
        truth.push(spending * 2 + behaviour);
    }
    let (model, card) = fit(&customers, &Spec::default(), 7);
    let chosen: Vec<usize> = card.elbow.iter().filter(|e| e.chosen).map(|e| e.k).collect();
    assert_eq!(chosen, [3, 2]);
    let cells: Vec<u32> = customers.iter().map(|c| model.cell(c)).collect();
    let agreement = adjusted_rand(&cells, &truth);
    assert!(agreement > 0.95, "{agreement}");
    // The lowest cluster comes first.
    assert_eq!(model.cell(&variables([0.0, 0.0, 1.0, 0.0, 200.0, 3.0])), 0);
    assert_eq!(model.cell(&variables([40.0, 40.0, 5.0, 2.0, 500.0, 12.0])), 5);
}

/// The inertias and silhouettes of scikit-learn 1.9.1 on the same numbers, made by the same generator on both sides:
///
/// ```python
/// x = 1
/// def u():
///     global x
///     x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
///     return (x >> 11) / 2**53
/// rows = []
/// for i in range(1000):
///     c = i % 3
///     rows.append([[0, 40, 15][c] + 10 * u() ** 2, [0, 35, 15][c] + 20 * u(), 4 * u() * (c + 1),
///                  3 * u() ** 4, 900 * u() ** 3, 30 * u() ** 2 * (c + 1)])
/// rows = np.array(rows)
/// z = (rows - rows.mean(0)) / rows.std(0)
/// for d in (z[:, :2], z[:, 2:]):
///     fits = [KMeans(k, n_init=20, random_state=0).fit(d) for k in range(1, 9)]
///     print([f.inertia_ for f in fits], [silhouette_score(d, f.labels_) for f in fits[1:]])
/// ```
#[test]
fn inertia_is_scikit_learns() {
    let mut x = 1u64;
    let mut u = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut customers = Vec::new();
    for i in 0..1000 {
        let c = i % 3;
        let more = (c + 1) as f64;
        customers.push(variables([
            [0.0, 40.0, 15.0][c] + 10.0 * u().powi(2),
            [0.0, 35.0, 15.0][c] + 20.0 * u(),
            4.0 * u() * more,
            3.0 * u().powi(4),
            900.0 * u().powi(3),
            30.0 * u().powi(2) * more,
        ]));
    }
    let spec = Spec { restarts: 20, max_clusters: 8, ..Spec::default() };
    let (_, card) = fit(&customers, &spec, 0);
    let peer = [
        [2000.0, 456.376, 171.461, 135.538, 100.72, 66.823, 59.844, 53.187],
        [4000.0, 3170.572, 2534.458, 2003.567, 1630.968, 1503.226, 1382.768, 1279.391],
    ];
    for (ours, peer) in card.elbow.iter().zip(peer.as_flattened()) {
        assert!((ours.inertia / peer - 1.0).abs() < 1e-3, "{ours:?}, scikit-learn {peer}");
    }
    let peer = [
        [f64::NAN, 0.6792, 0.6483, 0.573, 0.5653, 0.4908, 0.4644, 0.4321],
        [f64::NAN, 0.2638, 0.2853, 0.3064, 0.3118, 0.3124, 0.3047, 0.3016],
    ];
    for (ours, peer) in card.elbow.iter().zip(peer.as_flattened()) {
        assert!(ours.silhouette.is_none() == peer.is_nan(), "{ours:?}");
        assert!(ours.silhouette.is_none_or(|s| (s - peer).abs() < 5e-3), "{ours:?}, scikit-learn {peer}");
    }
}

#[test]
fn little_and_bad_input() {
    let spec = Spec::default();
    let (model, card) = fit(&[], &spec, 0);
    assert_eq!((model.cells(), model.groups(), card.elbow.len()), (1, 1, 0));
    assert_eq!(model.assign(&[]), 1);

    let same = vec![variables([0.1; 6]); 50];
    let (model, _) = fit(&same, &spec, 0);
    assert_eq!(model.cells(), 1);
    assert!(scales(&model).iter().all(|s| s.std == 1.0), "0.1 has no exact mean, and still no deviation");

    let two: Vec<Vec<f64>> = (0..50).map(|i| variables([f64::from(i % 2); 6])).collect();
    assert_eq!(fit(&two, &spec, 0).0.cells(), 4);

    let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 1e-308, 0.0, 3.0];
    let mut rng = rng(2);
    let bad: Vec<Vec<f64>> = (0..500).map(|_| variables(std::array::from_fn(|_| wild[rng.gen_range(0..8)]))).collect();
    let (model, card) = fit(&bad, &spec, 0);
    assert!(card.elbow.iter().all(|e| e.inertia.is_finite()), "{card:?}");
    assert_eq!(Model::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_the_sample_is_bounded() {
    let mut rng = rng(3);
    let customers: Vec<Vec<f64>> = (0..3000).map(|_| variables(std::array::from_fn(|_| rng.r#gen()))).collect();
    let spec = Spec { sample: 1000, restarts: 2, max_clusters: 4, ..Spec::default() };
    let bytes = |seed| fit(&customers, &spec, seed).0.to_bytes().unwrap();
    assert_eq!(bytes(5), bytes(5));
    assert_ne!(bytes(5), bytes(6));
    let mut fit = Fit::new(&rows(&customers), &spec.definition(30), &spec, 5).unwrap();
    let (total, mut before) = fit.progress();
    while fit.step() {
        assert!(fit.progress().1 >= before && fit.progress().1 <= total);
        before = fit.progress().1;
    }
    assert_eq!(fit.progress(), (total, total));
    let (model, card) = fit.finish();
    assert_eq!(model.to_bytes().unwrap(), bytes(5));
    assert_eq!((card.customers, card.sample), (3000, 1000));
}

#[test]
fn samples_are_ordered_distinct_and_fair() {
    let mut hits = [0; 20];
    for seed in 0..2000 {
        let chosen = sample(20, 5, seed);
        assert!(chosen.len() == 5 && chosen.is_sorted_by(|a, b| a < b));
        chosen.into_iter().for_each(|i| hits[i] += 1);
    }
    // 500 expected, standard deviation 19.
    assert!(hits.iter().all(|h| (420..580).contains(h)), "{hits:?}");
}

#[test]
fn the_elbow() {
    assert_eq!(super::elbow::elbow(&[100.0, 40.0, 10.0, 8.0, 7.0, 6.0]), 3);
    assert_eq!(super::elbow::elbow(&[100.0, 75.0, 50.0, 25.0, 0.0]), 1, "a straight line has none");
    assert_eq!(super::elbow::elbow(&[100.0, 0.0]), 2);
    assert_eq!(super::elbow::elbow(&[0.0]), 1);
    assert_eq!(super::elbow::elbow(&[]), 1);
}

#[test]
fn corrupt_bytes_are_refused() {
    let two: Vec<Vec<f64>> = (0..50).map(|i| variables([f64::from(i % 2); 6])).collect();
    let (model, _) = fit(&two, &Spec::default(), 0);
    let bytes = model.to_bytes().unwrap();
    assert_eq!(Model::from_bytes(&bytes).unwrap(), model);
    for cut in [0, 1, 8, 40, bytes.len() - 1] {
        assert!(matches!(Model::from_bytes(&bytes[..cut]), Err(Error::Corrupt(_))), "cut at {cut}");
    }
    let mut nan = bytes.clone();
    let end = nan.len();
    nan[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
    assert!(matches!(Model::from_bytes(&nan), Err(Error::Corrupt(_))));
    let mut wrong = model.clone();
    wrong.groups = vec![1, 1, 3, 1];
    assert!(matches!(Model::from_bytes(&wrong.to_bytes().unwrap()), Err(Error::Corrupt(_))));
    wrong.groups = vec![1];
    assert!(matches!(Model::from_bytes(&wrong.to_bytes().unwrap()), Err(Error::Corrupt(_))));
}

/// Sessions spread unevenly over cells, and buyers drawn one by one.
fn world(rng: &mut impl Rng, cells: usize, sessions: usize, rate: impl Fn(usize) -> f64) -> Vec<CellCount> {
    let sizes: Vec<f64> = (0..cells).map(|_| -rng.r#gen::<f64>().ln()).collect();
    let total: f64 = sizes.iter().sum();
    let cell = |(c, size): (usize, f64)| {
        let n = (sessions as f64 * size / total) as u64 + 1;
        CellCount { sessions: n, buyers: (0..n).filter(|_| rng.gen_bool(rate(c))).count() as u64 }
    };
    sizes.into_iter().enumerate().map(cell).collect()
}

fn found(seed: u64, cells: usize, sessions: usize, rate: impl Fn(usize) -> f64 + Copy) -> [usize; 11] {
    let mut rng = rng(seed);
    let mut found = [0; 11];
    for _ in 0..100 {
        let groups = regroup(&world(&mut rng, cells, sessions, rate), &Spec::default()).groups;
        found[groups.into_iter().max().unwrap() as usize] += 1;
    }
    found
}

#[test]
fn noise_is_one_group() {
    for cells in [9, 25, 100] {
        let found = found(cells as u64, cells, 40_000, |_| 0.026);
        assert!(found[1] >= 95, "{cells} cells: {found:?}");
    }
}

#[test]
fn a_true_three_is_found() {
    let found = found(1, 16, 60_000, |cell| [0.01, 0.03, 0.07][cell % 3]);
    assert!(found[3] >= 90, "{found:?}");
}

#[test]
fn groups_are_numbered_by_falling_churn_and_reach_their_size() {
    let cell = |sessions, buyers| CellCount { sessions, buyers };
    let spec = Spec::default();
    let groups = |counts: &[CellCount]| regroup(counts, &spec).groups;
    assert_eq!(groups(&[cell(9000, 900), cell(9000, 90), cell(9000, 890), cell(9000, 95)]), [2, 1, 2, 1]);
    // Clearly another rate, but only 900 sessions; or only 49 buyers: each joins the nearest rate.
    assert_eq!(groups(&[cell(90_000, 900), cell(900, 600), cell(90_000, 9000)]), [1, 2, 2]);
    assert_eq!(groups(&[cell(90_000, 49), cell(90_000, 900), cell(90_000, 9000)]), [1, 1, 2]);
    assert_eq!(groups(&[]), [0u32; 0]);
    assert_eq!(groups(&[cell(0, 0); 3]), [1; 3]);
    assert_eq!(groups(&[cell(3, 9)]), [1], "more buyers than sessions is read as all of them");
}

/// A cell that nobody was seen in is given to its neighbour, not to the largest group.
#[test]
fn an_unseen_cell_joins_its_neighbour() {
    let customers: Vec<Vec<f64>> =
        (0..300).map(|i| variables([[0.0, 10.0, 50.0][i % 3], [0.0, 10.0, 50.0][i % 3], 0.0, 0.0, 0.0, 0.0])).collect();
    let (mut model, mut card) = fit(&customers, &Spec { max_clusters: 3, ..Spec::default() }, 0);
    // Force three cells whatever the elbow chose: 0, 10 and 50 dollars.
    let mut dimensions = model.dimensions.clone();
    let Cut::Nearest { scales, centroids } = &mut dimensions[0].cut else { panic!("k-means has centroids") };
    assert!(centroids.len() >= 2);
    *centroids = [0.0, 10.0, 50.0].map(|v| scales.iter().map(|s| s.apply(v)).collect()).to_vec();
    let mut three = Model::new(model.definition().clone(), dimensions);
    let counts = [(9000, 90), (0, 0), (9000, 2000)].map(|(sessions, buyers)| CellCount { sessions, buyers });
    three.regroup(&counts, &Spec::default(), &mut card).unwrap();
    assert_eq!([0.0, 10.0, 50.0].map(|v| three.assign(&variables([v, v, 0.0, 0.0, 0.0, 0.0]))), [1, 1, 2]);
    assert_eq!(
        card.groups.iter().map(|g| (g.group, g.cells, g.rates.sessions)).collect::<Vec<_>>(),
        [(1, 2, 9000), (2, 1, 9000)]
    );
    assert!(model.regroup(&counts[..1], &Spec::default(), &mut card).is_err());
}

#[test]
fn stirling_numbers() {
    let s: Vec<f64> = ln_stirling(10).into_iter().map(|l| l.exp().round()).collect();
    assert_eq!(s, [0.0, 1.0, 511.0, 9330.0, 34105.0, 42525.0, 22827.0, 5880.0, 750.0, 45.0, 1.0]);
}

/// Every contiguous partition, by brute force.
fn best_by_force(cells: &[CellCount], groups: usize) -> f64 {
    let part = |cells: &[CellCount]| {
        let (n, b) = cells.iter().fold((0, 0), |(n, b), c| (n + c.sessions, b + c.buyers));
        let term = |k: u64| if k == 0 { 0.0 } else { k as f64 * (k as f64 / n as f64).ln() };
        term(b) + term(n - b)
    };
    if groups == 1 {
        return part(cells);
    }
    let first = |cut: usize| part(&cells[..cut]) + best_by_force(&cells[cut..], groups - 1);
    (1..=cells.len() - groups + 1).map(first).fold(f64::NEG_INFINITY, f64::max)
}

fn counts() -> impl Strategy<Value = Vec<CellCount>> {
    let cell = (0u64..50_000, 0.0..0.2f64)
        .prop_map(|(sessions, rate)| CellCount { sessions, buyers: (sessions as f64 * rate) as u64 });
    prop::collection::vec(cell, 1..9)
}

proptest! {
    #[test]
    fn the_dynamic_programme_is_optimal(counts in counts()) {
        let cells: Vec<CellCount> = counts.into_iter().filter(|c| c.sessions > 0).collect();
        prop_assume!(!cells.is_empty());
        let sessions = cells.iter().map(|c| c.sessions).sum::<u64>() as f64;
        let (cuts, bic) = partition(&cells, 10);
        let stirling = ln_stirling(cells.len());
        for (i, found) in bic.iter().enumerate() {
            let force = -2.0 * best_by_force(&cells, i + 1) + (i + 1) as f64 * sessions.ln() + stirling[i + 1];
            prop_assert!((found - force).abs() < 1e-6 * (1.0 + force.abs()), "{} groups: {found} {force}", i + 1);
        }
        prop_assert!(cuts[0] == 0 && cuts[cuts.len() - 1] == cells.len() && cuts.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn groups_do_not_depend_on_the_order_of_cells(counts in counts(), turn in 0usize..9) {
        let turn = turn % counts.len();
        let mut turned = counts.clone();
        turned.rotate_left(turn);
        let mut groups = regroup(&counts, &Spec::default()).groups;
        groups.rotate_left(turn);
        prop_assert_eq!(groups, regroup(&turned, &Spec::default()).groups);
    }

    #[test]
    fn every_group_is_used_and_large_enough(counts in counts()) {
        let spec = Spec::default();
        let groups = regroup(&counts, &spec).groups;
        let most = groups.iter().copied().max().unwrap();
        for g in 1..=most {
            let mine = || counts.iter().zip(&groups).filter(|(_, group)| **group == g).map(|(c, _)| c);
            prop_assert!(mine().count() > 0);
            if most > 1 {
                prop_assert!(mine().map(|c| c.sessions).sum::<u64>() >= spec.min_sessions);
                prop_assert!(mine().map(|c| c.buyers).sum::<u64>() >= spec.min_buyers);
            }
        }
    }

    #[test]
    fn assign_is_total(values: [f64; 6], wild in prop::num::f64::ANY) {
        let customers: Vec<Vec<f64>> =
            (0..40).map(|i| variables(std::array::from_fn(|j| f64::from((i * (j as u32 + 3)) % 11)))).collect();
        let spec = Spec { restarts: 1, max_clusters: 4, ..Spec::default() };
        let (model, _) = fit(&customers, &spec, 0);
        for v in [variables(values), variables([wild; 6])] {
            prop_assert!((model.cell(&v) as usize) < model.cells());
            prop_assert!((1..=model.groups()).contains(&model.assign(&v)));
        }
    }
}
