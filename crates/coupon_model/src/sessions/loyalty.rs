//! The six loyalty variables of CCP/2DL, as of any day.

use super::{Groups, Sessions, Spec, group};
use crate::events::{DAY, Kind, Log, Micros, NONE, SECOND, Text};
use crate::segment::Variables;
use crate::{Result, memory};
use std::collections::{HashMap, HashSet};

/// A log by customer. Building it is one pass; [`Loyalty::variables`] then reads one customer's window.
pub struct Loyalty<'a> {
    log: &'a Log,
    customers: Groups,
    window: Micros,
}

impl<'a> Loyalty<'a> {
    /// An event without a customer counts for the customer its session is known by.
    pub fn new(log: &'a Log, spec: &Spec) -> Loyalty<'a> {
        // Of each text that is a session.
        let mut known = vec![NONE; log.texts.len()];
        for e in log.events.iter().filter(|e| e.session != NONE && e.customer != NONE) {
            known[e.session as usize] = e.customer;
        }
        let of = |e: &crate::events::Event| match e.customer {
            NONE => known.get(e.session as usize).copied().unwrap_or(NONE),
            customer => customer,
        };
        let owner: Vec<Text> = log.events.iter().map(of).collect();
        Loyalty { log, customers: group(&owner, log.texts.len()), window: Micros::from(spec.window_days) * DAY }
    }

    /// Everybody with an event before `day`, in the order of first appearance.
    pub fn customers(&self, day: Micros) -> impl Iterator<Item = Text> + '_ {
        self.customers.iter().filter(move |(_, m)| self.log.events[m[0] as usize].at < day).map(|(c, _)| c)
    }

    /// A customer's variables over the window that ends strictly before `day`; `None` for one never seen before it.
    pub fn variables(&self, customer: Text, day: Micros) -> Option<Variables> {
        let members = self.customers.of(customer);
        let at = |i: &u32| self.log.events[*i as usize].at;
        let end = members.partition_point(|i| at(i) < day);
        if end == 0 {
            return None;
        }
        let start = members.partition_point(|i| at(i) < day - self.window);
        let mut visits: HashMap<Text, (Micros, Micros)> = HashMap::new();
        let mut orders: HashSet<(Text, Text, Micros)> = HashSet::new();
        let (mut spent, mut items, mut searches) = (0.0, 0.0, 0.0);
        for e in members[start..end].iter().map(|&i| &self.log.events[i as usize]) {
            if e.session != NONE {
                visits.entry(e.session).and_modify(|v| v.1 = v.1.max(e.at)).or_insert((e.at, e.at));
            }
            match e.kind {
                Kind::Search => searches += 1.0,
                Kind::Purchase => {
                    let add = |sum: f64, x: f64| (sum + x).clamp(f64::MIN, f64::MAX);
                    spent = add(spent, e.amount());
                    items = add(items, if e.quantity.is_finite() { e.quantity } else { 1.0 });
                    // The order's own number if the shop has one, else its session, else its moment.
                    orders.insert(match (e.order, e.session) {
                        (NONE, NONE) => (NONE, NONE, e.at),
                        (NONE, session) => (NONE, session, 0),
                        (order, _) => (order, NONE, 0),
                    });
                }
                _ => {}
            }
        }
        let stay: Micros = visits.values().map(|(first, last)| last - first).sum();
        let mean = |sum: f64, n: usize| if n == 0 { 0.0 } else { sum / n as f64 };
        Some(Variables {
            spending_last_month: spent,
            average_payment: mean(spent, orders.len()),
            items_per_purchase: mean(items, orders.len()),
            searches_last_month: searches,
            stay_per_session: mean(stay as f64 / SECOND as f64, visits.len()),
            visits_last_month: visits.len() as f64,
        })
    }

    /// The variables each session's customer had at the start of the day of its first view; `None` for anonymous visits
    /// and for customers never seen before. Nothing of the session itself, nor of its day, is visible. `check` is called
    /// before every session and may end the work with its error.
    pub fn as_of(&self, sessions: &Sessions, check: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Option<Variables>>> {
        let all = &sessions.sessions;
        let key = |&i: &u32| (all[i as usize].customer, day_of(all[i as usize].first));
        // A customer's sessions of one day have the same: they are asked for together, so that nothing need be kept.
        let mut order = memory::collect(0..all.len() as u32)?;
        order.sort_unstable_by_key(key);
        let mut as_of = memory::filled(None, all.len())?;
        for same in order.chunk_by(|a, b| key(a) == key(b)) {
            let (customer, day) = key(&same[0]);
            let variables = if customer == NONE { None } else { self.variables(customer, day) };
            for &i in same {
                check()?;
                as_of[i as usize] = variables;
            }
        }
        Ok(as_of)
    }
}

/// Midnight (UTC) of the day that holds `at`.
pub fn day_of(at: Micros) -> Micros {
    at.div_euclid(DAY) * DAY
}
