//! Sessions side by side, as the network is trained on them, and as many are scored at once.

use std::ops::Range;

use super::inputs::{FeatureState, Layout};
use super::{Example, LossOn, Spec, View};

/// Sessions of like length, the longest first. Step t holds the rows `starts[t]..starts[t + 1]`, one a session that has
/// a view there, so that nothing is padded: row b of a step is the same session as row b of the step before.
#[derive(Debug, Default)]
pub struct Batch {
    pub starts: Vec<usize>,
    /// Inputs of each row, as a stretch of `entries`.
    rows: Vec<Range<u32>>,
    entries: Vec<(u32, f32)>,
    /// The views whose logits count.
    pub counted: Vec<Counted>,
    order: Vec<(usize, usize)>,
    buffer: Vec<(u32, f32)>,
    tracker: Option<FeatureState>,
}

/// A view whose logit counts in the loss.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub step: usize,
    /// Its place among the sessions, the longest first.
    pub session: usize,
    /// 1: churn.
    pub target: f32,
    pub weight: f32,
}

impl Batch {
    /// Puts the sessions of a training window in, none longer than `spec.max_length`.
    pub fn fill<'a>(&mut self, examples: impl Iterator<Item = &'a Example<'a>>, layout: &Layout, spec: &Spec) {
        let examples: Vec<_> = examples.collect();
        let views: Vec<&[View]> = examples.iter().map(|e| &e.views[..length(e, spec)]).collect();
        self.pack(&views, layout, |session, t| {
            let e = examples[session];
            counts(e, t, spec).then_some((if e.purchased { 0.0 } else { 1.0 }, e.weight))
        });
    }

    /// Puts any sessions in; every view counts, or of each session the last.
    pub fn fill_whole(&mut self, sessions: &[&[View]], layout: &Layout, last: bool) {
        self.pack(sessions, layout, |session, t| (!last || t + 1 == sessions[session].len()).then_some((1.0, 1.0)));
    }

    /// One session without its inputs, whose last view counts.
    pub fn fill_blank(&mut self, views: usize) {
        self.order.clear();
        self.starts.clear();
        self.starts.extend(0..=views);
        self.rows.clear();
        self.rows.resize(views, 0..0);
        self.entries.clear();
        self.counted.clear();
        let last = views.checked_sub(1);
        self.counted.extend(last.map(|step| Counted { step, session: 0, target: 1.0, weight: 1.0 }));
    }

    /// Through the same [`FeatureState`] that serves live. `counts` gives target and weight of a session's view, if it counts.
    fn pack(&mut self, sessions: &[&[View]], layout: &Layout, counts: impl Fn(usize, usize) -> Option<(f32, f32)>) {
        self.order.clear();
        self.order.extend(sessions.iter().map(|views| views.len()).zip(0..));
        self.order.sort_by_key(|o| std::cmp::Reverse(o.0));
        self.starts.clear();
        self.starts.push(0);
        let (mut row, mut active) = (0, self.order.len());
        for t in 0..self.order.first().map_or(0, |o| o.0) {
            while active > 0 && self.order[active - 1].0 <= t {
                active -= 1;
            }
            row += active;
            self.starts.push(row);
        }
        self.rows.clear();
        self.rows.resize(row, 0..0);
        self.entries.clear();
        self.counted.clear();
        let tracker = self.tracker.get_or_insert_with(|| FeatureState::new(layout));
        for (place, &(_, session)) in self.order.iter().enumerate() {
            tracker.reset();
            for (t, view) in sessions[session].iter().enumerate() {
                tracker.advance(layout, view, &mut self.buffer);
                let from = self.entries.len() as u32;
                self.entries.extend_from_slice(&self.buffer);
                self.rows[self.starts[t] + place] = from..self.entries.len() as u32;
                if let Some((target, weight)) = counts(session, t) {
                    self.counted.push(Counted { step: t, session: place, target, weight });
                }
            }
        }
    }

    /// Which of the sessions given stands at a place.
    pub fn given(&self, place: usize) -> usize {
        self.order[place].1
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    pub fn steps(&self) -> usize {
        self.starts.len() - 1
    }

    /// What [`Batch::earlier`] says of a view before the first: candle's operations take it as a row of zeros.
    pub const NONE: u32 = u32::MAX;

    /// Of every row, the row of the same session `back` views earlier.
    pub fn earlier(&self, back: usize) -> Vec<u32> {
        let row = |t: usize, session: usize| t.checked_sub(back).map(|t| (self.starts[t] + session) as u32);
        let steps = (0..self.steps()).flat_map(|t| (0..self.step(t).len()).map(move |session| (t, session)));
        steps.map(|(t, session)| row(t, session).unwrap_or(Batch::NONE)).collect()
    }

    /// The rows of a step.
    pub fn step(&self, t: usize) -> Range<usize> {
        self.starts[t]..self.starts[t + 1]
    }

    /// The inputs of every row.
    pub fn inputs(&self) -> impl Iterator<Item = &[(u32, f32)]> {
        self.rows.iter().map(|r| &self.entries[r.start as usize..r.end as usize])
    }

    /// The same as entries and each row's stretch of them.
    pub fn entries(&self) -> (&[(u32, f32)], &[Range<u32>]) {
        (&self.entries, &self.rows)
    }

    #[cfg(test)]
    pub fn of(starts: Vec<usize>, inputs: Vec<Vec<(u32, f32)>>, counted: Vec<Counted>) -> Batch {
        let mut batch = Batch { starts, counted, ..Batch::default() };
        for row in inputs {
            let from = batch.entries.len() as u32;
            batch.entries.extend(row);
            batch.rows.push(from..batch.entries.len() as u32);
        }
        batch
    }
}

/// How many views of a session training looks at: up to the last one that the loss counts, 0 where it counts none.
pub fn length(example: &Example, spec: &Spec) -> usize {
    let views = match spec.loss_on {
        LossOn::EveryView => example.views,
        LossOn::LastView => example.cut().unwrap_or_default(),
    };
    views.len().min(spec.max_length)
}

/// Whether the loss counts the view at position `t`.
pub fn counts(example: &Example, t: usize, spec: &Spec) -> bool {
    let length = length(example, spec);
    match spec.loss_on {
        LossOn::EveryView => t < length,
        LossOn::LastView => t + 1 == length,
    }
}
