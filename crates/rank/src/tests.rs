use super::fit::{Fit, Sums};
use super::*;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::json;

fn trained(names: &[String], customers: &[Customer], sessions: &[Session]) -> (Model, Card) {
    let data = Training { categories: names, viewed: &[], customers, sessions };
    train(data, &Spec::default(), 0, &mut || Ok(())).unwrap()
}

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("category {i:03}")).collect()
}

fn viewed(categories: &[u32]) -> SessionCategories {
    let mut session = SessionCategories::default();
    categories.iter().for_each(|&c| session.push(Some(c), Spec::default().view_decay));
    session
}

#[test]
fn the_specification_is_valid_and_refuses_typos_by_name() {
    assert_eq!(Spec::default().shrinkage, 50.0);
    let message = |spec| Spec::read(&spec).unwrap_err().to_string();
    assert!(message(json!({"kapa": 2})).contains("`kapa`"));
    assert!(message(json!({"view_decay": 1.5})).contains("view_decay"));
}

fn random_shares(rng: &mut impl Rng, n: usize) -> Vec<f64> {
    shares((0..n as u32).map(|c| (c, rng.r#gen::<f64>().powi(3))), n).unwrap()
}

/// The closed form against a walk over α in steps of 1/10,000, and its two limits in κ.
#[test]
fn alpha_is_the_least_squares_one() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let truth = [0.2, 0.9, 0.5];
    let mut data: Vec<Vec<[Vec<f64>; 3]>> = vec![Vec::new(); 3];
    let mut sums = vec![Sums::default(); 4];
    for (segment, rows) in data.iter_mut().enumerate() {
        for _ in 0..[40, 300, 5][segment] {
            let (collaborative, content, noise) =
                (random_shares(&mut rng, 8), random_shares(&mut rng, 8), random_shares(&mut rng, 8));
            let a = truth[segment];
            let target: Vec<f64> =
                (0..8).map(|c| 0.7 * ((1.0 - a) * collaborative[c] + a * content[c]) + 0.3 * noise[c]).collect();
            sums[segment + 1].add(&target, &collaborative, &content);
            rows.push([target, collaborative, content]);
        }
    }
    let error = |rows: &[[Vec<f64>; 3]], alpha: f64| -> f64 {
        let one = |[r, collaborative, content]: &[Vec<f64>; 3]| {
            (0..8).map(|c| (r[c] - (1.0 - alpha) * collaborative[c] - alpha * content[c]).powi(2)).sum::<f64>()
        };
        rows.iter().map(one).sum()
    };
    let walk = |rows: &[[Vec<f64>; 3]]| {
        let steps = (0..=10_000).map(|i| f64::from(i) / 10_000.0);
        steps.min_by(|a, b| error(rows, *a).total_cmp(&error(rows, *b))).unwrap()
    };
    let free = Fit::new(sums.clone(), 0.0);
    for (rows, alpha) in data.iter().zip(&free.alphas[1..]) {
        assert!((walk(rows) - alpha).abs() < 1e-4, "{alpha}");
    }
    let all: Vec<_> = data.concat();
    assert!((walk(&all) - free.alphas[0]).abs() < 1e-4);
    let direct = (error(&all, 0.3) / (all.len() * 8) as f64).sqrt();
    assert!((free.rmse(8, |_| 0.3).unwrap() - direct).abs() < 1e-12);
    // With κ a segment of five customers stays near the pooled α, one of 300 near its own.
    let held = Fit::new(sums.clone(), 50.0);
    let moved = |segment: usize| (held.alphas[segment] - free.alphas[0]) / (free.alphas[segment] - free.alphas[0]);
    assert!(moved(3).abs() < 0.2 && moved(2) > 0.7, "{:?} {:?}", held.alphas, free.alphas);
    assert!(Fit::new(sums, 1e12).alphas.iter().all(|a| (a - free.alphas[0]).abs() < 1e-6));
}

/// Who buys 0 also buys 1, who buys 2 also buys 3, and so on; 20 categories, three times as many single purchases.
fn complements(customers: usize, seed: u64) -> Vec<Customer> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut one = || {
        let first = rng.gen_range(0..20u32);
        let mut profile = vec![(first, 1.0)];
        if rng.gen_bool(0.25) {
            profile.push((first ^ 1, 1.0));
        } else if rng.gen_bool(0.1) {
            profile.push((rng.gen_range(0..20), 1.0));
        }
        let next = if rng.gen_bool(0.5) { first ^ 1 } else { first };
        Customer { segment: 1 + first % 2, profile, target: vec![(next, 1.0)] }
    };
    (0..customers).map(|_| one()).collect()
}

#[test]
fn complements_are_found() {
    let (model, card) = trained(&names(20), &complements(5000, 2), &[]);
    for bought in 0..20 {
        let ranked = model.rank(1, &[(bought, 2.0)], &SessionCategories::default(), 20);
        let best = ranked.iter().max_by(|a, b| a.collaborative.total_cmp(&b.collaborative)).unwrap();
        assert_eq!(best.category, bought ^ 1);
        assert_eq!(ranked[0].category.min(ranked[1].category), bought & !1, "the two of them come first");
    }
    // Half the customers buy the same again, half the complement: both scores are needed.
    assert!((0.2..0.8).contains(&card.alpha), "{}", card.alpha);
    let rmse = |name: &str| card.lines.iter().find(|l| l.name == name).unwrap().rmse.unwrap();
    assert!(rmse("hybrid") < rmse("popularity") && rmse("popularity") < rmse("zero"), "{:?}", card.lines);
    let ends: Vec<f64> = card.lines.iter().filter(|l| l.name == "alpha").map(|l| l.rmse.unwrap()).collect();
    assert!(rmse("hybrid") < ends[0] && rmse("hybrid") < ends[20]);
}

/// The card is computed by sums and counts; here every figure again from what `rank` returns.
#[test]
fn the_card_says_what_rank_does() {
    let customers = complements(400, 3);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(4);
    let mut moment = |i: usize| {
        let next = rng.gen_range(0..22u32);
        let seen: Vec<u32> = (0..rng.gen_range(1..6))
            .map(|_| if rng.gen_bool(0.6) { next % 20 } else { rng.gen_range(0..20) })
            .collect();
        let profile = if i.is_multiple_of(2) { customers[i % 400].profile.clone() } else { Vec::new() };
        Session { segment: (i % 4) as u32, profile, moments: vec![(seen.len(), next)], views: seen }
    };
    let sessions: Vec<Session> = (0..600).map(&mut moment).collect();
    let (model, card) = trained(&names(20), &customers, &sessions);
    let line = |name: &str| card.lines.iter().find(|l| l.name == name).unwrap();

    let mut error = 0.0;
    for customer in &customers {
        let target = shares(customer.target.iter().copied(), 20).unwrap();
        for r in model.rank(customer.segment, &customer.profile, &SessionCategories::default(), 20) {
            error += (r.score - target[r.category as usize]).powi(2);
        }
    }
    let direct = (error / (400.0 * 20.0)).sqrt();
    assert!((line("hybrid").rmse.unwrap() - direct).abs() < 1e-12);
    let zero = (400.0f64 / (400.0 * 20.0)).sqrt();
    assert!((line("zero").rmse.unwrap() - zero).abs() < 1e-12, "every target here is one category");

    let (mut hit1, mut hit3, mut last, mut moved) = (0, 0, 0, 0);
    for s in &sessions {
        let (session, next) = (viewed(&s.views), s.moments[0].1);
        let top: Vec<u32> = model.rank(s.segment, &s.profile, &session, 3).iter().map(|r| r.category).collect();
        hit1 += usize::from(top[0] == next);
        hit3 += usize::from(top.contains(&next));
        last += usize::from(session.last() == Some(next));
        moved += usize::from(session.last() != Some(next));
    }
    let quality = line("hybrid").all.unwrap();
    assert_eq!((quality.hit1 * 600.0).round() as usize, hit1);
    assert_eq!((quality.hit3 * 600.0).round() as usize, hit3);
    assert!(quality.ndcg3 >= quality.hit1 && quality.ndcg3 <= quality.hit3);
    assert_eq!((line("last_viewed").all.unwrap().hit1 * 600.0).round() as usize, last);
    assert_eq!(line("hybrid").moved.unwrap().moments, moved);
    let best = card.session_weights.iter().map(|w| w.ndcg3).fold(0.0, f64::max);
    assert_eq!(best, card.session_weights.iter().find(|w| w.weight == card.session_weight).unwrap().ndcg3);
    assert!(card.session_weight > 0.5, "these sessions say more than the histories");
    assert_eq!(model.session_weight(), card.session_weight);
}

#[test]
fn candidates_are_the_most_bought_then_the_most_viewed() {
    let names: Vec<String> = ["shoes", "bags", "hats", "never", "scarves"].map(String::from).to_vec();
    let customers = [Customer { segment: 1, profile: vec![(0, 1.0), (2, 5.0), (99, 7.0)], target: vec![] }];
    let data =
        Training { categories: &names, viewed: &[1.0, 9.0, 0.0, 0.0, 12.0], customers: &customers, sessions: &[] };
    let top =
        |candidates| train(data, &Spec { candidates, ..Spec::default() }, 0, &mut || Ok(())).unwrap().0.categories;
    assert_eq!(top(1), ["hats"]);
    assert_eq!(top(3), ["hats", "scarves", "shoes"]);
    assert_eq!(top(9), ["bags", "hats", "scarves", "shoes"]);
    let (model, _) = train(data, &Spec::default(), 0, &mut || Ok(())).unwrap();
    assert_eq!(["hats", "never", "bags"].map(|c| model.index(c)), [Some(1), None, Some(0)]);
}

#[test]
fn nothing_at_all_works() {
    let (model, card) = trained(&[], &[], &[]);
    assert!(model.rank(0, &[(3, 1.0)], &viewed(&[1]), 10).is_empty());
    assert_eq!((card.candidates, card.customers, card.moments), (0, 0, 0));
    assert_eq!(Model::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);

    // Views only: uniform popularity, ranked by the session.
    let names = names(3);
    let data = Training { categories: &names, viewed: &[1.0, 1.0, 1.0], customers: &[], sessions: &[] };
    let (model, _) = train(data, &Spec::default(), 0, &mut || Ok(())).unwrap();
    let anonymous = model.rank(0, &[], &SessionCategories::default(), 10);
    assert!(anonymous.iter().all(|r| (r.score - 1.0 / 3.0).abs() < 1e-12));
    assert_eq!(anonymous.iter().map(|r| r.category).collect::<Vec<_>>(), [0, 1, 2], "equal scores by text");
    assert_eq!(model.rank(0, &[], &viewed(&[2, 1, 1]), 1)[0].category, 1);
    assert!(model.rank(0, &[], &viewed(&[2]), 0).is_empty());
}

#[test]
fn training_can_be_stopped() {
    let names = names(20);
    let data = Training { categories: &names, viewed: &[], customers: &complements(2000, 5), sessions: &[] };
    let mut asked = 0;
    let stopped = train(data, &Spec::default(), 0, &mut || {
        asked += 1;
        if asked > 3 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert_eq!(stopped.err(), Some(Error::Cancelled));
}

#[test]
fn bytes_round_trip_and_corruption_is_refused() {
    let (model, _) = trained(&names(20), &complements(300, 6), &[]);
    let bytes = model.to_bytes().unwrap();
    assert_eq!(Model::from_bytes(&bytes).unwrap(), model);
    assert_eq!(bytes, trained(&names(20), &complements(300, 6), &[]).0.to_bytes().unwrap());
    for cut in [0, 7, 100, bytes.len() - 1] {
        assert!(matches!(Model::from_bytes(&bytes[..cut]), Err(Error::Corrupt(_))));
    }
    let wrong = |change: fn(&mut Model)| {
        let mut model = model.clone();
        change(&mut model);
        matches!(Model::from_bytes(&model.to_bytes().unwrap()), Err(Error::Corrupt(_)))
    };
    assert!(wrong(|m| m.alphas[0] = 1.5));
    assert!(wrong(|m| m.alphas[0] = f64::NAN));
    assert!(wrong(|m| m.similarity[3] = f32::INFINITY));
    assert!(wrong(|m| m.categories.swap(0, 1)));
    assert!(wrong(|m| m.popularity[0] = -0.1));
}

#[test]
fn a_session_remembers_the_latest_most() {
    let weights = |categories: &[u32], decay: f64| {
        let mut session = SessionCategories::default();
        categories.iter().for_each(|&c| session.push(Some(c), decay));
        session.weights().collect::<Vec<_>>()
    };
    assert_eq!(weights(&[5, 5, 9], 1.0), [(9, 1.0), (5, 2.0)]);
    assert_eq!(weights(&[5, 5, 9], 0.5), [(9, 1.0), (5, 0.75)]);
    assert_eq!(weights(&[9, 5, 9], 0.0)[0], (9, 1.0));
    let many: Vec<u32> = (0..100).collect();
    let kept = weights(&many, 0.5);
    assert_eq!(kept.len(), SessionCategories::MOST);
    assert_eq!((kept[0].0, kept[31].0), (99, 68));
    for wrong in [&[0u8; 7][..], &[0; 8], &[255; 8], &[1; 8 * 33]] {
        assert!(SessionCategories::from_bytes(wrong).is_err(), "{wrong:?}");
    }
}

/// What w was chosen by is what serves: a live session pushes texts, training numbers, and either forgets the views of
/// what is no candidate.
#[test]
fn a_live_session_is_the_one_that_trained() {
    let names = names(60);
    let bought = |c: u32| Customer { profile: vec![(c, 1.0)], ..Customer::default() };
    let customers: Vec<Customer> = (0..40).map(|i| bought(i * 3 % 60)).collect();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(8);
    let views: Vec<u32> = (0..90).map(|_| rng.gen_range(0..60)).collect();
    let session = Session { views: views.clone(), moments: (1..=90).map(|n| (n, 3)).collect(), ..Session::default() };
    let spec = Spec { candidates: 12, ..Spec::default() };
    let data = Training { categories: &names, viewed: &[], customers: &customers, sessions: &[session] };
    let number = super::train::Candidates::choose(&data, &spec).number;
    let trained = super::train::moments(data.sessions, &number, &spec, 0, &mut || Ok(())).unwrap();
    let (model, _) = train(data, &spec, 0, &mut || Ok(())).unwrap();
    let mut live = SessionCategories::default();
    for (moment, &view) in trained.iter().zip(&views) {
        model.view(&mut live, &names[view as usize]);
        assert_eq!(live, moment.session);
        assert_eq!(moment.next, model.index(&names[3]).unwrap());
    }
    assert!(trained.len() == 90 && (5..=12).contains(&live.weights().count()));
}

fn counts(n: u32) -> impl Strategy<Value = Vec<(u32, f64)>> {
    let count = prop_oneof![6 => 0.0..9.0f64, 1 => prop::num::f64::ANY];
    prop::collection::vec((0..n, count), 0..6)
}

proptest! {
    #[test]
    fn scores_are_shares(
        customers in prop::collection::vec((0u32..3, counts(14), counts(14)), 0..20),
        profile in counts(14),
        session in prop::collection::vec(0u32..14, 0..50),
        segment in 0u32..5,
    ) {
        let customer = |(segment, profile, target)| Customer { segment, profile, target };
        let customers: Vec<Customer> = customers.into_iter().map(customer).collect();
        let moments = vec![(session.len(), 3), (session.len() + 9, 4)];
        let sessions = [Session { segment, profile: profile.clone(), views: session.clone(), moments }];
        let (model, card) = trained(&names(12), &customers, &sessions);
        let n = model.categories.len();
        let ranked = model.rank(segment, &profile, &viewed(&session), n);
        prop_assert_eq!(ranked.len(), n);
        for part in [|r: &Ranked| r.score, |r: &Ranked| r.collaborative, |r: &Ranked| r.content] {
            prop_assert!(ranked.iter().all(|r| part(r) >= 0.0));
            prop_assert!(n == 0 || (ranked.iter().map(part).sum::<f64>() - 1.0).abs() < 1e-9);
        }
        prop_assert!(ranked.is_sorted_by(|a, b| (b.score, a.category) < (a.score, b.category)));
        prop_assert!(ranked.iter().all(|r| (0.0..=1.0).contains(&r.alpha)));
        prop_assert!(card.lines.iter().filter_map(|l| l.rmse).all(f64::is_finite));
        prop_assert_eq!(Model::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
    }

    #[test]
    fn sessions_survive_storage(pushed in prop::collection::vec(0u32..60, 0..200), decay in 0.0..=1.0f64) {
        let mut session = SessionCategories::default();
        for category in pushed {
            session.push(Some(category), decay);
            prop_assert_eq!(session.last(), Some(category));
            session = SessionCategories::from_bytes(&session.to_bytes()).unwrap();
        }
        prop_assert!(session.weights().count() <= SessionCategories::MOST);
    }
}
