//! Logs that nobody would wish for: a clear refusal or a fallback that is told, and never a number that is none.

use super::*;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Collects notes, and refuses a report that holds what is no number.
#[derive(Default)]
struct Strict {
    notes: Vec<String>,
    estimate: Option<Estimate>,
}

impl Observer for Strict {
    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    fn report(&mut self, r: Report) {
        for number in [r.loss, r.validation_loss, r.auroc, r.auprc, r.accuracy].into_iter().flatten() {
            assert!(number.is_finite(), "{} {:?}: {number}", r.stage, r.note);
        }
        assert!(!r.note.as_ref().is_some_and(|n| n.contains("NaN") || n.contains("inf")), "{:?}", r.note);
        self.notes.extend(r.note);
    }

    fn estimate(&mut self, estimate: &Estimate) {
        self.estimate = Some(*estimate);
    }
}

/// What may be missing from a card: measures that need two classes, comparisons that need another version or network, the
/// segment where a row is of all. JSON has no NaN: any other null was one.
const OPTIONAL: [&str; 25] = [
    "churn_rate",
    "silhouette",
    "winsorize",
    "edges",
    "expression",
    "low",
    "high",
    "test_churn_rate",
    "auroc",
    "auprc",
    "slope",
    "intercept",
    "segment",
    "own_log_loss",
    "pooled_log_loss",
    "validation_loss",
    "all",
    "moved",
    "alpha",
    "rmse",
    "difference",
    "standard_error",
    "reason",
    "from",
    "to",
];

fn complete(at: &str, value: &Value) {
    match value {
        Value::Null => assert!(OPTIONAL.iter().any(|o| at.ends_with(&format!("/{o}"))), "{at} is no number"),
        Value::Array(rows) => rows.iter().for_each(|v| complete(at, v)),
        Value::Object(keys) => keys.iter().for_each(|(key, v)| complete(&format!("{at}/{key}"), v)),
        _ => {}
    }
}

/// Trains, looks through every card, and scores all that was trained on.
fn sound(clicks: Vec<Click>, spec: Spec) -> (Vec<String>, Version) {
    let world = World::new(clicks, spec);
    let mut observer = Strict::default();
    let stages = train(&world.job(0, Stages::All), &mut observer).unwrap().stages;
    for s in &stages {
        complete(&s.stage, &s.card);
        complete(&s.stage, &s.spec);
    }
    assert!(observer.estimate.is_some_and(|e| e.events == world.log.events.len() && e.peak_bytes > world.log.bytes()));
    let version = Version::decode(&stages).unwrap();
    if let Some(model) = &version.churn {
        let (sessions, segments) = world.sessions(&version);
        for (session, &segment) in sessions.sessions.iter().zip(&segments) {
            let views: Vec<_> = sessions
                .views(&world.log, session)
                .map(|e| {
                    let text = |t| world.log.text(t);
                    model.vocabulary().view(e.at, e.kind, text(e.page), text(e.category), Some(e.price), &[])
                })
                .collect();
            assert!(model.score(segment, &views).iter().all(|p| (0.0..=1.0).contains(p)));
        }
    }
    for c in customers(&world.log, world.until, &version.segment, &mut || Ok(())).unwrap() {
        assert!(c.variables.iter().all(|x| x.is_finite()), "{:?}", c.variables);
    }
    (observer.notes, version)
}

fn told(notes: &[String], what: &str) {
    assert!(notes.iter().any(|n| n.contains(what)), "{what:?} is not told: {notes:?}");
}

/// `views` looks at page `a` or `b`, then a purchase in four of ten sessions; a session an hour, of 200 customers.
fn sessions(n: usize, views: i64, change: impl Fn(usize, &mut Click)) -> Vec<Click> {
    buying(0.4, n, views, change)
}

fn buying(share: f64, n: usize, views: i64, change: impl Fn(usize, &mut Click)) -> Vec<Click> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(21);
    let mut clicks = Vec::new();
    for i in 0..n {
        let (id, customer) = (format!("s{i:05}"), format!("c{:03}", i % 200));
        let at = START + i as i64 * 3600 * SECOND;
        let mut mine: Vec<Click> =
            (0..views).map(|n| click(&id, Some(&customer), at + n * SECOND, Kind::View)).collect();
        mine.iter_mut().for_each(|c| (c.page, c.category) = (Some(["a", "b"][i % 2].into()), Some("x".into())));
        if rng.gen_bool(share) {
            let (price, order_id) = (Some(10.0), Some(id.clone()));
            let at = at + views * SECOND;
            mine.push(Click { price, order_id, ..click(&id, Some(&customer), at, Kind::Purchase) });
        }
        mine.iter_mut().for_each(|c| change(i, c));
        clicks.extend(mine);
    }
    clicks
}

#[test]
fn sessions_of_one_view() {
    let (_, version) = sound(sessions(1200, 1, |_, _| {}), small(json!({})));
    assert!(version.churn.is_some(), "every view counts, and there is one");
    // Where only the view at the cut counts, none is left: a coin decides, and it is said.
    let (notes, version) = sound(sessions(1200, 1, |_, _| {}), small(json!({"churn": {"loss_on": "last_view"}})));
    told(&notes, "no churn model");
    assert!(version.churn.is_none());
}

#[test]
fn sessions_of_ten_thousand_views() {
    let mut clicks = sessions(800, 5, |_, _| {});
    for i in 0..8 {
        let at = START + i * 90 * 3600 * SECOND + SECOND / 2;
        clicks.extend((0..10_000).map(|n| click(&format!("long{i}"), None, at + n * SECOND, Kind::View)));
    }
    let (notes, _) = sound(clicks.clone(), small(json!({})));
    told(&notes, "more page views than a person: 8 sessions and 80000 views removed");
    let (notes, version) = sound(clicks, small(json!({"sessions": {"max_views": 20_000}})));
    told(&notes, "more page views than a person: 0 sessions");
    assert!(version.churn.is_some());
}

#[test]
fn a_clock_that_stands_still_or_runs_backwards() {
    let still = |at: Micros, c: &mut Click| c.at = at + if c.kind == Kind::Purchase { SECOND } else { 0 };
    let each = |i: usize, c: &mut Click| still(START + i as i64 * 3600 * SECOND, c);
    assert!(sound(sessions(1200, 5, each), small(json!({}))).1.churn.is_some());
    // All sessions at once: none is earlier than another, so there is no window to learn from.
    let all = sound(sessions(1200, 5, |_, c| still(START, c)), small(json!({}))).0;
    told(&all, "no churn model");
    // The purchase's server is a minute behind: it comes before the views, and nothing is left to learn from.
    let behind = |_: usize, c: &mut Click| c.at -= if c.kind == Kind::Purchase { 60 * SECOND } else { 0 };
    let (notes, version) = sound(sessions(1200, 5, behind), small(json!({})));
    told(&notes, "checkout and after");
    assert!(version.churn.is_none());
    // An array of views may come in any order.
    let model = shop().version.churn.as_ref().unwrap();
    let at = [0, -1, i64::MIN / 2, i64::MAX / 2, 0, i64::MIN, i64::MAX];
    let views: Vec<_> = at.iter().map(|&at| model.vocabulary().view(at, Kind::View, None, None, None, &[])).collect();
    assert!(model.score(0, &views).iter().all(|p| (0.0..=1.0).contains(p)));
}

#[test]
fn prices_and_quantities_that_are_none() {
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -5.0, 1e308, f64::MIN_POSITIVE, 0.0];
    let clicks = sessions(1200, 5, |i, c| {
        c.price = Some(odd[i % odd.len()]);
        c.quantity = Some(odd[i / 7 % odd.len()]);
    });
    assert!(sound(clicks, small(json!({}))).1.churn.is_some());
}

#[test]
fn a_hundred_thousand_categories() {
    let mut n = 0;
    let mut clicks = sessions(10_000, 8, |_, _| {});
    for c in &mut clicks {
        n += 1;
        (c.category, c.page) = (Some(format!("category {n}")), Some(format!("page {n}")));
    }
    clicks.iter_mut().for_each(|c| c.attributes = vec![c.page.clone()]);
    let spec = small(json!({"churn": {"epochs": 1, "one_cycle_epochs": 1}}));
    let version = sound(clicks, spec.clone()).1;
    assert_eq!(version.rank.categories.len(), spec.rank.candidates);
    assert!(version.churn.is_some());
}

#[test]
fn only_views_and_only_purchases() {
    let mut views = sessions(1200, 5, |_, _| {});
    let mut purchases = views.clone();
    views.retain(|c| c.kind == Kind::View);
    told(&sound(views, small(json!({}))).0, "no churn model");
    purchases.retain(|c| c.kind == Kind::Purchase);
    let world = World::new(purchases, small(json!({})));
    let refused = train(&world.job(0, Stages::All), &mut Strict::default()).err();
    assert!(matches!(&refused, Some(Error::InsufficientData(m)) if m.contains("page view")), "{refused:?}");
    // Everybody buys: nobody is left to keep.
    let mut everybody = sessions(1200, 5, |_, _| {});
    everybody.retain(|c| c.kind == Kind::View);
    for i in 0..1200 {
        let at = START + i * 3600 * SECOND + 60 * SECOND;
        everybody.push(click(&format!("s{i:05}"), None, at, Kind::Purchase));
    }
    told(&sound(everybody, small(json!({}))).0, "no churn model");
}

/// All that was bought was bought after the fit window.
#[test]
fn a_window_with_one_class() {
    let mut late = sessions(2400, 5, |_, _| {});
    late.retain(|c| c.kind == Kind::View || c.at > START + 1500 * 3600 * SECOND);
    let (notes, version) = sound(late, small(json!({})));
    told(&notes, "no churn model: 0 of");
    assert!(version.churn.is_none());
    // And nothing is left of the tune and judge windows' buyers.
    let mut early = sessions(2400, 5, |_, _| {});
    early.retain(|c| c.kind == Kind::View || c.at < START + 1400 * 3600 * SECOND);
    assert!(sound(early, small(json!({}))).1.churn.is_some());
}

/// Half of the customers search and never buy, the others always buy: two segments of one class each.
#[test]
fn a_segment_with_one_class() {
    let looker = |c: &Click| c.customer.as_ref().is_some_and(|c| c.ends_with(['0', '2', '4', '6', '8']));
    let mut clicks = buying(1.0, 6000, 5, |_, c| {
        if looker(c) && c.kind == Kind::View {
            c.kind = Kind::Search;
        }
    });
    clicks.retain(|c| c.kind != Kind::Purchase || !looker(c));
    let spec = small(json!({"segment": {"min_buyers": 0}, "churn": {"min_buyers": 0}}));
    let (notes, version) = sound(clicks, spec);
    assert!(version.segment.groups() > 1, "{notes:?}");
    assert!(version.churn.is_some());
    told(&notes, " sessions, 0 buyers in the fit window");
}

/// The network's share of the estimate is no less than the network itself asks for.
#[test]
fn the_estimate_covers_the_network() {
    let world = &shop().world;
    for change in [
        json!({}),
        json!({"hidden_size": 128, "num_layers": 2, "batch_size": 256, "dense_units": 128, "max_pages": 64}),
    ] {
        let spec = small(json!({"churn": change}));
        let sessions = Sessions::build(&world.log, world.until, &spec.sessions, &mut || Ok(())).unwrap();
        let estimate = Estimate::of(&world.log, &spec, &mut || Ok(())).unwrap();
        let [fit, tune, _] = sessions.windows(&spec.sessions);
        let vocabulary = shop().version.churn.as_ref().unwrap().vocabulary();
        let view = vocabulary.view(0, Kind::View, None, None, None, &[]);
        let views: Vec<_> = sessions.sessions.iter().map(|s| vec![view; s.len()]).collect();
        let example = |views| churn::Example { views, purchased: false, weight: 1.0, segment: 0 };
        let examples: Vec<_> = views.iter().map(|v| example(v.as_slice())).collect();
        let needed = churn::Trainer::memory(&examples[fit], &examples[tune], vocabulary, &spec.churn);
        let share = estimate.peak_bytes - estimate.beside_trainer();
        assert!(needed <= share, "{needed} {share}");
    }
    let world = World::new(world.clicks.clone(), small(json!({})));
    let job = Job { budget: 40 << 20, ..world.job(0, Stages::All) };
    let refused = train(&job, &mut Strict::default()).err();
    assert!(matches!(refused, Some(Error::Memory { needed, budget }) if needed > budget), "{refused:?}");
}
