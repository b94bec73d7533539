//! segment: the variables of a customer → cells, regrouped by churn rate.
//!
//! A customer is described by variables, by default six in two dimensions, *spending* and *behaviour* (Seo & Yoo, IEEE
//! Access 2022). A [`Method`] cuts each dimension into a few clusters; the cells of all dimensions are then joined into
//! the few groups whose churn rates really differ. [`Fit`] finds the clusters (geometry only, no label is seen),
//! [`Model::regroup`] joins the cells by the sessions counted in them, and [`Model::assign`] is what training, the judge
//! and live serving all call.
//!
//! Segments are numbered from 1, the group most likely to leave. Segment 0 (unknown or anonymous) is the caller's.

mod card;
mod elbow;
mod fit;
mod mixture;
mod points;
mod regroup;
mod scale;
mod spec;
#[cfg(test)]
mod tests;

pub use card::{Card, Cell, Elbow, Group, VariableRow};
pub use fit::Fit;
pub use mixture::Component;
pub use regroup::{CellCount, Grouping, regroup};
pub use scale::Scale;
pub use spec::{Log, Method, Spec, Variable};

use crate::sessions::{Definition, MOST_VARIABLES};
use crate::weights::{Reader, Writer};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Recency, frequency and monetary value.
const MOST_DIMENSIONS: usize = 3;

/// One dimension's geometry.
#[derive(Debug, Clone, PartialEq)]
pub struct Dimension {
    /// `spending` and `behaviour`; `recency`, `frequency` and `monetary`.
    pub name: String,
    /// Places of its variables in a row.
    pub columns: Vec<usize>,
    pub cut: Cut,
}

/// What a dimension's clusters are, the lowest first.
#[derive(Debug, Clone, PartialEq)]
pub enum Cut {
    /// Nearest to one of these centroids, in the units of the scales.
    Nearest { scales: Vec<Scale>, centroids: Vec<Vec<f64>> },
    /// Most likely from one of these components, in the units of the scales.
    Gaussian { scales: Vec<Scale>, components: Vec<Component> },
    /// Above so many of these values, in ascending order.
    Edges(Vec<f64>),
}

impl Dimension {
    /// Number of clusters.
    pub fn clusters(&self) -> usize {
        match &self.cut {
            Cut::Nearest { centroids, .. } => centroids.len(),
            Cut::Gaussian { components, .. } => components.len(),
            Cut::Edges(edges) => edges.len() + 1,
        }
    }

    /// The cluster of a row, from 0: the nearest or most likely, the first among equals. An unknown value counts as the
    /// mean, or as the lowest where there is none.
    pub fn cluster(&self, row: &[f64]) -> usize {
        let value = |c: usize| row.get(c).copied().unwrap_or(f64::NAN);
        match &self.cut {
            Cut::Edges(edges) => edges.iter().filter(|e| value(self.columns[0]) > **e).count(),
            Cut::Nearest { scales, centroids } => {
                let apart = |centroid: &[f64]| -> f64 {
                    let scaled = self.columns.iter().zip(scales).map(|(&c, scale)| scale.apply(value(c)));
                    scaled.zip(centroid).map(|(v, x)| (v - x) * (v - x)).sum()
                };
                let mut best = (0, f64::INFINITY);
                for (number, centroid) in centroids.iter().enumerate() {
                    let d = apart(centroid);
                    if d < best.1 {
                        best = (number, d);
                    }
                }
                best.0
            }
            Cut::Gaussian { scales, components } => {
                let mut scaled = [0.0; MOST_VARIABLES];
                let place = scaled.iter_mut().zip(self.columns.iter().zip(scales));
                place.for_each(|(scaled, (&c, scale))| *scaled = scale.apply(value(c)));
                mixture::most_likely(components, &scaled[..scales.len()])
            }
        }
    }

    /// Squared distance between two clusters: of their centroids or means, or in steps.
    fn apart(&self, a: usize, b: usize) -> f64 {
        match &self.cut {
            Cut::Nearest { centroids, .. } => points::apart(&centroids[a], &centroids[b]),
            Cut::Gaussian { components, .. } => points::apart(&components[a].mean, &components[b].mean),
            Cut::Edges(_) => (a as f64 - b as f64).powi(2),
        }
    }
}

/// Cells and their groups: what `assign_segment` evaluates.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// What the rows are of that it can assign.
    definition: Definition,
    key: i64,
    pub dimensions: Vec<Dimension>,
    /// The group (1 … [`Model::groups`]) of each cell; the last dimension's cluster runs fastest.
    groups: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    definition: Definition,
    dimensions: Vec<MetaDimension>,
    groups: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaDimension {
    name: String,
    columns: Vec<usize>,
    /// Which variables are on a logarithmic scale; null where the cut is by edges.
    log: Option<Vec<bool>>,
}

impl Model {
    fn new(definition: Definition, dimensions: Vec<Dimension>) -> Model {
        let groups = vec![1; dimensions.iter().map(Dimension::clusters).product()];
        Model { key: definition.key(), definition, dimensions, groups }
    }

    /// What the rows are of that it can assign.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Number of cells: the product of the dimensions' clusters.
    pub fn cells(&self) -> usize {
        self.groups.len()
    }

    /// Number of groups, G.
    pub fn groups(&self) -> u32 {
        self.groups.iter().copied().max().unwrap_or(1)
    }

    /// The cell of a customer, from 0.
    pub fn cell(&self, row: &[f64]) -> u32 {
        self.dimensions.iter().fold(0, |cell, d| cell * d.clusters() + d.cluster(row)) as u32
    }

    /// The segment of a customer, 1 … G, by a row of the model's definition.
    pub fn assign(&self, row: &[f64]) -> u32 {
        self.groups[self.cell(row) as usize]
    }

    /// The segment of a stored customer: the six variables, the key of the definition they were computed by, and a
    /// look at the others, which is only taken where the model has some. 0 where the row is of another definition.
    pub fn assign_stored(&self, six: [f64; 6], key: i64, own: impl FnOnce() -> Option<Value>) -> u32 {
        if key != self.key {
            return 0;
        }
        let mut row = six.to_vec();
        if !self.definition.own.is_empty() {
            let own = own().unwrap_or_default();
            let values: Option<Vec<f64>> = self.definition.own.iter().map(|v| own[v.name.as_str()].as_f64()).collect();
            let Some(values) = values else { return 0 };
            row.extend(values);
        }
        self.assign(&row)
    }

    /// The clusters of a cell, from 0, dimension by dimension.
    fn clusters(&self, mut cell: usize) -> Vec<usize> {
        let mut clusters = vec![0; self.dimensions.len()];
        for (d, cluster) in self.dimensions.iter().zip(&mut clusters).rev() {
            *cluster = cell % d.clusters();
            cell /= d.clusters();
        }
        clusters
    }

    /// Joins the cells into groups by the sessions counted in each of them (see [`regroup()`]), and tells the card.
    /// A cell in which nobody was seen takes the group of the nearest cell that was seen.
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
        card.tell_cells(self, counts);
        Ok(())
    }

    /// Squared distance between two cells over all dimensions.
    fn apart(&self, a: usize, b: usize) -> f64 {
        let (a, b) = (self.clusters(a), self.clusters(b));
        self.dimensions.iter().zip(a.iter().zip(&b)).map(|(d, (&a, &b))| d.apart(a, b)).sum()
    }

    /// The model as safetensors bytes: scales, centroids and edges as f64, the rest in the metadata.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        let mut dimensions = Vec::new();
        for d in &self.dimensions {
            let tensor = |what: &str| format!("{}.{what}", d.name);
            if let Cut::Nearest { scales, .. } | Cut::Gaussian { scales, .. } = &d.cut {
                let flat: Vec<f64> = scales.iter().flat_map(|s| [s.low, s.high, s.mean, s.std]).collect();
                writer = writer.f64(&tensor("scales"), &[scales.len(), 4], &flat);
            }
            let log = match &d.cut {
                Cut::Nearest { scales, centroids } => {
                    let shape = [centroids.len(), scales.len()];
                    writer = writer.f64(&tensor("centroids"), &shape, &centroids.concat());
                    Some(scales.iter().map(|s| s.log).collect())
                }
                Cut::Gaussian { scales, components } => {
                    let (k, width) = (components.len(), scales.len());
                    let weights: Vec<f64> = components.iter().map(|c| c.weight).collect();
                    let means: Vec<f64> = components.iter().flat_map(|c| c.mean.iter().copied()).collect();
                    let whitening: Vec<f64> = components.iter().flat_map(|c| c.whitening.iter().copied()).collect();
                    writer = writer
                        .f64(&tensor("weights"), &[k], &weights)
                        .f64(&tensor("means"), &[k, width], &means)
                        .f64(&tensor("whitening"), &[k, width, width], &whitening);
                    Some(scales.iter().map(|s| s.log).collect())
                }
                Cut::Edges(edges) => {
                    writer = writer.f64(&tensor("edges"), &[edges.len()], edges);
                    None
                }
            };
            dimensions.push(MetaDimension { name: d.name.clone(), columns: d.columns.clone(), log });
        }
        writer.finish(&Meta { definition: self.definition.clone(), dimensions, groups: self.groups.clone() })
    }

    /// Reads what [`Model::to_bytes`] wrote; [`Error::Corrupt`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model> {
        let reader = Reader::new(bytes)?;
        let Meta { definition, dimensions, groups } = reader.meta()?;
        definition.validate().map_err(|e| Error::Corrupt(e.to_string()))?;
        let width = definition.names().count();
        let read = |meta: MetaDimension| read_dimension(&reader, meta, width);
        let names: BTreeSet<&str> = dimensions.iter().map(|d| &*d.name).collect();
        if dimensions.len() > MOST_DIMENSIONS || names.len() < dimensions.len() {
            return Err(Error::Corrupt("more dimensions than a method has, or two of one name".into()));
        }
        let dimensions: Vec<Dimension> = dimensions.into_iter().map(read).collect::<Result<_>>()?;
        // Counted before there is room for them: many clusters in many dimensions are more cells than any memory has.
        let cells = dimensions.iter().try_fold(1usize, |n, d| n.checked_mul(d.clusters()));
        let highest = groups.iter().copied().max().unwrap_or(0) as usize;
        let mut named = vec![false; groups.len()];
        for &group in &groups {
            if let Some(named) = (group as usize).checked_sub(1).and_then(|i| named.get_mut(i)) {
                *named = true;
            }
        }
        if cells != Some(groups.len()) || groups.contains(&0) || named.iter().filter(|n| **n).count() != highest {
            return Err(Error::Corrupt("the groups do not number the cells".into()));
        }
        let mut model = Model::new(definition, dimensions);
        model.groups = groups;
        Ok(model)
    }
}

fn read_dimension(reader: &Reader, meta: MetaDimension, width: usize) -> Result<Dimension> {
    let MetaDimension { name, columns, log } = meta;
    let corrupt = |why: &str| Err(Error::Corrupt(format!("dimension {name} {why}")));
    if columns.is_empty() || columns.iter().any(|c| *c >= width) {
        return corrupt("names variables that there are not");
    }
    let cut = match log {
        None => {
            let tensor = format!("{name}.edges");
            let edges = reader.f64(&tensor, &[reader.shape(&tensor)?.first().copied().unwrap_or(0)])?;
            if !edges.is_sorted_by(|a, b| a < b) {
                return corrupt("has edges out of order");
            }
            Cut::Edges(edges)
        }
        Some(log) => {
            let scales = reader.f64(&format!("{name}.scales"), &[columns.len(), 4])?;
            let scale = |([low, high, mean, std], log): (&[f64; 4], bool)| Scale {
                log,
                low: *low,
                high: *high,
                mean: *mean,
                std: *std,
            };
            let scales: Vec<Scale> = scales.as_chunks().0.iter().zip(log).map(scale).collect();
            if scales.len() != columns.len() || scales.iter().any(|s| s.std <= 0.0 || s.low > s.high) {
                return corrupt("has a scale that measures nothing");
            }
            read_clusters(reader, &name, scales)?
        }
    };
    let dimension = Dimension { name, columns, cut };
    if dimension.clusters() > spec::MOST_CLUSTERS {
        return Err(Error::Corrupt(format!("dimension {} has too many clusters", dimension.name)));
    }
    Ok(dimension)
}

/// The clusters that lie in the units of scales: centroids, or a mixture.
fn read_clusters(reader: &Reader, name: &str, scales: Vec<Scale>) -> Result<Cut> {
    let (width, tensor) = (scales.len(), |what: &str| format!("{name}.{what}"));
    let weights = tensor("weights");
    let (is_mixture, counted) = match reader.shape(&weights) {
        Ok(shape) => (true, shape),
        Err(_) => (false, reader.shape(&tensor("centroids"))?),
    };
    let k = counted.first().copied().unwrap_or(0);
    if k == 0 {
        return Err(Error::Corrupt(format!("dimension {name} has no cluster")));
    }
    if !is_mixture {
        let flat = reader.f64(&tensor("centroids"), &[k, width])?;
        return Ok(Cut::Nearest { scales, centroids: flat.chunks(width).map(<[f64]>::to_vec).collect() });
    }
    let means = reader.f64(&tensor("means"), &[k, width])?;
    let whitening = reader.f64(&tensor("whitening"), &[k, width, width])?;
    let parts = reader.f64(&weights, &[k])?.into_iter().zip(means.chunks(width)).zip(whitening.chunks(width * width));
    let component = |((weight, mean), whitening): ((f64, &[f64]), &[f64])| Component {
        weight,
        mean: mean.to_vec(),
        whitening: whitening.to_vec(),
    };
    let components: Vec<Component> = parts.map(component).collect();
    if width > MOST_VARIABLES || !components.iter().all(Component::is_valid) {
        return Err(Error::Corrupt(format!("dimension {name} has a component that is no Gaussian")));
    }
    Ok(Cut::Gaussian { scales, components })
}
