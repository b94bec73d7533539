//! What was found, for people: the elbow, the scales, the cells and the groups with their names.

use super::regroup::CellCount;
use super::spec::Method;
use super::{Cut, Model};
use crate::sessions::{Rows, SIX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One point of an elbow curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Elbow {
    /// `spending` or `behaviour`.
    pub dimension: String,
    /// Number of clusters.
    pub k: usize,
    /// Sum of squared distances to the cluster's centroid, over the sample, in standardised units.
    pub inertia: f64,
    /// Mean silhouette of at most a thousand customers of the sample; null for one cluster.
    pub silhouette: Option<f64>,
    /// The information criterion of a mixture of k components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bic: Option<f64>,
    pub chosen: bool,
    pub reason: String,
}

/// One variable of a dimension, and how it is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariableRow {
    pub dimension: String,
    pub variable: String,
    /// Null for the variables of the method.
    pub expression: Option<String>,
    pub log: bool,
    /// Values are clipped to these; null where they are not.
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// On the scale, after clipping; null where the cut is by edges.
    pub mean: Option<f64>,
    pub std: Option<f64>,
    /// Where the cut is by edges: what separates the clusters.
    pub edges: Option<Vec<f64>>,
}

/// One cell: where it lies and what was counted in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// From 1.
    pub cell: usize,
    /// Number of the cluster in each dimension, from 1, the lowest first.
    pub clusters: BTreeMap<String, usize>,
    pub group: u32,
    #[serde(flatten)]
    pub rates: Rates,
}

/// One group of cells, a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub group: u32,
    pub name: String,
    pub cells: usize,
    /// Customers of the snapshot.
    pub customers: usize,
    #[serde(flatten)]
    pub rates: Rates,
}

/// What was counted in the fit window, which the groups were made by, and in the judge window, which says whether they
/// hold. A rate is the share of sessions that ended without a purchase; null where none was counted.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rates {
    pub sessions: u64,
    pub buyers: u64,
    pub churn_rate: Option<f64>,
    pub judge_sessions: u64,
    pub judge_buyers: u64,
    pub judge_churn_rate: Option<f64>,
}

impl Rates {
    fn of(fit: CellCount, judge: CellCount) -> Rates {
        let rate = |c: CellCount| (c.sessions > 0).then(|| 1.0 - c.buyers as f64 / c.sessions as f64);
        Rates {
            sessions: fit.sessions,
            buyers: fit.buyers,
            churn_rate: rate(fit),
            judge_sessions: judge.sessions,
            judge_buyers: judge.buyers,
            judge_churn_rate: rate(judge),
        }
    }

    fn fit(self) -> CellCount {
        CellCount { sessions: self.sessions, buyers: self.buyers }
    }

    fn judge(self) -> CellCount {
        CellCount { sessions: self.judge_sessions, buyers: self.judge_buyers }
    }
}

/// The card of the segment stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Card {
    pub method: Method,
    pub window_days: u32,
    /// Customers in the snapshot.
    pub customers: usize,
    /// Customers that the clusters were fitted on.
    pub sample: usize,
    pub seed: u64,
    pub variables: Vec<VariableRow>,
    pub elbow: Vec<Elbow>,
    pub cells: Vec<Cell>,
    pub groups: Vec<Group>,
    /// The information criterion of the best partition into 1, 2, … groups; the lowest was chosen.
    pub bic: Vec<f64>,
}

impl Card {
    pub(super) fn tell_variables(&mut self, model: &Model) {
        let names: Vec<&str> = model.definition.names().collect();
        for d in &model.dimensions {
            for (i, &column) in d.columns.iter().enumerate() {
                let own = column.checked_sub(SIX.len()).map(|i| model.definition.own[i].expression.clone());
                let mut row = VariableRow {
                    dimension: d.name.clone(),
                    variable: names[column].into(),
                    expression: own,
                    log: false,
                    low: None,
                    high: None,
                    mean: None,
                    std: None,
                    edges: None,
                };
                match &d.cut {
                    Cut::Edges(edges) => row.edges = Some(edges.clone()),
                    Cut::Nearest { scales, .. } | Cut::Gaussian { scales, .. } => {
                        let s = scales[i];
                        row.log = s.log;
                        (row.mean, row.std) = (Some(s.mean), Some(s.std));
                        (row.low, row.high) = s.limits().unzip();
                    }
                }
                self.variables.push(row);
            }
        }
    }

    pub(super) fn tell_cells(&mut self, model: &Model, counts: &[CellCount]) {
        let cell = |(cell, count): (usize, &CellCount)| {
            let numbers = model.clusters(cell).into_iter().map(|c| c + 1);
            Cell {
                cell: cell + 1,
                clusters: model.dimensions.iter().map(|d| d.name.clone()).zip(numbers).collect(),
                group: model.groups[cell],
                rates: Rates::of(*count, CellCount::default()),
            }
        };
        self.cells = counts.iter().enumerate().map(cell).collect();
        self.groups = (1..=model.groups()).map(|g| Group { group: g, ..Group::empty() }).collect();
        self.sum_groups();
    }

    /// What was counted in each cell in the judge window; nothing is chosen by it.
    pub fn judge(&mut self, counts: &[CellCount]) {
        for (cell, count) in self.cells.iter_mut().zip(counts) {
            cell.rates = Rates::of(cell.rates.fit(), *count);
        }
        self.sum_groups();
    }

    fn sum_groups(&mut self) {
        for group in &mut self.groups {
            let mine = || self.cells.iter().filter(|c| c.group == group.group);
            let sum =
                |of: fn(Rates) -> CellCount| mine().map(|c| of(c.rates)).fold(CellCount::default(), CellCount::plus);
            group.cells = mine().count();
            group.rates = Rates::of(sum(Rates::fit), sum(Rates::judge));
        }
    }

    /// Counts the customers of each group, and names it after what they are like beside all others.
    pub fn describe(&mut self, model: &Model, customers: &Rows) {
        let mut sums = vec![(0usize, 0.0, 0.0); self.groups.len()];
        for row in customers.iter() {
            let sum = &mut sums[model.assign(row) as usize - 1];
            let known = |v: f64| if v.is_finite() { v } else { 0.0 };
            *sum = (sum.0 + 1, sum.1 + known(row[SPENDING]), sum.2 + known(row[VISITS]));
        }
        let all = sums.iter().fold((0, 0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
        let mean = |(n, spent, visits): (usize, f64, f64)| [spent, visits].map(|v| v / n.max(1) as f64);
        let alone = self.groups.len() == 1;
        for (group, &sum) in self.groups.iter_mut().zip(&sums) {
            group.customers = sum.0;
            group.name = if alone { "everybody".into() } else { name(mean(sum), mean(all)).into() };
        }
        self.number_namesakes();
    }

    fn number_namesakes(&mut self) {
        let names: Vec<String> = self.groups.iter().map(|g| g.name.clone()).collect();
        for (i, group) in self.groups.iter_mut().enumerate() {
            if names.iter().filter(|n| **n == names[i]).count() > 1 {
                group.name += &format!(" {}", 1 + names[..i].iter().filter(|n| **n == names[i]).count());
            }
        }
    }
}

impl Group {
    fn empty() -> Group {
        Group { group: 0, name: String::new(), cells: 0, customers: 0, rates: Rates::default() }
    }
}

/// Places of the variables that names are made of, in [`SIX`].
const SPENDING: usize = 0;
const VISITS: usize = 5;

/// The name of a group whose customers spend and visit so much on average, beside everybody: who spends at least twice
/// the average is a VIP or, coming less often than the average, a big spender; from half the average on a regular or an
/// occasional buyer; below a looker or a passer-by.
pub(super) fn name(own: [f64; 2], all: [f64; 2]) -> &'static str {
    let often = own[1] >= all[1];
    match own[0] {
        spent if all[0] > 0.0 && spent >= 2.0 * all[0] => ["big spenders", "VIP"][usize::from(often)],
        spent if all[0] > 0.0 && spent >= 0.5 * all[0] => ["occasional buyers", "regulars"][usize::from(often)],
        _ => ["passers-by", "lookers"][usize::from(often)],
    }
}
