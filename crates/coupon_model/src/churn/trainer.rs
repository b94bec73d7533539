//! All networks of a churn model, one after the other: pooled, then each segment that has enough sessions.

use std::collections::{BTreeMap, VecDeque};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::batch::length;
use super::calibrate::{Calibrator, Scored};
use super::fit::{Best, Data, EpochReport, Fit, Progress, Scores, score};
use super::inputs::{Layout, correspond};
use super::model::{Model, Segment, layout};
use super::net::{Net, Shape};
use super::{Example, Spec, Vocabulary};
use crate::{Error, Result};

/// A network is near calibrated for the sessions it was fitted on, eight times those of tune: its calibrator is expected
/// this close to changing nothing, in logits.
const OWN_SPREAD: f64 = 0.1;
/// The pooled network knows nothing of a segment's own base rate: there the calibrator may go this far from the pooled.
const SEGMENT_SPREAD: f64 = 1.0;
/// Sessions of the fit window that a network's level is taken from: with so many it is known to a hundredth of a logit.
pub(crate) const PAST: usize = 50_000;
/// Of them, what one step scores.
const SCORED: usize = 128;
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
    trained: Option<Trained>,
    pooled: Option<(Trained, Calibrator)>,
    segments: BTreeMap<u32, Segment>,
    /// Networks that were trained and lost to the pooled one.
    lost: BTreeMap<u32, Segment>,
}

/// A network at its best, and what it says of the fit window.
struct Trained {
    segment: u32,
    best: Best,
    /// Numbers of examples of the fit window, scored up to `past`'s end.
    sample: Vec<u32>,
    past: Scores,
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
        Ok(Trainer {
            data,
            vocabulary,
            seed,
            queue,
            running: Some(running),
            trained: None,
            pooled: None,
            segments: BTreeMap::new(),
            lost: BTreeMap::new(),
        })
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
    /// gradients, the graph of the largest batch with what its way back needs, and the scores on tune.
    pub fn memory(fit: &[Example], tune: &[Example], vocabulary: &Vocabulary, spec: &Spec) -> usize {
        let views = |examples: &[Example]| examples.iter().map(|e| length(e, spec)).sum();
        let longest = fit.iter().map(|e| length(e, spec)).max().unwrap_or(0);
        let past = sample(fit, |_| true).iter().map(|&i| length(&fit[i as usize], spec)).sum();
        let rows = longest * spec.batch.min(fit.len());
        Trainer::bytes(spec, &layout(spec, vocabulary), rows, [views(tune), past], fit.len() + tune.len())
    }

    /// The same from counts: rows of the largest batch, views of tune and of the sample of fit, and sessions.
    pub(crate) fn bytes(spec: &Spec, layout: &Layout, rows: usize, [tune, past]: [usize; 2], sessions: usize) -> usize {
        let shape = Shape::new(spec, layout.inputs());
        let (h, g, ff) = (shape.hidden, shape.gates(), shape.feed_forward);
        // A row in the graph: its tensors, and on the way back those of one operation's gradients with their sums.
        let convolution = (5 * shape.taps + 2) * shape.channels;
        let row = convolution + shape.layers * (2 * g + 4 * h) + 4 * g + (16 + 2 * shape.kernel) * h + 8 * ff + 64;
        let numbers =
            (16 + 4 * rayon::current_num_threads()) * shape.places().total + rows * (row + 4 * layout.entries());
        // The level of the pooled network and of one more, each with a copy and the logits of it.
        4 * numbers + tune * (3 * size_of::<Scored>() + 32) + past * (3 * size_of::<Scored>() + 8) + 32 * sessions
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
                None => {
                    let sample = sample(self.data.fit, |e| segment == 0 || e.segment == segment);
                    let best = self.running.take().map(Fit::finish);
                    self.trained = best.map(|best| Trained { segment, best, sample, past: Scores::default() });
                    Ok(Step::Batch { segment, loss: None })
                }
            };
        }
        if let Some(trained) = &mut self.trained {
            let segment = trained.segment;
            if trained.step(&self.data) {
                return Ok(Step::Batch { segment, loss: None });
            }
            if segment != 0 {
                return self.decide();
            }
            self.pooled = self.trained.take().map(|trained| {
                let calibrator = trained.calibrate().unwrap_or(Calibrator::IDENTITY);
                (trained, calibrator)
            });
            return Ok(Step::Batch { segment, loss: None });
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
        match Fit::new(&self.data, segment, pooled.best.net.clone(), fit, tune, rate, self.seed) {
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
            Some((pooled, calibrator)) if self.queue.is_empty() => {
                Ok(Model::new(self.data.spec, self.vocabulary, (pooled.best.net, calibrator), self.segments))
            }
            _ => Err(Error::Cancelled),
        }
    }

    /// The model in which every network that was trained serves its segment, for reports beside the one that serves;
    /// `None` before [`Step::Done`].
    pub fn contender(&self) -> Option<Model> {
        let (pooled, calibrator) = self.pooled.as_ref().filter(|_| self.queue.is_empty())?;
        let mut segments = self.segments.clone();
        segments.extend(self.lost.clone());
        let pooled = (pooled.best.net.clone(), calibrator.clone());
        Some(Model::new(self.data.spec.clone(), self.vocabulary.clone(), pooled, segments))
    }

    /// Holds a segment's own network, if one was trained, against the pooled one on the segment's sessions of tune.
    fn decide(&mut self) -> Result<Step> {
        let (Some((segment, sessions, buyers)), Some((pooled, everybodys))) = (self.queue.pop_front(), &self.pooled)
        else {
            return Ok(Step::Done);
        };
        let own = self.trained.take();
        // The pooled network's scores are in the order of the examples that count; those of the segment likewise.
        let counted = self.data.tune.iter().filter(|e| length(e, &self.data.spec) > 0);
        let theirs: Vec<&[Scored]> =
            counted.zip(pooled.best.scores.sessions()).filter(|(e, _)| e.segment == segment).map(|(_, s)| s).collect();
        let past = pooled.sample.iter().zip(pooled.past.sessions());
        let past = past.filter(|&(&i, _)| self.data.fit[i as usize].segment == segment).map(|(_, s)| s);
        let calibrated = Calibrator::fit(theirs.iter().copied(), past, everybodys, SEGMENT_SPREAD);
        let theirs_calibrator = calibrated.as_ref().unwrap_or(everybodys).clone();
        let theirs_losses: Vec<f64> = theirs.iter().map(|s| session_loss(&theirs_calibrator, s)).collect();
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
        let mut serves = Segment { net: None, calibrator: theirs_calibrator };
        if let Some(own) = own {
            let calibrator = own.calibrate().unwrap_or_else(|| everybodys.clone());
            let losses: Vec<f64> = own.best.scores.sessions().map(|s| session_loss(&calibrator, s)).collect();
            report.own_log_loss = mean(&losses);
            if let Some((difference, error)) = paired(&losses, &theirs_losses) {
                (report.difference, report.standard_error) = (Some(difference), Some(error));
                report.used = difference < -error;
            }
            let own = Segment { net: Some(own.best.net), calibrator };
            if report.used {
                serves = own;
            } else {
                self.lost.insert(segment, own);
            }
        }
        if report.used || calibrated.is_some() {
            self.segments.insert(segment, serves);
        }
        Ok(Step::Segment(report))
    }
}

impl Trained {
    /// Scores a stretch of the sample; whether there was any left.
    fn step(&mut self, data: &Data) -> bool {
        let at = self.past.ends.len();
        let rest = &self.sample[at.min(self.sample.len())..];
        score(data, &self.best.net, data.fit, &rest[..rest.len().min(SCORED)], &mut self.past);
        !rest.is_empty()
    }

    /// A network of its own needs little: see [`OWN_SPREAD`].
    fn calibrate(&self) -> Option<Calibrator> {
        Calibrator::fit(self.best.scores.sessions(), self.past.sessions(), &Calibrator::IDENTITY, OWN_SPREAD)
    }
}

/// At most [`PAST`] of the examples that are wanted, evenly from the whole window.
fn sample(examples: &[Example], wanted: impl Fn(&Example) -> bool) -> Vec<u32> {
    let numbered = || examples.iter().zip(0u32..).filter(|(e, _)| wanted(e));
    let every = numbered().count().div_ceil(PAST).max(1);
    numbered().step_by(every).map(|(_, i)| i).collect()
}

fn session_loss(calibrator: &Calibrator, session: &[Scored]) -> f64 {
    session.iter().map(|s| f64::from(s.weight) * calibrator.loss(s)).sum()
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
