//! The geometry: standardise, k-means for 1 … k clusters a dimension, the elbow.

use super::{Card, Dimension, Elbow, Model, Spec, Variables, distance, nearest};
use crate::{Error, Result};
use linfa::DatasetBase;
use linfa::prelude::Fit as _;
use linfa_clustering::{KMeans, KMeansInit};
use ndarray::{Array2, ArrayView2};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// K-means over one snapshot of customers, a step at a time: `while fit.step()? { check for interrupts }`, then
/// [`Fit::finish`].
///
/// For every number of clusters in each dimension, k-means++ and Lloyd's iterations run from `restarts` seeds on a draft
/// of the sample; the best then goes on over the whole sample until it has converged. A step is one run on the draft, or
/// ten iterations over the sample, because linfa's `fit` has no hook. linfa starts its work on rayon's current pool: call
/// `step` from within a pool of the caller's making.
///
/// Every run has its own generator, seeded by what it is (seed, dimension, k, run).
#[derive(Debug)]
pub struct Fit {
    spec: Spec,
    seed: u64,
    customers: usize,
    spending: Curve<2>,
    behaviour: Curve<4>,
}

impl Fit {
    /// Standardises the snapshot and draws the sample. No customers at all gives a model of one cell.
    pub fn new(customers: &[Variables], spec: &Spec, seed: u64) -> Result<Fit> {
        spec.validate()?;
        let sample = sample(customers.len(), spec.sample, seed);
        let spending = Curve::new(customers, &sample, Variables::spending, spec, seed);
        let behaviour = Curve::new(customers, &sample, Variables::behaviour, spec, !seed);
        Ok(Fit { spec: spec.clone(), seed, customers: customers.len(), spending, behaviour })
    }

    /// How many runs there are in all, and how many are done.
    pub fn progress(&self) -> (usize, usize) {
        let total = |most: usize| most * (self.spec.restarts + 1);
        (total(self.spending.most) + total(self.behaviour.most), self.spending.done + self.behaviour.done)
    }

    /// Does one step; false when there is none left.
    pub fn step(&mut self) -> Result<bool> {
        Ok(self.spending.step(&self.spec)? || self.behaviour.step(&self.spec)?)
    }

    /// The model with every cell in one group, and its card; does the steps that are left.
    pub fn finish(mut self) -> Result<(Model, Card)> {
        while self.step()? {}
        let mut card =
            Card { customers: self.customers, sample: self.spending.points.len(), seed: self.seed, ..Card::default() };
        let spending = self.spending.choose("spending", &mut card.elbow);
        let behaviour = self.behaviour.choose("behaviour", &mut card.elbow);
        Ok((Model::new(spending, behaviour), card))
    }
}

/// Iterations over the whole sample in one step.
const CHUNK: u64 = 10;

/// Centroids and the sum of squared distances to them.
type Clusters<const D: usize> = (f64, Vec<[f64; D]>);

/// One dimension's elbow curve in the making.
#[derive(Debug)]
struct Curve<const D: usize> {
    mean: [f64; D],
    std: [f64; D],
    points: Vec<[f64; D]>,
    /// Points that the restarts run on.
    draft: Vec<[f64; D]>,
    /// The most clusters that can be found: no more than there are distinct points.
    most: usize,
    seed: u64,
    /// Runs done; of the restarts + 1 runs of each number of clusters, the last is that over the whole sample.
    done: usize,
    /// Iterations of the run over the whole sample so far.
    iterations: u64,
    /// The best so far of the number of clusters at hand.
    best: Option<Clusters<D>>,
    /// The result of 1, 2, … clusters.
    found: Vec<Clusters<D>>,
}

impl<const D: usize> Curve<D> {
    fn new(all: &[Variables], sampled: &[usize], of: fn(&Variables) -> [f64; D], spec: &Spec, seed: u64) -> Curve<D> {
        let (mean, std) = moments(all, of);
        let point = |&c: &usize| {
            let values = of(&all[c]);
            // A grid of 1e-9 deviations: points that differ by less are the same, and squared distances never vanish.
            // Adding 0 makes −0 the same as 0.
            std::array::from_fn(|i| (standard(values[i], mean[i], std[i]) * 1e9).round() / 1e9 + 0.0)
        };
        let points: Vec<[f64; D]> = sampled.iter().map(point).collect();
        let draft: Vec<[f64; D]> = sample(points.len(), spec.draft, seed).into_iter().map(|i| points[i]).collect();
        let mut distinct: Vec<[u64; D]> = draft.iter().map(|p| p.map(f64::to_bits)).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let most = distinct.len().min(spec.max_clusters);
        Curve { mean, std, points, draft, most, seed, done: 0, iterations: 0, best: None, found: Vec::new() }
    }

    fn step(&mut self, spec: &Spec) -> Result<bool> {
        let (k, run) = (1 + self.found.len(), self.done % (spec.restarts + 1));
        if k > self.most {
            return Ok(false);
        }
        let Some((_, best)) = self.best.as_ref().filter(|_| run == spec.restarts) else {
            let which = (k as u64) << 32 | run as u64;
            let rng = Xoshiro256PlusPlus::seed_from_u64(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ which);
            let drafted = lloyd(&self.draft, k, KMeansInit::KMeansPlusPlus, rng, spec.iterations, spec.tolerance)?;
            if self.best.as_ref().is_none_or(|best| drafted.0 < best.0) {
                self.best = Some(drafted);
            }
            self.done += 1;
            return Ok(true);
        };
        let flat = best.as_flattened().to_vec();
        let start = Array2::from_shape_vec((k, D), flat).map_err(|e| Error::Numerics(e.to_string()))?;
        let rng = Xoshiro256PlusPlus::seed_from_u64(0);
        let next = lloyd(&self.points, k, KMeansInit::Precomputed(start), rng, CHUNK, spec.tolerance)?;
        let moved: f64 = best.iter().zip(&next.1).map(|(a, b)| distance(a, b)).sum();
        self.iterations += CHUNK;
        if moved.sqrt() < spec.tolerance || self.iterations >= spec.iterations {
            self.found.push(next);
            (self.best, self.iterations) = (None, 0);
            self.done += 1;
        } else {
            self.best = Some(next);
        }
        Ok(true)
    }

    fn choose(self, dimension: &str, rows: &mut Vec<Elbow>) -> Dimension<D> {
        let inertias: Vec<f64> = self.found.iter().map(|f| f.0).collect();
        let chosen = elbow(&inertias);
        rows.extend(inertias.iter().enumerate().map(|(i, &inertia)| Elbow {
            dimension: dimension.into(),
            k: i + 1,
            inertia,
            chosen: i + 1 == chosen,
        }));
        let mut centroids = self.found.into_iter().nth(chosen - 1).map_or(vec![[0.0; D]], |f| f.1);
        let height = |c: &[f64; D]| c.iter().sum::<f64>();
        centroids.sort_by(|a, b| height(a).total_cmp(&height(b)));
        Dimension { mean: self.mean, std: self.std, centroids }
    }
}

/// Lloyd's iterations from where `init` says, at most so many, and the exact inertia of what they end at.
fn lloyd<const D: usize>(
    points: &[[f64; D]],
    k: usize,
    init: KMeansInit<f64>,
    rng: Xoshiro256PlusPlus,
    iterations: u64,
    tolerance: f64,
) -> Result<Clusters<D>> {
    let numerics = |e: &dyn std::fmt::Display| Error::Numerics(e.to_string());
    let records = ArrayView2::from_shape((points.len(), D), points.as_flattened()).map_err(|e| numerics(&e))?;
    let fitted = KMeans::params_with_rng(k, rng)
        .init_method(init)
        .n_runs(1)
        .max_n_iterations(iterations)
        .tolerance(tolerance)
        .fit(&DatasetBase::from(records))
        .map_err(|e| numerics(&e))?;
    let centroids: Vec<[f64; D]> =
        fitted.centroids().rows().into_iter().map(|row| std::array::from_fn(|i| row[i])).collect();
    let inertia = points.iter().map(|p| distance(p, &centroids[nearest(p, &centroids)])).sum();
    Ok((inertia, centroids))
}

/// The elbow: of the inertias of 1, 2, … clusters, the number that lies furthest below the straight line from the
/// first to the last (the fewest among equals). Where none lies below it, one cluster, or two if there are but two
/// distinct points.
pub(super) fn elbow(inertias: &[f64]) -> usize {
    let n = inertias.len();
    if n == 2 && inertias[1] < inertias[0] {
        return 2;
    }
    let (Some(&first), Some(&last)) = (inertias.first(), inertias.last()) else { return 1 };
    let mut best = (1, 1e-12 * first);
    for (i, inertia) in inertias.iter().enumerate() {
        let line = first + (last - first) * i as f64 / (n - 1).max(1) as f64;
        if line - inertia > best.1 {
            best = (i + 1, line - inertia);
        }
    }
    best.0
}

/// What k-means and serving see of a value: deviations from the mean, 0 where unknown, bounded so that no distance
/// overflows.
pub(super) fn standard(value: f64, mean: f64, std: f64) -> f64 {
    if value.is_finite() { ((value - mean) / std).clamp(-1e6, 1e6) } else { 0.0 }
}

/// Mean and standard deviation of each variable over its known values, in one pass (Welford).
fn moments<const D: usize>(all: &[Variables], of: fn(&Variables) -> [f64; D]) -> ([f64; D], [f64; D]) {
    let (mut n, mut mean, mut m2) = ([0.0; D], [0.0; D], [0.0; D]);
    for customer in all {
        for (i, value) in of(customer).into_iter().enumerate().filter(|(_, v)| v.is_finite()) {
            // Beyond any money or count; keeps the squares finite.
            let value = value.clamp(-1e100, 1e100);
            n[i] += 1.0;
            let delta = value - mean[i];
            mean[i] += delta / n[i];
            m2[i] += delta * (value - mean[i]);
        }
    }
    let std = std::array::from_fn(|i| {
        let std = (m2[i] / f64::max(n[i], 1.0)).sqrt();
        // Rounding leaves a variable that does not vary a tiny deviation, which must not be blown up.
        if std > 1e-9 * mean[i].abs() && std.is_normal() { std } else { 1.0 }
    });
    (mean, std)
}

/// At most `most` of the numbers below `of`, all equally likely, in order.
pub(crate) fn sample(of: usize, most: usize, seed: u64) -> Vec<usize> {
    if of <= most {
        return (0..of).collect();
    }
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut wanted, mut chosen) = (most, Vec::with_capacity(most));
    // Knuth's selection sampling: in order, without replacement, no memory beside the result.
    for i in 0..of {
        if rng.gen_range(0..of - i) < wanted {
            chosen.push(i);
            wanted -= 1;
        }
    }
    chosen
}
