//! The training of one network: epochs of Adam on the fit window, early stopping on tune. One call a batch.

use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::seq::SliceRandom;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::calibrate::{Calibrator, Scored};
use super::graph::{Batch, Graph, counts, length};
use super::inputs::Layout;
use super::model::{advance, blank};
use super::net::Net;
use super::{Example, Loss, Spec};
use crate::metrics::Metrics;
use crate::{Error, Result};

/// Sessions of tune that one step scores.
const EVALUATED: usize = 128;
/// Batches that are drawn together and sorted by length, so that little is padded.
const POOL: usize = 32;
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
    pub fit_loss: f64,
    /// `None` where the segment has nothing on tune.
    pub tune_loss: Option<f64>,
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
    graph: Graph,
    adam: AdamW,
    rng: Xoshiro256PlusPlus,
    /// What the weighted sum of a batch's losses is divided by: its mean over all batches.
    scale: f64,
    peak: f64,
    epoch: usize,
    batches: Vec<Vec<u32>>,
    phase: Phase,
    loss: f64,
    net: Net,
    /// Which inputs the fit window has; a segment's network inherits the answer with the pooled weights.
    seen: Option<Vec<bool>>,
    scores: Scores,
    best: Option<Best>,
    since_best: usize,
}

impl Fit {
    /// `fit` and `tune` number the examples of the windows. `peak` is the highest learning rate.
    pub fn new(
        data: &Data,
        segment: u32,
        start: Net,
        fit: Vec<u32>,
        tune: Vec<u32>,
        peak: f64,
        seed: u64,
    ) -> Result<Fit> {
        let counted = |e: &Example| match data.spec.loss {
            Loss::EveryView => length(e, &data.spec),
            Loss::Last => length(e, &data.spec).min(1),
        };
        let fit: Vec<u32> = fit.into_iter().filter(|&i| counted(&data.fit[i as usize]) > 0).collect();
        let tune: Vec<u32> = tune.into_iter().filter(|&i| counted(&data.tune[i as usize]) > 0).collect();
        let total: f64 =
            fit.iter().map(|&i| &data.fit[i as usize]).map(|e| counted(e) as f64 * f64::from(e.weight)).sum();
        if !(total > 0.0 && total.is_finite()) {
            return Err(Error::TooLittle("no session of the fit window counts in the loss".into()));
        }
        let graph = Graph::new(start.clone()).map_err(numerics)?;
        let params = ParamsAdamW { lr: peak, weight_decay: 0.0, ..ParamsAdamW::default() };
        let adam = AdamW::new(graph.vars.clone(), params).map_err(numerics)?;
        let mut made = Fit {
            segment,
            scale: total / fit.len() as f64 * data.spec.batch as f64,
            fit,
            tune,
            graph,
            adam,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed ^ (u64::from(segment) << 32)),
            peak,
            epoch: 0,
            batches: Vec::new(),
            phase: Phase::Train { at: 0 },
            loss: 0.0,
            net: start,
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
        let cycle = data.spec.cycle.min(data.spec.epochs);
        match self.phase {
            Phase::Train { at } if at == 0 && self.done(data, cycle) => Ok(None),
            Phase::Train { at } if at < self.batches.len() => {
                let examples: Vec<_> = self.batches[at].iter().map(|&i| &data.fit[i as usize]).collect();
                let batch = Batch::new(&examples, &data.layout, &data.spec);
                if let (0, Some(seen)) = (self.epoch, &mut self.seen) {
                    batch.inputs.entries.iter().for_each(|&(i, _)| seen[i as usize] = true);
                }
                let progress = self.epoch as f64 + at as f64 / self.batches.len() as f64;
                self.adam.set_learning_rate(one_cycle(self.peak, progress, cycle));
                let dropout = Some((data.spec.dropout, &mut self.rng));
                let loss = self.graph.loss(&batch, self.scale, dropout).map_err(numerics)?;
                self.adam.backward_step(&loss).map_err(numerics)?;
                let loss = f64::from(loss.to_scalar::<f32>().map_err(numerics)?);
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
                self.net = self.graph.net().map_err(numerics)?.clone();
                if let Some(seen) = &self.seen {
                    silence(&mut self.net, seen);
                }
                self.scores = Scores::default();
                self.phase = Phase::Evaluate { at: 0 };
                Ok(Some(Progress::Scoring))
            }
            Phase::Evaluate { at } if at < self.tune.len() => {
                let to = (at + EVALUATED).min(self.tune.len());
                for &i in &self.tune[at..to] {
                    score(data, &self.net, &data.tune[i as usize], &mut self.scores);
                }
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
        let Fit { net, scores, best, .. } = self;
        best.unwrap_or(Best { net, loss: f64::NAN, scores })
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
        let tune_loss = tune.as_ref().map(|m| m.log_loss);
        let best = tune_loss.is_some_and(|loss| self.best.as_ref().is_none_or(|best| loss < best.loss));
        if let (true, Some(loss)) = (best, tune_loss) {
            self.best = Some(Best { net: self.net.clone(), loss, scores: std::mem::take(&mut self.scores) });
            self.since_best = 0;
        } else if self.epoch > cycle {
            self.since_best += 1;
        }
        // Each batch's loss was divided by the mean weight of a batch.
        let total = self.fit.len() as f64 / data.spec.batch as f64;
        let fit_loss = std::mem::take(&mut self.loss) / total;
        EpochReport { segment: self.segment, epoch: self.epoch, fit_loss, tune_loss, tune, best }
    }

    /// Draws the batches of an epoch: sessions of like length together, in random order.
    fn shuffle(&mut self, data: &Data) {
        self.fit.shuffle(&mut self.rng);
        let mut order = self.fit.clone();
        for pool in order.chunks_mut(POOL * data.spec.batch) {
            pool.sort_by_key(|&i| length(&data.fit[i as usize], &data.spec));
        }
        self.batches = order.chunks(data.spec.batch).map(<[u32]>::to_vec).collect();
        self.batches.shuffle(&mut self.rng);
    }
}

/// Scores the views of a session that the loss counts.
pub(super) fn score(data: &Data, net: &Net, example: &Example, scores: &mut Scores) {
    let mut state = blank(&data.spec, &data.layout);
    for (t, view) in example.views.iter().take(length(example, &data.spec)).enumerate() {
        let logit = advance(&data.layout, net, &mut state, view);
        if counts(example, t, &data.spec) {
            let (number, churned) = (t as u32 + 1, !example.purchased);
            scores.views.push(Scored { logit, number, churned, weight: example.weight });
        }
    }
    scores.ends.push(scores.views.len());
}

/// An input that training never saw still has its random weights and would blur the first view that has it: it gets none.
fn silence(net: &mut Net, seen: &[bool]) {
    if let Some(layer) = net.layers.first_mut() {
        let rows = layer.w.chunks_exact_mut(4 * net.hidden).zip(seen);
        rows.filter(|(_, seen)| !**seen).for_each(|(row, _)| row.fill(0.0));
    }
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

pub(super) fn numerics(e: candle_core::Error) -> Error {
    Error::Numerics(e.to_string())
}
