//! All networks of a churn model, one after the other: pooled, then each segment that has enough sessions.

use std::collections::{BTreeMap, VecDeque};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::batch::length;
use super::calibrate::{Platt, Scored};
use super::fit::{Best, Data, EpochReport, Fit, Progress};
use super::inputs::correspond;
use super::model::{Model, Segment, layout};
use super::net::{Net, Shape};
use super::{Example, Spec, Vocabulary};
use crate::{Error, Result};

/// Buying and leaving sessions on tune that a calibrator of one's own needs.
const CALIBRATED: usize = 30;
/// A network is near calibrated for the sessions it was fitted on, eight times those of tune: its calibrator is expected
/// this close to changing nothing, in logits.
const OWN_SPREAD: f64 = 0.1;
/// The pooled network knows nothing of a segment's own base rate: there the calibrator may go this far from the pooled.
const SEGMENT_SPREAD: f64 = 1.0;
/// A network that starts from another, a segment's from the pooled one or today's from yesterday's, moves this much slower.
const OWN_RATE: f64 = 0.25;

/// What one call of [`Trainer::step`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A gradient step, with the batch's loss, or a stretch of scoring on tune (no loss).
    Batch { segment: u32, loss: Option<f64> },
    /// An epoch has ended.
    Epoch(EpochReport),
    /// It is decided what serves a segment.
    Segment(SegmentReport),
    /// Nothing is left to do: call [`Trainer::finish`].
    Done,
}

/// Whether a segment's own network serves it, and why. Log losses are means a session of tune over the views the loss
/// counts, both calibrated as they would serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentReport {
    pub segment: u32,
    /// Of the fit window.
    pub sessions: usize,
    pub buyers: usize,
    /// Sessions of tune that were compared.
    pub compared: usize,
    pub pooled_log_loss: Option<f64>,
    /// `None` where too few sessions or buyers were there to train one.
    pub own_log_loss: Option<f64>,
    /// Own minus pooled, and its paired standard error.
    pub difference: Option<f64>,
    pub standard_error: Option<f64>,
    /// Own is better by more than one standard error, and serves.
    pub used: bool,
}

/// Trains step by step; the caller owns the loop and may stop between any two steps.
///
/// The same windows, vocabulary, specification, seed and number of threads give the same model to the bit.
pub struct Trainer<'a> {
    data: Data<'a>,
    vocabulary: Vocabulary,
    seed: u64,
    /// Segments still to be decided, with their sessions and buyers.
    queue: VecDeque<(u32, usize, usize)>,
    running: Option<Fit>,
    pooled: Option<(Best, Platt)>,
    segments: BTreeMap<u32, Segment>,
}

impl<'a> Trainer<'a> {
    /// `fit` and `tune` are in order of first view; the views are of `vocabulary`. `budget` is in bytes.
    ///
    /// # Errors
    /// [`Error::Spec`] from [`Spec::validate`], [`Error::Memory`] where [`Trainer::memory`] passes the budget,
    /// [`Error::TooLittle`] where the fit window lacks buyers or leavers.
    pub fn new(
        fit: &'a [Example<'a>],
        tune: &'a [Example<'a>],
        vocabulary: Vocabulary,
        spec: Spec,
        seed: u64,
        budget: usize,
    ) -> Result<Trainer<'a>> {
        spec.validate()?;
        let needed = Trainer::memory(fit, tune, &vocabulary, &spec);
        if needed > budget {
            return Err(Error::Memory { needed, budget });
        }
        let bad = |e: &&Example| !(e.weight.is_finite() && e.weight > 0.0);
        if let Some(e) = fit.iter().chain(tune).find(bad) {
            return Err(Error::Numerics(format!("a session weighs {}", e.weight)));
        }
        let mut counts: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for e in fit {
            let (sessions, buyers) = counts.entry(e.segment).or_default();
            *sessions += 1;
            *buyers += usize::from(e.purchased);
        }
        let buyers: usize = counts.values().map(|c| c.1).sum();
        if buyers == 0 || buyers == fit.len() {
            return Err(Error::TooLittle(format!("{buyers} of {} sessions bought: nothing to tell apart", fit.len())));
        }
        let layout = layout(&spec, &vocabulary);
        let data = Data { fit, tune, spec, layout };
        let net = Net::random(&data.spec, data.layout.inputs(), &mut Xoshiro256PlusPlus::seed_from_u64(seed));
        let all = |n: usize| (0..n as u32).collect();
        let running = Fit::new(&data, 0, net, all(fit.len()), all(tune.len()), data.spec.learning_rate, seed)?;
        let queue = counts.into_iter().filter(|(s, _)| *s != 0).map(|(s, (n, b))| (s, n, b)).collect();
        Ok(Trainer { data, vocabulary, seed, queue, running: Some(running), pooled: None, segments: BTreeMap::new() })
    }

    /// Starts from an older model's pooled network instead of random weights, at a quarter of the learning rate. Call it
    /// before the first step. `false` where the layers or the kind of inputs differ: then training starts cold.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn start_from(&mut self, old: &Model) -> Result<bool> {
        let data = &self.data;
        let (net, _) = old.pooled();
        let inputs = data.layout.inputs();
        let layers = Shape { inputs, ..net.shape };
        let map =
            correspond((&data.layout, &self.vocabulary), (&layout(old.spec(), old.vocabulary()), old.vocabulary()));
        let Some(map) = map.filter(|_| Shape::new(&data.spec, inputs) == layers) else { return Ok(false) };
        let all = |n: usize| (0..n as u32).collect();
        let (fit, tune, rate) = (all(data.fit.len()), all(data.tune.len()), data.spec.learning_rate * OWN_RATE);
        self.running = Some(Fit::new(data, 0, Net::renewed(net, inputs, &map), fit, tune, rate, self.seed)?);
        Ok(true)
    }

    /// Bytes that training will hold at its peak, beside the examples themselves: weights with Adam's moments and
    /// gradients, the largest batch with what its backward pass needs, and the scores on tune.
    pub fn memory(fit: &[Example], tune: &[Example], vocabulary: &Vocabulary, spec: &Spec) -> usize {
        let layout = layout(spec, vocabulary);
        let shape = Shape::new(spec, layout.inputs());
        let (h, g, ff) = (shape.hidden, shape.gates(), shape.feed_forward);
        let threads = rayon::current_num_threads();
        let longest = fit.iter().map(|e| length(e, spec)).max().unwrap_or(0);
        let rows = longest * spec.batch.min(fit.len());
        let row = (1 + shape.taps) * shape.channels
            + shape.layers * (3 * g + 3 * h)
            + 5 * h
            + 3 * ff
            + 8
            + 2 * layout.entries();
        let views: usize = tune.iter().map(|e| length(e, spec)).sum();
        let numbers = (12 + threads) * shape.places().total + 2 * rows * row;
        4 * numbers + views * (3 * size_of::<Scored>() + 32) + 32 * (fit.len() + tune.len())
    }

    /// About one batch of work, well below a second.
    ///
    /// # Errors
    /// [`Error::Numerics`] where the loss stops being finite.
    pub fn step(&mut self) -> Result<Step> {
        if let Some(fit) = &mut self.running {
            let segment = fit.segment;
            return match fit.step(&self.data)? {
                Some(Progress::Batch { loss }) => Ok(Step::Batch { segment, loss: Some(loss) }),
                Some(Progress::Scoring) => Ok(Step::Batch { segment, loss: None }),
                Some(Progress::Epoch(report)) => Ok(Step::Epoch(report)),
                None if segment == 0 => {
                    let best = self.running.take().map(Fit::finish);
                    self.pooled = best.map(|best| {
                        let platt =
                            calibrate(best.scores.sessions(), Platt::IDENTITY, OWN_SPREAD).unwrap_or(Platt::IDENTITY);
                        (best, platt)
                    });
                    Ok(Step::Batch { segment, loss: None })
                }
                None => self.decide(),
            };
        }
        let Some(&(segment, sessions, buyers)) = self.queue.front() else { return Ok(Step::Done) };
        let spec = &self.data.spec;
        let Some((pooled, _)) = &self.pooled else { return Ok(Step::Done) };
        if sessions < spec.min_sessions || buyers < spec.min_buyers {
            return self.decide();
        }
        let of = |examples: &[Example]| -> Vec<u32> {
            let numbered = examples.iter().zip(0u32..);
            numbered.filter(|(e, _)| e.segment == segment).map(|(_, i)| i).collect()
        };
        let (fit, tune) = (of(self.data.fit), of(self.data.tune));
        if tune.len() < 2 {
            // Nothing to win on.
            return self.decide();
        }
        let rate = spec.learning_rate * OWN_RATE;
        match Fit::new(&self.data, segment, pooled.net.clone(), fit, tune, rate, self.seed) {
            Ok(fit) => {
                self.running = Some(fit);
                Ok(Step::Batch { segment, loss: None })
            }
            Err(Error::TooLittle(_)) => self.decide(),
            Err(e) => Err(e),
        }
    }

    /// The trained model.
    ///
    /// # Errors
    /// [`Error::Cancelled`] before [`Step::Done`].
    pub fn finish(self) -> Result<Model> {
        match self.pooled {
            Some((best, platt)) if self.queue.is_empty() => {
                Ok(Model::new(self.data.spec, self.vocabulary, (best.net, platt), self.segments))
            }
            _ => Err(Error::Cancelled),
        }
    }

    /// Holds a segment's own network, if one was trained, against the pooled one on the segment's sessions of tune.
    fn decide(&mut self) -> Result<Step> {
        let (Some((segment, sessions, buyers)), Some((pooled, pooled_platt))) = (self.queue.pop_front(), &self.pooled)
        else {
            return Ok(Step::Done);
        };
        let own = self.running.take().map(Fit::finish);
        // The pooled network's scores are in the order of the examples that count; those of the segment likewise.
        let counted = self.data.tune.iter().filter(|e| length(e, &self.data.spec) > 0);
        let theirs: Vec<&[Scored]> =
            counted.zip(pooled.scores.sessions()).filter(|(e, _)| e.segment == segment).map(|(_, s)| s).collect();
        let calibrated = calibrate(theirs.iter().copied(), *pooled_platt, SEGMENT_SPREAD);
        let theirs_platt = calibrated.unwrap_or(*pooled_platt);
        let theirs_losses: Vec<f64> = theirs.iter().map(|s| session_loss(&theirs_platt, s)).collect();
        let mut report = SegmentReport {
            segment,
            sessions,
            buyers,
            compared: theirs.len(),
            pooled_log_loss: mean(&theirs_losses),
            own_log_loss: None,
            difference: None,
            standard_error: None,
            used: false,
        };
        let mut serves = Segment { net: None, platt: theirs_platt };
        if let Some(own) = own {
            let platt = calibrate(own.scores.sessions(), Platt::IDENTITY, OWN_SPREAD).unwrap_or(*pooled_platt);
            let losses: Vec<f64> = own.scores.sessions().map(|s| session_loss(&platt, s)).collect();
            report.own_log_loss = mean(&losses);
            if let Some((difference, error)) = paired(&losses, &theirs_losses) {
                (report.difference, report.standard_error) = (Some(difference), Some(error));
                report.used = difference < -error;
            }
            if report.used {
                serves = Segment { net: Some(own.net), platt };
            }
        }
        if report.used || calibrated.is_some() {
            self.segments.insert(segment, serves);
        }
        Ok(Step::Segment(report))
    }
}

/// A calibrator on tune, where it has buyers and leavers enough.
fn calibrate<'s>(sessions: impl Iterator<Item = &'s [Scored]>, centre: Platt, spread: f64) -> Option<Platt> {
    let mut views = Vec::new();
    let mut outcomes = [0; 2];
    for session in sessions {
        if let Some(first) = session.first() {
            outcomes[usize::from(first.churned)] += 1;
        }
        views.extend_from_slice(session);
    }
    if outcomes.iter().all(|&n| n >= CALIBRATED) {
        Platt::fit(&views, outcomes.iter().sum(), centre, spread)
    } else {
        None
    }
}

fn session_loss(platt: &Platt, session: &[Scored]) -> f64 {
    session.iter().map(|s| f64::from(s.weight) * platt.loss(s)).sum()
}

fn mean(x: &[f64]) -> Option<f64> {
    (!x.is_empty()).then(|| x.iter().sum::<f64>() / x.len() as f64)
}

/// Mean of new − old over the same sessions, and its standard error; `None` for fewer than two.
pub(super) fn paired(new: &[f64], old: &[f64]) -> Option<(f64, f64)> {
    let n = new.len();
    if n != old.len() || n < 2 {
        return None;
    }
    let differences = || new.iter().zip(old).map(|(a, b)| a - b);
    let mean = differences().sum::<f64>() / n as f64;
    let variance = differences().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    Some((mean, (variance / n as f64).sqrt()))
}
