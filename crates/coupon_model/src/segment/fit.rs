//! From a snapshot of customers to cells: the elbow curves of k-means, or quintiles.

use super::kmeans::{Points, Run, silhouettes};
use super::scale::{Scale, quantile};
use super::spec::{Definition, Method, Rows, Spec, Variable};
use super::{Card, Cut, Dimension, Elbow, Model};
use crate::Result;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Fits the cells to one snapshot of customers, a step at a time: `while fit.step() { check for interrupts }`, then
/// [`Fit::finish`].
///
/// For every number of clusters in each dimension, greedy k-means++ starts `restarts` runs, and one more starts from the
/// best clusters of one fewer. All go ten of Lloyd's iterations; the best three go on until they have converged, and
/// the best of these is kept. A step is well below a second. Every run has its own generator, seeded by what it is
/// (seed, dimension, k, run), so the result depends on the rows, the specification and the seed alone.
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
    Quintiles(Dimension),
}

impl Fit {
    /// Scales the snapshot, whose rows are of `definition`, and draws the sample. No customers at all give a model of
    /// one cell.
    pub fn new(customers: &Rows, definition: &Definition, spec: &Spec, seed: u64) -> Result<Fit> {
        spec.validate()?;
        let sample = sample(customers.len(), spec.sample, seed);
        let place = |v: &Variable| definition.names().position(|n| n == v.name).expect("the definition names it");
        let part = |(i, (name, variables)): (usize, (&str, Vec<Variable>))| {
            let columns: Vec<usize> = variables.iter().map(place).collect();
            match spec.method {
                Method::Rfm => Part::Quintiles(quintiles(name, columns, customers)),
                _ => Part::Curve(Box::new(Curve::new(
                    name,
                    columns,
                    customers,
                    &sample,
                    definition,
                    spec,
                    seed ^ i as u64,
                ))),
            }
        };
        let parts = spec.dimensions().into_iter().enumerate().map(part).collect();
        let (definition, sampled) = (definition.clone(), sample.len());
        Ok(Fit { spec: spec.clone(), definition, seed, customers: customers.len(), sampled, parts })
    }

    /// How many runs there are in all, and how many are done.
    pub fn progress(&self) -> (usize, usize) {
        let curves = self.parts.iter().filter_map(|p| if let Part::Curve(c) = p { Some(c) } else { None });
        curves.fold((0, 0), |(total, done), c| (total + c.total(self.spec.restarts), done + c.done))
    }

    /// Does one step; false when there is none left.
    pub fn step(&mut self) -> bool {
        let spec = &self.spec;
        self.parts.iter_mut().any(|part| match part {
            Part::Curve(curve) => curve.step(spec),
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

/// Iterations after which runs are compared.
const SHORT: u64 = 10;
/// Runs that go on.
const FINALISTS: usize = 3;
/// Customers that the silhouette is computed on.
const SILHOUETTE: usize = 1000;

/// Centroids and the sum of squared distances to them.
type Clusters = (f64, Vec<Vec<f64>>);

/// One dimension's elbow curve in the making.
#[derive(Debug)]
struct Curve {
    name: String,
    columns: Vec<usize>,
    scales: Vec<Scale>,
    points: Points,
    /// The most clusters that can be found: no more than there are distinct points.
    most: usize,
    seed: u64,
    done: usize,
    /// The result of 1, 2, … clusters.
    found: Vec<Clusters>,
    /// Of the number of clusters at hand: whether runs still begin, how many have, the one that is going on, those that
    /// may go on, those that did.
    racing: bool,
    begun: usize,
    run: Option<Run>,
    short: Vec<Clusters>,
    long: Vec<Clusters>,
}

impl Curve {
    fn new(
        name: &str,
        columns: Vec<usize>,
        all: &Rows,
        sampled: &[usize],
        definition: &Definition,
        spec: &Spec,
        seed: u64,
    ) -> Curve {
        let names: Vec<&str> = definition.names().collect();
        let scale = |&c: &usize| Scale::fit(all.iter().map(|row| row[c]), spec.log.covers(names[c]), spec.clip);
        let scales: Vec<Scale> = columns.iter().map(scale).collect();
        let at = |i: usize, c: usize| scales[c].apply(all.get(sampled[i])[columns[c]]);
        let points = Points::new(sampled.len(), columns.len(), at);
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
            racing: true,
            begun: 0,
            run: None,
            short: Vec::new(),
            long: Vec::new(),
        }
    }

    /// One run is enough for one cluster.
    fn runs(k: usize, restarts: usize) -> usize {
        if k == 1 { 1 } else { restarts + 1 }
    }

    fn total(&self, restarts: usize) -> usize {
        (1..=self.most).map(|k| Curve::runs(k, restarts) + 1).sum()
    }

    fn step(&mut self, spec: &Spec) -> bool {
        let k = 1 + self.found.len();
        if k > self.most {
            return false;
        }
        let limit = if self.racing { SHORT } else { spec.iterations };
        let mut run = self.run.take().unwrap_or_else(|| self.begin(k, spec.restarts));
        if !run.step(&self.points, spec.tolerance, limit) {
            self.run = Some(run);
            return true;
        }
        let clusters = (self.points.inertia(&run.centroids), run.centroids);
        if self.racing {
            self.short.push(clusters);
            self.done += 1;
            if self.begun == Curve::runs(k, spec.restarts) {
                self.racing = false;
                self.short.sort_by(|a, b| a.0.total_cmp(&b.0));
                self.short.dedup();
            }
            return true;
        }
        self.long.push(clusters);
        if self.long.len() == self.short.len().min(FINALISTS) {
            let best = std::mem::take(&mut self.long).into_iter().reduce(|a, b| if b.0 < a.0 { b } else { a });
            self.found.extend(best);
            self.short.clear();
            (self.racing, self.begun) = (true, 0);
            self.done += 1;
        }
        true
    }

    fn begin(&mut self, k: usize, restarts: usize) -> Run {
        let which = (k as u64) << 32 | self.begun as u64;
        let rng = Xoshiro256PlusPlus::seed_from_u64(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ which);
        self.begun += 1;
        if !self.racing {
            return Run::new(self.short[self.long.len()].1.clone(), k, 0, rng);
        }
        match self.found.last() {
            // The last of the runs: what one cluster more makes of the best so far.
            Some((_, fewer)) if self.begun > restarts => Run::new(fewer.clone(), k, 16, rng),
            _ => Run::new(Vec::new(), k, 2 + (k as f64).ln() as usize, rng),
        }
    }

    fn choose(self, rows: &mut Vec<Elbow>) -> Dimension {
        let inertias: Vec<f64> = self.found.iter().map(|f| f.0).collect();
        let some = sample(self.points.len(), SILHOUETTE, self.seed);
        let some = Points::new(some.len(), self.points.width(), |i, c| self.points.get(some[i])[c]);
        let clusterings: Vec<&[Vec<f64>]> = self.found.iter().map(|f| f.1.as_slice()).collect();
        let silhouettes = silhouettes(&some, &clusterings);
        let chosen = elbow(&inertias);
        for (i, (&inertia, &silhouette)) in inertias.iter().zip(&silhouettes).enumerate() {
            let (k, chosen) = (i + 1, i + 1 == chosen);
            let reason = reason(&inertias, &silhouettes, k, chosen, self.most);
            rows.push(Elbow { dimension: self.name.clone(), k, inertia, silhouette, chosen, reason });
        }
        let width = self.points.width();
        let mut centroids = self.found.into_iter().nth(chosen - 1).map_or(vec![vec![0.0; width]], |f| f.1);
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
