//! Train, store, decode, take over, cancel; and logs that hold next to nothing.

use super::*;
use crate::live::LiveSession;
use crate::version::digest;
use coupon_policy::{Moment, Policy, SALT_VIEW, Thresholds, draw, eligible};

/// The card was written before anything was stored; the stored version says the same to the last digit.
#[test]
fn what_is_stored_scores_as_what_was_trained() {
    let Trained { world, stages, judged, .. } = shop();
    let (sessions, _) = world.sessions(judged);
    let judge = sessions.windows(&world.spec.sessions)[2].clone();
    let since = sessions.sessions[judge.start].first;
    let rows = judge_all(world, since, judged);
    // A network that was trained and does not serve is not stored: only the card of its training has its rows.
    let card = &stage(stages, "churn").card;
    let serves = |row: &&Value| row["model"] != "own";
    let written: Vec<Value> = card["test"].as_array().unwrap().iter().filter(serves).cloned().collect();
    assert_eq!(json!(rows).as_array().unwrap().iter().filter(serves).cloned().collect::<Vec<_>>(), written);
    let short = |n: usize| sessions.sessions[judge.clone()].iter().filter(|s| s.len() < n).count();
    for (population, left_out) in [("truncated", short(4)), ("live", 0), ("view_2", short(2)), ("view_5", short(5))] {
        for model in ["final", "pooled"] {
            let all = |r: &&churn::Row| (&*r.population, &*r.model, r.segment) == (population, model, None);
            let row = rows.iter().find(all).unwrap();
            assert_eq!(row.sessions, judge.len() - left_out, "{row:?}");
            // After two views there is little to tell apart by.
            let floor = if population == "view_2" { 0.5 } else { 0.55 };
            assert!(row.metrics.auroc.unwrap() > floor, "{row:?}");
            // The segments are everybody.
            let each =
                rows.iter().filter(|r| (&*r.population, &*r.model) == (population, model) && r.segment.is_some());
            assert_eq!(each.map(|r| r.sessions).sum::<usize>(), row.sessions);
        }
        // The bins are those of the ECE.
        let bins = card["reliability"].as_array().unwrap().iter().filter(|b| b["population"] == population);
        let (mut gap, mut n) = (0.0, 0.0);
        for b in bins {
            let of = |key: &str| b[key].as_f64().unwrap();
            assert!(of("lower") <= of("observed") && of("observed") <= of("upper"), "{b}");
            gap += of("predictions") * (of("predicted") - of("observed")).abs();
            n += of("predictions");
        }
        let row = written.iter().find(|r| r["population"] == population && r["model"] == "final").unwrap();
        assert!((gap / n - row["ece"].as_f64().unwrap()).abs() < 1e-9, "{row}");
        assert!(card["roc"].as_array().unwrap().iter().filter(|p| p["population"] == population).count() <= 100);
    }
    assert!(short(4) > 0);
    for name in ["segment", "churn", "rank", "issue"] {
        let rest: Vec<Stage> = stages.iter().filter(|s| s.stage != name).cloned().collect();
        assert!(matches!(Version::decode(&rest), Err(Error::Corrupt(_))), "without {name}");
    }
}

fn judge_all(world: &World, since: Micros, version: &Version) -> Vec<churn::Row> {
    evaluate(&world.log, since, world.until, &world.spec.sessions, version, &mut || Ok(())).unwrap()
}

#[test]
fn the_digest_is_a_value_of_log_specification_and_seed() {
    let Trained { world, stages, .. } = shop();
    assert_eq!(digest(&world.train().stages), digest(stages));
    let other = train(&world.job(1, Stages::All), &mut Watcher::default()).unwrap().stages;
    assert_ne!(digest(&other), digest(stages));
}

/// What serves has learned from all windows; the card, the thresholds and the gate are of the training before, which is the
/// same as without a refit.
#[test]
fn a_refit_changes_what_serves_and_not_what_was_judged() {
    let Trained { world, stages, version, judged } = shop();
    assert!(version.churn != judged.churn);
    let mut world = World::new(world.clicks.clone(), world.spec.clone());
    world.spec.churn.refit = false;
    let plain = world.train().stages;
    assert!(plain.iter().all(|s| s.stage != "evaluated"));
    assert_eq!(stage(&plain, "issue").card, stage(stages, "issue").card);
    let rows = |stages: &[Stage]| stage(stages, "churn").card["test"].clone();
    assert_eq!(rows(&plain), rows(stages));
    let card = &stage(stages, "churn").card;
    assert!(card["refit"]["epochs"].as_array().unwrap().len() >= 2 && stage(&plain, "churn").card["refit"].is_null());
}

/// The refitted version knows the judge window by heart. Against the same training it must not win there: it is held against
/// what was judged, as a warm start begins with that.
#[test]
fn a_refitted_version_is_compared_as_it_was_judged() {
    let Trained { world, stages, version, judged } = shop();
    let job = Job { base: Some((version, stages)), ..world.job(0, Stages::All) };
    assert_eq!(train(&job, &mut Watcher::default()).unwrap().gate.difference, Some(0.0));
    let mut warm = world.spec.clone();
    warm.churn.warm_start = true;
    let job = Job { spec: &warm, ..job };
    let from = |version: &Version, stages: &[Stage]| {
        let stages = train(&Job { base: Some((version, stages)), ..job }, &mut Watcher::default()).unwrap().stages;
        (stage(&stages, "evaluated").digest(), stage(&stages, "churn").digest())
    };
    let before: Vec<Stage> = stages.iter().filter(|s| s.stage != "evaluated").cloned().collect();
    let (refitted, plain) = (from(version, stages), from(judged, &before));
    assert_eq!(refitted.0, plain.0);
    assert_ne!(refitted.1, plain.1, "what serves goes on from what served");
}

/// A page that the shop opens after the fit window, and whoever sees it buys.
#[test]
fn a_refit_learns_what_came_last() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(9);
    // Windows of .6, .2 and .2.
    let opened = |i: usize, good: bool| i >= 1400 && !good && i.is_multiple_of(3);
    let mut clicks = two_pages(2000, |i, good| opened(i, good) || rng.gen_bool(if good { 0.3 } else { 0.1 }));
    let session = |c: &Click| c.session.as_ref().unwrap()[1..].parse::<usize>().unwrap();
    for c in clicks.iter_mut().filter(|c| c.kind == Kind::View) {
        let i = session(c);
        if opened(i, i % 2 == 0) {
            c.page = Some("new".into());
        }
    }
    let trained = Trained::new(World::new(clicks, small(json!({"churn": {"epochs": 4, "one_cycle_epochs": 4}}))));
    let churn = |version| super::truth::churn_of(version, "new");
    assert!(churn(&trained.judged) > 0.4, "{}", churn(&trained.judged));
    assert!(churn(&trained.version) < 0.3, "{}", churn(&trained.version));
}

#[test]
fn a_stage_trained_alone_takes_the_others_over() {
    let Trained { world, stages, version, .. } = shop();
    for (which, fresh) in
        [(Stages::Churn, &["sessions", "churn", "evaluated", "issue"][..]), (Stages::Ranking, &["rank"])]
    {
        let job = Job { base: Some((version, stages)), ..world.job(7, which) };
        let trained = train(&job, &mut Watcher::default()).unwrap().stages;
        assert!(Version::decode(&trained).is_ok());
        for name in ["sessions", "segment", "churn", "evaluated", "issue", "rank"] {
            let digests = |stages: &[Stage]| -> Vec<String> {
                stages.iter().filter(|s| s.stage == name).map(Stage::digest).collect()
            };
            let same = digests(&trained) == digests(stages);
            match name {
                // Nothing of it is drawn: the same log gives the same again.
                "sessions" => assert!(same),
                // A ranking draws only which moments it is chosen by.
                "rank" if fresh.contains(&name) => assert_ne!(stage(&trained, name).card, stage(stages, name).card),
                _ => assert_eq!(same, !fresh.contains(&name), "{which:?} {name}"),
            }
        }
        let refused = train(&Job { base: None, ..job }, &mut Watcher::default()).err();
        match which {
            Stages::Churn => assert!(matches!(&refused, Some(Error::InsufficientData(m)) if m.contains("segment"))),
            _ => assert!(matches!(&refused, Some(Error::InsufficientData(m)) if m.contains("sessions"))),
        }
    }
}

#[test]
fn a_cancel_at_any_check_stops_at_once() {
    let world = &shop().world;
    let mut whole = Watcher::default();
    train(&world.job(0, Stages::All), &mut whole).unwrap();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    for stop in [1, 2, whole.checks].into_iter().chain((0..5).map(|_| rng.gen_range(3..whole.checks))) {
        let mut watcher = Watcher { stop: Some(stop), ..Watcher::default() };
        assert_eq!(train(&world.job(0, Stages::All), &mut watcher).err(), Some(Error::Cancelled));
        assert_eq!(watcher.checks, stop, "work went on after it was cancelled");
    }
}

#[test]
fn a_typo_is_refused_by_name() {
    let message = |spec: Value| Spec::read(&spec).unwrap_err().to_string();
    assert!(message(json!({"chrun": {}})).contains("`chrun`"));
    for word in ["sessions", "segment", "churn", "rank", "issue"] {
        let refused = message(json!({word: {"hiden": 3}}));
        assert!(refused.contains(&format!("{word}: ")) && refused.contains("`hiden`"), "{refused}");
        assert!(Spec::read(&json!({word: [1]})).is_err() && Spec::read(&json!({word: null})).is_ok());
    }
    assert!(message(json!([1])).contains("object"));
    assert!(message(json!({"sessions": {"split": [0.5, 0.5, 0.5]}})).contains("split"));
    assert!(message(json!({"churn": {"epochs": 0}})).contains("epochs"));
}

/// A version without a churn model, and a plan by which an arm of policy random still issues the target share.
fn blind(world: &World) -> Version {
    let mut watcher = Watcher::default();
    let outcome = train(&world.job(0, Stages::All), &mut watcher).unwrap();
    assert!(outcome.gate.accepted);
    assert!(watcher.notes.iter().any(|n| n.contains("no churn model")), "{:?}", watcher.notes);
    let version = Version::decode(&outcome.stages).unwrap();
    assert!(version.churn.is_none());
    let random = version.plan.segments.thresholds(Policy::Random, 0.1).unwrap();
    assert!(random.random_share > 0.0 && random.random_share <= 1.0);
    assert!(version.plan.segments.thresholds(Policy::AtRisk, 0.1).is_err());
    assert!(evaluate(&world.log, 0, world.until, &world.spec.sessions, &version, &mut || Ok(())).is_err());
    version
}

#[test]
fn too_small_a_log_leaves_only_policy_random() {
    let world = &shop().world;
    let mut no_buyers = world.clicks.clone();
    no_buyers.retain(|c| c.kind != Kind::Purchase);
    blind(&World::new(no_buyers, world.spec.clone()));

    let version = blind(&World::new(shop_clicks(40, 6), world.spec.clone()));
    let thresholds = version.plan.segments.thresholds(Policy::Random, 0.2).unwrap();
    let mut visit = LiveSession::begin(Some(&version), 0);
    let issued = (1..=thresholds.min_views).any(|n| {
        visit.click(Some(&version), &click("s", None, i64::from(n), Kind::View));
        eligible(&thresholds, &Moment { view: n, max_purchase: 0.0, churn: 0.0, unit: 0.0 })
    });
    assert!(issued && visit.views == thresholds.min_views && visit.churn.is_none());

    let lonely = World::new(vec![click("s", None, START, Kind::View)], world.spec.clone());
    blind(&lonely);
    let empty = World::new(Vec::new(), world.spec.clone());
    let refused = train(&empty.job(0, Stages::All), &mut Watcher::default()).err();
    assert!(matches!(refused, Some(Error::InsufficientData(_))));
    assert!(customers(&empty.log, START, &version.segment, &mut || Ok(())).unwrap().is_empty());
}

#[test]
fn a_shop_may_know_neither_customers_nor_products() {
    let world = &shop().world;
    let strip = |change: fn(&mut Click)| {
        let mut clicks = world.clicks.clone();
        clicks.iter_mut().for_each(change);
        let world = World::new(clicks, world.spec.clone());
        let version = Version::decode(&world.train().stages).unwrap();
        (world.sessions(&version).1, version)
    };
    let (segments, version) = strip(|c| c.customer = None);
    assert!(segments.iter().all(|s| *s == 0) && version.churn.is_some());
    assert!(!version.rank.categories.is_empty(), "what is looked at is known");
    let (segments, version) = strip(|c| (c.category, c.product) = (None, None));
    assert!(segments.iter().any(|s| *s > 0) && version.churn.is_some());
    assert!(version.rank.rank(1, &[], &Default::default(), 5).is_empty());
}

/// Judge sessions through live serving, click by click, with everything that follows the checkout too.
fn live_share(of: &Trained, thresholds: &Thresholds, pooled: bool) -> (f64, Vec<(u32, f64)>) {
    let Trained { world, judged: version, .. } = of;
    let (sessions, segments) = world.sessions(version);
    let mut clicks: HashMap<&str, Vec<&Click>> = HashMap::new();
    for c in &world.clicks {
        clicks.entry(c.session.as_deref().unwrap()).or_default().push(c);
    }
    let judge = sessions.windows(&world.spec.sessions)[2].clone();
    let mut issued = std::collections::BTreeMap::new();
    for i in judge.clone() {
        let id = world.log.text(sessions.sessions[i].id).unwrap();
        let mine = clicks.get_mut(id).unwrap();
        mine.sort_by(|a, b| a.order(b));
        let mut visit = LiveSession::begin(Some(version), if pooled { 0 } else { segments[i] });
        for c in mine.iter() {
            visit.click(Some(version), c);
            let moment = Moment {
                view: visit.views,
                max_purchase: visit.interest.unwrap_or(0.0),
                churn: visit.churn.unwrap_or(0.0),
                unit: draw(SALT_VIEW, "salt", id),
            };
            if !visit.frozen && eligible(thresholds, &moment) {
                *issued.entry(visit.views.min(world.spec.issue.max_views)).or_insert(0.0) += 1.0;
                break;
            }
        }
    }
    let all: f64 = issued.values().sum();
    (all / judge.len() as f64, issued.into_iter().map(|(view, n)| (view, n / all)).collect())
}

/// What the plan promises of the judge window is what live serving does there: exactly for the policies that ask the
/// model, within three standard errors for the coin.
#[test]
fn the_plan_is_what_serving_does() {
    let opposites = Trained::new(opposites(0));
    let Version { plan, churn, segment, .. } = &opposites.judged;
    assert!(segment.groups() > 1 && churn.as_ref().unwrap().segments().all(|(_, own)| own));
    assert_ne!(plan.segments, plan.pooled, "there is something to confuse");
    let sessions = plan.segments.sessions as f64;
    for (replay, pooled) in [(&plan.segments, false), (&plan.pooled, true)] {
        for row in replay.rows.iter().step_by(4) {
            for promised in [&row.at_risk, &row.risk] {
                let (share, views) = live_share(&opposites, promised, pooled);
                assert_eq!(share, promised.realised, "{:?} {}", promised.policy, promised.target);
                assert_eq!(views, promised.views);
            }
            let (share, promised) = (live_share(&opposites, &row.random, pooled).0, row.random.realised);
            let error = (promised / sessions).sqrt();
            assert!((share - promised).abs() <= 3.0 * error + 1.0 / sessions, "{share} {promised}");
        }
    }
    let realised: Vec<f64> = plan.segments.rows.iter().map(|r| r.at_risk.realised).collect();
    assert!(realised.iter().any(|r| *r > 0.05), "{realised:?}");
}
