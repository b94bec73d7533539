//! Many stored sessions: rows in order of session and time → sessions → probabilities, a bounded stretch at a time.

use std::ops::Range;

use super::{Model, View};
use crate::Result;
use crate::events::{Kind, Micros};

/// Steps between two looks at whether to go on: about a millisecond.
const STEPS: usize = 1024;

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

    /// Scores every session from its start, by the step that serves live. `check` is called every few steps and may end
    /// the work with its error.
    pub fn score(&self, model: &Model, check: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Scored>> {
        let mut steps = 0;
        let mut score = |queued: &Queued| {
            let mut state = model.begin();
            let (mut churn, mut interest) = (f64::NAN, 0.0f64);
            for view in &self.views[queued.views.clone()] {
                if steps % STEPS == 0 {
                    check()?;
                }
                steps += 1;
                churn = model.step(queued.segment, &mut state, view);
                interest = interest.max(1.0 - churn);
            }
            Ok(Scored { views: queued.views.len(), churn, interest })
        };
        self.sessions.iter().map(&mut score).collect()
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
