//! The whole flow without PostgreSQL: worlds to train on, and what every test of it needs.

mod bad_input;
mod flow;
mod truth;
mod tune;

use super::*;
use crate::live::Click;
use coupon_events::events::{DAY, Event, Kind, MAX_ATTRIBUTES, NONE, SECOND};
use coupon_simulate::Shop;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::sync::OnceLock;

/// Thursday, 2026-01-01.
const START: Micros = 9_497 * DAY;

/// A click of which nothing is known but who, when and what.
pub fn click(session: &str, customer: Option<&str>, at: Micros, kind: Kind) -> Click {
    Click {
        at,
        session: Some(session.into()),
        customer: customer.map(Into::into),
        kind,
        page: None,
        category: None,
        product: None,
        quantity: None,
        price: None,
        order_id: None,
        zone: None,
        attributes: Vec::new(),
    }
}

/// Clicks as `coupon.events` would tell them.
fn log_of(clicks: &[Click]) -> Log {
    let mut sorted: Vec<&Click> = clicks.iter().collect();
    sorted.sort_by(|a, b| a.order(b));
    let mut log = Log::default();
    for c in sorted {
        let mut text = |t: &Option<String>| log.texts.intern(t.as_deref()).unwrap();
        let mut event = Event::new(c.at, text(&c.session), c.kind);
        event.customer = text(&c.customer);
        event.page = text(&c.page);
        event.category = text(&c.category);
        event.product = text(&c.product);
        event.order = text(&c.order_id);
        event.quantity = c.quantity.unwrap_or(1.0);
        event.price = c.price.unwrap_or(f64::NAN);
        let mut attributes = [NONE; MAX_ATTRIBUTES];
        for (slot, attribute) in attributes.iter_mut().zip(&c.attributes) {
            *slot = text(attribute);
        }
        log.push(event, &attributes).unwrap();
    }
    log
}

/// The first days of a simulated shop.
pub fn shop_clicks(customers: u32, days: i64) -> Vec<Click> {
    let shop = Shop::new(customers, 0).unwrap();
    let one = |c: coupon_simulate::Click| Click {
        at: c.at,
        session: Some(c.session),
        customer: c.customer,
        kind: c.kind,
        page: Some(c.page.into()),
        category: c.category.map(Into::into),
        product: c.product,
        quantity: c.quantity,
        price: c.price,
        order_id: c.order_id,
        zone: None,
        attributes: vec![Some(c.device.into()), Some(c.referrer.into())],
    };
    (0..days).flat_map(|d| shop.day(START + d * DAY)).map(one).collect()
}

/// A small network, soon trained; a large judge window, so that few buyers are enough to compare.
pub fn small(change: Value) -> Spec {
    let mut spec = json!({
        "sessions": {"split": [0.6, 0.2, 0.2]},
        "segment": {"restarts": 3, "max_clusters": 7, "min_sessions": 200, "min_buyers": 10, "prior_strength": 50},
        "churn": {"hidden_size": 8, "dense_units": 8, "epochs": 2, "one_cycle_epochs": 2, "batch_size": 64, "max_length": 25,
                  "learning_rate": 0.02, "min_sessions": 200, "min_buyers": 10},
        "rank": {"max_evaluation_points": 500},
    });
    for (word, keys) in change.as_object().into_iter().flatten() {
        for (key, value) in keys.as_object().unwrap() {
            spec[word][key] = value.clone();
        }
    }
    Spec::read(&spec).unwrap()
}

/// Counts the checks, and cancels at one of them.
#[derive(Default)]
struct Watcher {
    checks: usize,
    stop: Option<usize>,
    notes: Vec<String>,
}

impl Observer for Watcher {
    fn check(&mut self) -> Result<()> {
        self.checks += 1;
        if self.stop.is_some_and(|stop| self.checks >= stop) { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn report(&mut self, report: Report) {
        self.notes.extend(report.note);
    }
}

/// A log with what is needed to train on it.
pub struct World {
    pub clicks: Vec<Click>,
    log: Log,
    until: Micros,
    treatments: HashMap<Text, Treatment>,
    spec: Spec,
}

impl World {
    pub fn new(clicks: Vec<Click>, spec: Spec) -> World {
        let until = clicks.iter().map(|c| c.at).max().unwrap_or(START) + DAY;
        World { log: log_of(&clicks), clicks, until, treatments: HashMap::new(), spec }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    fn job(&self, seed: u64, stages: Stages) -> Job<'_> {
        Job {
            log: &self.log,
            columns: 2.min(MAX_ATTRIBUTES),
            until: self.until,
            treatments: &self.treatments,
            spec: &self.spec,
            seed,
            stages,
            base: None,
            budget: 1 << 30,
        }
    }

    pub fn train(&self) -> Outcome {
        train(&self.job(0, Stages::All), &mut Watcher::default()).unwrap()
    }

    /// The sessions training saw, and the segment of each under a version.
    fn sessions(&self, version: &Version) -> (Sessions, Vec<u32>) {
        let spec = &self.spec.sessions;
        let sessions = Sessions::build(&self.log, self.until, spec, &mut || Ok(())).unwrap();
        let loyalty = Loyalty::new(&self.log, version.segment.definition()).unwrap();
        let segments = assign(&version.segment, &loyalty.as_of(&sessions, &mut || Ok(())).unwrap());
        (sessions, segments)
    }
}

/// A trained version with the world it comes from.
pub struct Trained {
    pub world: World,
    stages: Vec<Stage>,
    pub version: Version,
    /// As it was when its card was written, before the refit.
    judged: Version,
}

impl Trained {
    fn new(world: World) -> Trained {
        let stages = world.train().stages;
        let version = Version::decode(&stages).unwrap();
        let before = crate::churn::Model::from_safetensors(&stage(&stages, "evaluated").weights).unwrap();
        Trained { world, stages, judged: Version { churn: Some(before), ..version.clone() }, version }
    }
}

/// A simulated shop and its first version, for all tests.
pub fn shop() -> &'static Trained {
    static SHOP: OnceLock<Trained> = OnceLock::new();
    SHOP.get_or_init(|| Trained::new(World::new(shop_clicks(1200, 45), small(json!({})))))
}

/// A shop of two kinds of customers who mean the opposite by what they look at. Regulars come every day, spend much and buy
/// more the more pages `a` and the fewer pages `b` they have seen; the others, every third day, the other way round. A session
/// alone does not tell who it is: only a network of the segment's own can know.
fn opposites(seed: u64) -> World {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut clicks = Vec::new();
    for customer in 0..180 {
        let (name, regular) = (format!("c{customer:03}"), customer < 60);
        for day in (0..45).filter(|day| regular || day % 3 == customer % 3) {
            let (id, mut at) = (format!("{name}-{day}"), START + day * DAY + rng.gen_range(0..80_000) * SECOND);
            let mut balance = 0.0;
            for _ in 0..rng.gen_range(4..9) {
                at += rng.gen_range(5..60) * SECOND;
                let page = ["a", "b", "c"][rng.gen_range(0..3)];
                balance += f64::from(u8::from(page == "a")) - f64::from(u8::from(page == "b"));
                clicks.push(Click { page: Some(page.into()), ..click(&id, Some(&name), at, Kind::View) });
            }
            let logit = if regular { 1.5 * balance } else { -1.5 * balance - 1.5 };
            if rng.gen_bool(1.0 / (1.0 + f64::exp(-logit))) {
                let (price, order_id) = (Some(if regular { 99.0 } else { 9.0 }), Some(id.clone()));
                let purchase = click(&id, Some(&name), at + 30 * SECOND, Kind::Purchase);
                clicks.push(Click { price, order_id, ..purchase });
            }
        }
    }
    World::new(clicks, small(json!({"churn": {"epochs": 6, "one_cycle_epochs": 6}})))
}

fn stage<'a>(stages: &'a [Stage], name: &str) -> &'a Stage {
    stages.iter().find(|s| s.stage == name && s.segment == 0).unwrap()
}

/// Many small sessions of one page each, repeated: who sees page `a` buys with one probability, who sees `b` with
/// another. What `buys` returns is asked for every session, in order of time.
fn two_pages(sessions: usize, mut buys: impl FnMut(usize, bool) -> bool) -> Vec<Click> {
    let mut clicks = Vec::new();
    for i in 0..sessions {
        let (id, at) = (format!("s{i:05}"), START + i as i64 * 60 * SECOND);
        let good = i.is_multiple_of(2);
        for n in 0..5 {
            let page = Some(if good { "a" } else { "b" }.to_string());
            clicks.push(Click { page, ..click(&id, None, at + n * 10 * SECOND, Kind::View) });
        }
        if buys(i, good) {
            clicks.push(click(&id, None, at + 60 * SECOND, Kind::Purchase));
        }
    }
    clicks
}
