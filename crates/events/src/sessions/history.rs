//! What customers bought, by category: what the recommender learns from.

use super::{Sessions, group};
use crate::events::{Event, Kind, Log, Micros, NONE, SECOND, Text};
use std::collections::{BTreeMap, HashMap};

/// Order lines by customer and category.
pub struct Purchases<'a> {
    log: &'a Log,
    customers: super::Groups,
    /// A shop's order lines often name only the product: its category is the one it was last seen under.
    category_of: HashMap<Text, Text>,
}

impl<'a> Purchases<'a> {
    pub fn new(log: &'a Log) -> Purchases<'a> {
        let mut category_of = HashMap::new();
        for e in log.events.iter().filter(|e| e.product != NONE && e.category != NONE) {
            category_of.insert(e.product, e.category);
        }
        let owner: Vec<Text> =
            log.events.iter().map(|e| if e.kind == Kind::Purchase { e.customer } else { NONE }).collect();
        Purchases { log, customers: group(&owner, log.texts.len()), category_of }
    }

    pub fn category(&self, event: &Event) -> Text {
        match event.category {
            NONE => self.category_of.get(&event.product).copied().unwrap_or(NONE),
            category => category,
        }
    }

    /// Customers with an order line, in the order of their first appearance in the log.
    pub fn customers(&self) -> impl Iterator<Item = Text> + '_ {
        self.customers.iter().map(|(c, _)| c)
    }

    /// Order lines of a customer by category in [since, until).
    pub fn lines(&self, customer: Text, since: Micros, until: Micros) -> BTreeMap<Text, f64> {
        let mut lines = BTreeMap::new();
        if customer == NONE {
            return lines;
        }
        for e in self.customers.of(customer).iter().map(|&i| &self.log.events[i as usize]) {
            let category = self.category(e);
            if category != NONE && (since..until).contains(&e.at) {
                *lines.entry(category).or_insert(0.0) += 1.0;
            }
        }
        lines
    }
}

/// For every view of a session that has a later cart or purchase in it: the view's number, from 0, and the category of
/// the next one. The same product within five seconds is one gesture, not a forecast, and is left out.
pub fn moments(log: &Log, sessions: &Sessions, purchases: &Purchases, session: usize) -> Vec<(usize, Text)> {
    let session = &sessions.sessions[session];
    let all = sessions.all_positions(session);
    let event = |i: &u32| &log.events[*i as usize];
    let moment = |n: usize| {
        let view = event(&all[n]);
        let next = all[n + 1..].iter().map(event).find(|e| matches!(e.kind, Kind::Cart | Kind::Purchase))?;
        let same = next.product != NONE && next.product == view.product && next.at - view.at <= 5 * SECOND;
        let category = purchases.category(next);
        (!same && category != NONE).then_some((n, category))
    };
    (0..session.len()).filter_map(moment).collect()
}
