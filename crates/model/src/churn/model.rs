//! A trained churn model and the state of a live session.

use std::collections::BTreeMap;

use super::inputs::{FeatureState, Layout};
use super::net::{Net, Scratch, Shape};
use super::queue::{BATCH_SESSIONS, Buffers};
use super::scorer::Scorer;
use super::simd::LANES;
use super::{Calibrator, Spec, View, Vocabulary};
use coupon_base::Error;
use coupon_base::Result;

/// What a segment has of its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Segment {
    /// `None`: the pooled network serves this segment too.
    pub net: Option<Net>,
    pub calibrator: Calibrator,
}

/// Vocabulary, networks and calibrators of one version. Segment 0 is the pooled model, and serves every segment that
/// has nothing of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    spec: Spec,
    vocabulary: Vocabulary,
    layout: Layout,
    pooled: (Net, Calibrator),
    segments: BTreeMap<u32, Segment>,
}

/// A live session between two views.
#[derive(Debug, Clone)]
pub struct State {
    tracker: FeatureState,
    memory: Vec<f32>,
    /// Buffers of the step; not part of what is saved.
    scratch: Scratch,
}

impl State {
    /// How many views the session has had.
    pub fn views(&self) -> u32 {
        self.tracker.views()
    }

    /// What is stored between two clicks: little-endian, a fixed length for one model, read back by [`Model::resume`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(FeatureState::HEADER + 4 * (self.tracker.counters().len() + self.memory.len()));
        self.tracker.write(&mut out);
        put(&mut out, &self.memory);
        out
    }
}

impl Model {
    pub(super) fn new(
        spec: Spec,
        vocabulary: Vocabulary,
        pooled: (Net, Calibrator),
        segments: BTreeMap<u32, Segment>,
    ) -> Model {
        let layout = layout(&spec, &vocabulary);
        Model { spec, vocabulary, layout, pooled, segments }
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The segments that have a network (`true`) or only a calibrator (`false`) of their own, in order.
    pub fn segments(&self) -> impl Iterator<Item = (u32, bool)> {
        self.segments.iter().map(|(&segment, s)| (segment, s.net.is_some()))
    }

    pub(super) fn pooled(&self) -> &(Net, Calibrator) {
        &self.pooled
    }

    pub(super) fn own(&self, segment: u32) -> Option<&Segment> {
        self.segments.get(&segment)
    }

    fn of(&self, segment: u32) -> (&Net, &Calibrator) {
        let (net, calibrator) = &self.pooled;
        match self.segments.get(&segment) {
            Some(own) => (own.net.as_ref().unwrap_or(net), &own.calibrator),
            None => (net, calibrator),
        }
    }

    /// What turns a segment's logits into probabilities.
    pub fn calibrator(&self, segment: u32) -> &Calibrator {
        self.of(segment).1
    }

    /// A session before its first view.
    pub fn begin(&self) -> State {
        State {
            tracker: FeatureState::new(&self.layout),
            memory: vec![0.0; Shape::new(&self.spec, self.layout.inputs()).memory()],
            scratch: Scratch::new(&self.spec, self.layout.entries()),
        }
    }

    /// Counts a view in and returns P(churn), strictly between 0 and 1. A session keeps the segment it began with.
    /// O(1) in the number of views; allocates nothing.
    pub fn step(&self, segment: u32, state: &mut State, view: &View) -> f64 {
        let (net, calibrator) = self.of(segment);
        let before = state.tracker.views();
        state.tracker.advance(&self.layout, view, &mut state.scratch.entries);
        let logit = net.step(&mut state.memory, before, &mut state.scratch);
        calibrator.probability(logit, state.views())
    }

    /// [`Model::step`] of several sessions of one segment, each by a view of its own, to the bit.
    pub fn step_lanes(&self, segment: u32, sessions: [(&mut State, &View); LANES]) -> [f64; LANES] {
        let (net, calibrator) = self.of(segment);
        let views = sessions.each_ref().map(|(state, _)| state.views().saturating_add(1));
        let logits = net.step_lanes(sessions.map(|(state, view)| {
            let before = state.views();
            state.tracker.advance(&self.layout, view, &mut state.scratch.entries);
            (&mut *state.memory, before, &mut state.scratch)
        }));
        std::array::from_fn(|i| calibrator.probability(logits[i], views[i]))
    }

    /// P(churn) after each view of a session, from its start: [`Model::step`] over all views.
    pub fn score(&self, segment: u32, views: &[View]) -> Vec<f64> {
        let mut state = self.begin();
        views.iter().map(|view| self.step(segment, &mut state, view)).collect()
    }

    /// P(churn) after the last view: the last of [`Model::score`], to rounding, in less time.
    /// `None` for no view.
    pub fn score_last(&self, segment: u32, views: &[View], room: &mut Buffers) -> Option<f64> {
        if views.len() > BATCH_SESSIONS {
            // All at once it would take kilobytes a view.
            return self.score(segment, views).pop();
        }
        let (net, calibrator) = self.of(segment);
        let logit = room.0.score_last(net, &self.layout, views)?;
        Some(calibrator.probability(logit, views.len() as u32))
    }

    /// P(churn) after each view of many sessions, told as (session, probability), each session's in their order: what
    /// [`Model::score`] says of each, to rounding, in a third of the time.
    pub(super) fn score_beside(
        &self,
        segment: u32,
        sessions: &[&[View]],
        scorer: &mut Scorer,
        mut tell: impl FnMut(usize, f64),
    ) {
        let (net, calibrator) = self.of(segment);
        scorer.batch.fill_whole(sessions, &self.layout, false);
        scorer.score(net);
        for (c, &logit) in scorer.batch.counted.iter().zip(scorer.logits()) {
            tell(scorer.batch.given(c.session), calibrator.probability(logit, c.step as u32 + 1));
        }
    }

    /// Bytes of every saved state of this model.
    pub fn state_bytes(&self) -> usize {
        self.spec.state_bytes(&self.layout)
    }

    /// A session as [`State::to_bytes`] stored it, to the bit.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a length that is not this model's, or a number that no session reaches.
    pub fn resume(&self, bytes: &[u8]) -> Result<State> {
        let expected = self.state_bytes();
        if bytes.len() != expected {
            return Err(Error::Corrupt(format!("a state of {} bytes, the model's have {expected}", bytes.len())));
        }
        let corrupt = || Error::Corrupt("a state that no session can be in".into());
        let (header, floats) = bytes.split_first_chunk::<{ FeatureState::HEADER }>().ok_or_else(corrupt)?;
        let (counters, memory) = floats.as_chunks().0.split_at(self.layout.counters());
        let numbers = |bytes: &[[u8; 4]]| -> Vec<f32> { bytes.iter().map(|x| f32::from_le_bytes(*x)).collect() };
        let (counters, memory) = (numbers(counters), numbers(memory));
        // Counters only rise from zero, and a cell moves by at most one a view.
        // (Every number is looked at: an early end would look at one at a time.)
        let sane = counters.iter().fold(true, |sane, x| sane & (*x >= 0.0) & (*x <= f32::MAX))
            & memory.iter().fold(true, |sane, x| sane & (x.abs() < 1e10));
        if !sane {
            return Err(corrupt());
        }
        let tracker = FeatureState::read(header, counters).ok_or_else(corrupt)?;
        Ok(State { tracker, memory, scratch: Scratch::new(&self.spec, self.layout.entries()) })
    }
}

/// Appends numbers, little-endian; in one piece, which an iterator over their bytes is not.
pub(super) fn put(out: &mut Vec<u8>, numbers: &[f32]) {
    let from = out.len();
    out.resize(from + 4 * numbers.len(), 0);
    out[from..].as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, x)| *to = x.to_le_bytes());
}

pub(super) fn layout(spec: &Spec, vocabulary: &Vocabulary) -> Layout {
    let attributes: Vec<_> = vocabulary.attributes.iter().map(Vec::len).collect();
    Layout::new(spec.features, vocabulary.pages.len(), vocabulary.categories.len(), &attributes)
}
