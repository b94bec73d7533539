//! Ask and tell.

use std::panic::{AssertUnwindSafe, catch_unwind};

use egobox_ego::{EgorServiceBuilder, InfillOptimizer, InfillStrategy, RuntimeFlags, XType};
use ndarray::Array2;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use super::{Parameter, Space};

/// Trials the process is fitted to: its cost grows with their cube, and [`Search::ask`] cannot be interrupted.
pub(super) const FITTED: usize = 80;
/// Restarts and likelihood evaluations of a fit, and restarts of the search for the largest expected improvement.
const FIT_STARTS: usize = 6;
const FIT_EVALUATIONS: usize = 40;
const SEARCH_STARTS: usize = 12;
/// A range of at most this many whole numbers is searched as such; of more, the steps are small enough to be rounded.
const STEPS: f64 = 16.0;
/// How many times the distance from the best loss to the median a loss may lie above the best.
const REACH: f64 = 4.0;
/// Draws for a point that was not tried before a space is taken as exhausted.
const DRAWS: usize = 1000;

/// A trial: a point of the space, and its loss, `None` where it failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub point: Vec<f64>,
    pub loss: Option<f64>,
}

/// The trials of a study so far; the smallest loss is sought.
#[derive(Debug, Clone)]
pub struct Search {
    space: Space,
    start: Vec<f64>,
    initial: usize,
    seed: u64,
    told: Vec<Told>,
}

impl Search {
    /// `start` is tried first, then `initial - 1` points spread over the space (a Latin hypercube).
    pub fn new(space: Space, start: Vec<f64>, initial: usize, seed: u64) -> Search {
        Search { space, start, initial, seed, told: Vec::new() }
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    pub fn told(&self) -> &[Told] {
        &self.told
    }

    /// The smallest loss so far.
    pub fn best(&self) -> Option<f64> {
        self.told.iter().filter_map(|t| t.loss).min_by(f64::total_cmp)
    }

    /// Takes a trial in. A loss that is not finite counts as failed.
    pub fn tell(&mut self, point: Vec<f64>, loss: Option<f64>) {
        self.told.push(Told { point, loss: loss.filter(|l| l.is_finite()) });
    }

    /// The point to try next, never one that was tried; `None` where none is left. A value of the space, the seed and
    /// the trials told. Well below a second, on the threads of the rayon pool it is called in.
    pub fn ask(&self) -> Option<Vec<f64>> {
        let n = self.told.len();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let proposed = match n {
            0 => Some(self.start.clone()),
            n if n < self.initial => Some(self.spread(n - 1)),
            _ => self.suggest(rng.r#gen()),
        };
        let untried = |point: &Vec<f64>| self.told.iter().all(|t| t.point != *point);
        let parameters = self.space.parameters();
        let mut draw = || parameters.iter().map(|p| p.at(rng.r#gen())).collect();
        proposed.filter(untried).or_else(|| (0..DRAWS).map(|_| draw()).find(untried))
    }

    /// A point of the Latin hypercube: of each parameter every stratum is drawn once.
    fn spread(&self, number: usize) -> Vec<f64> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let n = self.initial - 1;
        let mut coordinate = |p: &Parameter| {
            let mut strata: Vec<usize> = (0..n).collect();
            strata.shuffle(&mut rng);
            let shares: Vec<f64> = strata.iter().map(|&s| (s as f64 + rng.r#gen::<f64>()) / n as f64).collect();
            p.at(shares[number])
        };
        self.space.parameters().iter().map(&mut coordinate).collect()
    }

    /// Where the largest improvement is expected; `None` where the trials say nothing about it.
    fn suggest(&self, seed: u64) -> Option<Vec<f64>> {
        let (fitted, losses) = self.fitted()?;
        let parameters = self.space.parameters();
        let xtypes: Vec<XType> = parameters.iter().map(xtype).collect();
        let flat = fitted.iter().flat_map(|t| parameters.iter().zip(&t.point).map(|(p, &v)| encode(p, v))).collect();
        let x = Array2::from_shape_vec((fitted.len(), parameters.len()), flat).ok()?;
        let y = Array2::from_shape_vec((losses.len(), 1), losses).ok()?;
        let service = EgorServiceBuilder::optimize()
            .configure(|c| {
                c.runtime_flags(RuntimeFlags::none())
                    .seed(seed)
                    .infill_strategy(InfillStrategy::LogEI)
                    .infill_optimizer(InfillOptimizer::Cobyla)
                    .n_start(SEARCH_STARTS)
                    .configure_gp(|gp| gp.n_start(FIT_STARTS).max_eval(FIT_EVALUATIONS))
            })
            .min_within_mixint_space(&xtypes)
            .ok()?;
        // Trials too alike to be fitted are a panic inside, not an error: then a random point is as good as any.
        let suggested = catch_unwind(AssertUnwindSafe(|| service.suggest(&x, &y))).ok()?;
        let row = suggested.rows().into_iter().next()?;
        row.iter().all(|v| v.is_finite()).then(|| parameters.iter().zip(row).map(|(p, &v)| decode(p, v)).collect())
    }

    /// The trials the process is fitted to, the better half and the latest of the others, with their losses as it sees
    /// them: a failed trial counts as the worst, and a diverged one says "bad", not how bad, or the differences that
    /// matter would drown. `None` where nothing differs.
    pub(super) fn fitted(&self) -> Option<(Vec<&Told>, Vec<f64>)> {
        let loss = |t: &Told| t.loss.unwrap_or(f64::INFINITY);
        let mut order: Vec<usize> = (0..self.told.len()).collect();
        order.sort_by(|&a, &b| loss(&self.told[a]).total_cmp(&loss(&self.told[b])));
        let finite: Vec<f64> = order.iter().filter_map(|&i| self.told[i].loss).collect();
        let (best, median, worst) = (*finite.first()?, finite[finite.len() / 2], *finite.last()?);
        let limit = match best + REACH * (median - best) {
            limit if limit > best => limit.min(worst),
            _ if worst > best => worst,
            // Where all that did not fail gave the same, failing is what is worse.
            _ if finite.len() < order.len() => best + 1.0,
            _ => return None,
        };
        let mut kept = order.split_off(order.len().min(FITTED / 2));
        kept.sort_unstable();
        order.extend(kept.into_iter().rev().take(FITTED - FITTED / 2));
        order.sort_unstable();
        let fitted: Vec<&Told> = order.iter().map(|&i| &self.told[i]).collect();
        let losses = fitted.iter().map(|t| loss(t).min(limit)).collect();
        Some((fitted, losses))
    }
}

fn xtype(p: &Parameter) -> XType {
    match p.range {
        r if stepped(p) => XType::Int(r.low as i32, r.high as i32),
        _ => XType::Float(0.0, 1.0),
    }
}

fn stepped(p: &Parameter) -> bool {
    p.whole && !p.range.log && p.range.high - p.range.low < STEPS
}

fn encode(p: &Parameter, value: f64) -> f64 {
    if stepped(p) { value } else { p.share(value) }
}

fn decode(p: &Parameter, code: f64) -> f64 {
    if stepped(p) { p.snap(code) } else { p.at(code.clamp(0.0, 1.0)) }
}
