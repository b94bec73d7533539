//! The rich inputs of a whole session as changes from view to view.
//!
//! Most of a view's inputs are counters, and few of them change; recencies change all, but by one factor. So the
//! product with the inputs' weights is a sum that stays, one that fades, and the few rows that are of this view alone:
//! half the rows that the views' own inputs name. And most views say what an earlier one of their session said (64 to
//! 80 % of those of two real shops, in sessions of five views and more), so that such words are summed up once.

use super::{FADE, GAPS, Layout, one_hot, seconds};
use crate::churn::View;
use crate::churn::simd::{Changes, FRESH, logs};
use crate::events::{Kind, MAX_ATTRIBUTES};

/// Numbers of a view that enter as logarithms.
const LOGS: usize = 9;
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
struct Said {
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
pub struct Running {
    entries: Vec<(u32, f32)>,
    ends: Vec<[u32; 3]>,
    used: Vec<u32>,
    parts: Vec<u32>,
    shared: Vec<u32>,
    /// Places of the inputs among `used`; `u32::MAX`: not yet.
    places: Vec<u32>,
    said: Vec<Said>,
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

impl Running {
    /// The views' inputs are those that [`Tracker::advance`](super::Tracker::advance) would write one by one, to rounding.
    /// The layout must be a rich one.
    pub fn fill(&mut self, layout: &Layout, views: &[View]) {
        self.slots.clear();
        self.slots.resize(layout.slots(), Slot::default());
        self.said.clear();
        self.latest.clear();
        self.latest.resize(HASHES, usize::MAX);
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
                self.said.push(Said { first: t, views: 1, place: 0 });
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
        let at = Places::new(layout);
        let mut fades = [1.0; KEPT + 2];
        for age in 1..fades.len() {
            fades[age] = fades[age - 1] * FADE;
        }
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
        let mut out = Out { entries: &mut self.entries, used: &mut self.used, places: &mut self.places, shared };
        let slots = &mut self.slots;
        let (mut before, mut distinct, mut numbers) = (None::<&Step>, [0.0; 2], [0.0; 4]);
        let all = views.iter().zip(&self.steps).zip(self.logs.as_chunks::<LOGS>().0).enumerate();
        for (t, ((view, step), logs)) in all {
            let [gap, elapsed, price, number, seen, counts @ .., dwell_kind, dwell_page] = *logs;
            let fresh = t % FRESH == 0;
            for (slot, log) in step.slots.into_iter().zip(counts).filter_map(|(s, log)| Some((s?, log / 2.0))) {
                if slots[slot].last == 0 {
                    self.known.push(slot);
                }
                if !fresh {
                    out.push(at.counts + slot, log - slots[slot].log_count);
                }
                slots[slot].log_count = log;
            }
            let left = before.map_or([None; 2], |step| step.slots);
            for (slot, log) in
                left.into_iter().zip([dwell_kind, dwell_page]).filter_map(|(s, log)| Some((s?, log / 6.0)))
            {
                if !fresh {
                    out.push(at.dwell + slot, log - slots[slot].log_dwell);
                }
                slots[slot].log_dwell = log;
            }
            for (i, (now, before)) in step.distinct.into_iter().zip(distinct).enumerate() {
                out.push(at.seen + 1 + i, (if fresh { now } else { now - before }) / 10.0);
            }
            distinct = step.distinct;
            let now = [gap / 5.0, elapsed / 9.0, price / 5.0, number / 3.0];
            for (i, (now, before)) in now.into_iter().zip(&mut numbers).enumerate() {
                out.push(at.numbers + i, if fresh { now } else { now - *before });
                *before = now;
            }
            if fresh {
                for &slot in &self.known {
                    out.push(at.counts + slot, slots[slot].log_count);
                    out.push(at.dwell + slot, slots[slot].log_dwell);
                }
            }
            let lasting = out.entries.len() as u32;

            for slot in step.slots.into_iter().flatten() {
                let last = std::mem::replace(&mut slots[slot].last, t + 1);
                let left = if last == 0 { 0.0 } else { fades.get(t + 1 - last).copied().unwrap_or(0.0) };
                if !fresh {
                    out.push(at.recency + slot, 1.0 - left);
                }
            }
            if fresh {
                for &slot in &self.known {
                    let age = t + 1 - slots[slot].last;
                    out.push(at.recency + slot, if age <= KEPT { fades[age] } else { 0.0 });
                }
            } else if let Some(then) = t.checked_sub(KEPT + 1) {
                let forgotten = |slot: &usize| slots[*slot].last == then + 1;
                for slot in self.steps[then].slots.into_iter().flatten().filter(forgotten) {
                    out.push(at.recency + slot, -fades[KEPT + 1]);
                }
            }
            let fading = out.entries.len() as u32;

            let said = self.said[step.said];
            if said.views == 1 {
                at.words(layout, view, step.slots, |input| out.push(input, 1.0));
            } else {
                if said.first == t {
                    at.words(layout, view, step.slots, |input| self.parts.push(out.place(input)));
                    self.shared.push(self.parts.len() as u32);
                    at.before(step.slots, |input| self.parts.push(out.place(input)));
                    self.shared.push(self.parts.len() as u32);
                }
                out.push_shared(said.place);
            }
            if let Some(before) = before {
                let said = self.said[before.said];
                match said.views {
                    1 => at.before(before.slots, |input| out.push(input, 1.0)),
                    _ => out.push_shared(said.place + 1),
                }
            }
            out.push(at.gap + step.bucket, 1.0);
            out.push(at.seen, seen / 2.0);
            self.ends.push([lasting, fading, out.entries.len() as u32]);
            before = Some(step);
        }
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

/// How many hashes there are.
const HASHES: usize = 64;

fn hash(view: &View) -> usize {
    let [a, b, c, d, e, f, g, h] = view.attributes;
    let all = [[view.kind as u16, view.page, view.category, a], [b, c, d, e], [f, g, h, 0]];
    let four = |words: [u16; 4]| words.into_iter().fold(0, |all, word| all << 16 | u64::from(word));
    let mixed = all.into_iter().fold(0, |hash: u64, words| (hash ^ four(words)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (mixed >> 58) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::churn::inputs::{FADE, Tracker};
    use crate::churn::simd::tests::with_each_level;
    use crate::churn::tests::view;
    use crate::churn::{Inputs, simd::STRIP, simd::running_product};
    use proptest::prelude::*;

    /// Views that differ, or that say again and again what a few say, at other times and prices.
    fn session() -> impl Strategy<Value = Vec<View>> {
        let different = prop::collection::vec(view(), 0..150);
        let few = (
            prop::collection::vec(view(), 1..20),
            prop::collection::vec((any::<prop::sample::Index>(), view()), 0..150),
        );
        let again = few.prop_map(|(few, times)| {
            times
                .into_iter()
                .map(|(of, now)| View { at: now.at, price: now.price, ..few[of.index(few.len())] })
                .collect()
        });
        prop_oneof![different, again]
    }

    #[test]
    fn what_is_said_again_is_summed_up_once() {
        let layout = Layout::new(Inputs::Rich, 3, 3, &[3]);
        let say =
            |page| View { at: 0, kind: Kind::View, page, category: 2, price: 1.0, attributes: [2; MAX_ATTRIBUTES] };
        let mut running = Running::default();
        running.fill(&layout, &[2, 3, 2, 2, 4].map(say));
        // Page 2: kind, page, category and attribute; then kind and page before.
        assert_eq!(running.changes().shared, [4, 6]);
        assert_eq!(running.said.iter().map(|said| said.views).collect::<Vec<_>>(), [3, 1, 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The changes, summed up, are what the tracker writes view by view; and the product with them is the product
        /// with its inputs, in each version of the loops and whatever the width.
        #[test]
        fn changes_sum_up_to_the_inputs(
            views in session(),
            [pages, categories] in prop::array::uniform2(0usize..7),
            width in prop_oneof![1usize..100, Just(STRIP), Just(4 * STRIP)],
        ) {
            let layout = Layout::new(Inputs::Rich, pages, categories, &[3, 0, 2]);
            let mut running = Running::default();
            // Room that another session has used.
            running.fill(&layout, &views[..views.len() / 2]);
            running.fill(&layout, &views);
            let changes = running.changes();
            prop_assert_eq!(changes.ends.len(), views.len());
            let weights: Vec<f32> = (0..layout.inputs() * width).map(|i| ((i * 7919) % 201) as f32 * 0.01 - 1.0).collect();
            let bias: Vec<f32> = (0..width).map(|j| j as f32 * 0.01).collect();

            let (mut tracker, mut inputs, mut from) = (Tracker::new(&layout), Vec::new(), 0);
            let (mut stays, mut fades) = (vec![0.0f32; layout.inputs()], vec![0.0f32; layout.inputs()]);
            let mut wanted = Vec::new();
            for (t, (view, &ends)) in views.iter().zip(changes.ends).enumerate() {
                if t % FRESH == 0 {
                    stays.fill(0.0);
                    fades.fill(0.0);
                }
                fades.iter_mut().for_each(|x| *x *= FADE);
                let mut alone = vec![0.0f32; layout.inputs()];
                for (to, end) in [&mut stays, &mut fades, &mut alone].into_iter().zip(ends) {
                    for &(i, x) in &changes.entries[from..end as usize] {
                        changes.inputs(i as usize).for_each(|input| to[input] += x);
                    }
                    from = end as usize;
                }
                tracker.advance(&layout, view, &mut inputs);
                let mut dense = vec![0.0f32; layout.inputs()];
                inputs.iter().for_each(|&(i, x)| dense[i as usize] = x);
                for (i, x) in dense.iter().enumerate() {
                    let ours = stays[i] + fades[i] + alone[i];
                    prop_assert!((ours - x).abs() < 2e-6, "input {i} of view {t}: {ours} against {x}");
                }
                wanted.extend((0..width).map(|j| {
                    let sum: f64 = inputs.iter().map(|&(i, x)| f64::from(x) * f64::from(weights[i as usize * width + j])).sum();
                    sum + f64::from(bias[j])
                }));
            }
            with_each_level(|level| {
                let mut out = vec![f32::NAN; views.len() * width];
                let mut packed = vec![f32::NAN; changes.rows() * STRIP];
                running_product(&mut out, &bias, &changes, &weights, &mut packed, FADE);
                for (ours, wanted) in out.iter().zip(&wanted) {
                    assert!((f64::from(*ours) - wanted).abs() < 2e-5, "{ours} against {wanted} with {level:?}");
                }
            });
        }
    }
}
