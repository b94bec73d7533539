//! From views to numbers: what the network is told at each view, using that view and earlier ones only.
//!
//! A view's input vector is mostly zeros, so it is a list of (index, value). The running counters it needs are part of a
//! live session's state.

use super::math::ln_1p;
use super::simd;
use super::{Features, View, Vocabulary};
use coupon_events::events::{Kind, MAX_ATTRIBUTES, Micros, SECOND};

/// Upper edges of the gap's buckets, in seconds; one bucket more lies above them.
pub(super) const GAPS: [f32; 9] = [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Recency falls by e in three views, e^(-1/3) a view, and is dropped 15 views later.
pub(super) const RECENCY_DECAY: f32 = 0.716_531_3;
const FORGOTTEN: f32 = 0.0067;

/// Slots at most: kinds, pages and the unknown page.
const SLOTS: usize = Kind::PAGE + 257;

/// Where each input stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    rich: bool,
    pub(super) pages: usize,
    pub(super) categories: usize,
    pub(super) attributes: [usize; MAX_ATTRIBUTES],
}

/// Inputs of a one-hot word: none where nothing is known, else one for "unknown" and one a known text.
fn words(known: usize) -> usize {
    if known == 0 { 0 } else { known + 1 }
}

impl Layout {
    /// `pages`, `categories` and `attributes` count known texts.
    pub fn new(inputs: Features, pages: usize, categories: usize, attributes: &[usize]) -> Layout {
        let mut columns = [0; MAX_ATTRIBUTES];
        for (column, &known) in columns.iter_mut().zip(attributes) {
            *column = words(known);
        }
        Layout {
            rich: inputs == Features::Rich,
            pages: words(pages),
            categories: words(categories),
            attributes: columns,
        }
    }

    pub(super) fn rich(&self) -> bool {
        self.rich
    }

    /// What the counters are kept for: a kind of view, or a page.
    pub(super) fn slots(&self) -> usize {
        Kind::PAGE + self.pages
    }

    /// Length of the input vector.
    pub fn inputs(&self) -> usize {
        let plain = Kind::PAGE + self.pages + self.categories + self.attributes.iter().sum::<usize>() + 4;
        let rich = Kind::PAGE + self.pages + GAPS.len() + 1 + 3 * self.slots() + 3;
        plain + if self.rich { rich } else { 0 }
    }

    /// Numbers a session must remember: count, recency and dwell a slot, count a category.
    pub fn counters(&self) -> usize {
        if self.rich { 3 * self.slots() + self.categories } else { 0 }
    }

    /// The most entries one view can have.
    pub fn entries(&self) -> usize {
        2 * (3 + self.attributes.len()) + 8 + if self.rich { 3 * self.slots() + 6 } else { 0 }
    }
}

/// Where each input of a layout stood in an older one: words by their text, new words where "unknown" stood; `None` for
/// counters of words the older one did not count. `None` altogether where one layout is rich and the other is not.
pub fn correspond(new: (&Layout, &Vocabulary), old: (&Layout, &Vocabulary)) -> Option<Vec<Option<usize>>> {
    let mut map = Map { all: Vec::with_capacity(new.0.inputs()), base: 0 };
    let pages = ((new.0.pages, &*new.1.pages), (old.0.pages, &*old.1.pages));
    map.numbers(Kind::PAGE);
    map.words(pages, true);
    map.words(((new.0.categories, &new.1.categories), (old.0.categories, &old.1.categories)), true);
    for column in 0..MAX_ATTRIBUTES {
        let of = |v: &'_ Vocabulary| v.attributes.get(column).cloned().unwrap_or_default();
        map.words(((new.0.attributes[column], &of(new.1)), (old.0.attributes[column], &of(old.1))), true);
    }
    map.numbers(4);
    if new.0.rich {
        map.numbers(Kind::PAGE);
        map.words(pages, true);
        map.numbers(GAPS.len() + 1);
        for _counter in 0..3 {
            map.numbers(Kind::PAGE);
            map.words(pages, false);
        }
        map.numbers(3);
    }
    (new.0.rich == old.0.rich).then_some(map.all)
}

/// What [`correspond`] has written so far, and where it stands in the older layout.
struct Map {
    all: Vec<Option<usize>>,
    base: usize,
}

/// Inputs of a block of words, and the known words.
type Block<'a> = (usize, &'a [String]);

impl Map {
    fn numbers(&mut self, n: usize) {
        self.all.extend((self.base..self.base + n).map(Some));
        self.base += n;
    }

    /// `stand_in`: a word the older layout did not know takes what "unknown", the first, had.
    fn words(&mut self, ((width, known), (old_width, old_known)): (Block, Block), stand_in: bool) {
        let unknown = (old_width > 0).then_some(self.base);
        let place = |word: &String| match old_known.iter().position(|old| old == word) {
            Some(at) => unknown.map(|u| u + 1 + at),
            None => unknown.filter(|_| stand_in),
        };
        self.all.extend((0..width).map(|slot| slot.checked_sub(1).map_or(unknown, |i| place(&known[i]))));
        self.base += old_width;
    }
}

/// A session as far as its inputs need it.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureState {
    views: u32,
    first: Micros,
    /// The latest time seen, so that a clock running backwards counts as standing still.
    last: Micros,
    kind: u16,
    page: u16,
    counters: Vec<f32>,
}

impl FeatureState {
    /// Bytes before the counters.
    pub const HEADER: usize = 4 + 8 + 8 + 2 + 2;

    /// A session before its first view.
    pub fn new(layout: &Layout) -> FeatureState {
        FeatureState { views: 0, first: 0, last: 0, kind: 0, page: 0, counters: vec![0.0; layout.counters()] }
    }

    /// Before the first view again, of another session.
    pub fn reset(&mut self) {
        (self.views, self.first, self.last, self.kind, self.page) = (0, 0, 0, 0, 0);
        self.counters.fill(0.0);
    }

    /// How many views the session has had.
    pub fn views(&self) -> u32 {
        self.views
    }

    /// Counts the view in and writes its inputs to `out`, cleared first, in rising order of index.
    pub fn advance(&mut self, layout: &Layout, view: &View, out: &mut Vec<(u32, f32)>) {
        out.clear();
        if self.views == 0 {
            (self.first, self.last) = (view.at, view.at);
        }
        let now = self.last.max(view.at);
        let gap = seconds(now, self.last);
        let elapsed = seconds(now, self.first);
        let first = self.views == 0;
        self.last = now;
        self.views = self.views.saturating_add(1);
        let number = (self.views as f32).ln();

        let kind = (view.kind as usize).min(Kind::PAGE - 1);
        let page = one_hot(view.page, layout.pages);
        let category = one_hot(view.category, layout.categories);
        let mut w = Writer { base: 0, out };
        w.hot(Some(kind), Kind::PAGE);
        w.hot(page, layout.pages);
        w.hot(category, layout.categories);
        for (&value, &known) in view.attributes.iter().zip(&layout.attributes) {
            w.hot(one_hot(value, known), known);
        }
        w.log(gap, 5.0);
        w.log(elapsed, 9.0);
        w.log(if view.price.is_finite() { view.price.max(0.0) } else { 0.0 }, 5.0);
        w.value(number / 3.0);
        if !layout.rich {
            return;
        }

        let before = (!first).then_some((self.kind as usize, one_hot(self.page, layout.pages)));
        w.hot(before.map(|b| b.0), Kind::PAGE);
        w.hot(before.and_then(|b| b.1), layout.pages);
        w.hot(Some(GAPS.iter().filter(|&&edge| edge < gap).count()), GAPS.len() + 1);

        let slots = layout.slots();
        let (counts, rest) = self.counters.split_at_mut(slots);
        let (recency, rest) = rest.split_at_mut(slots);
        let (dwell, categories) = rest.split_at_mut(slots);
        if let Some((kind, page)) = before {
            dwell[kind] += gap;
            if let Some(page) = page {
                dwell[Kind::PAGE + page] += gap;
            }
        }
        for r in recency.iter_mut() {
            *r = if *r * RECENCY_DECAY < FORGOTTEN { 0.0 } else { *r * RECENCY_DECAY };
        }
        for slot in [Some(kind), page.map(|p| Kind::PAGE + p)].into_iter().flatten() {
            counts[slot] += 1.0;
            recency[slot] = 1.0;
        }
        w.logs(counts, 2.0);
        recency.iter().for_each(|r| w.value(*r));
        w.logs(dwell, 6.0);
        let seen = category.map_or(0.0, |c| {
            categories[c] += 1.0;
            categories[c]
        });
        w.log(seen, 2.0);
        w.value(categories.iter().filter(|&&c| c > 0.0).count() as f32 / 10.0);
        w.value(counts[Kind::PAGE..].iter().filter(|&&c| c > 0.0).count() as f32 / 10.0);
        (self.kind, self.page) = (kind as u16, view.page);
    }

    pub(super) fn counters(&self) -> &[f32] {
        &self.counters
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.views.to_le_bytes());
        out.extend(self.first.to_le_bytes());
        out.extend(self.last.to_le_bytes());
        out.extend(self.kind.to_le_bytes());
        out.extend(self.page.to_le_bytes());
        super::model::put(out, &self.counters);
    }

    /// Reads the header; `counters` come from the caller, who has checked their number. `None` for a kind there is not.
    pub(super) fn read(header: &[u8; Self::HEADER], counters: Vec<f32>) -> Option<FeatureState> {
        let part = |from: usize, n: usize| &header[from..from + n];
        let kind = u16::from_le_bytes(part(20, 2).try_into().ok()?);
        ((kind as usize) < Kind::PAGE).then_some(FeatureState {
            views: u32::from_le_bytes(part(0, 4).try_into().ok()?),
            first: Micros::from_le_bytes(part(4, 8).try_into().ok()?),
            last: Micros::from_le_bytes(part(12, 8).try_into().ok()?),
            kind,
            page: u16::from_le_bytes(part(22, 2).try_into().ok()?),
            counters,
        })
    }
}

pub(super) fn seconds(until: Micros, since: Micros) -> f32 {
    (until.saturating_sub(since) as f64 / SECOND as f64).max(0.0) as f32
}

/// Position of a vocabulary number among its inputs; one that is out of range is an unknown.
pub(super) fn one_hot(number: u16, inputs: usize) -> Option<usize> {
    match (number as usize).checked_sub(1) {
        Some(i) if inputs > 0 => Some(if i < inputs { i } else { 0 }),
        _ => None,
    }
}

/// Appends what is not zero.
struct Writer<'a> {
    base: usize,
    out: &'a mut Vec<(u32, f32)>,
}

impl Writer<'_> {
    fn hot(&mut self, at: Option<usize>, width: usize) {
        if let Some(at) = at {
            self.out.push(((self.base + at) as u32, 1.0));
        }
        self.base += width;
    }

    /// ln(1 + x) / scale.
    fn log(&mut self, x: f32, scale: f32) {
        self.value(if x == 0.0 { 0.0 } else { ln_1p(x) / scale });
    }

    /// The same of every slot, many at a time: a third of the time of a view's inputs otherwise. (Gathering those
    /// of the slots in use first was no faster.)
    fn logs(&mut self, x: &[f32], scale: f32) {
        let mut logs = [0.0; SLOTS];
        let logs = &mut logs[..x.len()];
        simd::logs(logs, x, 1.0 / scale);
        logs.iter().for_each(|log| self.value(*log));
    }

    fn value(&mut self, value: f32) {
        if value != 0.0 {
            self.out.push((self.base as u32, value));
        }
        self.base += 1;
    }
}
