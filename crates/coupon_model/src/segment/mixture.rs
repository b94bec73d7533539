//! One dimension's clusters by linfa's Gaussian mixture: 1, 2, … components, as many as have the lowest BIC
//! (Schwarz, Ann. Stat. 1978).

use super::points::{Points, apart, silhouettes};
use super::scale::Scale;
use super::spec::Spec;
use super::{Cut, Dimension, Elbow};
use crate::math::{log_sum_exp, sample};
use linfa::ParamGuard;
use linfa::traits::Fit;
use linfa_clustering::GaussianMixtureModel;
use linfa_linalg::cholesky::Cholesky;
use linfa_linalg::triangular::{SolveTriangular, UPLO};
use ndarray::{Array2, ArrayView2, Axis};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// A mixture is fitted on at most this many customers, and on fewer where many coordinates or components make one fit
/// slower, but not on fewer than the second number: linfa cannot stop within a fit, and a cancel waits for its end.
const SAMPLE: [usize; 2] = [5_000, 1_000];
/// Coordinates by components by customers of one fit: some tenths of a second.
const WORK: usize = 200_000;
/// Starts of each number of components, at most; each is linfa's best of ten k-means.
const STARTS: usize = 3;
/// Added to every variance, as scikit-learn does: many customers with one value leave none.
const FLOOR: f64 = 1e-6;
const ITERATIONS: u64 = 300;
/// Customers that the silhouette is computed on.
const SILHOUETTE: usize = 1000;

/// How many customers the mixtures of this specification are fitted on at most.
pub(super) fn sample_size(spec: &Spec) -> usize {
    let width = spec.spending.len().max(spec.behaviour.len());
    (WORK / (spec.max_clusters * width)).clamp(SAMPLE[1], SAMPLE[0]).min(spec.sample)
}

/// One Gaussian of a mixture, in the units of the scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    pub weight: f64,
    pub mean: Vec<f64>,
    /// The inverse of the covariance's lower Cholesky factor, row by row: it makes deviations from the mean independent
    /// and of unit variance.
    pub whitening: Vec<f64>,
}

impl Component {
    /// `None` where the covariance is none.
    fn new(weight: f64, mean: Vec<f64>, covariance: ArrayView2<f64>) -> Option<Component> {
        let factor = covariance.cholesky().ok()?;
        let whitening = factor.solve_triangular(&Array2::eye(mean.len()), UPLO::Lower).ok()?;
        let component = Component { weight, mean, whitening: whitening.iter().copied().collect() };
        component.is_valid().then_some(component)
    }

    /// Whether it is a Gaussian with a weight: linfa passes on what is not finite.
    pub(super) fn is_valid(&self) -> bool {
        let width = self.mean.len();
        let entry = |i: usize| (i / width, i % width, self.whitening[i]);
        self.weight > 0.0
            && self.weight <= 1.0 + 1e-9
            && self.mean.iter().all(|m| m.is_finite())
            && self.whitening.len() == width * width
            && (0..width * width).map(entry).all(|(r, c, v)| match r.cmp(&c) {
                std::cmp::Ordering::Less => v == 0.0,
                std::cmp::Ordering::Equal => v > 0.0 && v.is_finite(),
                std::cmp::Ordering::Greater => v.is_finite(),
            })
    }

    /// Logarithm of its weight times its density, without the powers of 2π that all components share.
    pub(super) fn log_density(&self, point: &[f64]) -> f64 {
        let width = self.mean.len();
        let mut log = self.weight.ln();
        for (i, row) in self.whitening.chunks(width).enumerate() {
            let z: f64 = row[..=i].iter().zip(point.iter().zip(&self.mean)).map(|(w, (x, m))| w * (x - m)).sum();
            log += row[i].ln() - 0.5 * z * z;
        }
        log
    }
}

/// The component that a point most likely comes from: the first among equals.
pub(super) fn most_likely(components: &[Component], point: &[f64]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (number, component) in components.iter().enumerate() {
        let log = component.log_density(point);
        if log > best.1 {
            best = (number, log);
        }
    }
    best.0
}

/// A mixture and its information criterion; none where no start led to one.
type Found = Option<(f64, Vec<Component>)>;

/// One dimension's mixtures in the making.
#[derive(Debug)]
pub(super) struct Mixtures {
    name: String,
    columns: Vec<usize>,
    scales: Vec<Scale>,
    points: Points,
    /// The most components: no more than there are distinct points.
    most: usize,
    seed: u64,
    pub done: usize,
    /// The result of 1, 2, … components.
    found: Vec<Found>,
    /// Of the number of components at hand: starts that were made, the best of them.
    begun: usize,
    best: Found,
}

impl Mixtures {
    pub fn new(
        name: &str,
        columns: Vec<usize>,
        scales: Vec<Scale>,
        points: Points,
        spec: &Spec,
        seed: u64,
    ) -> Mixtures {
        let most = points.distinct(spec.max_clusters);
        let (found, best) = (Vec::new(), None);
        Mixtures { name: name.into(), columns, scales, points, most, seed, done: 0, found, begun: 0, best }
    }

    fn starts(k: usize, restarts: usize) -> usize {
        if k == 1 { 1 } else { restarts.min(STARTS) }
    }

    pub fn total(&self, restarts: usize) -> usize {
        (1..=self.most).map(|k| Mixtures::starts(k, restarts)).sum()
    }

    /// One fit; false when there is none left.
    pub fn step(&mut self, spec: &Spec) -> bool {
        let k = 1 + self.found.len();
        if k > self.most {
            return false;
        }
        let components = if k == 1 { self.one() } else { self.fit(k, spec) };
        if let Some(components) = components {
            let bic = self.bic(&components);
            if bic.is_finite() && self.best.as_ref().is_none_or(|best| bic < best.0) {
                self.best = Some((bic, components));
            }
        }
        self.done += 1;
        self.begun += 1;
        if self.begun == Mixtures::starts(k, spec.restarts) {
            self.found.push(self.best.take());
            self.begun = 0;
        }
        true
    }

    /// One component is the sample's own mean and covariance. (linfa's fit fails where one customer lies 38 deviations
    /// from all components, because it takes the exponential of a density's logarithm as it is.)
    fn one(&self) -> Option<Vec<Component>> {
        let records = &self.points.0.records;
        let mean = records.mean_axis(Axis(0))?;
        let apart = records - &mean;
        let mut covariance = apart.t().dot(&apart) / self.points.len() as f64;
        covariance.diag_mut().mapv_inplace(|v| v + FLOOR);
        Component::new(1.0, mean.to_vec(), covariance.view()).map(|one| vec![one])
    }

    /// None where linfa finds none: a cluster that lost all its customers, or one that is too far from all.
    fn fit(&self, k: usize, spec: &Spec) -> Option<Vec<Component>> {
        let which = (k as u64) << 32 | self.begun as u64;
        let rng = Xoshiro256PlusPlus::seed_from_u64(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ which);
        let params = GaussianMixtureModel::params_with_rng(k, rng)
            .tolerance(spec.tolerance)
            .reg_covariance(FLOOR)
            .max_n_iterations(spec.iterations.min(ITERATIONS));
        let mixture = params.check().ok()?.fit(&self.points.0).ok()?;
        let parts = mixture.weights().iter().zip(mixture.means().rows()).zip(mixture.covariances().outer_iter());
        let mut components: Vec<Component> =
            parts.map(|((&w, m), covariance)| Component::new(w, m.to_vec(), covariance)).collect::<Option<_>>()?;
        let height = |c: &Component| c.mean.iter().sum::<f64>();
        components.sort_by(|a, b| height(a).total_cmp(&height(b)));
        Some(components)
    }

    /// −2·log-likelihood + parameters · ln(customers), as scikit-learn counts them.
    fn bic(&self, components: &[Component]) -> f64 {
        let (n, width, k) = (self.points.len() as f64, self.points.width(), components.len());
        let shared = 0.5 * width as f64 * std::f64::consts::TAU.ln();
        let of = |p: &[f64]| log_sum_exp(components.iter().map(|c| c.log_density(p))) - shared;
        let likelihood: f64 = self.points.rows().map(of).sum();
        let parameters = k - 1 + k * width + k * width * (width + 1) / 2;
        parameters as f64 * n.ln() - 2.0 * likelihood
    }

    pub fn choose(self, rows: &mut Vec<Elbow>) -> Dimension {
        let fitted: Vec<(usize, &f64, &[Component])> = self
            .found
            .iter()
            .enumerate()
            .filter_map(|(i, f)| f.as_ref().map(|(bic, c)| (i + 1, bic, &c[..])))
            .collect();
        let chosen = fitted.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a });
        let some = sample(self.points.len(), SILHOUETTE, self.seed);
        let some = Points::new(some.len(), self.points.width(), |i, c| self.points.get(some[i])[c]);
        let labels = |f: &(usize, &f64, &[Component])| some.rows().map(|p| most_likely(f.2, p)).collect();
        let silhouettes = silhouettes(&some, &fitted.iter().map(labels).collect::<Vec<_>>());
        for (&(k, &bic, components), silhouette) in fitted.iter().zip(silhouettes) {
            let inertia = self.points.rows().map(|p| apart(&components[most_likely(components, p)].mean, p)).sum();
            let chosen = chosen.is_some_and(|c| c.0 == k);
            let reason = format!("BIC {bic:.1}{}", if chosen { ", the lowest" } else { "" });
            let dimension = self.name.clone();
            rows.push(Elbow { dimension, k, inertia, silhouette, bic: Some(bic), chosen, reason });
        }
        // Without customers, a standard Gaussian.
        let width = self.points.width();
        let whitening = || (0..width * width).map(|i| f64::from(u8::from(i % (width + 1) == 0))).collect();
        let standard = || vec![Component { weight: 1.0, mean: vec![0.0; width], whitening: whitening() }];
        let components = chosen.map_or_else(standard, |c| c.2.to_vec());
        Dimension { name: self.name, columns: self.columns, cut: Cut::Gaussian { scales: self.scales, components } }
    }
}
