//! K-means over points kept coordinate by coordinate, so that distances are computed for many points at a time.

use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// Points that are measured together: the coordinates of a block stay in the first-level cache.
const BLOCK: usize = 128;

/// What one step may cost, in coordinates looked at: some hundredths of a second.
const WORK: usize = 20_000_000;

/// Points of the same number of coordinates.
#[derive(Debug)]
pub(super) struct Points {
    n: usize,
    columns: Vec<Vec<f64>>,
}

impl Points {
    /// `n` points, each coordinate of each given by `at(point, coordinate)`. They lie on a grid of 1e-9: points that
    /// differ by less are the same, and squared distances never vanish.
    pub fn new(n: usize, width: usize, at: impl Fn(usize, usize) -> f64) -> Points {
        // Adding 0 makes −0 the same as 0.
        let grid = |v: f64| (v * 1e9).round() / 1e9 + 0.0;
        let columns = (0..width).map(|c| (0..n).map(|i| grid(at(i, c))).collect()).collect();
        Points { n, columns }
    }

    pub fn len(&self) -> usize {
        self.n
    }

    pub fn width(&self) -> usize {
        self.columns.len()
    }

    pub fn get(&self, point: usize) -> Vec<f64> {
        self.columns.iter().map(|c| c[point]).collect()
    }

    /// How many different points there are, counted up to `most`.
    pub fn distinct(&self, most: usize) -> usize {
        let mut seen: Vec<usize> = Vec::new();
        let same = |a: usize, b: usize| self.columns.iter().all(|c| c[a] == c[b]);
        for i in 0..self.n {
            if seen.len() == most {
                break;
            }
            if !seen.iter().any(|&s| same(s, i)) {
                seen.push(i);
            }
        }
        seen.len()
    }

    /// Squared distance of every point to its nearest centroid, and that centroid: the first among equals.
    pub fn assign(&self, centroids: &[Vec<f64>], mut each: impl FnMut(usize, usize, f64)) {
        for start in (0..self.n).step_by(BLOCK) {
            let len = BLOCK.min(self.n - start);
            let (mut best, mut label) = ([f64::INFINITY; BLOCK], [0u64; BLOCK]);
            for (number, centroid) in centroids.iter().enumerate() {
                let mut distance = [0.0; BLOCK];
                for (column, x) in self.columns.iter().zip(centroid) {
                    for (d, v) in distance.iter_mut().zip(&column[start..start + len]) {
                        *d += (v - x) * (v - x);
                    }
                }
                for i in 0..BLOCK {
                    let nearer = distance[i] < best[i];
                    best[i] = if nearer { distance[i] } else { best[i] };
                    label[i] = if nearer { number as u64 } else { label[i] };
                }
            }
            for i in 0..len {
                each(start + i, label[i] as usize, best[i]);
            }
        }
    }

    /// The sum of squared distances to the nearest centroid.
    pub fn inertia(&self, centroids: &[Vec<f64>]) -> f64 {
        let mut sum = 0.0;
        self.assign(centroids, |_, _, d| sum += d);
        sum
    }

    fn distances(&self, to: &[f64], mut each: impl FnMut(usize, f64)) {
        self.assign(std::slice::from_ref(&to.to_vec()), |i, _, d| each(i, d));
    }
}

/// One run of k-means: greedy k-means++ (Arthur & Vassilvitskii, SODA 2007; each centre the best of a few draws), then
/// Lloyd's iterations.
#[derive(Debug)]
pub(super) struct Run {
    pub centroids: Vec<Vec<f64>>,
    k: usize,
    /// Draws for each centre.
    trials: usize,
    rng: Xoshiro256PlusPlus,
    /// While centres are drawn: squared distance of every point to its nearest one.
    nearest: Vec<f64>,
    iterations: u64,
    converged: bool,
}

impl Run {
    /// A run to `k` centres that begins with these (none: the first is drawn), each further one the best of `trials`.
    /// There must be at least `k` different points.
    pub fn new(centroids: Vec<Vec<f64>>, k: usize, trials: usize, rng: Xoshiro256PlusPlus) -> Run {
        Run { centroids, k, trials, rng, nearest: Vec::new(), iterations: 0, converged: false }
    }

    /// Goes on for a bounded while; true when it has converged to `tolerance` or has done `limit` iterations.
    pub fn step(&mut self, points: &Points, tolerance: f64, limit: u64) -> bool {
        let mut work = 0;
        while work < WORK {
            if self.centroids.len() < self.k {
                self.seed(points);
                work += self.trials * points.len() * points.width();
            } else if self.converged || self.iterations >= limit {
                return true;
            } else {
                self.converged = self.iterate(points) < tolerance;
                self.iterations += 1;
                work += self.k * points.len() * points.width();
            }
        }
        false
    }

    fn seed(&mut self, points: &Points) {
        if self.centroids.is_empty() {
            self.centroids.push(points.get(self.rng.gen_range(0..points.len())));
        } else {
            let total: f64 = self.nearest(points).iter().sum();
            let mut best = (f64::INFINITY, Vec::new());
            for _ in 0..self.trials {
                let candidate = points.get(self.draw(total));
                let mut potential = 0.0;
                points.distances(&candidate, |i, d| potential += d.min(self.nearest[i]));
                if potential < best.0 {
                    best = (potential, candidate);
                }
            }
            points.distances(&best.1, |i, d| self.nearest[i] = d.min(self.nearest[i]));
            self.centroids.push(best.1);
        }
        if self.centroids.len() == self.k {
            self.nearest = Vec::new();
        }
    }

    fn nearest(&mut self, points: &Points) -> &[f64] {
        if self.nearest.is_empty() {
            self.nearest = vec![0.0; points.len()];
            points.assign(&self.centroids, |i, _, d| self.nearest[i] = d);
        }
        &self.nearest
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

    /// One of Lloyd's iterations; how far the centroids moved. A centroid that lost all its points goes to the point that
    /// is farthest from every centroid.
    fn iterate(&mut self, points: &Points) -> f64 {
        let width = points.width();
        let (mut sums, mut counts) = (vec![0.0; self.k * width], vec![0.0; self.k]);
        points.assign(&self.centroids, |i, label, _| {
            counts[label] += 1.0;
            for (sum, column) in sums[label * width..].iter_mut().zip(&points.columns) {
                *sum += column[i];
            }
        });
        let mut moved = 0.0;
        for (c, centroid) in self.centroids.iter_mut().enumerate().filter(|(c, _)| counts[*c] > 0.0) {
            for (x, sum) in centroid.iter_mut().zip(&sums[c * width..]) {
                let mean = sum / counts[c];
                moved += (*x - mean) * (*x - mean);
                *x = mean;
            }
        }
        for c in (0..self.k).filter(|c| counts[*c] == 0.0) {
            let mut farthest = (0, -1.0);
            points.assign(&self.centroids, |i, _, d| farthest = if d > farthest.1 { (i, d) } else { farthest });
            self.centroids[c] = points.get(farthest.0);
            moved += f64::max(farthest.1, 0.0);
        }
        moved.sqrt()
    }
}

/// Mean silhouette (Rousseeuw, J. Comput. Appl. Math. 1987) of each of several clusterings of the same points; none for
/// one of a single cluster. Costs the square of the number of points.
pub(super) fn silhouettes(points: &Points, clusterings: &[&[Vec<f64>]]) -> Vec<Option<f64>> {
    let n = points.len();
    let labels = |centroids: &&[Vec<f64>]| {
        let mut labels = vec![0; n];
        points.assign(centroids, |i, label, _| labels[i] = label);
        labels
    };
    let labels: Vec<Vec<usize>> = clusterings.iter().map(labels).collect();
    let size = |(labels, centroids): (&Vec<usize>, &&[Vec<f64>])| {
        let mut sizes = vec![0.0; centroids.len()];
        labels.iter().for_each(|l| sizes[*l] += 1.0);
        sizes
    };
    let sizes: Vec<Vec<f64>> = labels.iter().zip(clusterings).map(size).collect();
    let mut totals = vec![0.0; clusterings.len()];
    let mut row = vec![0.0; n];
    for i in 0..n {
        points.distances(&points.get(i), |j, d| row[j] = d.sqrt());
        for (c, sizes) in sizes.iter().enumerate() {
            let mut sums = vec![0.0; sizes.len()];
            row.iter().zip(&labels[c]).for_each(|(d, l)| sums[*l] += d);
            let own = labels[c][i];
            if sizes[own] < 2.0 {
                continue;
            }
            let within = sums[own] / (sizes[own] - 1.0);
            let others = (0..sizes.len()).filter(|l| *l != own && sizes[*l] > 0.0);
            let beside = others.map(|l| sums[l] / sizes[l]).fold(f64::INFINITY, f64::min);
            if beside.is_finite() && within.max(beside) > 0.0 {
                totals[c] += (beside - within) / within.max(beside);
            }
        }
    }
    let told = |c: usize| (sizes[c].iter().filter(|s| **s > 0.0).count() > 1).then(|| totals[c] / n as f64);
    (0..clusterings.len()).map(told).collect()
}
