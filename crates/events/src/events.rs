//! The typed event stream: what a shop's rows become before anything is computed from them.

use coupon_base::Error;
use coupon_base::Result;
use coupon_base::memory;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

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

    /// As shops name them: ours, and those of Google Analytics 4.
    pub fn of_shop(name: &str) -> Option<Kind> {
        match name {
            "page_view" | "view_item" | "view_item_list" => Some(Kind::View),
            "view_search_results" => Some(Kind::Search),
            "add_to_cart" => Some(Kind::Cart),
            "remove_from_cart" => Some(Kind::Uncart),
            "begin_checkout" => Some(Kind::Checkout),
            _ => Kind::parse(name),
        }
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
    index: HashTable<Text>,
    /// Keyed: texts come from visitors, who must not be able to choose ones that collide.
    hasher: RandomState,
    /// All texts, one after the other.
    texts: String,
    ends: Vec<usize>,
}

impl Interner {
    /// # Errors
    /// [`Error::OutOfMemory`] where there is no memory for one more.
    pub fn intern(&mut self, text: Option<&str>) -> Result<Text> {
        let Some(text) = text else { return Ok(NONE) };
        if let Some(found) = self.find(text) {
            return Ok(found);
        }
        memory::grow_text(&mut self.texts, text.len())?;
        memory::grow(&mut self.ends, 1)?;
        let Interner { index, hasher, texts, ends } = self;
        grow_index(index, |&n| hasher.hash_one(&texts[span(ends, n)]))?;
        let number = ends.len() as Text;
        texts.push_str(text);
        ends.push(texts.len());
        index.insert_unique(hasher.hash_one(text), number, |&n| hasher.hash_one(&texts[span(ends, n)]));
        Ok(number)
    }

    pub fn get(&self, text: Text) -> Option<&str> {
        ((text as usize) < self.ends.len()).then(|| &self.texts[span(&self.ends, text)])
    }

    pub fn find(&self, text: &str) -> Option<Text> {
        let same = |&n: &Text| &self.texts[span(&self.ends, n)] == text;
        self.index.find(self.hasher.hash_one(text), same).copied()
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.texts.capacity() + self.ends.capacity() * size_of::<usize>() + index_bytes(&self.index)
    }
}

fn span(ends: &[usize], n: Text) -> Range<usize> {
    let n = n as usize;
    let start = if n == 0 { 0 } else { ends[n - 1] };
    start..ends[n]
}

/// Room for one more.
fn grow_index(index: &mut HashTable<u32>, hash: impl Fn(&u32) -> u64) -> Result<()> {
    let bytes = 2 * index_bytes(index);
    index.try_reserve(1, hash).map_err(|_| Error::OutOfMemory { bytes })
}

/// A slot is a number and a byte of its hash, and seven of eight may be used.
fn index_bytes(index: &HashTable<u32>) -> usize {
    index.capacity() / 7 * 8 * 5
}

/// The values of an event's attribute columns, interned; [`NONE`] where there are fewer.
pub type Attributes = [Text; MAX_ATTRIBUTES];

/// Combinations of attributes kept once each: few visits have one of their own.
#[derive(Debug, Default, Clone)]
struct Combinations {
    index: HashTable<u32>,
    hasher: RandomState,
    rows: Vec<Attributes>,
}

impl Combinations {
    fn intern(&mut self, attributes: &Attributes) -> Result<u32> {
        let Combinations { index, hasher, rows } = self;
        let hash = hasher.hash_one(attributes);
        if let Some(&found) = index.find(hash, |&n| rows[n as usize] == *attributes) {
            return Ok(found);
        }
        memory::grow(rows, 1)?;
        grow_index(index, |&n| hasher.hash_one(rows[n as usize]))?;
        let number = rows.len() as u32;
        rows.push(*attributes);
        index.insert_unique(hash, number, |&n| hasher.hash_one(rows[n as usize]));
        Ok(number)
    }

    fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Attributes>() + index_bytes(&self.index)
    }
}

/// One event, its texts interned in the [`Log`] that holds it: 56 bytes, and training's memory is mostly these.
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
    /// Which combination of attributes; [`Log::attributes`] tells. [`NONE`] where all are NULL.
    pub attributes: u32,
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
            attributes: NONE,
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
    combinations: Combinations,
}

impl Log {
    /// Appends an event with the values of its attribute columns.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where there is no memory for one more.
    pub fn push(&mut self, event: Event, attributes: &Attributes) -> Result<()> {
        let none = attributes.iter().all(|a| *a == NONE);
        let attributes = if none { NONE } else { self.combinations.intern(attributes)? };
        memory::grow(&mut self.events, 1)?;
        self.events.push(Event { attributes, ..event });
        Ok(())
    }

    pub fn text(&self, text: Text) -> Option<&str> {
        self.texts.get(text)
    }

    /// The values of an event's attribute columns.
    pub fn attributes(&self, event: &Event) -> Attributes {
        self.combinations.rows.get(event.attributes as usize).copied().unwrap_or([NONE; MAX_ATTRIBUTES])
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.events.capacity() * size_of::<Event>() + self.texts.bytes() + self.combinations.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_once_and_found_again() {
        let mut texts = Interner::default();
        let word = |i: u32| format!("{}{i}", "ü".repeat(i as usize % 3));
        for i in (0..10_000).chain(0..10_000) {
            assert_eq!(texts.intern(Some(&word(i))), Ok(i));
        }
        assert_eq!((texts.len(), texts.intern(None), texts.intern(Some(""))), (10_000, Ok(NONE), Ok(10_000)));
        for i in 0..10_000 {
            assert_eq!((texts.get(i), texts.find(&word(i))), (Some(&*word(i)), Some(i)));
        }
        assert_eq!((texts.get(10_000), texts.get(10_001), texts.get(NONE)), (Some(""), None, None));
        assert_eq!(texts.find("never"), None);
    }

    #[test]
    fn an_event_keeps_its_attributes() {
        let mut log = Log::default();
        let attributes = |i: u32| std::array::from_fn(|n| if n < 2 { i % 7 + n as u32 } else { NONE });
        for i in 0..1_000 {
            log.push(Event::new(0, i, Kind::View), &attributes(i)).unwrap();
            log.push(Event::new(0, i, Kind::View), &[NONE; MAX_ATTRIBUTES]).unwrap();
        }
        for (i, pair) in (0..).zip(log.events.chunks(2)) {
            assert_eq!([log.attributes(&pair[0]), log.attributes(&pair[1])], [attributes(i), [NONE; MAX_ATTRIBUTES]]);
        }
        assert_eq!((log.combinations.rows.len(), size_of::<Event>()), (7, 56));
    }
}
