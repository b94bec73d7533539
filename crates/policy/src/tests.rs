use super::*;
use coupon_base::Error;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::json;

#[test]
fn the_specification_is_valid_and_refuses_typos_by_name() {
    let spec = Spec::default();
    assert_eq!((spec.min_views, spec.interest_multiplier), (4, 3.0));
    assert!(spec.target_shares.contains(&0.0134), "the papers' issue rate needs no interpolation");
    let message = |spec| Spec::read(&spec).unwrap_err().to_string();
    assert!(message(json!({"min_view": 2})).contains("`min_view`"));
    for wrong in [
        json!({"min_views": 0}),
        json!({"max_views": 3}),
        json!({"target_shares": []}),
        json!({"target_shares": [0.2, 0.1]}),
        json!({"target_shares": [0.0]}),
        json!({"interest_multiplier": 0.5}),
    ] {
        assert!(Spec::read(&wrong).is_err(), "{wrong}");
    }
}

/// Sessions of a plausible shop: geometric lengths, scores that wander.
fn shop(sessions: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut session = || {
        let mut logit: f64 = 3.0 + rng.r#gen::<f64>();
        let mut path = Vec::new();
        while rng.gen_bool(0.85) {
            logit += rng.gen_range(-1.0..1.0);
            path.push(1.0 / (1.0 + (-logit).exp()));
        }
        path
    };
    (0..sessions).map(|_| session()).collect()
}

/// The rules of the method, written down a second time without sharing a line: at which view a session is issued to.
fn issuing_view(path: &[f64], policy: Policy, eta: f64, tau: f64, min_views: usize) -> Option<usize> {
    (min_views..=path.len()).find(|&n| {
        let interested = path[..n].iter().any(|churn| 1.0 - churn >= eta);
        path[n - 1] >= tau && (policy == Policy::Risk || interested)
    })
}

#[test]
fn a_replay_realises_its_targets() {
    let spec = Spec::default();
    let paths = shop(20_000, 1);
    let replay = replay(&paths, &spec).unwrap();
    let long = paths.iter().filter(|p| p.len() >= 4).count();
    assert_eq!((replay.sessions, replay.reaching[0] as usize), (20_000, long));
    for (row, &target) in replay.rows.iter().zip(&spec.target_shares) {
        for found in [&row.at_risk, &row.risk] {
            let views: Vec<usize> =
                paths.iter().filter_map(|p| issuing_view(p, found.policy, found.eta, found.tau, 4)).collect();
            assert_eq!(found.realised, views.len() as f64 / 20_000.0, "{found:?}");
            assert!((found.realised - target).abs() * 20_000.0 <= 0.5, "{found:?}");
            let fourth = views.iter().filter(|v| **v == 4).count() as f64 / views.len() as f64;
            assert_eq!(found.views.iter().find(|v| v.0 == 4).map_or(0.0, |v| v.1), fourth);
        }
        // η: three times the target of the sessions could be issued to at a view from which on they were interested.
        let interested = paths.iter().filter(|p| issuing_view(p, Policy::AtRisk, row.at_risk.eta, 0.0, 4).is_some());
        let wanted = (3.0 * target * 20_000.0).min(long as f64);
        assert!((interested.count() as f64 - wanted).abs() <= 0.5, "{target}");
        assert!((row.random.realised - target).abs() < 1e-12, "{:?}", row.random);
        assert_eq!(row.random.views, row.at_risk.views);
        assert!(row.random.random_share > target);
    }
}

/// Policy `random`, drawn by hash in a fresh shop: within four standard deviations of the target.
#[test]
fn random_issues_at_its_target_in_new_sessions() {
    let thresholds = replay(&shop(50_000, 2), &Spec::default()).unwrap().thresholds(Policy::Random, 0.05).unwrap();
    let fresh = shop(50_000, 3);
    let issued = fresh.iter().enumerate().filter(|(i, path)| {
        let unit = draw(SALT_VIEW, "test", &i.to_string());
        let moment = |view: u32| Moment { view, max_purchase: f64::NAN, churn: f64::NAN, unit };
        (1..=path.len() as u32).any(|view| eligible(&thresholds, &moment(view)))
    });
    let (issued, expected) = (issued.count() as f64, 2500.0);
    // Twice the binomial variance: the share itself was estimated on as many sessions.
    assert!((issued - expected).abs() < 4.0 * (2.0f64 * 2500.0 * 0.95).sqrt(), "{issued}");
}

#[test]
fn the_random_view_follows_the_distribution() {
    let thresholds = Thresholds {
        policy: Policy::Random,
        target: 0.1,
        min_views: 4,
        eta: 0.0,
        tau: 0.0,
        realised: 0.1,
        random_share: 0.2,
        views: vec![(4, 0.5), (7, 0.3), (30, 0.2)],
    };
    let mut first = std::collections::BTreeMap::new();
    for i in 0..10_000 {
        let unit = f64::from(i) / 10_000.0;
        let at = |view| eligible(&thresholds, &Moment { view, max_purchase: 1.0, churn: 1.0, unit });
        *first.entry((1..=100).find(|&v| at(v))).or_insert(0u32) += 1;
    }
    let expected = [(None, 8000), (Some(4), 1000), (Some(7), 600), (Some(30), 400)];
    for (view, count) in expected {
        assert!(first[&view].abs_diff(count) <= 1, "{first:?}");
    }
}

#[test]
fn nothing_and_ties() {
    let spec = Spec::default();
    let empty = replay(&[], &spec).unwrap();
    assert_eq!(empty.rows.len(), spec.target_shares.len());
    assert!(empty.rows.iter().all(|r| r.at_risk.realised == 0.0 && r.random.random_share == r.random.target));
    let short = replay(&[vec![], vec![0.9; 3], vec![0.9]], &spec).unwrap();
    assert!(short.rows.iter().all(|r| r.at_risk.realised == 0.0 && r.risk.realised == 0.0 && r.random.realised == 0.0));
    // One score for everybody: all or nobody, never a crash.
    let flat = replay(&vec![vec![0.97; 6]; 1000], &spec).unwrap();
    for row in &flat.rows {
        assert_eq!(row.at_risk.realised, 0.0, "{row:?}");
        assert_eq!(row.random.realised, row.random.target);
    }
    // Scores that are not numbers are never issued to.
    let nan = replay(&vec![vec![f64::NAN; 6]; 100], &spec).unwrap();
    assert!(nan.rows.iter().all(|r| r.at_risk.realised == 0.0 && r.risk.realised == 0.0));
    assert!(nan.rows.iter().all(|r| r.at_risk.eta.is_finite() && r.at_risk.tau.is_finite()));
}

#[test]
fn between_targets_thresholds_are_interpolated() {
    let replay = replay(&shop(20_000, 4), &Spec::default()).unwrap();
    let at = |target| replay.thresholds(Policy::AtRisk, target).unwrap();
    assert_eq!(at(0.0134), replay.rows.iter().find(|r| r.at_risk.target == 0.0134).unwrap().at_risk);
    let (low, middle, high) = (at(0.02), at(0.025), at(0.03));
    assert!((middle.tau - (low.tau + high.tau) / 2.0).abs() < 1e-12);
    assert!((middle.eta - (low.eta + high.eta) / 2.0).abs() < 1e-12);
    assert!((middle.views.iter().map(|v| v.1).sum::<f64>() - 1.0).abs() < 1e-12);
    let realised = {
        let issued =
            shop(20_000, 4).iter().filter_map(|p| issuing_view(p, Policy::AtRisk, middle.eta, middle.tau, 4)).count();
        issued as f64 / 20_000.0
    };
    assert!((realised - 0.025).abs() < 0.003, "{realised}");
    for wrong in [0.0, -1.0, f64::NAN, 1.5, 0.0001, 0.7] {
        assert!(matches!(replay.thresholds(Policy::AtRisk, wrong), Err(Error::Spec(_))), "{wrong}");
    }
    let rare = replay.thresholds(Policy::Random, 0.0001).unwrap();
    assert!((rare.realised - 0.0001).abs() < 1e-12);
}

/// The card is JSON: decisions must not change on the way.
#[test]
fn json_changes_no_decision() {
    let paths = shop(5000, 5);
    let before = replay(&paths, &Spec::default()).unwrap();
    let after: ReplayTable = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
    for (before, after) in before.rows.iter().zip(&after.rows) {
        for (before, after) in [(&before.at_risk, &after.at_risk), (&before.risk, &after.risk)] {
            for path in &paths {
                let view = |t: &Thresholds| issuing_view(path, t.policy, t.eta, t.tau, 4);
                assert_eq!(view(before), view(after));
            }
        }
    }
}

#[test]
fn without_a_churn_model() {
    let spec = Spec::default();
    // 1,000 sessions, 400 of at least four views: a target of 2 % draws 5 % of all.
    let counts: Vec<usize> = (0..1000).map(|i| if i % 5 < 2 { 4 + i % 7 } else { i % 4 }).collect();
    let replay = ReplayTable::fallback(&counts, &spec).unwrap();
    let thresholds = replay.thresholds(Policy::Random, 0.02).unwrap();
    assert_eq!(thresholds.views, [(4, 1.0)]);
    assert!((thresholds.random_share - 0.05).abs() < 1e-12 && (thresholds.realised - 0.02).abs() < 1e-12);
    // More than all that qualify cannot be had.
    let most = replay.thresholds(Policy::Random, 0.5).unwrap();
    assert_eq!((most.random_share, most.realised), (1.0, 0.4));
    assert!(replay.thresholds(Policy::AtRisk, 0.02).unwrap_err().to_string().contains("churn model"));
    assert_eq!(ReplayTable::fallback(&[], &spec).unwrap().thresholds(Policy::Random, 0.02).unwrap().random_share, 0.02);
}

/// What a policy draws is never above its target where the training saw nobody, or hardly anybody, go on to a view at
/// which a coupon can be issued: those who come later may all go on.
#[test]
fn few_long_sessions_are_no_reason_to_draw_everybody() {
    let spec = Spec::default();
    for long in [0, 1, 29] {
        let counts: Vec<usize> = (0..300).map(|i| if i < long { 6 } else { 1 }).collect();
        let replay = ReplayTable::fallback(&counts, &spec).unwrap();
        let thresholds = replay.thresholds(Policy::Random, 0.0134).unwrap();
        assert_eq!(thresholds.random_share, 0.0134, "{long} of 300");
        assert!((thresholds.realised - 0.0134 * long as f64 / 300.0).abs() < 1e-12);
        let decided = (0..60).filter(|i| {
            let unit = f64::from(*i) / 60.0;
            eligible(&thresholds, &Moment { view: 6, max_purchase: 0.0, churn: 0.0, unit })
        });
        assert_eq!(decided.count(), 1, "{long} of 300");
    }
    let paths: Vec<Vec<f64>> = vec![vec![0.9]; 300];
    let replay = replay(&paths, &spec).unwrap();
    assert_eq!(replay.thresholds(Policy::Random, 0.0134).unwrap().random_share, 0.0134);
    for policy in [Policy::AtRisk, Policy::Risk] {
        let refused = replay.thresholds(policy, 0.0134).unwrap_err();
        assert!(
            matches!(&refused, Error::InsufficientData(why) if why.contains("none of the 300 sessions")),
            "{refused}"
        );
    }
}

#[test]
fn policies_have_names() {
    for policy in Policy::ALL {
        assert_eq!(Policy::parse(policy.name()), Some(policy));
        assert_eq!(serde_json::to_value(policy).unwrap(), json!(policy.name()));
    }
    assert_eq!(Policy::parse("value"), None);
}

/// Any scores at all, ties and absurdities included.
fn paths() -> impl Strategy<Value = Vec<Vec<f64>>> {
    let score =
        prop_oneof![8 => (0u8..=20).prop_map(|s| f64::from(s) / 20.0), 8 => 0.0..=1.0f64, 1 => prop::num::f64::ANY];
    prop::collection::vec(prop::collection::vec(score, 0..12), 0..60)
}

proptest! {
    #[test]
    fn realised_is_what_eligible_says(paths in paths()) {
        let replay = replay(&paths, &Spec::default()).unwrap();
        for row in &replay.rows {
            for found in [&row.at_risk, &row.risk] {
                let issued = paths.iter().filter(|path| {
                    let mut max = f64::NEG_INFINITY;
                    path.iter().zip(1..).any(|(&churn, view)| {
                        max = max.max(1.0 - churn);
                        eligible(found, &Moment { view, max_purchase: max, churn, unit: 0.5 })
                    })
                });
                prop_assert_eq!(found.realised, issued.count() as f64 / paths.len().max(1) as f64);
                let sum: f64 = found.views.iter().map(|v| v.1).sum();
                prop_assert!(found.views.is_empty() || (sum - 1.0).abs() < 1e-9);
                prop_assert!(found.views.iter().all(|v| v.0 >= 4));
            }
            prop_assert!((0.0..=1.0).contains(&row.random.random_share) && row.random.realised <= row.random.target + 1e-12);
        }
    }

    /// With distinct scores: within half a session of the target where so many sessions qualify, and never falling.
    #[test]
    fn realised_follows_the_target(lengths in prop::collection::vec(0usize..12, 1..200), seed: u64) {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let paths: Vec<Vec<f64>> = lengths.iter().map(|&n| (0..n).map(|_| rng.r#gen()).collect()).collect();
        let (n, qualify) = (paths.len() as f64, paths.iter().filter(|p| p.len() >= 4).count() as f64);
        let replay = replay(&paths, &Spec::default()).unwrap();
        let mut before = 0.0;
        for row in &replay.rows {
            for found in [&row.at_risk, &row.risk] {
                let wanted = (found.target * n).min(qualify);
                prop_assert!((found.realised * n - wanted).abs() <= 0.5 + 1e-9, "{:?} of {}", found, n);
            }
            prop_assert!(row.at_risk.realised >= before);
            before = row.at_risk.realised;
        }
    }
}
