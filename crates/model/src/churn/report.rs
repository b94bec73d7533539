//! What a model's card says of it, and whether a new one may replace the old.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::math::softplus;
use super::{Example, Model};
use coupon_base::Result;
use coupon_statistics::metrics::{Bin, Metrics, Outcome, RocPoint, reliability, roc};

/// Buyers below which a comparison of two models says nothing.
const MIN_BUYERS: usize = 30;

/// The measures of one model on one population.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `cut`: the last three views dropped, sessions of more than three, one score each. `live`: after every view of the
    /// complete session. `view_2`, `view_5`, `view_10`: after that view, of the sessions that reach it.
    pub population: String,
    /// `final`: each session by what serves its segment. `pooled`: segment 0 for everybody. `own`: each segment by its own network where one was
    /// trained, whether it serves or not; only where one was.
    pub model: String,
    /// `None`: all.
    pub segment: Option<u32>,
    pub sessions: usize,
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// A point of a curve, and the population it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Of<T> {
    pub population: String,
    #[serde(flatten)]
    pub point: T,
}

/// How good a model is on sessions that it has never seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    pub sessions: usize,
    pub buyers: usize,
    /// (Σ weights)² / Σ weights².
    pub effective_sessions: f64,
    /// Populations that no session is in have no row.
    #[serde(rename = "test")]
    pub rows: Vec<Row>,
    /// Of the final model: ten bins, and at most 100 points, a population.
    pub reliability: Vec<Of<Bin>>,
    pub roc: Vec<Of<RocPoint>>,
}

impl Card {
    /// One row's measures.
    pub fn find(&self, population: &str, model: &str, segment: Option<u32>) -> Option<&Metrics> {
        let row = self.rows.iter().find(|r| (&*r.population, &*r.model, r.segment) == (population, model, segment));
        row.map(|r| &r.metrics)
    }
}

/// A card, and each session's summed log loss over its live views, for [`gate`].
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub card: Card,
    pub losses: Vec<f64>,
}

/// P(churn) after one view, by each of the models.
struct Score {
    session: u32,
    /// From 1.
    view: u32,
    cut: bool,
    /// In the order of [`MODELS`].
    churn: [f64; 3],
}

const MODELS: [&str; 3] = ["final", "pooled", "own"];
const OWN: usize = 2;

/// A name, and which scores belong to it.
type Population = (&'static str, fn(&Score) -> bool);

const POPULATIONS: [Population; 5] = [
    ("truncated", |s| s.cut),
    ("live", |_| true),
    ("view_2", |s| s.view == 2),
    ("view_5", |s| s.view == 5),
    ("view_10", |s| s.view == 10),
];

/// Scores the sessions with the routine that serves and measures all populations, for everybody and by segment. `check`
/// is called before every session and every measure: the caller's chance to stop.
///
/// # Errors
/// What `check` returns.
pub fn report(model: &Model, examples: &[Example], check: &mut dyn FnMut() -> Result<()>) -> Result<Report> {
    report_compared(model, None, examples, check)
}

/// [`report`], with [`super::Trainer::contender`] as the model `own`; without it, the model's own networks that serve.
///
/// # Errors
/// What `check` returns.
pub fn report_compared(
    model: &Model,
    contender: Option<&Model>,
    examples: &[Example],
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Report> {
    let contender = contender.unwrap_or(model);
    let own = |segment: u32| segment != 0 && contender.own(segment).is_some_and(|own| own.net.is_some());
    let mut scores = Vec::with_capacity(examples.iter().map(|e| e.views.len()).sum());
    let mut losses = Vec::with_capacity(examples.len());
    for (session, example) in examples.iter().enumerate() {
        check()?;
        let used = model.score(example.segment, example.views);
        let pooled = model.own(example.segment).map(|_| model.score(0, example.views));
        let owned = own(example.segment).then(|| contender.score(example.segment, example.views));
        let cut = example.cut().map(<[_]>::len);
        for (i, &p) in used.iter().enumerate() {
            let other = |other: &Option<Vec<f64>>| other.as_ref().map_or(p, |other| other[i]);
            let churn = [p, other(&pooled), other(&owned)];
            scores.push(Score { session: session as u32, view: i as u32 + 1, cut: cut == Some(i + 1), churn });
        }
        losses.push(used.iter().map(|p| f64::from(example.weight) * log_loss(*p, example.purchased)).sum());
    }
    let weight = |power: i32| examples.iter().map(|e| f64::from(e.weight).powi(power)).sum::<f64>();
    let mut card = Card {
        sessions: examples.len(),
        buyers: examples.iter().filter(|e| e.purchased).count(),
        effective_sessions: if examples.is_empty() { 0.0 } else { weight(1).powi(2) / weight(2) },
        rows: Vec::new(),
        reliability: Vec::new(),
        roc: Vec::new(),
    };
    let segments: BTreeSet<u32> = examples.iter().map(|e| e.segment).collect();
    let everybody_and_each = || std::iter::once(None).chain(segments.iter().copied().map(Some));
    for (population, belongs) in POPULATIONS {
        for segment in everybody_and_each() {
            let of = |s: &&Score| belongs(s) && segment.is_none_or(|g| examples[s.session as usize].segment == g);
            let members: Vec<&Score> = scores.iter().filter(of).collect();
            for (i, model) in MODELS.into_iter().enumerate() {
                check()?;
                // One that nobody was trained for would only repeat the final model.
                if i == OWN && !segment.map_or_else(|| segments.iter().any(|g| own(*g)), own) {
                    continue;
                }
                let churn: Vec<f64> = members.iter().map(|s| s.churn[i]).collect();
                let example = |s: &&Score| &examples[s.session as usize];
                let purchased: Vec<bool> = members.iter().map(|s| example(s).purchased).collect();
                let weights: Vec<f64> = members.iter().map(|s| f64::from(example(s).weight)).collect();
                let Some(metrics) = Metrics::of(&churn, &purchased, Some(&weights)) else { continue };
                // A session's views lie together.
                let sessions = members.chunk_by(|a, b| a.session == b.session).count();
                let (population, model) = (population.to_string(), model.to_string());
                card.rows.push(Row { population, model, segment, sessions, metrics });
            }
        }
        check()?;
        let outcome = |s: &Score| {
            let Example { purchased, weight, .. } = examples[s.session as usize];
            Outcome { churn: s.churn[0], purchased, weight: f64::from(weight), session: s.session }
        };
        let outcomes: Vec<Outcome> = scores.iter().filter(|s| belongs(s)).map(outcome).collect();
        card.reliability.extend(of(population, reliability(&outcomes)));
        card.roc.extend(of(population, roc(&outcomes)));
    }
    Ok(Report { card, losses })
}

fn of<T>(population: &'static str, points: Vec<T>) -> impl Iterator<Item = Of<T>> {
    points.into_iter().map(move |point| Of { population: population.to_string(), point })
}

fn log_loss(churn: f64, purchased: bool) -> f64 {
    let logit = (churn / (1.0 - churn)).ln();
    softplus(if purchased { logit } else { -logit })
}

/// Whether a new version may become active.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub accepted: bool,
    /// New minus old, mean a session, and its paired standard error; `None` where nothing was compared.
    pub difference: Option<f64>,
    pub standard_error: Option<f64>,
    /// Why it was refused, or what to be careful about.
    pub reason: Option<String>,
}

/// Holds the summed log losses of the new version against those of the active one on the same sessions, in the same
/// order: refused if worse by more than two paired standard errors, or if a loss is not finite. With fewer than 30
/// buyers, or with no old version (`None`), there is nothing to compare and it is accepted, with a warning where due.
pub fn gate(new: &[f64], old: Option<&[f64]>, buyers: usize) -> Gate {
    let mut gate = Gate { accepted: true, difference: None, standard_error: None, reason: None };
    if new.iter().any(|x| !x.is_finite()) {
        (gate.accepted, gate.reason) = (false, Some("a log loss is not finite".into()));
        return gate;
    }
    if buyers < MIN_BUYERS {
        gate.reason = Some(format!("only {buyers} buyers to judge by: accepted without a comparison"));
        return gate;
    }
    let Some(old) = old else { return gate };
    match super::trainer::paired(new, old) {
        Some((difference, error)) if difference.is_finite() => {
            (gate.difference, gate.standard_error) = (Some(difference), Some(error));
            if difference > 2.0 * error {
                gate.accepted = false;
                gate.reason = Some(format!(
                    "log loss is worse by {difference:.4} a session, more than two standard errors ({error:.4})"
                ));
            }
        }
        _ => gate.reason = Some("the two versions could not be compared on the same sessions".into()),
    }
    gate
}
