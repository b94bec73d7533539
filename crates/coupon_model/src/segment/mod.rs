//! segment: loyalty variables → two-dimensional k-means cells, regrouped by churn rate.
//!
//! A customer is described by six variables in two dimensions, *spending* and *behaviour* (Seo & Yoo, IEEE Access
//! 2022). K-means cuts each dimension into a few clusters; the K × I cells of the two are then joined into the few
//! groups whose churn rates really differ. [`Fit`] finds the clusters (geometry only, no label is seen), [`Model::regroup`]
//! joins the cells by the sessions counted in them, and [`Model::assign`] is what training, the judge and live serving
//! all call.
//!
//! Segments are numbered from 1, the group most likely to leave. Segment 0 (unknown or anonymous) is the caller's.

mod kmeans;
mod regroup;
#[cfg(test)]
mod tests;

pub use kmeans::Fit;
pub(crate) use kmeans::sample;
pub use regroup::{CellCount, Grouping, regroup};

use crate::spec::{self, require};
use crate::weights::{Reader, Writer};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The six loyalty variables of one customer, as of one moment. A value that is not finite counts as unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Variables {
    /// Money spent in the last month, in the shop's currency.
    pub spending_last_month: f64,
    /// Money a purchase, on average.
    pub average_payment: f64,
    /// Products bought at one time, on average.
    pub items_per_purchase: f64,
    /// Searches in the last month.
    pub searches_last_month: f64,
    /// Seconds a session, on average.
    pub stay_per_session: f64,
    /// Sessions in the last month.
    pub visits_last_month: f64,
}

impl Variables {
    /// The spending dimension.
    pub fn spending(&self) -> [f64; 2] {
        [self.spending_last_month, self.average_payment]
    }

    /// The behaviour dimension.
    pub fn behaviour(&self) -> [f64; 4] {
        [self.items_per_purchase, self.searches_last_month, self.stay_per_session, self.visits_last_month]
    }
}

/// How segments are found. Defaults: `models/segment.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The elbow is looked for among 1 … this many clusters a dimension.
    pub max_clusters: usize,
    /// K-means runs from this many seeds a number of clusters; the best goes on.
    pub restarts: usize,
    /// Most iterations of one run.
    pub iterations: u64,
    /// A run has converged when an iteration moves its centroids less than this, in standard deviations.
    pub tolerance: f64,
    /// K-means is fitted on at most this many customers, drawn by the seed …
    pub sample: usize,
    /// … and its restarts on at most this many of them.
    pub draft: usize,
    /// Strength of the prior that pulls a cell's rate towards the overall rate, in sessions.
    pub prior_sessions: f64,
    /// A group needs this many sessions …
    pub min_sessions: u64,
    /// … and this many buyers; otherwise it joins its nearest.
    pub min_buyers: u64,
    /// No more groups than this.
    pub max_groups: usize,
}

impl Spec {
    /// The defaults, overridden by the keys of a JSON object (or null), and validated.
    pub fn read(overrides: &Value) -> Result<Spec> {
        let spec: Spec = spec::read(include_str!("../../../../models/segment.json"), overrides)?;
        spec.validate().map(|()| spec)
    }

    /// Refuses values out of range with [`Error::Spec`].
    pub fn validate(&self) -> Result<()> {
        require((1..=32).contains(&self.max_clusters), "max_clusters", "from 1 to 32")?;
        require((1..=100).contains(&self.restarts), "restarts", "from 1 to 100")?;
        require((1..=10_000).contains(&self.iterations), "iterations", "from 1 to 10000")?;
        require(self.tolerance > 0.0 && self.tolerance <= 1.0, "tolerance", "above 0 and at most 1")?;
        require((100..=10_000_000).contains(&self.sample), "sample", "from 100 to 10000000")?;
        require((100..=10_000_000).contains(&self.draft), "draft", "from 100 to 10000000")?;
        require((0.0..=1e9).contains(&self.prior_sessions), "prior_sessions", "from 0 to 1e9")?;
        require((1..=64).contains(&self.max_groups), "max_groups", "from 1 to 64")
    }
}

impl Default for Spec {
    fn default() -> Spec {
        Spec::read(&Value::Null).expect("models/segment.json is valid: a test reads it")
    }
}

/// One dimension's geometry: how to standardise a point, and the centroids to compare it with.
#[derive(Debug, Clone, PartialEq)]
pub struct Dimension<const D: usize> {
    /// Mean of each variable over the known values.
    pub mean: [f64; D],
    /// Standard deviation of each variable; 1 where it does not vary.
    pub std: [f64; D],
    /// Centroids in standardised units, the lowest first (by the sum of their coordinates).
    pub centroids: Vec<[f64; D]>,
}

impl<const D: usize> Dimension<D> {
    /// The point in standard deviations from the mean; an unknown value counts as the mean.
    pub fn standardise(&self, point: &[f64; D]) -> [f64; D] {
        std::array::from_fn(|i| kmeans::standard(point[i], self.mean[i], self.std[i]))
    }

    /// The nearest centroid's number, from 0; the first among equals.
    pub fn cluster(&self, point: &[f64; D]) -> usize {
        nearest(&self.standardise(point), &self.centroids)
    }
}

/// Squared Euclidean distance.
fn distance<const D: usize>(a: &[f64; D], b: &[f64; D]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn nearest<const D: usize>(point: &[f64; D], centroids: &[[f64; D]]) -> usize {
    let mut best = (0, f64::INFINITY);
    for (i, centroid) in centroids.iter().enumerate() {
        let d = distance(point, centroid);
        if d < best.1 {
            best = (i, d);
        }
    }
    best.0
}

/// Cells and their groups: what `assign_segment` evaluates.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub spending: Dimension<2>,
    pub behaviour: Dimension<4>,
    /// The group (1 … [`Model::groups`]) of each cell, spending-major: cell = spending × I + behaviour.
    groups: Vec<u32>,
}

/// One point of an elbow curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Elbow {
    /// `spending` or `behaviour`.
    pub dimension: String,
    /// Number of clusters.
    pub k: usize,
    /// Sum of squared distances to the nearest centroid, over the sample, in standardised units.
    pub inertia: f64,
    pub chosen: bool,
}

/// One cell: where it lies and what was counted in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Number of the spending cluster, from 1, the lowest first.
    pub spending: usize,
    /// Number of the behaviour cluster, from 1, the lowest first.
    pub behaviour: usize,
    pub sessions: u64,
    pub buyers: u64,
    pub group: u32,
}

/// One group of cells, a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub group: u32,
    pub cells: usize,
    pub sessions: u64,
    pub buyers: u64,
    /// Share of sessions that ended without a purchase; null where none was counted.
    pub churn_rate: Option<f64>,
}

/// What was found, for people.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Card {
    /// Customers in the snapshot.
    pub customers: usize,
    /// Customers that k-means was fitted on.
    pub sample: usize,
    pub seed: u64,
    pub elbow: Vec<Elbow>,
    pub cells: Vec<Cell>,
    pub groups: Vec<Group>,
    /// The information criterion of the best partition into 1, 2, … groups; the lowest was chosen.
    pub bic: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    groups: Vec<u32>,
}

impl Model {
    fn new(spending: Dimension<2>, behaviour: Dimension<4>) -> Model {
        let groups = vec![1; spending.centroids.len() * behaviour.centroids.len()];
        Model { spending, behaviour, groups }
    }

    /// Number of cells, K × I.
    pub fn cells(&self) -> usize {
        self.groups.len()
    }

    /// Number of groups, G.
    pub fn groups(&self) -> u32 {
        self.groups.iter().copied().max().unwrap_or(1)
    }

    /// The cell of a customer, from 0.
    pub fn cell(&self, variables: &Variables) -> u32 {
        let spending = self.spending.cluster(&variables.spending());
        let behaviour = self.behaviour.cluster(&variables.behaviour());
        (spending * self.behaviour.centroids.len() + behaviour) as u32
    }

    /// The segment of a customer, 1 … G.
    pub fn assign(&self, variables: &Variables) -> u32 {
        self.groups[self.cell(variables) as usize]
    }

    /// Joins the cells into groups by the sessions counted in each of them (see [`regroup()`]), and tells the card.
    /// A cell in which nobody was seen takes the group of the nearest cell that was seen, centroid to centroid.
    pub fn regroup(&mut self, counts: &[CellCount], spec: &Spec, card: &mut Card) -> Result<()> {
        if counts.len() != self.cells() {
            let message = format!("counts of {} cells for a model of {}", counts.len(), self.cells());
            return Err(Error::Spec(message));
        }
        let mut grouping = regroup(counts, spec);
        let (seen, unseen): (Vec<usize>, Vec<usize>) = (0..counts.len()).partition(|&c| counts[c].sessions > 0);
        for cell in unseen {
            let nearest = seen.iter().min_by(|&&a, &&b| self.apart(cell, a).total_cmp(&self.apart(cell, b)));
            if let Some(&nearest) = nearest {
                grouping.groups[cell] = grouping.groups[nearest];
            }
        }
        self.groups = grouping.groups;
        card.bic = grouping.bic;
        card.cells = self.cell_rows(counts);
        card.groups = (1..=self.groups()).map(|g| group_row(g, &card.cells)).collect();
        Ok(())
    }

    /// Squared distance between two cells' centroids, in standardised units over all six variables.
    fn apart(&self, a: usize, b: usize) -> f64 {
        let i = self.behaviour.centroids.len();
        distance(&self.spending.centroids[a / i], &self.spending.centroids[b / i])
            + distance(&self.behaviour.centroids[a % i], &self.behaviour.centroids[b % i])
    }

    fn cell_rows(&self, counts: &[CellCount]) -> Vec<Cell> {
        let i = self.behaviour.centroids.len();
        let row = |(cell, count): (usize, &CellCount)| Cell {
            spending: cell / i + 1,
            behaviour: cell % i + 1,
            sessions: count.sessions,
            buyers: count.buyers,
            group: self.groups[cell],
        };
        counts.iter().enumerate().map(row).collect()
    }

    /// The model as safetensors bytes: means, deviations and centroids as f64, the groups in the metadata.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        fn write<const D: usize>(writer: Writer, name: &str, dimension: &Dimension<D>) -> Writer {
            writer
                .f64(&format!("{name}.mean"), &[D], &dimension.mean)
                .f64(&format!("{name}.std"), &[D], &dimension.std)
                .f64(&format!("{name}.centroids"), &[dimension.centroids.len(), D], dimension.centroids.as_flattened())
        }
        let writer = write(Writer::default(), "spending", &self.spending);
        write(writer, "behaviour", &self.behaviour).finish(&Meta { groups: self.groups.clone() })
    }

    /// Reads what [`Model::to_bytes`] wrote; [`Error::Corrupt`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model> {
        fn read<const D: usize>(reader: &Reader, name: &str) -> Result<Dimension<D>> {
            let array = |tensor: &str| -> Result<[f64; D]> {
                let values = reader.f64(&format!("{name}.{tensor}"), &[D])?;
                values.try_into().map_err(|_| Error::Corrupt(format!("tensor {name}.{tensor}")))
            };
            let tensor = format!("{name}.centroids");
            let k = reader.shape(&tensor)?.first().copied().unwrap_or(0);
            let centroids = reader.f64(&tensor, &[k, D])?.as_chunks().0.to_vec();
            let dimension = Dimension { mean: array("mean")?, std: array("std")?, centroids };
            if k == 0 || dimension.std.iter().any(|s| *s <= 0.0) {
                return Err(Error::Corrupt(format!(
                    "dimension {name} has no centroid or a deviation that is not positive"
                )));
            }
            Ok(dimension)
        }
        let reader = Reader::new(bytes)?;
        let mut model = Model::new(read(&reader, "spending")?, read(&reader, "behaviour")?);
        let Meta { groups } = reader.meta()?;
        let max = groups.iter().copied().max().unwrap_or(0);
        if groups.len() != model.cells() || (1..=max).any(|g| !groups.contains(&g)) || groups.contains(&0) {
            return Err(Error::Corrupt("the groups do not number the cells".into()));
        }
        model.groups = groups;
        Ok(model)
    }
}

fn group_row(group: u32, cells: &[Cell]) -> Group {
    let mine = || cells.iter().filter(|c| c.group == group);
    let sessions = mine().map(|c| c.sessions).sum::<u64>();
    let buyers = mine().map(|c| c.buyers).sum::<u64>();
    let churn_rate = (sessions > 0).then(|| 1.0 - buyers as f64 / sessions as f64);
    Group { group, cells: mine().count(), sessions, buyers, churn_rate }
}
