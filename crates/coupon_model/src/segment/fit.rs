//! From a snapshot of customers to cells: the elbow curves of k-means, mixtures of Gaussians, or quintiles.

use super::elbow::Curve;
use super::mixture::{self, Mixtures};
use super::points::Points;
use super::scale::{Scale, quantile};
use super::spec::{Method, Spec, Variable};
use super::{Card, Cut, Dimension, Model};
use crate::Result;
use crate::math::sample;
use crate::sessions::{Definition, Rows};

/// Fits the cells to one snapshot of customers, a step at a time: `while fit.step() { check for interrupts }`, then
/// [`Fit::finish`].
///
/// For every number of clusters in each dimension, k-means starts from `restarts` seeds, and from what one cluster more
/// makes of the best three of one fewer; the best is kept. A mixture's step is one fit. A step is well below a second.
/// Every run has its own generator, seeded by what it is (seed, dimension, k, run), so the result depends on the rows,
/// the specification and the seed alone, whatever the number of threads.
#[derive(Debug)]
pub struct Fit {
    spec: Spec,
    definition: Definition,
    seed: u64,
    customers: usize,
    sampled: usize,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Curve(Box<Curve>),
    Mixtures(Box<Mixtures>),
    Quintiles(Dimension),
}

impl Fit {
    /// Scales the snapshot, whose rows are of `definition`, and draws the sample. No customers at all give a model of
    /// one cell.
    pub fn new(customers: &Rows, definition: &Definition, spec: &Spec, seed: u64) -> Result<Fit> {
        spec.validate()?;
        let most = if spec.method == Method::GaussianMixture { mixture::sample_size(spec) } else { spec.sample };
        let sample = sample(customers.len(), most, seed);
        let place = |v: &Variable| definition.names().position(|n| n == v.name).expect("the definition names it");
        let part = |(i, (name, variables)): (usize, (&str, Vec<Variable>))| {
            let columns: Vec<usize> = variables.iter().map(place).collect();
            match spec.method {
                Method::Rfm => Part::Quintiles(quintiles(name, columns, customers)),
                _ => {
                    let names: Vec<&str> = definition.names().collect();
                    let column = |c: usize| customers.iter().map(move |row| row[c]);
                    let scale = |&c: &usize| Scale::fit(column(c), spec.log.covers(names[c]), spec.clip);
                    let scales: Vec<Scale> = columns.iter().map(scale).collect();
                    let at = |i: usize, c: usize| scales[c].apply(customers.get(sample[i])[columns[c]]);
                    let points = Points::new(sample.len(), columns.len(), at);
                    let seed = seed ^ i as u64;
                    if spec.method == Method::GaussianMixture {
                        Part::Mixtures(Box::new(Mixtures::new(name, columns, scales, points, spec, seed)))
                    } else {
                        Part::Curve(Box::new(Curve::new(name, columns, scales, points, spec, seed)))
                    }
                }
            }
        };
        let parts = spec.dimensions().into_iter().enumerate().map(part).collect();
        let (definition, sampled) = (definition.clone(), sample.len());
        Ok(Fit { spec: spec.clone(), definition, seed, customers: customers.len(), sampled, parts })
    }

    /// How many runs there are in all, and how many are done.
    pub fn progress(&self) -> (usize, usize) {
        let restarts = self.spec.restarts;
        let of = |part: &Part| match part {
            Part::Curve(curve) => (curve.total(restarts), curve.done),
            Part::Mixtures(mixtures) => (mixtures.total(restarts), mixtures.done),
            Part::Quintiles(_) => (0, 0),
        };
        self.parts.iter().map(of).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    /// Does one step; false when there is none left.
    pub fn step(&mut self) -> bool {
        let spec = &self.spec;
        self.parts.iter_mut().any(|part| match part {
            Part::Curve(curve) => curve.step(spec),
            Part::Mixtures(mixtures) => mixtures.step(spec),
            Part::Quintiles(_) => false,
        })
    }

    /// The model with every cell in one group, and its card; does the steps that are left.
    pub fn finish(mut self) -> (Model, Card) {
        while self.step() {}
        let mut card = Card {
            method: self.spec.method,
            window_days: self.definition.window_days,
            customers: self.customers,
            sample: self.sampled,
            seed: self.seed,
            ..Card::default()
        };
        let dimension = |part: Part| match part {
            Part::Curve(curve) => curve.choose(&mut card.elbow),
            Part::Mixtures(mixtures) => mixtures.choose(&mut card.elbow),
            Part::Quintiles(dimension) => dimension,
        };
        let dimensions: Vec<Dimension> = self.parts.into_iter().map(dimension).collect();
        let model = Model::new(self.definition, dimensions);
        card.tell_variables(&model);
        (model, card)
    }
}

/// The four values that cut the customers into fifths; fewer where many customers have the same value.
fn quintiles(name: &str, columns: Vec<usize>, customers: &Rows) -> Dimension {
    let mut sorted: Vec<f64> = customers.iter().map(|row| row[columns[0]]).filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let mut edges: Vec<f64> = match sorted.last() {
        None => Vec::new(),
        Some(_) => [0.2, 0.4, 0.6, 0.8].map(|q| quantile(&sorted, q)).to_vec(),
    };
    edges.dedup();
    // Nobody lies above the highest value.
    edges.retain(|e| Some(e) != sorted.last());
    Dimension { name: name.into(), columns, cut: Cut::Edges(edges) }
}
