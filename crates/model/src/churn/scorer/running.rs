//! The rich inputs of a whole session as changes from view to view: private to the scorer, and held to the
//! [`FeatureState`](crate::churn::inputs::FeatureState) by a property test.
//!
//! Most of a view's inputs are counters, and few of them change; recencies change all, but by one factor. So the
//! product with the inputs' weights is a sum that stays, one that fades, and the few rows that are of this view alone:
//! half the rows that the views' own inputs name. And most views say what an earlier one of their session said (64 to
//! 80 % of those of two real shops, in sessions of five views and more), so that such words are summed up once.

#[cfg(test)]
mod tests;

use crate::churn::View;
use crate::churn::inputs::{GAPS, Layout, RECENCY_DECAY, one_hot, seconds};
use crate::churn::simd::{Changes, FRESH, logs};
use coupon_events::events::{Kind, MAX_ATTRIBUTES};

/// Numbers of a view that enter as logarithms, and where among them stands how often its category was seen.
const LOGS: usize = 9;
const SEEN: usize = 4;
/// Views after which a recency is dropped.
const KEPT: usize = 15;

/// Where each block of a rich layout's inputs begins.
#[derive(Debug)]
struct Places {
    kind: usize,
    page: usize,
    category: usize,
    attributes: [usize; MAX_ATTRIBUTES],
    /// Gap, elapsed time, price, number of the view.
    numbers: usize,
    kind_before: usize,
    page_before: usize,
    gap: usize,
    counts: usize,
    recency: usize,
    dwell: usize,
    /// How often this category, how many categories, pages.
    seen: usize,
}

impl Places {
    fn new(layout: &Layout) -> Places {
        let mut next = 0;
        let mut take = |n: usize| {
            next += n;
            next - n
        };
        let slots = layout.slots();
        Places {
            kind: take(Kind::PAGE),
            page: take(layout.pages),
            category: take(layout.categories),
            attributes: layout.attributes.map(&mut take),
            numbers: take(4),
            kind_before: take(Kind::PAGE),
            page_before: take(layout.pages),
            gap: take(GAPS.len() + 1),
            counts: take(slots),
            recency: take(slots),
            dwell: take(slots),
            seen: take(3),
        }
    }

    /// The inputs that are one because a view says these words.
    fn words(&self, layout: &Layout, view: &View, [kind, page]: [Option<usize>; 2], mut tell: impl FnMut(usize)) {
        let mut one = |place: usize, hot: Option<usize>| hot.into_iter().for_each(|i| tell(place + i));
        one(self.kind, kind);
        one(self.page, page.map(|slot| slot - Kind::PAGE));
        one(self.category, one_hot(view.category, layout.categories));
        for ((&value, &known), place) in view.attributes.iter().zip(&layout.attributes).zip(self.attributes) {
            one(place, one_hot(value, known));
        }
    }

    /// Those that are one because the view before was of this kind and page.
    fn before(&self, [kind, page]: [Option<usize>; 2], mut tell: impl FnMut(usize)) {
        kind.into_iter().for_each(|kind| tell(self.kind_before + kind));
        page.into_iter().for_each(|slot| tell(self.page_before + slot - Kind::PAGE));
    }
}

/// What is known of a kind or page of the session.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    count: f32,
    dwell: f32,
    /// The inputs that these were last written as.
    log_count: f32,
    log_dwell: f32,
    /// Number of the view that was there last; 0: none yet.
    last: usize,
}

/// Views that say the same words.
#[derive(Debug, Clone, Copy)]
struct RepeatedWord {
    /// Number of the first.
    first: usize,
    views: usize,
    /// Place of the words' sum; after it, that of what they are to the view that follows.
    place: usize,
}

/// What a view's entries are made of, but for the logarithms.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Its words, among those that were said.
    said: usize,
    /// Its kind, and its page if there is one.
    slots: [Option<usize>; 2],
    bucket: usize,
    /// How many categories and pages were seen so far.
    distinct: [f32; 2],
}

/// The changes of a session's views, with room to make those of the next session.
#[derive(Debug, Default)]
pub struct IncrementalFeatures {
    entries: Vec<(u32, f32)>,
    ends: Vec<[u32; 3]>,
    used: Vec<u32>,
    parts: Vec<u32>,
    shared: Vec<u32>,
    /// Places of the inputs among `used`; `u32::MAX`: not yet.
    places: Vec<u32>,
    said: Vec<RepeatedWord>,
    /// The last of `said` that had a hash.
    latest: Vec<usize>,
    slots: Vec<Slot>,
    /// Those that were seen.
    known: Vec<usize>,
    categories: Vec<f32>,
    steps: Vec<Step>,
    /// What enters as a logarithm, then the logarithms; [`LOGS`] a view.
    numbers: Vec<f32>,
    logs: Vec<f32>,
}

impl IncrementalFeatures {
    /// The views' inputs are those that the [`FeatureState`](crate::churn::inputs::FeatureState) would write one by one, to
    /// rounding. The layout must be a rich one.
    pub fn fill(&mut self, layout: &Layout, views: &[View]) {
        self.slots.clear();
        self.slots.resize(layout.slots(), Slot::default());
        self.said.clear();
        self.latest.clear();
        self.latest.resize(1 << HASH, usize::MAX);
        self.count(layout, views);
        self.logs.resize(self.numbers.len(), 0.0);
        logs(&mut self.logs, &self.numbers, 1.0);
        self.write(layout, views);
    }

    /// What [`running_product`](crate::churn::simd::running_product) multiplies.
    pub fn changes(&self) -> Changes<'_> {
        Changes { entries: &self.entries, ends: &self.ends, used: &self.used, parts: &self.parts, shared: &self.shared }
    }

    /// The number among `said` of what view `t` says: only the last with a hash is remembered, so that no choice of words
    /// makes this slow.
    fn say(&mut self, views: &[View], t: usize) -> usize {
        let words = |v: &View| (v.kind, v.page, v.category, v.attributes);
        let latest = &mut self.latest[hash(&views[t])];
        match self.said.get_mut(*latest) {
            Some(said) if words(&views[said.first]) == words(&views[t]) => said.views += 1,
            _ => {
                *latest = self.said.len();
                self.said.push(RepeatedWord { first: t, views: 1, place: 0 });
            }
        }
        *latest
    }

    /// All that is counted, and what becomes a logarithm.
    fn count(&mut self, layout: &Layout, views: &[View]) {
        self.steps.clear();
        self.numbers.clear();
        self.categories.clear();
        self.categories.resize(layout.categories, 0.0);
        let first = views.first().map_or(0, |v| v.at);
        let (mut last, mut distinct, mut before) = (first, [0.0; 2], [None; 2]);
        for (t, view) in views.iter().enumerate() {
            let now = last.max(view.at);
            let (gap, elapsed) = (seconds(now, last), seconds(now, first));
            last = now;
            let price = if view.price.is_finite() { view.price.max(0.0) } else { 0.0 };
            let category = one_hot(view.category, layout.categories);
            let kind = (view.kind as usize).min(Kind::PAGE - 1);
            let slots = [Some(kind), one_hot(view.page, layout.pages).map(|page| Kind::PAGE + page)];
            let dwell = before.map(|slot: Option<usize>| {
                slot.map_or(0.0, |slot| {
                    self.slots[slot].dwell += gap;
                    self.slots[slot].dwell
                })
            });
            let counts = slots.map(|slot| {
                slot.map_or(0.0, |slot| {
                    self.slots[slot].count += 1.0;
                    self.slots[slot].count
                })
            });
            let seen = category.map_or(0.0, |c| {
                self.categories[c] += 1.0;
                self.categories[c]
            });
            distinct[0] += f32::from(seen == 1.0);
            distinct[1] += f32::from(counts[1] == 1.0);
            // ln of the number of views is ln(1 + those before).
            self.numbers.extend([gap, elapsed, price, t as f32, seen, counts[0], counts[1], dwell[0], dwell[1]]);
            let bucket = GAPS.iter().map(|&edge| usize::from(edge < gap)).sum();
            let said = self.say(views, t);
            self.steps.push(Step { said, slots, bucket, distinct });
            before = slots;
        }
    }

    fn write(&mut self, layout: &Layout, views: &[View]) {
        self.known.clear();
        self.ends.clear();
        self.places.clear();
        self.places.resize(layout.inputs(), u32::MAX);
        self.used.clear();
        self.entries.clear();
        self.parts.clear();
        self.shared.clear();
        let mut shared = 0;
        for said in self.said.iter_mut().filter(|said| said.views > 1) {
            said.place = shared;
            shared += 2;
        }
        let mut fades = [1.0; KEPT + 2];
        for age in 1..fades.len() {
            fades[age] = fades[age - 1] * RECENCY_DECAY;
        }
        let mut writing = Writing {
            at: Places::new(layout),
            fades,
            steps: &self.steps,
            said: &self.said,
            slots: &mut self.slots,
            known: &mut self.known,
            numbers: [0.0; 4],
            out: Out { entries: &mut self.entries, used: &mut self.used, places: &mut self.places, shared },
            parts: &mut self.parts,
            sums: &mut self.shared,
        };
        for (t, (view, logs)) in views.iter().zip(self.logs.as_chunks::<LOGS>().0).enumerate() {
            let lasting = writing.lasting(t, logs);
            let fading = writing.fading(t);
            self.ends.push([lasting, fading, writing.alone(t, layout, view, logs[SEEN])]);
        }
    }
}

/// The changes of one view after the other.
struct Writing<'a> {
    at: Places,
    /// A recency by its age.
    fades: [f32; KEPT + 2],
    steps: &'a [Step],
    said: &'a [RepeatedWord],
    slots: &'a mut [Slot],
    known: &'a mut Vec<usize>,
    /// Gap, elapsed time, price and number of the view before.
    numbers: [f32; 4],
    out: Out<'a>,
    /// As in [`Changes`].
    parts: &'a mut Vec<u32>,
    sums: &'a mut Vec<u32>,
}

impl Writing<'_> {
    fn before(&self, t: usize) -> Option<&Step> {
        t.checked_sub(1).map(|before| &self.steps[before])
    }

    /// Of the sum that stays, or where it begins again, all of it: counts, dwells, numbers. Where its entries end.
    fn lasting(&mut self, t: usize, logs: &[f32; LOGS]) -> u32 {
        let [gap, elapsed, price, number, _seen, counts @ .., _, _] = *logs;
        let dwells = [logs[LOGS - 2], logs[LOGS - 1]];
        let (at, step, fresh) = (&self.at, &self.steps[t], t.is_multiple_of(FRESH));
        let (slots_before, distinct_before) =
            self.before(t).map_or(([None; 2], [0.0; 2]), |step| (step.slots, step.distinct));
        // Not zipped: of that the compiler makes three times the code.
        for (i, log) in counts.into_iter().enumerate() {
            let (Some(slot), log) = (step.slots[i], log / 2.0) else { continue };
            if self.slots[slot].last == 0 {
                self.known.push(slot);
            }
            if !fresh {
                self.out.push(at.counts + slot, log - self.slots[slot].log_count);
            }
            self.slots[slot].log_count = log;
        }
        for (i, log) in dwells.into_iter().enumerate() {
            let (Some(slot), log) = (slots_before[i], log / 6.0) else { continue };
            if !fresh {
                self.out.push(at.dwell + slot, log - self.slots[slot].log_dwell);
            }
            self.slots[slot].log_dwell = log;
        }
        for (i, before) in distinct_before.into_iter().enumerate() {
            let before = if fresh { 0.0 } else { before };
            self.out.push(at.seen + 1 + i, (step.distinct[i] - before) / 10.0);
        }
        let now = [gap / 5.0, elapsed / 9.0, price / 5.0, number / 3.0];
        for (i, before) in self.numbers.into_iter().enumerate() {
            self.out.push(at.numbers + i, if fresh { now[i] } else { now[i] - before });
        }
        self.numbers = now;
        if fresh {
            for &slot in &*self.known {
                self.out.push(at.counts + slot, self.slots[slot].log_count);
                self.out.push(at.dwell + slot, self.slots[slot].log_dwell);
            }
        }
        self.out.entries.len() as u32
    }

    /// Of the sum that fades, likewise: recencies.
    fn fading(&mut self, t: usize) -> u32 {
        let (at, fresh) = (&self.at, t.is_multiple_of(FRESH));
        for slot in self.steps[t].slots.into_iter().flatten() {
            let last = std::mem::replace(&mut self.slots[slot].last, t + 1);
            let left = if last == 0 { 0.0 } else { self.fades.get(t + 1 - last).copied().unwrap_or(0.0) };
            if !fresh {
                self.out.push(at.recency + slot, 1.0 - left);
            }
        }
        if fresh {
            for &slot in &*self.known {
                let age = t + 1 - self.slots[slot].last;
                self.out.push(at.recency + slot, if age <= KEPT { self.fades[age] } else { 0.0 });
            }
        } else if let Some(then) = t.checked_sub(KEPT + 1) {
            for slot in self.steps[then].slots.into_iter().flatten() {
                if self.slots[slot].last == then + 1 {
                    self.out.push(at.recency + slot, -self.fades[KEPT + 1]);
                }
            }
        }
        self.out.entries.len() as u32
    }

    /// Of this view alone: its words and those of the view before, the gap's bucket, how often its category was seen.
    fn alone(&mut self, t: usize, layout: &Layout, view: &View, seen: f32) -> u32 {
        let (at, step, out) = (&self.at, &self.steps[t], &mut self.out);
        let said = self.said[step.said];
        if said.views == 1 {
            at.words(layout, view, step.slots, |input| out.push(input, 1.0));
        } else {
            if said.first == t {
                at.words(layout, view, step.slots, |input| self.parts.push(out.place(input)));
                self.sums.push(self.parts.len() as u32);
                at.before(step.slots, |input| self.parts.push(out.place(input)));
                self.sums.push(self.parts.len() as u32);
            }
            out.push_shared(said.place);
        }
        if t > 0 {
            let before = &self.steps[t - 1];
            let said = self.said[before.said];
            match said.views {
                1 => at.before(before.slots, |input| out.push(input, 1.0)),
                _ => out.push_shared(said.place + 1),
            }
        }
        out.push(at.gap + step.bucket, 1.0);
        out.push(at.seen, seen / 2.0);
        out.entries.len() as u32
    }
}

/// Collects what is not zero.
struct Out<'a> {
    entries: &'a mut Vec<(u32, f32)>,
    used: &'a mut Vec<u32>,
    places: &'a mut [u32],
    /// Places of shared sums, which come first.
    shared: usize,
}

impl Out<'_> {
    fn push(&mut self, input: usize, value: f32) {
        if value != 0.0 {
            let place = self.place(input) + self.shared as u32;
            self.entries.push((place, value));
        }
    }

    fn push_shared(&mut self, place: usize) {
        self.entries.push((place as u32, 1.0));
    }

    /// An input's place among those used.
    fn place(&mut self, input: usize) -> u32 {
        let place = &mut self.places[input];
        if *place == u32::MAX {
            *place = self.used.len() as u32;
            self.used.push(input as u32);
        }
        *place
    }
}

/// Bits of a hash: as many views are remembered by their words as it has values.
const HASH: u32 = 6;

fn hash(view: &View) -> usize {
    let [a, b, c, d, e, f, g, h] = view.attributes;
    let all = [[view.kind as u16, view.page, view.category, a], [b, c, d, e], [f, g, h, 0]];
    let four = |words: [u16; 4]| words.into_iter().fold(0, |all, word| all << 16 | u64::from(word));
    let mixed = all.into_iter().fold(0, |hash: u64, words| (hash ^ four(words)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (mixed >> (u64::BITS - HASH)) as usize
}
