//! Methods, scales, names, and what is stored of a customer.

use super::*;
use crate::segment::points::Points;

fn own(name: &str, expression: &str) -> Value {
    json!({"name": name, "expression": expression})
}

/// A uniform value around a centre.
fn near(rng: &mut impl Rng, centre: f64, spread: f64) -> f64 {
    centre + spread * (2.0 * rng.r#gen::<f64>() - 1.0)
}

/// Clusters that lie in variables of the shop's own, three beside two, among six variables of pure noise.
#[test]
fn planted_clusters_of_own_variables_are_found() {
    let spec = Spec::read(&json!({
        "spending": [own("margin", "sum(price)"), own("returns", "count(*)")],
        "behaviour": [own("nights", "count(*) FILTER (WHERE hour < 6)")],
        "max_clusters": 8,
    }));
    let spec = spec.unwrap();
    let mut rng = rng(1);
    let (mut customers, mut truth) = (Vec::new(), Vec::new());
    for _ in 0..900 {
        let (a, b) = (rng.gen_range(0..3u32), rng.gen_range(0..2u32));
        let mut row: Vec<f64> = (0..6).map(|_| 100.0 * rng.r#gen::<f64>()).collect();
        let (margin, returns) = [(0.0, 0.0), (10.0, 2.0), (20.0, 8.0)][a as usize];
        row.extend([near(&mut rng, margin, 2.0), near(&mut rng, returns, 1.0), near(&mut rng, f64::from(b), 0.3)]);
        customers.push(row);
        truth.push(a * 2 + b);
    }
    let (model, card) = fit(&customers, &spec, 0);
    let cells: Vec<u32> = customers.iter().map(|c| model.cell(c)).collect();
    assert!(adjusted_rand(&cells, &truth) > 0.95, "{:?}", card.elbow);
    let told: Vec<_> = card.variables.iter().map(|v| (v.variable.as_str(), v.expression.as_deref())).collect();
    assert_eq!(told[0], ("margin", Some("sum(price)")));
    assert_eq!(told.len(), 3);
    let bytes = model.to_bytes().unwrap();
    assert_eq!(Model::from_bytes(&bytes).unwrap(), model);

    // What is stored of a customer is enough, if it is of the same definition.
    let key = model.definition().key();
    let stored = |row: &[f64], key: i64| {
        let own = json!({"margin": row[6], "returns": row[7], "nights": row[8]});
        model.assign_stored(row[..6].try_into().unwrap(), key, || Some(own))
    };
    assert!(customers.iter().all(|c| stored(c, key) == model.assign(c)));
    assert_eq!(stored(&customers[0], key ^ 1), 0);
    assert_eq!(model.assign_stored([0.0; 6], key, || Some(json!({"margin": 1.0}))), 0);
    assert_ne!(spec.definition(30).key(), spec.definition(31).key());
    assert_ne!(spec.definition(30).key(), Spec::default().definition(30).key());
}

/// Fifths of three independent variables: 125 cells of about the same size, numbered by their quintiles.
#[test]
fn rfm_is_quintiles() {
    let spec = Spec::read(&json!({"method": "rfm"})).unwrap();
    let names: Vec<String> = spec.definition(30).names().map(str::to_string).collect();
    assert_eq!(names[6..], ["recency", "frequency"]);
    let mut rng = rng(2);
    let mut customers: Vec<Vec<f64>> = (0..2000)
        .map(|_| {
            let mut row = vec![0.0; 8];
            (row[0], row[6], row[7]) = (rng.r#gen(), rng.r#gen(), rng.r#gen());
            row
        })
        .collect();
    let (model, card) = fit(&customers, &spec, 0);
    assert_eq!((model.cells(), card.elbow.len()), (125, 0));
    let rank = |column: usize, v: f64| customers.iter().filter(|c| c[column] < v).count() * 5 / customers.len();
    let expected = |c: &[f64]| (rank(6, c[6]) * 25 + rank(7, c[7]) * 5 + rank(0, c[0])) as u32;
    let wrong = customers.iter().filter(|c| model.cell(c) != expected(c)).count();
    assert!(wrong <= 12, "only the customers on an edge may differ: {wrong}");

    // Rates that follow recency alone are found again through the cells.
    let mut counts = vec![CellCount::default(); model.cells()];
    let mut truth = Vec::new();
    for c in &customers {
        let count = &mut counts[model.cell(c) as usize];
        let recent = rank(6, c[6]) < 2;
        *count = count.plus(CellCount { sessions: 100, buyers: if recent { 20 } else { 2 } });
        truth.push(u32::from(recent));
    }
    let (mut model, mut card) = (model, card);
    model.regroup(&counts, &spec, &mut card).unwrap();
    let groups: Vec<u32> = customers.iter().map(|c| model.assign(c)).collect();
    assert_eq!(model.groups(), 2);
    assert!(adjusted_rand(&groups, &truth) > 0.98);
    assert_eq!(
        card.cells[30].clusters,
        [("recency", 2), ("frequency", 2), ("monetary", 1)].map(|(n, c)| (n.into(), c)).into()
    );

    // Two of three bought nothing: one value fills several fifths.
    customers.iter_mut().enumerate().filter(|(i, _)| i % 3 > 0).for_each(|(_, c)| (c[0], c[7]) = (0.0, 0.0));
    let (few, card) = fit(&customers, &spec, 0);
    assert_eq!(few.dimensions.iter().map(Dimension::clusters).collect::<Vec<_>>(), [5, 3, 3]);
    assert_eq!(card.variables[1].edges.as_ref().map(Vec::len), Some(2));
    for customers in [Vec::new(), vec![vec![1.0; 8]; 50], vec![vec![f64::NAN; 8]; 3]] {
        let (one, _) = fit(&customers, &spec, 0);
        assert_eq!(one.cells(), 1);
        assert_eq!(Model::from_bytes(&one.to_bytes().unwrap()).unwrap(), one);
    }
}

#[test]
fn without_a_method_everybody_is_in_one_segment() {
    let spec = Spec::read(&json!({"method": "none"})).unwrap();
    let customers: Vec<Vec<f64>> = (0..500).map(|i| vec![f64::from(i); 6]).collect();
    let (mut model, mut card) = fit(&customers, &spec, 0);
    model.regroup(&[CellCount { sessions: 90_000, buyers: 900 }], &spec, &mut card).unwrap();
    card.describe(&model, &rows(&customers));
    assert_eq!((model.cells(), model.groups(), model.assign(&[5.0; 6])), (1, 1, 1));
    assert_eq!((card.groups[0].name.as_str(), card.groups[0].customers), ("everybody", 500));
    assert_eq!(Model::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
}

/// A tail of a lognormal, and one customer a million times as rich. Unscaled, that one is a cluster and all others the
/// rest; on a logarithmic scale or clipped, the halves of the others are told apart.
#[test]
fn logarithm_and_clipping_tame_a_tail() {
    let mut rng = rng(3);
    let mut customers = Vec::new();
    let mut truth = Vec::new();
    for i in 0..1000u32 {
        let rich = i % 2;
        let normal: f64 = (0..12).map(|_| rng.r#gen::<f64>()).sum::<f64>() - 6.0;
        let money = (2.0 + 3.0 * f64::from(rich) + 0.4 * normal).exp();
        customers.push(vec![money, money, 0.0, 0.0, 0.0, 0.0]);
        truth.push(rich);
    }
    customers.push(vec![1e9, 1e9, 0.0, 0.0, 0.0, 0.0]);
    let agreement = |change: Value| {
        let (model, card) = fit(&customers, &Spec::read(&change).unwrap(), 0);
        assert_eq!(Model::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
        let cells: Vec<u32> = customers[..1000].iter().map(|c| model.cell(c)).collect();
        (adjusted_rand(&cells, &truth), card.variables[0].clone())
    };
    assert!(agreement(json!({})).0 < 0.05);
    let (log, row) = agreement(json!({"log": true, "clip": 0.999, "max_clusters": 6}));
    assert!(log > 0.9 && row.log && row.high.is_some(), "{log} {row:?}");
    let (clipped, row) = agreement(json!({"clip": 0.99, "log": ["average_payment"], "max_clusters": 6}));
    assert!(clipped > 0.6 && !row.log, "{clipped} {row:?}");
    let mut sorted: Vec<f64> = customers.iter().map(|c| c[0]).collect();
    sorted.sort_by(f64::total_cmp);
    // numpy.quantile(x, .01) and (x, .99) of 1001 values are the 11th and the 991st.
    assert_eq!((row.low, row.high), (Some(sorted[10]), Some(sorted[990])));
    // Nine in ten are 0: clipping at .9 would leave nothing to tell anybody apart by.
    let rare: Vec<Vec<f64>> = (0..100).map(|i| vec![f64::from(u32::from(i >= 95)); 6]).collect();
    let (model, card) = fit(&rare, &Spec::read(&json!({"clip": 0.9})).unwrap(), 0);
    assert!(model.cells() == 4 && card.variables.iter().all(|v| v.low.is_none()));
}

/// Few places, the last of them far away: every cluster that there can be is found, and one more never fits worse.
#[test]
fn no_cluster_stays_empty() {
    let places = [0.0, 1.0, 10.0, 11.0, 100.0];
    assert_eq!(Points::new(50, 1, |i, _| places[i % 5]).distinct(10), 5);
    for restarts in [1, 10] {
        let (model, card) = fit(&places.map(|p| vec![p; 6]), &Spec { restarts, ..Spec::default() }, 0);
        assert!(model.dimensions.iter().all(|d| d.clusters() <= 5));
        assert_eq!(card.elbow.len(), 10, "five distinct customers have no sixth cluster");
        assert!(card.elbow.iter().filter(|e| e.chosen).all(|e| e.reason.starts_with("furthest, ")));
        for curve in card.elbow.chunks(5) {
            assert!(curve.is_sorted_by(|a, b| a.inertia >= b.inertia) && curve[4].inertia < 1e-6, "{curve:?}");
        }
    }
}

#[test]
fn names_follow_money_and_visits() {
    use crate::segment::card::name;
    let all = [10.0, 4.0];
    let names = [[20.0, 4.0], [25.0, 1.0], [5.0, 4.0], [19.9, 3.9], [4.9, 9.0], [0.0, 0.0]].map(|own| name(own, all));
    assert_eq!(names, ["VIP", "big spenders", "regulars", "occasional buyers", "lookers", "passers-by"]);
    assert_eq!(name([0.0, 1.0], [0.0, 1.0]), "lookers", "a shop without a purchase has no VIP");

    // Two groups of the same kind are told apart by a number; the judge window stands beside the fit window.
    let customers: Vec<Vec<f64>> = (0..300).map(|i| vec![[0.0, 1.0, 99.0][i % 3], 0.0, 0.0, 0.0, 0.0, 2.0]).collect();
    let spec = Spec { max_clusters: 3, ..Spec::default() };
    let (model, mut card) = fit(&customers, &spec, 0);
    let mut dimensions = model.dimensions.clone();
    dimensions[0].cut = Cut::Edges(vec![0.5, 50.0]);
    let mut model = Model::new(model.definition().clone(), dimensions);
    let count = |buyers| CellCount { sessions: 10_000, buyers };
    model.regroup(&[count(100), count(500), count(2000)], &spec, &mut card).unwrap();
    card.describe(&model, &rows(&customers));
    card.judge(&[CellCount { sessions: 10, buyers: 1 }, CellCount::default(), CellCount { sessions: 4, buyers: 2 }]);
    let told: Vec<_> = card
        .groups
        .iter()
        .map(|g| (g.name.as_str(), g.customers, g.rates.churn_rate, g.rates.judge_churn_rate))
        .collect();
    let expected = [
        ("lookers 1", 100, Some(0.99), Some(0.9)),
        ("lookers 2", 100, Some(0.95), None),
        ("VIP", 100, Some(0.8), Some(0.5)),
    ];
    assert_eq!(told, expected);
}
