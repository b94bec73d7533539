//! The variables of a customer, as of any day: the six of CCP/2DL, and those that the specification defines.

use super::expression::{Bound, Expression};
use super::{Definition, Rows};
use super::{Groups, Sessions, group};
use crate::events::{DAY, Event, Kind, Log, Micros, NONE, SECOND, Text};
use crate::{Error, Result, memory};
use std::collections::{HashMap, HashSet};

/// A log by customer. Building it is one pass; [`Loyalty::variables`] then reads one customer's window.
pub struct Loyalty<'a> {
    log: &'a Log,
    customers: Groups,
    window: Micros,
    own: Vec<Bound>,
}

impl<'a> Loyalty<'a> {
    /// An event without a customer counts for the customer its session is known by. [`Error::Expression`] for a variable
    /// that cannot be computed.
    pub fn new(log: &'a Log, definition: &Definition) -> Result<Loyalty<'a>> {
        // Of each text that is a session.
        let mut known = vec![NONE; log.texts.len()];
        for e in log.events.iter().filter(|e| e.session != NONE && e.customer != NONE) {
            known[e.session as usize] = e.customer;
        }
        let of = |e: &Event| match e.customer {
            NONE => known.get(e.session as usize).copied().unwrap_or(NONE),
            customer => customer,
        };
        let owner: Vec<Text> = log.events.iter().map(of).collect();
        let own = definition.own.iter().map(|v| Ok(parse(&v.name, &v.expression)?.bind(log)));
        Ok(Loyalty {
            log,
            customers: group(&owner, log.texts.len()),
            window: Micros::from(definition.window_days) * DAY,
            own: own.collect::<Result<_>>()?,
        })
    }

    /// Everybody with an event before `day`, in the order of first appearance.
    pub fn customers(&self, day: Micros) -> impl Iterator<Item = Text> + '_ {
        self.customers.iter().filter(move |(_, m)| self.log.events[m[0] as usize].at < day).map(|(c, _)| c)
    }

    /// A customer's variables over the window that ends strictly before `day`: the six in the order of
    /// [`SIX`](super::SIX), then the definition's own. `None` for one never seen before the day.
    pub fn variables(&self, customer: Text, day: Micros) -> Option<Vec<f64>> {
        let members = self.customers.of(customer);
        let at = |i: &u32| self.log.events[*i as usize].at;
        let end = members.partition_point(|i| at(i) < day);
        if end == 0 {
            return None;
        }
        let start = members.partition_point(|i| at(i) < day - self.window);
        let events = members[start..end].iter().map(|&i| &self.log.events[i as usize]);
        let mut values = Vec::with_capacity(6 + self.own.len());
        values.extend(six(events.clone()));
        values.extend(self.own.iter().map(|v| v.value(events.clone(), day)));
        Some(values)
    }

    /// The variables each session's customer had at the start of the day of its first view; none for anonymous visits
    /// and for customers never seen before. Nothing of the session itself, nor of its day, is visible. `check` is called
    /// before every session and may end the work with its error.
    pub fn as_of(&self, sessions: &Sessions, check: &mut dyn FnMut() -> Result<()>) -> Result<AsOf> {
        let all = &sessions.sessions;
        let key = |&i: &u32| (all[i as usize].customer, day_of(all[i as usize].first));
        // A customer's sessions of one day have the same: they are asked for together, and share a row.
        let mut order = memory::collect(0..all.len() as u32)?;
        order.sort_unstable_by_key(key);
        let mut as_of = AsOf { rows: Rows::new(6 + self.own.len()), of: memory::filled(NONE, all.len())? };
        for same in order.chunk_by(|a, b| key(a) == key(b)) {
            let (customer, day) = key(&same[0]);
            let variables = if customer == NONE { None } else { self.variables(customer, day) };
            let row = variables.map_or(NONE, |values| as_of.rows.push(&values));
            for &i in same {
                check()?;
                as_of.of[i as usize] = row;
            }
        }
        Ok(as_of)
    }
}

/// The variables of many sessions, those of one customer on one day kept once.
#[derive(Debug, Default)]
pub struct AsOf {
    rows: Rows,
    /// The row of each session; [`NONE`] where nothing is known.
    of: Vec<u32>,
}

impl AsOf {
    /// The variables of a session's customer.
    pub fn get(&self, session: usize) -> Option<&[f64]> {
        Some(self.of[session]).filter(|r| *r != NONE).map(|r| self.rows.get(r as usize))
    }

    /// Of all sessions, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&[f64]>> {
        (0..self.of.len()).map(|s| self.get(s))
    }
}

/// Parses a variable's expression; the error names the variable.
pub(crate) fn parse(name: &str, expression: &str) -> Result<Expression> {
    Expression::parse(expression).map_err(|why| Error::Expression { variable: name.into(), why })
}

fn six<'a>(events: impl Iterator<Item = &'a Event>) -> [f64; 6] {
    let mut visits: HashMap<Text, (Micros, Micros)> = HashMap::new();
    let mut orders: HashSet<(Text, Text, Micros)> = HashSet::new();
    let (mut spent, mut items, mut searches) = (0.0, 0.0, 0.0);
    for e in events {
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
    [
        spent,
        mean(spent, orders.len()),
        mean(items, orders.len()),
        searches,
        mean(stay as f64 / SECOND as f64, visits.len()),
        visits.len() as f64,
    ]
}

/// Midnight (UTC) of the day that holds `at`.
pub fn day_of(at: Micros) -> Micros {
    at.div_euclid(DAY) * DAY
}
