//! Events → sessions: which sessions a model may learn from, and what of them it may see.
//!
//! The rules are those of Seo & Yoo (IEEE Access 2022), in the order in which they are applied, each reporting what it
//! removed: open sessions, bots, checkout and after, short sessions, the last three views. The first three hold for
//! everybody; the last two make the population *at the cut*, which is how the papers judge a model.

mod definition;
mod expression;
mod history;
mod loyalty;

pub use definition::{Definition, MOST_VARIABLES, Own, Rows, SIX, check_name};
pub use expression::{COLUMNS, FUNCTIONS};
pub use history::{Purchases, moments};
pub(crate) use loyalty::parse;
pub use loyalty::{AsOf, Loyalty, day_of};

use crate::events::{Event, Kind, Log, Micros, NONE, SECOND, Text};
use crate::spec::{self, require};
use crate::{Result, memory};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::Range;

/// How sessions are made from events. Defaults: `models/sessions.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// A session with more page views than this is a bot's.
    pub max_views: usize,
    /// A session with at most this many page views is short.
    pub short_views: usize,
    /// How many of a session's last views the cut hides: a live classifier sees an incomplete session.
    pub drop_last: usize,
    /// Seconds of silence after which a session is closed.
    pub session_timeout: f64,
    /// Shares of the fit, tune and judge windows, in time order.
    pub windows: [f64; 3],
    /// Days over which the loyalty variables look back.
    pub window_days: u32,
}

impl Spec {
    /// The defaults, overridden by the keys of a JSON object (or null), and validated.
    pub fn read(overrides: &Value) -> Result<Spec> {
        let spec: Spec = spec::read(include_str!("../../../../models/sessions.json"), overrides)?;
        spec.validate().map(|()| spec)
    }

    /// Refuses values out of range with [`Error::Spec`](crate::Error::Spec).
    pub fn validate(&self) -> Result<()> {
        require(self.max_views >= 1, "max_views", "at least 1")?;
        require(self.session_timeout > 0.0 && self.session_timeout < 1e9, "session_timeout", "above 0 and below 1e9")?;
        require(self.windows.iter().all(|w| *w > 0.0), "windows", "three shares above 0")?;
        require((self.windows.iter().sum::<f64>() - 1.0).abs() < 1e-9, "windows", "three shares that add up to 1")?;
        require((1..=366).contains(&self.window_days), "window_days", "from 1 to 366")
    }
}

impl Default for Spec {
    fn default() -> Spec {
        Spec::read(&Value::Null).expect("models/sessions.json is valid: a test reads it")
    }
}

/// One closed session, ready for a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub id: Text,
    /// The customer known at the first view; [`NONE`] for an anonymous visit, whatever is learned later.
    pub customer: Text,
    /// Time of the first page view.
    pub first: Micros,
    /// Whether the session holds a purchase; churn is its opposite.
    pub purchased: bool,
    views: Range<u32>,
    /// Where all of its events end; what lies behind the views is the checkout and after.
    end: u32,
}

impl Session {
    /// Number of page views before the first checkout or purchase; at least 1.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }
}

/// What one rule removed and what it left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub rule: String,
    pub sessions_removed: usize,
    pub views_removed: usize,
    pub sessions_left: usize,
    pub views_left: usize,
}

/// The closed sessions of a log, ordered by first view, then id.
#[derive(Debug, Default, Clone)]
pub struct Sessions {
    pub sessions: Vec<Session>,
    /// Positions in `log.events` of every session's events, its page views first: they end at a checkout or purchase.
    events: Vec<u32>,
    pub rules: Vec<Rule>,
    /// Purchases that belong to no session: nobody was looking.
    pub unattributed: usize,
}

impl Sessions {
    /// Groups a log's events by session and applies the rules. `until` closes the log: what happened in the last
    /// `session_timeout` before it may still go on, and is left out. `check` is called every few thousand events and may
    /// end the work with its error.
    pub fn build(log: &Log, until: Micros, spec: &Spec, check: &mut dyn FnMut() -> Result<()>) -> Result<Sessions> {
        let timeout = (spec.session_timeout * SECOND as f64) as Micros;
        let (owner, unattributed) = owners(log, timeout, check)?;
        check()?;
        let groups = group(&owner, log.texts.len());
        drop(owner);
        check()?;
        let mut report = Report::default();
        let mut out = Sessions { unattributed, ..Sessions::default() };
        memory::grow(&mut out.events, groups.members.len())?;
        for (n, (id, members)) in groups.iter().enumerate() {
            pause(n, check)?;
            let events = || members.iter().map(|&i| &log.events[i as usize]);
            let page_views = events().filter(|e| !e.kind.ends()).count();
            report.seen(page_views);
            if events().any(|e| e.at > until - timeout) {
                report.remove(OPEN, page_views);
                continue;
            }
            if page_views > spec.max_views {
                report.remove(BOT, page_views);
                continue;
            }
            let kept = events().take_while(|e| !e.kind.ends()).count();
            report.trim(CHECKOUT, page_views - kept);
            if kept == 0 {
                report.drop(CHECKOUT);
                continue;
            }
            if kept <= spec.short_views {
                report.remove(SHORT, kept);
            } else {
                report.trim(LAST, spec.drop_last.min(kept));
            }
            let first = &log.events[members[0] as usize];
            let start = out.events.len() as u32;
            out.events.extend_from_slice(members);
            memory::grow(&mut out.sessions, 1)?;
            out.sessions.push(Session {
                id,
                customer: first.customer,
                first: first.at,
                purchased: events().any(|e| e.kind == Kind::Purchase),
                views: start..start + kept as u32,
                end: out.events.len() as u32,
            });
        }
        check()?;
        // No two sessions are equal, so an unstable sort, which needs no memory, gives the same.
        out.sessions.sort_unstable_by(|a, b| (a.first, log.text(a.id)).cmp(&(b.first, log.text(b.id))));
        out.rules = report.rows();
        Ok(out)
    }

    /// The page views of a session, up to (excluding) its first checkout or purchase.
    pub fn views<'a>(&'a self, log: &'a Log, session: &Session) -> impl ExactSizeIterator<Item = &'a Event> {
        self.positions(session).iter().map(|&i| &log.events[i as usize])
    }

    /// Where those views stand in `log.events`.
    pub fn positions(&self, session: &Session) -> &[u32] {
        &self.events[session.views.start as usize..session.views.end as usize]
    }

    /// Where all of the session's events stand, from its first view on.
    pub fn all_positions(&self, session: &Session) -> &[u32] {
        &self.events[session.views.start as usize..session.end as usize]
    }

    pub fn view_count(&self) -> usize {
        self.sessions.iter().map(Session::len).sum()
    }

    pub fn buyers(&self) -> usize {
        self.sessions.iter().filter(|s| s.purchased).count()
    }

    /// Fit, tune and judge as ranges of `sessions`, in time order. A tie on the border goes to the later window.
    pub fn windows(&self, spec: &Spec) -> [Range<usize>; 3] {
        let n = self.sessions.len();
        let border = |share: f64| {
            let mut i = (n as f64 * share).round() as usize;
            while i > 0 && i < n && self.sessions[i - 1].first == self.sessions[i].first {
                i -= 1;
            }
            i.min(n)
        };
        let fit = border(spec.windows[0]);
        let tune = border(spec.windows[0] + spec.windows[1]).max(fit);
        [0..fit, fit..tune, tune..n]
    }
}

/// The session each event belongs to. A purchase that knows only its customer goes to that customer's latest session
/// with a view at or before it and within the timeout; the second value counts those that found none.
fn owners(log: &Log, timeout: Micros, check: &mut dyn FnMut() -> Result<()>) -> Result<(Vec<Text>, usize)> {
    // Of each text that is a customer; only a log with purchases that know no session asks.
    let asks = log.events.iter().any(|e| e.session == NONE);
    let mut latest = memory::filled((NONE, 0), if asks { log.texts.len() } else { 0 })?;
    let mut owner = memory::room(log.events.len())?;
    let mut lost = 0;
    for (n, e) in log.events.iter().enumerate() {
        pause(n, check)?;
        let customer = latest.get_mut(e.customer as usize);
        owner.push(match (e.session, customer) {
            (NONE, Some(&mut (session, at))) if session != NONE && e.at - at <= timeout => session,
            (NONE, _) => {
                lost += usize::from(e.kind == Kind::Purchase);
                NONE
            }
            (session, customer) => {
                if let Some(latest) = customer.filter(|_| !e.kind.ends()) {
                    *latest = (session, e.at);
                }
                session
            }
        });
    }
    Ok((owner, lost))
}

/// Asks now and then whether to go on: an event takes some ten nanoseconds.
pub(crate) fn pause(n: usize, check: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    if n.is_multiple_of(4096) { check() } else { Ok(()) }
}

/// Positions of events grouped by a text, each group in log order: a counting sort, no map and no list a group.
pub(crate) struct Groups {
    ends: Vec<u32>,
    members: Vec<u32>,
}

/// `owner` is each event's text, all below `texts`, or [`NONE`].
pub(crate) fn group(owner: &[Text], texts: usize) -> Groups {
    let mut ends = vec![0u32; texts];
    for &o in owner.iter().filter(|&&o| o != NONE) {
        ends[o as usize] += 1;
    }
    let mut start = 0;
    for end in &mut ends {
        (*end, start) = (start, start + *end);
    }
    // Each group's start moves on as it fills, to where the group ends.
    let mut members = vec![0u32; start as usize];
    for (i, &o) in owner.iter().enumerate().filter(|(_, o)| **o != NONE) {
        let end = &mut ends[o as usize];
        members[*end as usize] = i as u32;
        *end += 1;
    }
    Groups { ends, members }
}

impl Groups {
    pub fn of(&self, text: Text) -> &[u32] {
        let text = text as usize;
        match self.ends.get(text) {
            Some(&end) => &self.members[if text == 0 { 0 } else { self.ends[text - 1] as usize }..end as usize],
            None => &[],
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Text, &[u32])> {
        (0..self.ends.len() as u32).map(|t| (t, self.of(t))).filter(|(_, m)| !m.is_empty())
    }
}

const OPEN: usize = 0;
const BOT: usize = 1;
const CHECKOUT: usize = 2;
const SHORT: usize = 3;
const LAST: usize = 4;
const RULES: [&str; 5] =
    ["open session", "more page views than a person", "checkout and after", "short session", "last views"];

#[derive(Default)]
struct Report {
    sessions: usize,
    views: usize,
    removed: [(usize, usize); RULES.len()],
}

impl Report {
    fn seen(&mut self, views: usize) {
        self.sessions += 1;
        self.views += views;
    }

    fn remove(&mut self, rule: usize, views: usize) {
        self.removed[rule].0 += 1;
        self.removed[rule].1 += views;
    }

    fn drop(&mut self, rule: usize) {
        self.removed[rule].0 += 1;
    }

    fn trim(&mut self, rule: usize, views: usize) {
        self.removed[rule].1 += views;
    }

    fn rows(&self) -> Vec<Rule> {
        let (mut sessions_left, mut views_left) = (self.sessions, self.views);
        let removed = RULES.iter().zip(self.removed);
        let row = |(rule, (sessions, views)): (&&str, (usize, usize))| {
            sessions_left -= sessions;
            views_left -= views;
            Rule { rule: rule.to_string(), sessions_removed: sessions, views_removed: views, sessions_left, views_left }
        };
        removed.map(row).collect()
    }
}

#[cfg(test)]
mod tests;
