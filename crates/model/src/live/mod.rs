//! A running session: what one click changes. The same routine serves the trigger and the rebuilding of a session.

use crate::churn::{self, LANES};
use crate::version::Version;
use coupon_base::error::{Error, Result};
use coupon_events::events::{Kind, MAX_ATTRIBUTES, Micros};
use coupon_rank::SessionCategories;
use std::cmp::Ordering;

/// One event as the shop inserted it; its texts are its own, or borrowed from where they were read.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Click<T = String> {
    pub at: Micros,
    pub session: Option<T>,
    pub customer: Option<T>,
    pub kind: Kind,
    pub page: Option<T>,
    pub category: Option<T>,
    pub product: Option<T>,
    pub quantity: Option<f64>,
    pub price: Option<f64>,
    pub order_id: Option<T>,
    pub zone: Option<T>,
    pub attributes: Vec<Option<T>>,
}

impl<T: AsRef<str>> Click<T> {
    /// The click as a churn model sees it.
    pub fn view(&self, vocabulary: &churn::Vocabulary) -> churn::View {
        let mut attributes = [None; MAX_ATTRIBUTES];
        attributes.iter_mut().zip(&self.attributes).for_each(|(to, text)| *to = borrowed(text));
        let (page, category) = (borrowed(&self.page), borrowed(&self.category));
        vocabulary.view(self.at, self.kind, page, category, self.price, &attributes)
    }

    /// The total order of `coupon.events`: by time, then texts byte by byte, then attributes, then numbers; NULL last.
    /// As PostgreSQL has it, NaN stands above all numbers; no attributes count as NULL.
    pub fn order(&self, other: &Click<T>) -> Ordering {
        let (a, b) = (self, other);
        let text = |a: &Option<T>, b: &Option<T>| null_last(a, b, |a, b| a.as_ref().cmp(b.as_ref()));
        let number = |a: &Option<f64>, b: &Option<f64>| {
            null_last(a, b, |a, b| a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())))
        };
        let attributes = || {
            let (a, b) = (&a.attributes, &b.attributes);
            let first = a.iter().zip(b).map(|(a, b)| text(a, b)).find(|o| o.is_ne());
            a.is_empty().cmp(&b.is_empty()).then(first.unwrap_or(a.len().cmp(&b.len())))
        };
        (a.at.cmp(&b.at))
            .then_with(|| text(&a.session, &b.session))
            .then_with(|| text(&a.customer, &b.customer))
            .then_with(|| a.kind.name().cmp(b.kind.name()))
            .then_with(|| text(&a.page, &b.page))
            .then_with(|| text(&a.category, &b.category))
            .then_with(|| text(&a.product, &b.product))
            .then_with(|| text(&a.order_id, &b.order_id))
            .then_with(|| text(&a.zone, &b.zone))
            .then_with(attributes)
            .then_with(|| number(&a.quantity, &b.quantity))
            .then_with(|| number(&a.price, &b.price))
    }
}

fn borrowed<T: AsRef<str>>(text: &Option<T>) -> Option<&str> {
    text.as_ref().map(T::as_ref)
}

fn null_last<T>(a: &Option<T>, b: &Option<T>, order: impl Fn(&T, &T) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => order(a, b),
        _ => a.is_none().cmp(&b.is_none()),
    }
}

/// What is known of a running session; everything but `memory` has a column of its own.
#[derive(Debug, Clone, Default)]
pub struct LiveSession {
    /// Page views so far.
    pub views: u32,
    /// A checkout or purchase happened.
    pub frozen: bool,
    pub purchased: bool,
    /// P(churn) after the last view.
    pub churn: Option<f64>,
    /// Largest P(purchase) after any view so far.
    pub interest: Option<f64>,
    memory: Option<Memory>,
}

#[derive(Debug, Clone)]
struct Memory {
    /// The segment whose churn model scores: the customer's, or 0 in an arm without segments.
    scoring: u32,
    churn: Option<churn::State>,
    categories: SessionCategories,
}

impl LiveSession {
    /// A session before its first click. Without a version it is only counted.
    pub fn begin(version: Option<&Version>, scoring: u32) -> LiveSession {
        let memory = version.map(|v| Memory {
            scoring,
            churn: v.churn.as_ref().map(|m| m.begin()),
            categories: SessionCategories::default(),
        });
        LiveSession { memory, ..LiveSession::default() }
    }

    /// A session as its columns hold it; [`LiveSession::restore`] puts its memory back.
    pub fn stored(views: u32, frozen: bool, purchased: bool, churn: Option<f64>, interest: Option<f64>) -> LiveSession {
        LiveSession { views, frozen, purchased, churn, interest, memory: None }
    }

    /// Advances by one click. After a checkout or purchase nothing but a purchase is noted.
    pub fn click(&mut self, version: Option<&Version>, click: &Click<impl AsRef<str>>) {
        if let Some((model, view)) = self.see(version, click) {
            self.score(model, &view);
        }
    }

    /// [`LiveSession::click`] of several sessions of one version, each by a click of its own: to the bit the same, in less time
    /// where one segment's model scores them all.
    pub fn apply_lanes<T: AsRef<str>>(version: Option<&Version>, clicks: [(&mut LiveSession, &Click<T>); LANES]) {
        let mut seen = clicks.map(|(visit, click)| {
            let seen = visit.see(version, click);
            (visit, seen)
        });
        let scoring = seen[0].0.scoring();
        let states = seen.each_mut().map(|(visit, seen)| {
            let memory = visit.memory.as_mut().filter(|memory| memory.scoring == scoring)?;
            let (model, view) = seen.as_ref()?;
            Some((*model, memory.churn.as_mut()?, view))
        });
        if let [Some(a), Some(b), Some(c), Some(d)] = states {
            let all = a.0.step_lanes(scoring, [(a.1, a.2), (b.1, b.2), (c.1, c.2), (d.1, d.2)]);
            seen.iter_mut().zip(all).for_each(|((visit, _), churn)| visit.note(churn));
        } else {
            for (visit, seen) in seen {
                if let Some((model, view)) = seen {
                    visit.score(model, &view);
                }
            }
        }
    }

    /// Counts a click in, but for its score: who scores it, and as what.
    fn see<'a>(
        &mut self,
        version: Option<&'a Version>,
        click: &Click<impl AsRef<str>>,
    ) -> Option<(&'a churn::Model, churn::View)> {
        self.purchased |= click.kind == Kind::Purchase;
        self.frozen |= click.kind.ends();
        if self.frozen {
            return None;
        }
        self.views += 1;
        let (version, memory) = (version?, self.memory.as_mut()?);
        if let Some(category) = borrowed(&click.category) {
            version.rank.view(&mut memory.categories, category);
        }
        let model = version.churn.as_ref()?;
        Some((model, click.view(model.vocabulary())))
    }

    fn score(&mut self, model: &churn::Model, view: &churn::View) {
        let Some(memory) = &mut self.memory else { return };
        if let Some(state) = &mut memory.churn {
            let churn = model.step(memory.scoring, state, view);
            self.note(churn);
        }
    }

    fn note(&mut self, churn: f64) {
        self.churn = Some(churn);
        self.interest = Some(self.interest.unwrap_or(0.0).max(1.0 - churn));
    }

    /// What the session has looked at; empty without a version.
    pub fn categories(&self) -> SessionCategories {
        self.memory.as_ref().map(|m| m.categories.clone()).unwrap_or_default()
    }

    /// Whether the pooled model scores although the session has a segment.
    pub fn scoring(&self) -> u32 {
        self.memory.as_ref().map_or(0, |m| m.scoring)
    }

    /// The memory between two clicks: segment, length of the churn state, churn state, categories; little-endian.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let memory = self.memory.as_ref()?;
        let churn = memory.churn.as_ref().map(|s| s.to_bytes()).unwrap_or_default();
        let mut out = Vec::with_capacity(8 + churn.len() + 256);
        out.extend(memory.scoring.to_le_bytes());
        out.extend((churn.len() as u32).to_le_bytes());
        out.extend(churn);
        out.extend(memory.categories.to_bytes());
        Some(out)
    }

    /// Puts back what [`LiveSession::to_bytes`] gave.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that this version's model cannot have written.
    pub fn restore(&mut self, version: &Version, bytes: &[u8]) -> Result<()> {
        let corrupt = || Error::Corrupt("a session's state".into());
        let (scoring, rest) = bytes.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let (churn, categories) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(corrupt)?;
        let categories = SessionCategories::from_bytes(categories)?;
        let candidates = version.rank.categories.len();
        if version.churn.is_none() && !churn.is_empty() || categories.weights().any(|(c, _)| c as usize >= candidates) {
            return Err(corrupt());
        }
        let churn = version.churn.as_ref().map(|m| m.resume(churn)).transpose()?;
        self.memory = Some(Memory { scoring: u32::from_le_bytes(*scoring), churn, categories });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
