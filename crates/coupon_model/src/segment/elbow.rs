//! One dimension's clusters by linfa's k-means: the elbow curve over 1, 2, … clusters, and the number that it chooses.

use super::points::{Points, apart, silhouettes};
use super::scale::Scale;
use super::spec::Spec;
use super::{Cut, Dimension, Elbow};
use crate::math::sample;
use linfa::traits::{Fit, Predict, Transformer};
use linfa_clustering::{KMeans, KMeansInit};
use linfa_nn::distance::Distance;
use ndarray::{Array2, ArrayView};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// What one step may cost, in coordinates looked at: some tenths of a second.
const WORK: usize = 20_000_000;
/// Clusterings that one cluster more is tried from.
const BEST: usize = 3;
/// Customers that the silhouette is computed on.
const SILHOUETTE: usize = 1000;

/// A clustering, and its inertia: the sum of squared distances to the nearest centroid.
#[derive(Debug, Clone)]
struct Clusters {
    inertia: f64,
    means: KMeans<f64, Euclidean>,
}

/// linfa's own distance, written for rows that lie together: linfa's takes twice as long for a few coordinates.
#[derive(Debug, Clone, PartialEq)]
struct Euclidean;

impl Distance<f64> for Euclidean {
    fn distance<D: ndarray::Dimension>(&self, a: ArrayView<f64, D>, b: ArrayView<f64, D>) -> f64 {
        self.rdistance(a, b).sqrt()
    }

    #[inline]
    fn rdistance<D: ndarray::Dimension>(&self, a: ArrayView<f64, D>, b: ArrayView<f64, D>) -> f64 {
        match (a.as_slice(), b.as_slice()) {
            (Some(a), Some(b)) => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum(),
            _ => a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum(),
        }
    }

    fn rdist_to_dist(&self, rdist: f64) -> f64 {
        rdist.sqrt()
    }

    fn dist_to_rdist(&self, dist: f64) -> f64 {
        dist * dist
    }
}

/// One run of k-means: greedy k-means++ (Arthur & Vassilvitskii, SODA 2007; each centre the best of a few draws, as
/// scikit-learn does it), then linfa's iterations, some of them a step.
///
/// linfa's own `KMeansPlusPlus` draws each centre once: ten such starts end up to 2 % higher. Its `KMeansPara` seeds a
/// generator for every thread.
#[derive(Debug)]
struct Run {
    k: usize,
    /// Draws for each centre.
    trials: usize,
    rng: Xoshiro256PlusPlus,
    centroids: Array2<f64>,
    /// While centres are drawn: squared distance of every point to its nearest one.
    nearest: Vec<f64>,
    iterations: u64,
}

impl Run {
    /// Goes on for a bounded while; the clusters once they move by less than `tolerance` or after `limit` iterations.
    fn step(&mut self, points: &Points, tolerance: f64, limit: u64) -> Option<Clusters> {
        let size = (points.len() * points.width()).max(1);
        let mut work = 0;
        while self.centroids.nrows() < self.k {
            if work > WORK {
                return None;
            }
            self.seed(points);
            work += self.trials * size;
        }
        let iterations = ((WORK / (self.k * size)) as u64).clamp(1, limit - self.iterations);
        let means = KMeans::params_with(self.k, self.rng.clone(), Euclidean)
            .n_runs(1)
            .tolerance(tolerance)
            .max_n_iterations(iterations)
            .init_method(KMeansInit::Precomputed(self.centroids.clone()))
            .fit(&points.0)
            .expect("points are finite, and the parameters were validated");
        self.iterations += iterations;
        let moved = Euclidean.distance(self.centroids.view(), means.centroids().view());
        self.centroids.assign(means.centroids());
        let done = self.iterations >= limit || moved < tolerance;
        done.then(|| Clusters { inertia: means.transform(&points.0.records).sum(), means })
    }

    /// Adds a centre. There are more different points than centres.
    fn seed(&mut self, points: &Points) {
        if self.nearest.is_empty() {
            let centres: Vec<Vec<f64>> = self.centroids.rows().into_iter().map(|c| c.to_vec()).collect();
            let to_centres = |p| centres.iter().map(|c| apart(c, p)).fold(f64::INFINITY, f64::min);
            self.nearest = points.rows().map(to_centres).collect();
        }
        let (first, total) = (self.centroids.is_empty(), self.nearest.iter().sum());
        let mut best = (f64::INFINITY, 0);
        for _ in 0..if first { 1 } else { self.trials } {
            let point = if first { self.rng.gen_range(0..points.len()) } else { self.draw(total) };
            let with = self.nearest.iter().zip(points.rows()).map(|(d, p)| d.min(apart(points.get(point), p)));
            let potential: f64 = with.sum();
            if potential < best.0 {
                best = (potential, point);
            }
        }
        let centre = points.get(best.1);
        self.nearest.iter_mut().zip(points.rows()).for_each(|(d, p)| *d = d.min(apart(centre, p)));
        self.centroids.push_row(centre.into()).expect("centres are as wide as points");
        if self.centroids.nrows() == self.k {
            self.nearest = Vec::new();
        }
    }

    /// A point with probability in proportion to its distance: never one that is a centre already.
    fn draw(&mut self, total: f64) -> usize {
        let mut left = self.rng.r#gen::<f64>() * total;
        let mut last = 0;
        for (i, d) in self.nearest.iter().enumerate().filter(|(_, d)| **d > 0.0) {
            last = i;
            left -= d;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

/// One dimension's elbow curve in the making.
#[derive(Debug)]
pub(super) struct Curve {
    name: String,
    columns: Vec<usize>,
    scales: Vec<Scale>,
    points: Points,
    /// The most clusters that can be found: no more than there are distinct points.
    most: usize,
    seed: u64,
    pub done: usize,
    /// The result of 1, 2, … clusters.
    found: Vec<Clusters>,
    /// The best few of the last number of clusters, and of the number at hand; how many runs of it have begun, and the
    /// one that is going on.
    fewer: Vec<Clusters>,
    best: Vec<Clusters>,
    begun: usize,
    run: Option<Run>,
}

impl Curve {
    pub fn new(name: &str, columns: Vec<usize>, scales: Vec<Scale>, points: Points, spec: &Spec, seed: u64) -> Curve {
        let most = points.distinct(spec.max_clusters);
        Curve {
            name: name.into(),
            columns,
            scales,
            points,
            most,
            seed,
            done: 0,
            found: Vec::new(),
            fewer: Vec::new(),
            best: Vec::new(),
            begun: 0,
            run: None,
        }
    }

    /// One run is enough for one cluster.
    fn runs(k: usize, restarts: usize) -> usize {
        if k == 1 { 1 } else { restarts + BEST }
    }

    pub fn total(&self, restarts: usize) -> usize {
        (1..=self.most).map(|k| Curve::runs(k, restarts)).sum()
    }

    pub fn step(&mut self, spec: &Spec) -> bool {
        let k = 1 + self.found.len();
        if k > self.most {
            return false;
        }
        let mut run = self.run.take().unwrap_or_else(|| self.begin(k, spec.restarts));
        let Some(clusters) = run.step(&self.points, spec.tolerance, spec.iterations) else {
            self.run = Some(run);
            return true;
        };
        self.done += 1;
        self.best.push(clusters);
        self.best.sort_by(|a, b| a.inertia.total_cmp(&b.inertia));
        self.best.dedup_by(|a, b| a.means == b.means);
        self.best.truncate(BEST);
        if self.begun == Curve::runs(k, spec.restarts) {
            self.found.push(self.best[0].clone());
            self.fewer = std::mem::take(&mut self.best);
            self.begun = 0;
        }
        true
    }

    fn begin(&mut self, k: usize, restarts: usize) -> Run {
        let which = (k as u64) << 32 | self.begun as u64;
        let rng = Xoshiro256PlusPlus::seed_from_u64(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ which);
        self.begun += 1;
        let (centroids, trials) = if self.begun > restarts && k > 1 {
            // The last of the runs: what one cluster more makes of the best few so far.
            (self.fewer[self.begun % self.fewer.len()].means.centroids().clone(), 16)
        } else {
            (Array2::zeros((0, self.points.width())), 2 + (k as f64).ln() as usize)
        };
        Run { k, trials, rng, centroids, nearest: Vec::new(), iterations: 0 }
    }

    pub fn choose(self, rows: &mut Vec<Elbow>) -> Dimension {
        let inertias: Vec<f64> = self.found.iter().map(|f| f.inertia).collect();
        let some = sample(self.points.len(), SILHOUETTE, self.seed);
        let some = Points::new(some.len(), self.points.width(), |i, c| self.points.get(some[i])[c]);
        let labels = |f: &Clusters| f.means.predict(&some.0.records).to_vec();
        let silhouettes = silhouettes(&some, &self.found.iter().map(labels).collect::<Vec<_>>());
        let chosen = elbow(&inertias);
        for (i, (&inertia, &silhouette)) in inertias.iter().zip(&silhouettes).enumerate() {
            let (k, chosen) = (i + 1, i + 1 == chosen);
            let reason = reason(&inertias, &silhouettes, k, chosen, self.most);
            rows.push(Elbow { dimension: self.name.clone(), k, inertia, silhouette, bic: None, chosen, reason });
        }
        let width = self.points.width();
        let mut centroids: Vec<Vec<f64>> = match self.found.get(chosen - 1) {
            Some(found) => found.means.centroids().rows().into_iter().map(|c| c.to_vec()).collect(),
            None => vec![vec![0.0; width]],
        };
        let height = |c: &Vec<f64>| c.iter().sum::<f64>();
        centroids.sort_by(|a, b| height(a).total_cmp(&height(b)));
        Dimension { name: self.name, columns: self.columns, cut: Cut::Nearest { scales: self.scales, centroids } }
    }
}

/// How far below the straight line from the first inertia to the last the one of k clusters lies, as a share of the
/// first.
fn depth(inertias: &[f64], k: usize) -> f64 {
    let (Some(&first), Some(&last)) = (inertias.first(), inertias.last()) else { return 0.0 };
    let line = first + (last - first) * (k - 1) as f64 / (inertias.len() - 1).max(1) as f64;
    if first > 0.0 { (line - inertias[k - 1]) / first } else { 0.0 }
}

/// The elbow (Satopää et al., ICDCS workshops 2011): of the inertias of 1, 2, … clusters, the number that lies furthest
/// below the straight line from the first to the last (the fewest among equals). Where none lies below it, one cluster,
/// or two if there are but two distinct points.
pub(super) fn elbow(inertias: &[f64]) -> usize {
    if inertias.len() == 2 && inertias[1] < inertias[0] {
        return 2;
    }
    let mut best = (1, 1e-12);
    for k in 1..=inertias.len() {
        if depth(inertias, k) > best.1 {
            best = (k, depth(inertias, k));
        }
    }
    best.0
}

/// Why a number of clusters was chosen, or not.
fn reason(inertias: &[f64], silhouettes: &[Option<f64>], k: usize, chosen: bool, most: usize) -> String {
    // Adding 0 makes −0 the same as 0.
    let percent = (1000.0 * depth(inertias, k)).round() / 10.0 + 0.0;
    let below = format!("{percent:.1} % of the first inertia below the line from 1 to {most}");
    if !chosen {
        return below;
    }
    let best = (0..silhouettes.len()).filter_map(|i| Some((i + 1, silhouettes[i]?)));
    let best = best.reduce(|a, b| if b.1 > a.1 { b } else { a });
    let second = best.map_or(String::new(), |(best, _)| {
        if best == k { "; the silhouette agrees".into() } else { format!("; the silhouette is highest at {best}") }
    });
    match inertias.len() {
        1 => "all customers are alike".into(),
        2 => format!("there are but two different customers{second}"),
        _ if k == 1 => format!("no number of clusters lies below the line from 1 to {most}{second}"),
        _ => format!("furthest, {below}{second}"),
    }
}
