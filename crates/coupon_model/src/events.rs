//! The typed event stream: what a shop's rows become before anything is computed from them.

use std::collections::HashMap;

/// Microseconds since 2000-01-01 00:00 UTC, as PostgreSQL counts them.
pub type Micros = i64;
pub const SECOND: Micros = 1_000_000;
pub const DAY: Micros = 86_400 * SECOND;

/// How many attribute columns a watched table may name.
pub const MAX_ATTRIBUTES: usize = 8;

/// What happened. The order is that of the funnel; the number is what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    View = 0,
    Search = 1,
    Cart = 2,
    Uncart = 3,
    Checkout = 4,
    Purchase = 5,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::View, Kind::Search, Kind::Cart, Kind::Uncart, Kind::Checkout, Kind::Purchase];

    /// The kinds that are page views to the model; checkout and purchase end a session's model input.
    pub const PAGE: usize = 4;

    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Search => "search",
            Kind::Cart => "cart",
            Kind::Uncart => "uncart",
            Kind::Checkout => "checkout",
            Kind::Purchase => "purchase",
        }
    }

    /// Whether the session is frozen from this event on.
    pub fn ends(self) -> bool {
        matches!(self, Kind::Checkout | Kind::Purchase)
    }
}

/// An interned text; [`NONE`] stands for NULL.
pub type Text = u32;
pub const NONE: Text = u32::MAX;

/// Texts kept once each, numbered in order of first appearance.
#[derive(Debug, Default, Clone)]
pub struct Interner {
    index: HashMap<Box<str>, Text>,
    texts: Vec<Box<str>>,
}

impl Interner {
    pub fn intern(&mut self, text: Option<&str>) -> Text {
        let Some(text) = text else { return NONE };
        if let Some(&i) = self.index.get(text) {
            return i;
        }
        let i = self.texts.len() as Text;
        self.texts.push(text.into());
        self.index.insert(text.into(), i);
        i
    }

    pub fn get(&self, text: Text) -> Option<&str> {
        self.texts.get(text as usize).map(|t| &**t)
    }

    pub fn find(&self, text: &str) -> Option<Text> {
        self.index.get(text).copied()
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

/// One event, its texts interned in the [`Log`] that holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    pub at: Micros,
    pub session: Text,
    pub customer: Text,
    pub kind: Kind,
    pub page: Text,
    pub category: Text,
    pub product: Text,
    pub order: Text,
    /// Units of the product; 1 where the shop does not say.
    pub quantity: f64,
    /// Price of one unit in the shop's currency; NaN where the shop does not say.
    pub price: f64,
    pub attributes: [Text; MAX_ATTRIBUTES],
}

impl Event {
    /// An event with nothing but its time, session and kind.
    pub fn new(at: Micros, session: Text, kind: Kind) -> Event {
        Event {
            at,
            session,
            customer: NONE,
            kind,
            page: NONE,
            category: NONE,
            product: NONE,
            order: NONE,
            quantity: 1.0,
            price: f64::NAN,
            attributes: [NONE; MAX_ATTRIBUTES],
        }
    }

    /// What the event is worth in money: 0 where no finite price is known.
    pub fn amount(&self) -> f64 {
        let amount = self.price * self.quantity;
        if amount.is_finite() { amount } else { 0.0 }
    }
}

/// A whole log, in the total order of `coupon.events`.
#[derive(Debug, Default, Clone)]
pub struct Log {
    pub texts: Interner,
    pub events: Vec<Event>,
}

impl Log {
    pub fn text(&self, text: Text) -> Option<&str> {
        self.texts.get(text)
    }
}
