//! The training of one network: epochs of Adam on the fit window, early stopping on tune. One call a batch.
//!
//! Every call of candle's is made on a thread of the pool that the trainer runs in, and starts no other.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::seq::SliceRandom;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, length};
use super::calibrate::{Calibrator, Scored};
use super::inputs::Layout;
use super::net::Net;
use super::network::{Network, loss};
use super::scorer::Scorer;
use super::{Example, LossOn, Spec};
use coupon_base::Error;
use coupon_base::Result;
use coupon_statistics::metrics::Metrics;

/// Sessions of tune that one step scores.
const EVALUATED: usize = 128;
/// Batches that are drawn together and sorted by length, so that the steps of a batch are of many rows.
const POOL: usize = 32;
/// Sessions of a batch that are worth a thread: with fewer rows a step the matrix product is slow.
const SHARE: usize = 8;
/// Sessions of tune that a thread scores at a time.
const LANES: usize = 32;
/// The cycle ends at this share of its peak rate, where training then stays.
const FLOOR: f64 = 0.01;

/// The windows and what is made of them.
pub(super) struct Data<'a> {
    pub fit: &'a [Example<'a>],
    pub tune: &'a [Example<'a>],
    pub spec: Spec,
    pub layout: Layout,
}

/// One epoch of one network. Losses are log losses a counted view; the measures are on tune, uncalibrated, on the views
/// that the loss counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// 0: the pooled network.
    pub segment: u32,
    /// From 1.
    pub epoch: usize,
    pub train_loss: f64,
    /// `None` where the segment has nothing on tune.
    pub validation_loss: Option<f64>,
    /// With AUROC, AUPRC (of purchase), accuracy and the majority-class line.
    pub tune: Option<Metrics>,
    /// Whether these are the best weights so far.
    pub best: bool,
}

/// The weights with the lowest log loss on tune, and what they say there.
#[derive(Clone)]
pub(super) struct Best {
    pub net: Net,
    pub loss: f64,
    pub scores: Scores,
}

/// Scored views of tune, with the end of each session's.
#[derive(Clone, Default)]
pub(super) struct Scores {
    pub views: Vec<Scored>,
    pub ends: Vec<usize>,
}

impl Scores {
    pub fn sessions(&self) -> impl Iterator<Item = &[Scored]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(from, &to)| &self.views[from..to])
    }
}

pub(super) enum Progress {
    Batch { loss: f64 },
    Scoring,
    Epoch(EpochReport),
}

enum Phase {
    Train { at: usize },
    Evaluate { at: usize },
}

pub(super) struct Fit {
    pub segment: u32,
    fit: Vec<u32>,
    pub tune: Vec<u32>,
    /// As it is being trained.
    network: Network,
    /// A share of a batch a thread; their gradients are added up in this order.
    shards: Vec<Arc<Batch>>,
    adam: AdamW,
    /// Gradient steps made.
    steps: u64,
    rng: Xoshiro256PlusPlus,
    seed: u64,
    /// Weights of churned and purchased while training, and what that adds to the logits.
    classes: [f32; 2],
    shift: f32,
    /// What the weighted sum of a batch's losses is divided by: its mean over all batches.
    scale: f64,
    peak: f64,
    epoch: usize,
    batches: Vec<Vec<u32>>,
    phase: Phase,
    loss: f64,
    /// As it would serve: after an epoch, without the shift and without weights of inputs never seen.
    shown: Net,
    /// Which inputs the fit window has; a segment's network inherits the answer with the pooled weights.
    seen: Option<Vec<bool>>,
    scores: Scores,
    best: Option<Best>,
    since_best: usize,
}

impl Fit {
    /// `fit` and `tune` number the examples of the windows. `peak` is the highest learning rate. Batches are shared
    /// among the threads of the pool it is made in.
    pub fn new(
        data: &Data,
        segment: u32,
        start: Net,
        fit: Vec<u32>,
        tune: Vec<u32>,
        peak: f64,
        seed: u64,
    ) -> Result<Fit> {
        let counted = |e: &Example| match data.spec.loss_on {
            LossOn::EveryView => length(e, &data.spec),
            LossOn::LastView => length(e, &data.spec).min(1),
        };
        let fit: Vec<u32> = fit.into_iter().filter(|&i| counted(&data.fit[i as usize]) > 0).collect();
        let tune: Vec<u32> = tune.into_iter().filter(|&i| counted(&data.tune[i as usize]) > 0).collect();
        let mut totals = [0.0; 2];
        for e in fit.iter().map(|&i| &data.fit[i as usize]) {
            totals[usize::from(e.purchased)] += counted(e) as f64 * f64::from(e.weight);
        }
        let [churned, purchased] = totals;
        let total = churned + purchased;
        if !(total > 0.0 && total.is_finite()) {
            return Err(Error::InsufficientData("no session of the fit window counts in the loss".into()));
        }
        let raised = |mine: f64, other: f64| {
            if mine > 0.0 { (other / mine).max(1.0).powf(data.spec.class_weight_power) } else { 1.0 }
        };
        let classes = [raised(churned, purchased), raised(purchased, churned)];
        let shift = (classes[0] / classes[1]).ln() as f32;
        let mut net = start.clone();
        let bias = net.places.f2[1].start;
        net.values[bias] += shift;
        keep_memory();
        let network = Network::new(&net).map_err(numerics)?;
        // Without decay of the weights AdamW is Adam, here with its papers' defaults.
        let adam = ParamsAdamW { weight_decay: 0.0, ..ParamsAdamW::default() };
        let threads = rayon::current_num_threads().min(data.spec.batch_size.div_ceil(SHARE)).max(1);
        let mut made = Fit {
            segment,
            scale: (churned * classes[0] + purchased * classes[1]) / fit.len() as f64 * data.spec.batch_size as f64,
            fit,
            tune,
            adam: AdamW::new(network.vars().cloned().collect(), adam).map_err(numerics)?,
            network,
            shards: (0..threads).map(|_| Arc::default()).collect(),
            steps: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed ^ (u64::from(segment) << 32)),
            seed,
            classes: classes.map(|w| w as f32),
            shift,
            peak,
            epoch: 0,
            batches: Vec::new(),
            phase: Phase::Train { at: 0 },
            loss: 0.0,
            shown: start,
            seen: (segment == 0).then(|| vec![false; data.layout.inputs()]),
            scores: Scores::default(),
            best: None,
            since_best: 0,
        };
        made.shuffle(data);
        Ok(made)
    }

    /// About one batch of work; `None` when training has ended.
    pub fn step(&mut self, data: &Data) -> Result<Option<Progress>> {
        let cycle = data.spec.one_cycle_epochs.min(data.spec.epochs);
        match self.phase {
            Phase::Train { at } if at == 0 && self.done(data, cycle) => Ok(None),
            Phase::Train { at } if at < self.batches.len() => {
                let progress = self.epoch as f64 + at as f64 / self.batches.len() as f64;
                let loss = self.train(data, at, one_cycle(self.peak, progress, cycle)).map_err(numerics)?;
                if !loss.is_finite() {
                    return Err(Error::Numerics(format!(
                        "the loss is not finite in epoch {}: try a lower learning_rate",
                        self.epoch + 1
                    )));
                }
                self.loss += loss;
                self.phase = Phase::Train { at: at + 1 };
                Ok(Some(Progress::Batch { loss }))
            }
            Phase::Train { .. } => {
                self.shown = self.network.net().map_err(numerics)?;
                self.shown.values[self.shown.places.f2[1].start] -= self.shift;
                if let Some(seen) = &self.seen {
                    silence(&mut self.shown, seen);
                }
                self.scores = Scores::default();
                self.phase = Phase::Evaluate { at: 0 };
                Ok(Some(Progress::Scoring))
            }
            Phase::Evaluate { at } if at < self.tune.len() => {
                let to = (at + EVALUATED).min(self.tune.len());
                score(data, &self.shown, data.tune, &self.tune[at..to], &mut self.scores);
                self.phase = Phase::Evaluate { at: to };
                Ok(Some(Progress::Scoring))
            }
            Phase::Evaluate { .. } => {
                let report = self.end_epoch(data, cycle);
                self.shuffle(data);
                self.phase = Phase::Train { at: 0 };
                Ok(Some(Progress::Epoch(report)))
            }
        }
    }

    /// The best weights on tune; the last ones where tune is empty.
    pub fn finish(self) -> Best {
        let Fit { shown: net, scores, best, .. } = self;
        best.unwrap_or(Best { net, loss: f64::NAN, scores })
    }

    /// One gradient step; the batch's loss.
    fn train(&mut self, data: &Data, at: usize, rate: f64) -> candle_core::Result<f64> {
        let (batch, threads) = (&self.batches[at], self.shards.len());
        let (network, seed) = (&self.network, self.seed ^ (self.steps << 8));
        let (scale, classes) = (self.scale, self.classes);
        let work = |(share, shard): (usize, &mut Arc<Batch>)| {
            // Neighbours are of like length: taken in turns, every thread has as much to do.
            let mine = batch.iter().skip(share).step_by(threads).map(|&i| &data.fit[i as usize]);
            // Nothing is left of the graph that shared it.
            Arc::get_mut(shard).expect("a batch of its own").fill(mine, &data.layout, &data.spec);
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed + share as u64);
            let logits = network.forward(shard, Some((data.spec.dropout, &mut rng)))?;
            let loss = loss(&logits, shard, scale, classes)?;
            Ok((loss.to_scalar::<f64>()?, loss.backward()?))
        };
        // The last batch of an epoch may have fewer sessions than there are threads.
        let shards = &mut self.shards[..threads.min(batch.len())];
        let done: Vec<(f64, GradStore)> =
            shards.par_iter_mut().enumerate().map(work).collect::<candle_core::Result<_>>()?;
        if let (0, Some(seen)) = (self.epoch, &mut self.seen) {
            let entries = shards.iter().flat_map(|batch| batch.inputs()).flatten();
            entries.for_each(|&(i, _)| seen[i as usize] = true);
        }
        let mut done = done.into_iter();
        let Some((mut loss, mut gradients)) = done.next() else { return Ok(0.0) };
        for (its_loss, other) in done {
            loss += its_loss;
            for var in network.vars() {
                if let (Some(sum), Some(its)) = (gradients.get(var), other.get(var)) {
                    let sum = (sum + its)?;
                    gradients.insert(var, sum);
                }
            }
        }
        self.steps += 1;
        self.adam.set_learning_rate(rate);
        self.adam.step(&gradients)?;
        Ok(loss)
    }

    fn done(&self, data: &Data, cycle: usize) -> bool {
        // While the rate is high the loss on tune wanders: patience starts where the cycle ends.
        self.epoch >= data.spec.epochs || (self.epoch >= cycle && self.since_best >= data.spec.patience)
    }

    fn end_epoch(&mut self, data: &Data, cycle: usize) -> EpochReport {
        self.epoch += 1;
        let views = &self.scores.views;
        let weights: Vec<f64> = views.iter().map(|s| f64::from(s.weight)).collect();
        let probabilities: Vec<f64> =
            views.iter().map(|s| Calibrator::IDENTITY.probability(s.logit, s.number)).collect();
        let purchased: Vec<bool> = views.iter().map(|s| !s.churned).collect();
        let tune = Metrics::of(&probabilities, &purchased, Some(&weights));
        let validation_loss = tune.as_ref().map(|m| m.log_loss);
        let best = validation_loss.is_some_and(|loss| self.best.as_ref().is_none_or(|best| loss < best.loss));
        if let (true, Some(loss)) = (best, validation_loss) {
            self.best = Some(Best { net: self.shown.clone(), loss, scores: std::mem::take(&mut self.scores) });
            self.since_best = 0;
        } else if self.epoch > cycle {
            self.since_best += 1;
        }
        // Each batch's loss was divided by the mean weight of a batch.
        let total = self.fit.len() as f64 / data.spec.batch_size as f64;
        let train_loss = std::mem::take(&mut self.loss) / total;
        EpochReport { segment: self.segment, epoch: self.epoch, train_loss, validation_loss, tune, best }
    }

    /// Draws the batches of an epoch: sessions of like length together, in random order.
    fn shuffle(&mut self, data: &Data) {
        self.fit.shuffle(&mut self.rng);
        let mut order = self.fit.clone();
        for pool in order.chunks_mut(POOL * data.spec.batch_size) {
            pool.sort_by_key(|&i| length(&data.fit[i as usize], &data.spec));
        }
        self.batches = order.chunks(data.spec.batch_size).map(<[u32]>::to_vec).collect();
        self.batches.shuffle(&mut self.rng);
    }
}

/// Scores the views that the loss counts of some of the examples, on all threads of the pool, in their order.
pub(super) fn score(data: &Data, net: &Net, examples: &[Example], numbers: &[u32], scores: &mut Scores) {
    // How they are grouped changes rounding: not by threads.
    let some = |scorer: &mut Scorer, some: &[u32]| {
        let examples: Vec<&Example> = some.iter().map(|&i| &examples[i as usize]).collect();
        scorer.batch.fill(examples.iter().copied(), &data.layout, &data.spec);
        scorer.score(net);
        let mut sessions = vec![Vec::new(); examples.len()];
        for (c, &logit) in scorer.batch.counted.iter().zip(scorer.logits()) {
            let session = scorer.batch.given(c.session);
            let Example { purchased, weight, .. } = *examples[session];
            sessions[session].push(Scored { logit, number: c.step as u32 + 1, churned: !purchased, weight });
        }
        sessions
    };
    let groups: Vec<Vec<Vec<Scored>>> = numbers.par_chunks(LANES).map_init(Scorer::default, some).collect();
    for session in groups.into_iter().flatten() {
        scores.views.extend(session);
        scores.ends.push(scores.views.len());
    }
}

/// glibc gives freed memory back above twice the largest mapping freed so far (32 MB at most counts). A step's tensors
/// would be faulted in anew each time: a third of an epoch.
fn keep_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(31 << 20)));
}

fn numerics(e: candle_core::Error) -> Error {
    Error::Numerics(e.to_string())
}

/// An input that training never saw still has its random weights and would blur the first view that has it: it gets none.
fn silence(net: &mut Net, seen: &[bool]) {
    let shape = net.shape;
    let [convolution, _] = &net.places.convolution;
    let (place, width) = match shape.conv_channels {
        0 => (net.places.layers[0].w.clone(), shape.gates()),
        channels => (convolution.clone(), shape.conv_kernel * channels),
    };
    let rows = net.values[place].chunks_exact_mut(width).zip(seen);
    rows.filter(|(_, seen)| !**seen).for_each(|(row, _)| row.fill(0.0));
}

/// Learning rate after `progress` epochs: three tenths of the cycle up from peak/25, then down along a cosine.
fn one_cycle(peak: f64, progress: f64, cycle: usize) -> f64 {
    if cycle == 0 {
        return peak;
    }
    let wave = |from: f64, to: f64, x: f64| to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * x).cos());
    match progress / cycle as f64 {
        x if x < 0.3 => wave(peak / 25.0, peak, x / 0.3),
        x if x < 1.0 => wave(peak, peak * FLOOR, (x - 0.3) / 0.7),
        _ => peak * FLOOR,
    }
}
