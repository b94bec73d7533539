//! Many stored sessions: rows in order of session and time → sessions → probabilities, a bounded stretch at a time.

use std::collections::BTreeMap;
use std::ops::Range;

use super::scorer::Scorer;
use super::{Model, View};
use coupon_base::Result;
use coupon_events::events::{Kind, Micros};

/// What scoring side by side needs room for: some megabytes, which are worth keeping from queue to queue.
#[derive(Debug, Default)]
pub struct Buffers(pub(super) Scorer);

/// Views that are scored side by side: some milliseconds, some megabytes.
pub const BATCH_SESSIONS: usize = 4096;

/// A session whose views are complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Queued {
    pub session: String,
    /// As known at the first view; `None` for an anonymous visit.
    pub customer: Option<String>,
    /// Time of the first view.
    pub first: Micros,
    /// Whose model scores; 0 until it is looked up.
    pub segment: u32,
    views: Range<usize>,
}

/// Complete sessions and their views, one after another.
#[derive(Debug, Default)]
pub struct Queue {
    pub sessions: Vec<Queued>,
    views: Vec<View>,
}

/// What a session's views say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub views: usize,
    /// P(churn) after the last view.
    pub churn: f64,
    /// Largest P(purchase) after any view.
    pub interest: f64,
}

impl Queue {
    pub fn views(&self) -> usize {
        self.views.len()
    }

    /// Scores every session, those of a segment side by side: what serves live, to rounding. `check` is called every few
    /// thousand views and may end the work with its error.
    pub fn score(
        &self,
        model: &Model,
        room: &mut Buffers,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Scored>> {
        let mut scored = vec![Scored { views: 0, churn: f64::NAN, interest: 0.0 }; self.sessions.len()];
        let mut segments: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, queued) in self.sessions.iter().enumerate() {
            segments.entry(queued.segment).or_default().push(i);
        }
        for (segment, mut sessions) in segments {
            // Of like length, so that the steps are of many rows.
            sessions.sort_by_key(|&i| self.sessions[i].views.len());
            let mut rest = &sessions[..];
            while let Some(&longest) = rest.last() {
                check()?;
                let length = self.sessions[longest].views.len();
                let some = (BATCH_SESSIONS / length).clamp(1, rest.len());
                let (before, group) = rest.split_at(rest.len() - some);
                rest = before;
                let views: Vec<&[View]> = group.iter().map(|&i| &self.views[self.sessions[i].views.clone()]).collect();
                let mut note = |i: usize, churn: f64| {
                    let to = &mut scored[group[i]];
                    *to = Scored { views: to.views + 1, churn, interest: to.interest.max(1.0 - churn) };
                };
                if length > BATCH_SESSIONS {
                    // Side by side it would take kilobytes a view.
                    let mut state = model.begin();
                    for (t, view) in views[0].iter().enumerate() {
                        if t % BATCH_SESSIONS == 0 {
                            check()?;
                        }
                        note(0, model.step(segment, &mut state, view));
                    }
                } else {
                    model.score_beside(segment, &views, &mut room.0, note);
                }
            }
        }
        Ok(scored)
    }
}

/// Cuts rows that come in order of session and time into sessions. Only the open session is held.
#[derive(Debug)]
pub struct Stream {
    window: Range<Micros>,
    session: Option<String>,
    customer: Option<String>,
    first: Micros,
    /// A checkout or purchase happened, or the first view lies outside the window: nothing more is wanted.
    over: bool,
    views: Vec<View>,
    full: Queue,
}

impl Stream {
    /// Of sessions whose first view lies in the half-open `window`.
    pub fn new(window: Range<Micros>) -> Stream {
        Stream {
            window,
            session: None,
            customer: None,
            first: 0,
            over: false,
            views: Vec::new(),
            full: Queue::default(),
        }
    }

    /// The next row. Whether its view is wanted, to be given by [`Stream::view`].
    pub fn row(&mut self, session: &str, customer: Option<&str>, at: Micros, kind: Kind) -> bool {
        if self.session.as_deref() != Some(session) {
            self.close();
            self.session = Some(session.to_string());
            self.over = false;
        }
        self.over |= kind.ends();
        if !self.over && self.views.is_empty() {
            self.over = !self.window.contains(&at);
            self.first = at;
            self.customer = customer.map(str::to_string);
        }
        !self.over
    }

    pub fn view(&mut self, view: View) {
        self.views.push(view);
    }

    /// Bytes the open session may take: its views, in a list that has doubled just now, and once more when it is closed.
    pub fn bytes(&self) -> usize {
        3 * self.views.len() * size_of::<View>()
    }

    /// The sessions that are complete so far.
    pub fn take(&mut self) -> Queue {
        std::mem::take(&mut self.full)
    }

    /// How many views the complete sessions have.
    pub fn ready(&self) -> usize {
        self.full.views.len()
    }

    /// No row follows: the open session is complete.
    pub fn close(&mut self) {
        let session = self.session.take();
        if let Some(session) = session.filter(|_| !self.views.is_empty()) {
            let start = self.full.views.len();
            self.full.views.append(&mut self.views);
            self.full.sessions.push(Queued {
                session,
                customer: self.customer.take(),
                first: self.first,
                segment: 0,
                views: start..self.full.views.len(),
            });
        }
    }
}
