//! Standardised customers as the points that linfa clusters, and the silhouettes of clusterings.

use linfa::DatasetBase;
use linfa::dataset::Records;
use ndarray::{Array1, Array2};

/// Points of the same number of coordinates, a row each.
#[derive(Debug)]
pub(super) struct Points(pub DatasetBase<Array2<f64>, Array1<()>>);

impl Points {
    /// `n` points, each coordinate of each given by `at(point, coordinate)`. They lie on a grid of 1e-9: points that
    /// differ by less are the same, and squared distances never vanish.
    pub fn new(n: usize, width: usize, at: impl Fn(usize, usize) -> f64) -> Points {
        // Adding 0 makes −0 the same as 0.
        let grid = |v: f64| (v * 1e9).round() / 1e9 + 0.0;
        Points(Array2::from_shape_fn((n, width), |(i, c)| grid(at(i, c))).into())
    }

    pub fn len(&self) -> usize {
        self.0.nsamples()
    }

    pub fn width(&self) -> usize {
        self.0.nfeatures()
    }

    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.0.records.as_slice().expect("rows lie together").chunks_exact(self.width().max(1))
    }

    pub fn get(&self, point: usize) -> &[f64] {
        let width = self.width();
        &self.0.records.as_slice().expect("rows lie together")[point * width..(point + 1) * width]
    }

    /// How many different points there are, counted up to `most`.
    pub fn distinct(&self, most: usize) -> usize {
        let mut seen: Vec<&[f64]> = Vec::new();
        for point in self.rows() {
            if seen.len() == most {
                break;
            }
            if !seen.contains(&point) {
                seen.push(point);
            }
        }
        seen.len()
    }
}

/// Squared distance.
pub(super) fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Mean silhouette (Rousseeuw, J. Comput. Appl. Math. 1987) of each of several clusterings of the same points, a label
/// for every point; none for one of a single cluster. Costs the square of the number of points, once for all
/// clusterings: linfa's score measures every distance anew for each of them.
pub(super) fn silhouettes(points: &Points, clusterings: &[Vec<usize>]) -> Vec<Option<f64>> {
    let n = points.len();
    let size = |labels: &Vec<usize>| {
        let mut sizes = vec![0.0; labels.iter().max().map_or(0, |l| l + 1)];
        labels.iter().for_each(|l| sizes[*l] += 1.0);
        sizes
    };
    let sizes: Vec<Vec<f64>> = clusterings.iter().map(size).collect();
    let mut totals = vec![0.0; clusterings.len()];
    for i in 0..n {
        let row: Vec<f64> = points.rows().map(|p| apart(points.get(i), p).sqrt()).collect();
        for (c, sizes) in sizes.iter().enumerate() {
            let mut sums = vec![0.0; sizes.len()];
            row.iter().zip(&clusterings[c]).for_each(|(d, l)| sums[*l] += d);
            let own = clusterings[c][i];
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
