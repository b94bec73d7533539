//! Events → sessions: which sessions a model may learn from, and what of them it may see.
//!
//! The rules are those of Seo & Yoo (IEEE Access 2022), in the order in which they are applied, each reporting what it
//! removed: open sessions, bots, checkout and after, short sessions, the last three views. The first three hold for
//! everybody; the last two make the population *at the cut*, which is how the papers judge a model.

mod expression;
mod history;
mod loyalty;

pub use expression::{COLUMNS, FUNCTIONS};
pub use history::{Purchases, moments};
pub(crate) use loyalty::parse;
pub use loyalty::{AsOf, Loyalty, day_of};

use crate::Result;
use crate::events::{Event, Log, Micros, NONE, SECOND, Text};
use crate::spec::{self, require};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
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
    /// `session_timeout` before it may still go on, and is left out.
    pub fn build(log: &Log, until: Micros, spec: &Spec) -> Sessions {
        let timeout = (spec.session_timeout * SECOND as f64) as Micros;
        let (owner, unattributed) = owners(log, timeout);
        let groups = group(&owner, log.texts.len());
        let mut report = Report::default();
        let mut out = Sessions { unattributed, ..Sessions::default() };
        for (id, members) in groups.iter() {
            let events = || members.iter().map(|&i| (i, &log.events[i as usize]));
            let page_views = events().filter(|(_, e)| !e.kind.ends()).count();
            report.seen(page_views);
            if events().any(|(_, e)| e.at > until - timeout) {
                report.remove(OPEN, page_views);
                continue;
            }
            if page_views > spec.max_views {
                report.remove(BOT, page_views);
                continue;
            }
            let kept = events().take_while(|(_, e)| !e.kind.ends()).count();
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
            out.sessions.push(Session {
                id,
                customer: first.customer,
                first: first.at,
                purchased: events().any(|(_, e)| e.kind == crate::events::Kind::Purchase),
                views: start..start + kept as u32,
                end: out.events.len() as u32,
            });
        }
        out.sessions.sort_by(|a, b| (a.first, log.text(a.id)).cmp(&(b.first, log.text(b.id))));
        out.rules = report.rows();
        out
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
fn owners(log: &Log, timeout: Micros) -> (Vec<Text>, usize) {
    let mut latest: HashMap<Text, (Text, Micros)> = HashMap::new();
    let mut lost = 0;
    let owner = log.events.iter().map(|e| {
        if e.session != NONE {
            if e.customer != NONE && !e.kind.ends() {
                latest.insert(e.customer, (e.session, e.at));
            }
            return e.session;
        }
        match latest.get(&e.customer) {
            Some(&(session, at)) if e.customer != NONE && e.at - at <= timeout => session,
            _ => {
                lost += usize::from(e.kind == crate::events::Kind::Purchase);
                NONE
            }
        }
    });
    (owner.collect(), lost)
}

/// Positions of events grouped by a text, each group in log order: a counting sort, no map and no list a group.
pub(crate) struct Groups {
    starts: Vec<u32>,
    members: Vec<u32>,
}

pub(crate) fn group(owner: &[Text], texts: usize) -> Groups {
    let mut starts = vec![0u32; texts + 1];
    for &o in owner.iter().filter(|&&o| o != NONE) {
        starts[o as usize + 1] += 1;
    }
    for i in 0..texts {
        starts[i + 1] += starts[i];
    }
    let mut next = starts.clone();
    let mut members = vec![0u32; starts[texts] as usize];
    for (i, &o) in owner.iter().enumerate().filter(|(_, o)| **o != NONE) {
        members[next[o as usize] as usize] = i as u32;
        next[o as usize] += 1;
    }
    Groups { starts, members }
}

impl Groups {
    pub fn of(&self, text: Text) -> &[u32] {
        match self.starts.get(text as usize..text as usize + 2) {
            Some(&[a, b]) => &self.members[a as usize..b as usize],
            _ => &[],
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Text, &[u32])> {
        (0..self.starts.len() as u32 - 1).map(|t| (t, self.of(t))).filter(|(_, m)| !m.is_empty())
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
