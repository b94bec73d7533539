//! Planted truths: nothing leaks from the label, treated sessions do not teach, and a worse version does not serve.

use super::*;
use crate::metrics::Metrics;
use crate::segment::{CellCount, Fit};
use crate::sessions::Rows;

/// Identical customers: each comes on about one day in six, looks at the same five pages and buys with probability
/// .15, whatever was before.
fn identical() -> World {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    let mut clicks = Vec::new();
    for customer in 0..300 {
        let name = format!("c{customer:03}");
        for day in 0..60 {
            if !rng.gen_bool(1.0 / 6.0) {
                continue;
            }
            let (id, at) = (format!("{name}-{day}"), START + day * DAY + rng.gen_range(0..80_000) * SECOND);
            clicks.extend((0..5).map(|n| click(&id, Some(&name), at + n * 20 * SECOND, Kind::View)));
            if rng.gen_bool(0.15) {
                let (price, order_id) = (Some(f64::from(rng.gen_range(5..100u32)) + 0.99), Some(id.clone()));
                clicks.push(Click { price, order_id, ..click(&id, Some(&name), at + 150 * SECOND, Kind::Purchase) });
            }
        }
    }
    let spec =
        small(json!({"segment": {"max_clusters": 6, "min_sessions": 100, "min_buyers": 0}, "churn": {"epochs": 1}}));
    World::new(clicks, spec)
}

/// AUROC of "who spent more buys", with the standard error it has where that says nothing.
fn auroc(variables: &[Option<Vec<f64>>], purchased: &[bool]) -> (f64, f64) {
    let spent = |v: &Option<Vec<f64>>| v.as_ref().map_or(0.0, |v| v[0]);
    let churn: Vec<f64> = variables.iter().map(|v| 1.0 / (1.0 + spent(v))).collect();
    let yes = purchased.iter().filter(|p| **p).count() as f64;
    let no = purchased.len() as f64 - yes;
    let auroc = Metrics::of(&churn, purchased, None).unwrap().auroc.unwrap();
    (auroc, ((yes + no + 1.0) / (12.0 * yes * no)).sqrt())
}

/// Money spent, known at the start of the session's day, says nothing of the session where customers are identical; the
/// same variable taken at the end of training tells who bought, and would make segments of pure noise.
#[test]
fn variables_as_of_the_session_know_nothing_of_its_end() {
    let world = identical();
    let spec = &world.spec;
    let sessions = Sessions::build(&world.log, world.until, &spec.sessions, &mut || Ok(())).unwrap();
    let purchased: Vec<bool> = sessions.sessions.iter().map(|s| s.purchased).collect();
    let definition = spec.segment.definition(spec.sessions.window_days);
    let loyalty = Loyalty::new(&world.log, &definition).unwrap();
    let end = day_of(world.until);
    let as_of = loyalty.as_of(&sessions, &mut || Ok(())).unwrap();
    let honest: Vec<_> = as_of.iter().map(|row| row.map(<[f64]>::to_vec)).collect();
    let leaky: Vec<_> = sessions.sessions.iter().map(|s| loyalty.variables(s.customer, end)).collect();

    let (null, error) = auroc(&honest, &purchased);
    assert!((null - 0.5).abs() < 3.0 * error, "{null} ± {error}");
    // Only the last month's sessions are in the variable of the end.
    let late = sessions.sessions.partition_point(|s| s.first < end - 30 * DAY);
    let (leak, error) = auroc(&leaky[late..], &purchased[late..]);
    assert!(leak > 0.5 + 8.0 * error, "{leak} ± {error}");

    let groups = |variables: &[Option<Vec<f64>>]| {
        let mut snapshot = Rows::new(6);
        for row in loyalty.customers(end).filter_map(|c| loyalty.variables(c, end)) {
            snapshot.push(&row);
        }
        let (mut model, mut card) = Fit::new(&snapshot, &definition, &spec.segment, 0).unwrap().finish();
        let mut counts = vec![CellCount::default(); model.cells()];
        for (v, bought) in variables.iter().zip(&purchased).skip(late).filter_map(|(v, b)| Some((v.as_ref()?, b))) {
            let count = &mut counts[model.cell(v) as usize];
            count.sessions += 1;
            count.buyers += u64::from(*bought);
        }
        assert!(counts.iter().filter(|c| c.sessions > 0).count() >= 3, "there is something to group: {counts:?}");
        model.regroup(&counts, &spec.segment, &mut card).unwrap();
        model.groups()
    };
    assert_eq!(groups(&honest), 1);
    assert!(groups(&leaky) > 1, "the test could not fail");
    let trained = world.train().stages;
    assert_eq!(stage(&trained, "segment").card["groups"].as_array().unwrap().len(), 1);
}

/// P(churn) at the end of a session that saw one page five times.
pub(super) fn churn_of(version: &Version, page: &str) -> f64 {
    let model = version.churn.as_ref().unwrap();
    let view = |n: i64| model.vocabulary().view(START + n * 10 * SECOND, Kind::View, Some(page), None, None, &[]);
    *model.score(0, &(0..5).map(view).collect::<Vec<_>>()).last().unwrap()
}

/// Who sees page `b` buys in 5 of 100 sessions, and in 60 of 100 with a coupon, which every other of them is issued. Only a
/// model that leaves the issued ones out still knows whom to ask; the held-out stand for them.
#[test]
fn what_a_coupon_did_does_not_teach() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut issued = Vec::new();
    let clicks = two_pages(2400, |i, good| {
        let treated = !good && rng.gen_bool(0.5);
        issued.push(treated);
        rng.gen_bool(if good {
            0.4
        } else if treated {
            0.6
        } else {
            0.05
        }) && i < 2400
    });
    let mut world = World::new(clicks, small(json!({"churn": {"epochs": 4, "cycle": 4}})));
    let naive = Version::decode(&world.train().stages).unwrap();
    for (i, &issued) in issued.iter().enumerate().filter(|(i, _)| i % 2 == 1) {
        let id = world.log.texts.find(&format!("s{i:05}")).unwrap();
        world.treatments.insert(id, Treatment { issued, probability: 0.5 });
    }
    // A coupon in a session the log does not have, and one that was decided and never possible.
    world.treatments.insert(9_999_999, Treatment { issued: true, probability: 0.5 });
    let trained = world.train().stages;
    let (left_out, held_out) = (issued.iter().filter(|x| **x).count(), issued.iter().filter(|x| !**x).count() - 1200);
    let card = &stage(&trained, "sessions").card;
    assert_eq!(card["issued_left_out"], left_out);
    assert_eq!(card["sessions"], 2400 - left_out);
    let (n, w) = (1200.0, 2.0 * held_out as f64);
    let effective = (n + w).powi(2) / (n + 2.0 * w);
    assert!((card["effective_sessions"].as_f64().unwrap() - effective).abs() < 1e-6);
    let judged = &stage(&trained, "churn").card["effective_sessions"];
    let judged = judged.as_f64().unwrap();
    assert!((judged / (0.2 * effective) - 1.0).abs() < 0.2, "{judged}");

    let version = Version::decode(&trained).unwrap();
    assert!(churn_of(&naive, "b") < 0.8, "{}", churn_of(&naive, "b"));
    assert!(churn_of(&version, "b") > 0.88, "{}", churn_of(&version, "b"));
    assert!((0.45..0.75).contains(&churn_of(&version, "a")), "{}", churn_of(&version, "a"));
}

/// A version that cannot see the pages, and one whose training went astray, are held against one that knows.
#[test]
fn a_worse_version_is_refused_and_a_better_one_taken() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let clicks = two_pages(1500, |_, good| rng.gen_bool(if good { 0.5 } else { 0.02 }));
    let mut world = World::new(clicks, small(json!({"churn": {"epochs": 4, "cycle": 4}})));
    let good = world.train();
    assert!(good.gate.accepted && good.gate.difference.is_none());
    let active = Version::decode(&good.stages).unwrap();
    let against = |world: &World, version: &Version, stages: &[Stage]| {
        let job = Job { base: Some((version, stages)), ..world.job(1, Stages::All) };
        train(&job, &mut Watcher::default()).unwrap()
    };
    let again = against(&world, &active, &good.stages);
    assert!(again.gate.accepted, "{:?}", again.gate);
    for bad in
        [json!({"pages": 0, "inputs": "plain"}), json!({"epochs": 1, "cycle": 0, "learning_rate": 1.0, "dropout": 0.9})]
    {
        world.spec = small(json!({"churn": bad}));
        let refused = against(&world, &active, &good.stages);
        let gate = refused.gate;
        assert!(!gate.accepted && gate.difference.unwrap() > 0.0, "{bad}: {gate:?}");
        assert!(gate.reason.unwrap().contains("worse"));
        assert_eq!(stage(&refused.stages, "churn").card["gate"]["accepted"], false);
        // Where it is the bad one that serves, the good one replaces it.
        let version = Version::decode(&refused.stages).unwrap();
        world.spec = small(json!({"churn": {"epochs": 4, "cycle": 4}}));
        assert!(against(&world, &version, &refused.stages).gate.accepted);
    }
}
