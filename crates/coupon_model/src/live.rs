//! A running session: what one click changes. The same routine serves the trigger and the rebuilding of a session.

use crate::churn;
use crate::error::{Error, Result};
use crate::events::{Kind, Micros};
use crate::rank::SessionCategories;
use crate::version::Version;
use std::cmp::Ordering;

/// One event as the shop inserted it.
#[derive(Debug, Clone, PartialEq)]
pub struct Click {
    pub at: Micros,
    pub session: Option<String>,
    pub customer: Option<String>,
    pub kind: Kind,
    pub page: Option<String>,
    pub category: Option<String>,
    pub product: Option<String>,
    pub quantity: Option<f64>,
    pub price: Option<f64>,
    pub order_id: Option<String>,
    pub zone: Option<String>,
    pub attributes: Vec<Option<String>>,
}

impl Click {
    /// The total order of `coupon.events`: by time, then texts byte by byte, NULL last, then numbers.
    pub fn order(&self, other: &Click) -> Ordering {
        fn key(c: &Click) -> [&Option<String>; 7] {
            [&c.page, &c.category, &c.product, &c.order_id, &c.zone, &c.session, &c.customer]
        }
        fn last<T: PartialOrd>(a: &Option<T>, b: &Option<T>) -> Ordering {
            match (a, b) {
                (Some(a), Some(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
                (a, b) => a.is_none().cmp(&b.is_none()),
            }
        }
        let [page, category, product, order, zone, session, customer] = key(self);
        let [page_, category_, product_, order_, zone_, session_, customer_] = key(other);
        let attributes = || {
            let pairs = self.attributes.iter().zip(&other.attributes);
            let first = pairs.map(|(a, b)| last(a, b)).find(|o| *o != Ordering::Equal);
            first.unwrap_or(self.attributes.len().cmp(&other.attributes.len()))
        };
        (self.at.cmp(&other.at))
            .then_with(|| last(session, session_))
            .then_with(|| last(customer, customer_))
            .then_with(|| self.kind.name().cmp(other.kind.name()))
            .then_with(|| last(page, page_))
            .then_with(|| last(category, category_))
            .then_with(|| last(product, product_))
            .then_with(|| last(order, order_))
            .then_with(|| last(zone, zone_))
            .then_with(attributes)
            .then_with(|| last(&self.quantity, &other.quantity))
            .then_with(|| last(&self.price, &other.price))
    }
}

/// What is known of a running session; everything but `memory` has a column of its own.
#[derive(Debug, Clone, Default)]
pub struct Visit {
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

impl Visit {
    /// A session before its first click. Without a version it is only counted.
    pub fn begin(version: Option<&Version>, scoring: u32) -> Visit {
        let memory = version.map(|v| Memory {
            scoring,
            churn: v.churn.as_ref().map(|m| m.begin()),
            categories: SessionCategories::default(),
        });
        Visit { memory, ..Visit::default() }
    }

    /// A session as its columns hold it; [`Visit::remember`] puts its memory back.
    pub fn stored(views: u32, frozen: bool, purchased: bool, churn: Option<f64>, interest: Option<f64>) -> Visit {
        Visit { views, frozen, purchased, churn, interest, memory: None }
    }

    /// Advances by one click. After a checkout or purchase nothing but a purchase is noted.
    pub fn click(&mut self, version: Option<&Version>, click: &Click) {
        self.purchased |= click.kind == Kind::Purchase;
        self.frozen |= click.kind.ends();
        if self.frozen {
            return;
        }
        self.views += 1;
        let (Some(version), Some(memory)) = (version, &mut self.memory) else { return };
        if let Some(category) = click.category.as_deref().and_then(|c| version.rank.index(c)) {
            version.rank.session_push(&mut memory.categories, category);
        }
        if let (Some(model), Some(state)) = (&version.churn, &mut memory.churn) {
            let attributes: Vec<Option<&str>> = click.attributes.iter().map(Option::as_deref).collect();
            let (page, category) = (click.page.as_deref(), click.category.as_deref());
            let view = model.vocabulary().view(click.at, click.kind, page, category, click.price, &attributes);
            let churn = model.step(memory.scoring, state, &view);
            self.churn = Some(churn);
            self.interest = Some(self.interest.unwrap_or(0.0).max(1.0 - churn));
        }
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

    /// Puts back what [`Visit::to_bytes`] gave.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that this version's model cannot have written.
    pub fn remember(&mut self, version: &Version, bytes: &[u8]) -> Result<()> {
        let corrupt = || Error::Corrupt("a session's state".into());
        let (scoring, rest) = bytes.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let (churn, categories) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(corrupt)?;
        self.memory = Some(Memory {
            scoring: u32::from_le_bytes(*scoring),
            churn: version.churn.as_ref().map(|m| m.resume(churn)).transpose()?,
            categories: SessionCategories::from_bytes(categories)?,
        });
        Ok(())
    }
}
