//! What a model's card says of it, and whether a new one may replace the old.

use serde::{Deserialize, Serialize};

use super::math::softplus;
use super::{Example, Model};
use crate::Result;
use crate::metrics::Metrics;

/// Buyers below which a comparison of two models says nothing.
const MIN_BUYERS: usize = 30;

/// One population, by what serves each session (own or pooled) and by the pooled model alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub used: Metrics,
    pub pooled: Metrics,
}

/// How good a model is on sessions that it has never seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    pub sessions: usize,
    pub buyers: usize,
    /// (Σ weights)² / Σ weights².
    pub effective_sessions: f64,
    /// At the cut: the last three views dropped, sessions of more than three, one score each.
    pub cut: Option<Pair>,
    /// Live: after every view of the complete session.
    pub live: Option<Pair>,
}

/// A card, and each session's summed log loss over its live views, for [`gate`].
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub card: Card,
    pub losses: Vec<f64>,
}

#[derive(Default)]
struct Population {
    used: Vec<f64>,
    pooled: Vec<f64>,
    purchased: Vec<bool>,
    weights: Vec<f64>,
}

impl Population {
    fn push(&mut self, used: f64, pooled: f64, example: &Example) {
        self.used.push(used);
        self.pooled.push(pooled);
        self.purchased.push(example.purchased);
        self.weights.push(f64::from(example.weight));
    }

    fn measure(&self) -> Option<Pair> {
        let of = |p: &[f64]| Metrics::of(p, &self.purchased, Some(&self.weights));
        Some(Pair { used: of(&self.used)?, pooled: of(&self.pooled)? })
    }
}

/// Scores the sessions with the routine that serves and measures both populations. `check` is called before every
/// session: the caller's chance to stop.
///
/// # Errors
/// What `check` returns.
pub fn report(model: &Model, examples: &[Example], check: &mut dyn FnMut() -> Result<()>) -> Result<Report> {
    let (mut cut, mut live) = (Population::default(), Population::default());
    let mut losses = Vec::with_capacity(examples.len());
    for example in examples {
        check()?;
        let used = model.score(example.segment, example.views);
        let pooled = match model.own(example.segment) {
            Some(_) => model.score(0, example.views),
            None => used.clone(),
        };
        for (&used, &pooled) in used.iter().zip(&pooled) {
            live.push(used, pooled, example);
        }
        if let Some(last) = example.cut().and_then(|views| views.len().checked_sub(1)) {
            cut.push(used[last], pooled[last], example);
        }
        losses.push(used.iter().map(|p| f64::from(example.weight) * log_loss(*p, example.purchased)).sum());
    }
    let weight = |power: i32| examples.iter().map(|e| f64::from(e.weight).powi(power)).sum::<f64>();
    let card = Card {
        sessions: examples.len(),
        buyers: examples.iter().filter(|e| e.purchased).count(),
        effective_sessions: if examples.is_empty() { 0.0 } else { weight(1).powi(2) / weight(2) },
        cut: cut.measure(),
        live: live.measure(),
    };
    Ok(Report { card, losses })
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
