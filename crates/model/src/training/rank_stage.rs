//! The rank stage: what customers bought before and after the start of tune, and what sessions of tune went on to want.

use super::{Observer, PreparedData, Report};
use crate::version::Stage;
use coupon_base::error::Result;
use coupon_events::events::{DAY, Kind, Micros, NONE, Text};
use coupon_events::sessions::{Purchases, moments, pause};
use std::collections::{BTreeMap, HashMap};

const AFTER: Micros = 30 * DAY;

pub(super) fn train(ground: &PreparedData, segments: &[u32], observer: &mut dyn Observer) -> Result<Stage> {
    let (job, log, cut) = (ground.job, ground.job.log, ground.cut());
    observer.enter("rank");
    let purchases = Purchases::new(log);
    // Categories numbered in the order of first appearance.
    let mut number: HashMap<Text, u32> = HashMap::new();
    let mut categories = Vec::new();
    let mut viewed: Vec<f64> = Vec::new();
    for (n, e) in log.events.iter().enumerate() {
        pause(n, &mut || observer.check())?;
        let category = purchases.category(e);
        let Some(text) = log.text(category) else { continue };
        let n = *number.entry(category).or_insert_with(|| {
            categories.push(text.to_string());
            viewed.push(0.0);
            viewed.len() as u32 - 1
        });
        viewed[n as usize] += f64::from(u8::from(e.at < cut && e.kind == Kind::View));
    }
    observer.check()?;
    let numbered =
        |lines: BTreeMap<Text, f64>| -> Vec<(u32, f64)> { lines.into_iter().map(|(c, n)| (number[&c], n)).collect() };
    // A customer's segment is the latest one before the cut; one who came later has the one of the first session.
    let mut segment_of: HashMap<Text, u32> = HashMap::new();
    for (i, session) in ground.sessions.sessions.iter().enumerate().filter(|(_, s)| s.customer != NONE) {
        if session.first < cut || !segment_of.contains_key(&session.customer) {
            segment_of.insert(session.customer, segments[i]);
        }
    }
    let mut customers = Vec::new();
    for customer in purchases.customers() {
        observer.check()?;
        customers.push(coupon_rank::Customer {
            segment: segment_of.get(&customer).copied().unwrap_or(0),
            profile: numbered(purchases.lines(customer, Micros::MIN, cut)),
            target: numbered(purchases.lines(customer, cut, cut + AFTER)),
        });
    }
    let mut sessions = Vec::new();
    for i in ground.windows[1].clone() {
        observer.check()?;
        let session = &ground.sessions.sessions[i];
        let mut wanted = moments(log, &ground.sessions, &purchases, i).into_iter().peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let profile = numbered(purchases.lines(session.customer, Micros::MIN, session.first));
        let (mut views, mut moments) = (Vec::new(), Vec::new());
        for (n, view) in ground.sessions.views(log, session).enumerate() {
            views.extend(number.get(&view.category));
            moments.extend(wanted.next_if(|(at, _)| *at == n).map(|(_, next)| (views.len(), number[&next])));
        }
        sessions.push(coupon_rank::Session { segment: segments[i], profile, views, moments });
    }
    observer.check()?;
    let training =
        coupon_rank::Training { categories: &categories, viewed: &viewed, customers: &customers, sessions: &sessions };
    let (model, card) = coupon_rank::train(training, &job.spec.rank, job.seed, &mut || observer.check())?;
    let note = format!(
        "{} categories, {} customers with order lines, {} moments; session weight {:.2}, pooled alpha {:.2}",
        model.categories.len(),
        customers.len(),
        card.moments,
        model.session_weight(),
        model.alpha(0),
    );
    observer.report(Report { stage: "rank", note: Some(note), ..Report::default() });
    Ok(Stage {
        stage: "rank".into(),
        segment: 0,
        spec: serde_json::to_value(&job.spec.rank).expect("a specification is JSON"),
        card: serde_json::to_value(&card).expect("a card is JSON"),
        weights: model.to_bytes()?,
    })
}
