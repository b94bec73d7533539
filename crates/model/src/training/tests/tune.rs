//! Trials on a log: chosen on tune alone, the same in one go or two, and of one key exactly where they may be compared.

use super::*;
use crate::tune;

fn tiny(space: Value) -> tune::Spec {
    let mut spec = json!({"epochs": 2, "initial_points": 3, "space": {
        "dropout": null, "dense_units": null, "pool_size": {"low": 1, "high": 3}, "hidden_size": {"low": 4, "high": 8},
        "learning_rate": {"low": 0.005, "high": 0.05}, "max_length": {"low": 2, "high": 10}}});
    space.as_object().into_iter().flatten().for_each(|(k, v)| spec["space"][k] = v.clone());
    tune::Spec::read(&spec).unwrap()
}

fn study(world: &World, spec: &tune::Spec, seed: u64) -> Study {
    Study::new(&world.job(seed, Stages::Churn), spec, &mut Watcher::default()).unwrap()
}

/// Sessions of ten views; the first tells half of what there is to tell, the fifth the rest.
fn world(sessions: usize, change: Value) -> World {
    let mut clicks = Vec::new();
    for i in 0..sessions {
        let (id, at) = (format!("s{i:05}"), START + i as i64 * 60 * SECOND);
        let (first, fifth) = (i % 2 == 0, i % 3 == 0);
        for n in 0..10 {
            let telling = match n {
                0 => first,
                4 => fifth,
                _ => false,
            };
            let page = Some(if telling { "a" } else { "b" }.to_string());
            clicks.push(Click { page, ..click(&id, None, at + n * SECOND, Kind::View) });
        }
        if first && fifth && i % 5 != 0 {
            clicks.push(click(&id, None, at + 20 * SECOND, Kind::Purchase));
        }
    }
    World::new(clicks, small(change))
}

fn run(study: &Study, earlier: &[Trial], trials: usize) -> Vec<Trial> {
    let earlier: Vec<_> = earlier.iter().map(|t| (t.parameters.clone(), t.loss)).collect();
    let mut search = study.search(&earlier).unwrap();
    (0..trials).map(|_| study.next(&mut search, &mut Watcher::default()).unwrap().unwrap()).collect()
}

#[test]
fn two_calls_are_one() {
    let world = world(1200, json!({}));
    let study = study(&world, &tiny(json!({})), 0);
    let whole = run(&study, &[], 6);
    let mut parts = run(&study, &[], 2);
    parts.extend(run(&study, &parts, 4));
    assert_eq!(whole, parts);
    let numbers: Vec<usize> = whole.iter().map(|t| t.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let mut best = f64::INFINITY;
    for t in &whole {
        let loss = t.loss.unwrap();
        assert!(loss > 0.0 && loss < 1.0 && t.auroc.is_some() && t.epochs == 2 && t.note.is_none(), "{t:?}");
        assert_eq!(t.best, loss < best);
        best = best.min(loss);
    }
    // Training reads what a trial wrote, and it is what the trial trained.
    let spec = Spec::read(&json!({"churn": whole[5].parameters})).unwrap();
    assert_eq!(json!(spec.churn.pool_size), whole[5].parameters["pool_size"]);
    assert!(matches!(study.search(&[(json!({"pool_size": 2}), None)]), Err(Error::Corrupt(_))));
}

/// The labels of the judge window turned round: no trial changes, nor does the key. Of the tune window: both do.
#[test]
fn the_judge_window_is_not_looked_at() {
    let spec = tiny(json!({}));
    let plain = world(1200, json!({}));
    let turned = |from: usize, to: usize| {
        let mut other = world(1200, json!({}));
        let bought: std::collections::HashSet<_> =
            other.log.events.iter().filter(|e| e.kind.ends()).map(|e| e.session).collect();
        for e in other.log.events.iter_mut().filter(|e| !e.kind.ends()) {
            let number: usize = other.log.texts.get(e.session).unwrap()[1..].parse().unwrap();
            let last = e.at % (60 * SECOND) == 9 * SECOND;
            if (from..to).contains(&number) && last && !bought.contains(&e.session) {
                e.kind = Kind::Purchase;
            }
        }
        other
    };
    let (judge, tune) = (turned(960, 1200), turned(720, 960));
    let [plain, judge, tune] = [&plain, &judge, &tune].map(|w| study(w, &spec, 0));
    assert_eq!(plain.key(), judge.key());
    assert_ne!(plain.key(), tune.key());
    let trials = run(&plain, &[], 3);
    assert_eq!(trials, run(&judge, &[], 3));
    assert_ne!(trials, run(&tune, &[], 3));
}

/// Whatever length training looked at, a trial is judged on all views of the tune window: by hand, from the routine that
/// serves. And every length is tried once, then none is left.
#[test]
fn lengths_are_judged_on_the_same_views() {
    let world = world(1200, json!({}));
    let only =
        json!({"pool_size": null, "hidden_size": null, "learning_rate": null, "max_length": {"low": 1, "high": 4}});
    let study = study(&world, &tiny(only), 0);
    let mut search = study.search(&[]).unwrap();
    let trials: Vec<Trial> = std::iter::from_fn(|| study.next(&mut search, &mut Watcher::default()).unwrap()).collect();
    let mut lengths: Vec<u64> = trials.iter().map(|t| t.parameters["max_length"].as_u64().unwrap()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 2, 3, 4]);
    for (told, trial) in search.told().iter().zip(&trials) {
        let model = study.train(&told.point, &mut trial.clone(), &mut Watcher::default()).unwrap();
        let (mut sum, mut n) = (0.0, 0);
        for e in &study.examples()[study.border..] {
            for p in model.score(0, e.views) {
                sum -= if e.purchased { (1.0 - p).ln() } else { p.ln() };
                n += 1;
            }
        }
        assert_eq!(n, 240 * 10);
        assert!((trial.loss.unwrap() - sum / f64::from(n)).abs() < 1e-9, "{trial:?}: {}", sum / f64::from(n));
    }
}

#[test]
fn the_key_is_of_all_that_counts() {
    let (small_world, spec) = (world(1200, json!({})), tiny(json!({})));
    let key = study(&small_world, &spec, 0).key();
    assert_eq!(key, study(&world(1200, json!({"rank": {"view_decay": 0.1}})), &spec, 0).key());
    for other in [
        study(&small_world, &spec, 1).key(),
        study(&world(1210, json!({})), &spec, 0).key(),
        study(&world(1200, json!({"churn": {"batch_size": 32}})), &spec, 0).key(),
        study(&world(1200, json!({"churn": {"loss_on": "last_view"}})), &spec, 0).key(),
        study(&small_world, &tiny(json!({"pool_size": {"low": 1, "high": 4}})), 0).key(),
    ] {
        assert_ne!(key, other);
    }
}

/// A budget that holds the views and no network: rows without a loss, each told to the search, which goes on.
#[test]
fn a_trial_that_fails_is_a_trial() {
    let mut world = world(1200, json!({}));
    let study = {
        let mut spec = tiny(json!({}));
        spec.epochs = 1;
        study(&world, &spec, 0)
    };
    let mut search = study.search(&[]).unwrap();
    let mut watcher = Watcher::default();
    let first = study.next(&mut search, &mut watcher).unwrap().unwrap();
    assert!(first.loss.is_some());
    let mut poor = Study::new(&world.job(0, Stages::Churn), &tiny(json!({})), &mut watcher).unwrap();
    poor.budget = 100_000;
    let failed = run(&poor, &[], 4);
    assert!(
        failed.iter().all(|t| t.loss.is_none() && !t.best && t.note.as_ref().unwrap().contains("memory")),
        "{failed:?}"
    );
    // Too little of a log is no trial.
    world.spec.churn.min_log_sessions = 5000;
    let refused = Study::new(&world.job(0, Stages::Churn), &tiny(json!({})), &mut watcher).err();
    assert!(matches!(refused, Some(Error::InsufficientData(_))));
}

#[test]
fn a_cancelled_trial_stops_at_once() {
    let world = world(1200, json!({}));
    let study = study(&world, &tiny(json!({})), 0);
    let mut whole = Watcher::default();
    study.next(&mut study.search(&[]).unwrap(), &mut whole).unwrap();
    for stop in [1, 2, whole.checks / 2, whole.checks] {
        let mut watcher = Watcher { stop: Some(stop), ..Watcher::default() };
        let mut search = study.search(&[]).unwrap();
        assert_eq!(study.next(&mut search, &mut watcher).err(), Some(Error::Cancelled));
        assert_eq!((watcher.checks, search.told().len()), (stop, 0));
    }
}
