//! Training, from a log to a version: one pass through the words of the flow.
//!
//! The caller watches through [`Observer`], which is asked before every piece of work of well below a second, so that a
//! cancelled training stops at once and leaves nothing.

mod churn_stage;
mod estimate;
mod rank_stage;
mod segment_stage;
mod tune_stage;

pub use tune_stage::{Study, Trial};

use crate::churn;
use crate::version::{Stage, Version};
use coupon_base::error::{Error, Result};
use coupon_base::memory;
use coupon_events::events::{Log, Micros, Text};
use coupon_events::sessions;
use coupon_events::sessions::Definition;
use coupon_events::sessions::{AsOf, Loyalty, Purchases, Session, Sessions, day_of};
pub use estimate::Estimate;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The specifications of all stages; the keys a user may override are `sessions`, `segment`, `churn`, `rank`, `issue`.
#[derive(Debug, Clone)]
pub struct Spec {
    pub sessions: sessions::Spec,
    pub segment: coupon_segment::Spec,
    pub churn: churn::Spec,
    pub rank: coupon_rank::Spec,
    pub issue: coupon_policy::Spec,
}

impl Spec {
    pub fn read(overrides: &Value) -> Result<Spec> {
        const WORDS: [&str; 5] = ["sessions", "segment", "churn", "rank", "issue"];
        let given = match overrides {
            Value::Null => &serde_json::Map::new(),
            Value::Object(given) => given,
            _ => return Err(Error::Spec("a specification is a JSON object".into())),
        };
        if let Some(key) = given.keys().find(|k| !WORDS.contains(&k.as_str())) {
            return Err(Error::Spec(format!("unknown field `{key}`, expected one of {}", WORDS.join(", "))));
        }
        let of = |word: &str| given.get(word).unwrap_or(&Value::Null);
        let within = |word: &str| {
            let word = word.to_string();
            move |e| if let Error::Spec(m) = e { Error::Spec(format!("{word}: {m}")) } else { e }
        };
        Ok(Spec {
            sessions: sessions::Spec::read(of("sessions")).map_err(within("sessions"))?,
            segment: coupon_segment::Spec::read(of("segment")).map_err(within("segment"))?,
            churn: churn::Spec::read(of("churn")).map_err(within("churn"))?,
            rank: coupon_rank::Spec::read(of("rank")).map_err(within("rank"))?,
            issue: coupon_policy::Spec::read(of("issue")).map_err(within("issue"))?,
        })
    }
}

/// Which stages are trained; the others are taken over from the base version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stages {
    All,
    Churn,
    Ranking,
}

/// What the campaigns did to a session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Treatment {
    pub issued: bool,
    /// Probability with which it was going to be issued a coupon once eligible.
    pub probability: f64,
}

pub struct Job<'a> {
    pub log: &'a Log,
    /// How many attribute columns the log has.
    pub columns: usize,
    pub until: Micros,
    pub treatments: &'a HashMap<Text, Treatment>,
    pub spec: &'a Spec,
    pub seed: u64,
    pub stages: Stages,
    /// The active version and its stages, in the order they are stored.
    pub base: Option<(&'a Version, &'a [Stage])>,
    /// Bytes training may hold.
    pub budget: usize,
}

/// One line of what training did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    pub stage: &'static str,
    pub segment: Option<u32>,
    pub step: Option<usize>,
    pub loss: Option<f64>,
    pub validation_loss: Option<f64>,
    pub auroc: Option<f64>,
    pub auprc: Option<f64>,
    pub accuracy: Option<f64>,
    pub note: Option<String>,
}

/// Who watches a training.
pub trait Observer {
    /// Called often; [`Error::Cancelled`] stops the training.
    fn check(&mut self) -> Result<()>;
    fn report(&mut self, report: Report);
    /// Told once, before the work: what the training will hold at its peak.
    fn estimate(&mut self, _estimate: &Estimate) {}
    /// Told when a part begins: sessions, segment, churn, judge, replay, refit, rank,
    /// customers.
    fn enter(&mut self, _part: &'static str) {}
}

pub struct Outcome {
    pub stages: Vec<Stage>,
    /// The segments of the new version, as they will serve.
    pub segment: coupon_segment::Model,
    /// Whether the new version may serve; with the reason if not, or what to be careful about.
    pub gate: churn::Gate,
}

/// What the stages share: sessions with their segments and weights, cut into the three windows.
struct PreparedData<'a> {
    job: &'a Job<'a>,
    sessions: Sessions,
    /// Weight of each session; 1, or 1 / P(not issued) for one that was held out.
    weights: Vec<f32>,
    /// What the variables of `loyalty` and `as_of` are: those of the segments that are trained or taken over.
    definition: Definition,
    loyalty: Loyalty<'a>,
    as_of: AsOf,
    windows: [std::ops::Range<usize>; 3],
    /// Sessions that were issued a coupon, and are not among these.
    issued: usize,
    estimate: Estimate,
}

impl PreparedData<'_> {
    /// The start of tune: what is fitted to the past must not see beyond it.
    fn cut(&self) -> Micros {
        self.sessions.sessions.get(self.windows[1].start).map_or(self.job.until, |s| s.first)
    }

    /// The segment of every session under a model, which may be of another definition.
    fn segments(&self, model: &coupon_segment::Model, check: &mut dyn FnMut() -> Result<()>) -> Result<Vec<u32>> {
        if *model.definition() == self.definition {
            return Ok(assign(model, &self.as_of));
        }
        let as_of = Loyalty::new(self.job.log, model.definition())?.as_of(&self.sessions, check)?;
        Ok(assign(model, &as_of))
    }
}

fn assign(model: &coupon_segment::Model, as_of: &AsOf) -> Vec<u32> {
    as_of.iter().map(|row| row.map_or(0, |row| model.assign(row))).collect()
}

/// Trains what `job.stages` names. Nothing is kept of a training that fails.
///
/// # Errors
/// [`Error::InsufficientData`] for a log without sessions, [`Error::Memory`] where its [`Estimate`] passes the budget,
/// [`Error::OutOfMemory`] where the operating system has less, [`Error::Cancelled`] from the observer, and what the stages
/// refuse.
pub fn train(job: &Job, observer: &mut dyn Observer) -> Result<Outcome> {
    let ground = prepare(job, observer)?;
    let taken = |name: &str| -> Result<Vec<Stage>> {
        let Some((_, stages)) = job.base else {
            return Err(Error::InsufficientData(format!("there is no active version to take stage {name} over from")));
        };
        Ok(stages.iter().filter(|s| s.stage == name).cloned().collect())
    };
    let fresh = |name: &str| match job.stages {
        Stages::All => true,
        Stages::Churn => matches!(name, "churn" | "issue" | "sessions"),
        Stages::Ranking => name == "rank",
    };
    let mut stages = if fresh("sessions") { vec![sessions_stage(&ground)] } else { taken("sessions")? };

    let segment = if fresh("segment") {
        let (model, stage) = segment_stage::train(&ground, observer)?;
        stages.push(stage);
        model
    } else {
        stages.extend(taken("segment")?);
        job.base.expect("taken() has looked").0.segment.clone()
    };
    let segments = ground.segments(&segment, &mut || observer.check())?;
    let mut gate = churn::gate(&[], None, usize::MAX);
    if fresh("churn") {
        let trained = churn_stage::train(&ground, &segments, observer)?;
        stages.extend(trained.stages);
        gate = trained.gate;
    } else {
        for name in ["churn", churn_stage::EVALUATED, "issue"] {
            stages.extend(taken(name)?);
        }
    }
    if fresh("rank") {
        stages.push(rank_stage::train(&ground, &segments, observer)?);
    } else {
        stages.extend(taken("rank")?);
    }
    Ok(Outcome { stages, segment, gate })
}

fn prepare<'a>(job: &'a Job<'a>, observer: &mut dyn Observer) -> Result<PreparedData<'a>> {
    observer.check()?;
    let estimate = Estimate::of(job.log, job.spec, &mut || observer.check())?;
    observer.estimate(&estimate);
    estimate.fits(job.log, job.budget)?;
    observer.enter("sessions");
    let mut sessions = Sessions::build(job.log, job.until, &job.spec.sessions, &mut || observer.check())?;
    let treated = |s: &Session| job.treatments.get(&s.id).is_some_and(|t| t.issued);
    let before = sessions.sessions.len();
    sessions.sessions.retain(|s| !treated(s));
    let issued = before - sessions.sessions.len();
    for rule in &sessions.rules {
        let note = format!(
            "{}: {} sessions and {} views removed, {} sessions and {} views left",
            rule.rule, rule.sessions_removed, rule.views_removed, rule.sessions_left, rule.views_left
        );
        observer.report(Report { stage: "sessions", note: Some(note), ..Report::default() });
    }
    if issued > 0 {
        let note = format!("treated: {issued} sessions that were issued a coupon are left out");
        observer.report(Report { stage: "sessions", note: Some(note), ..Report::default() });
    }
    if sessions.sessions.is_empty() {
        return Err(Error::InsufficientData("the log holds no closed session with a page view".into()));
    }
    let weight = |s: &Session| match job.treatments.get(&s.id) {
        Some(t) if t.probability < 1.0 => (1.0 / (1.0 - t.probability)) as f32,
        _ => 1.0,
    };
    let weights = memory::collect(sessions.sessions.iter().map(weight))?;
    observer.check()?;
    let definition = match (job.stages, job.base) {
        (Stages::Churn | Stages::Ranking, Some((version, _))) => version.segment.definition().clone(),
        _ => job.spec.segment.definition(job.spec.sessions.lookback_days),
    };
    let loyalty = Loyalty::new(job.log, &definition)?;
    let as_of = loyalty.as_of(&sessions, &mut || observer.check())?;
    let windows = sessions.windows(&job.spec.sessions);
    Ok(PreparedData { job, sessions, weights, definition, loyalty, as_of, windows, issued, estimate })
}

fn sessions_stage(ground: &PreparedData) -> Stage {
    let [fit, tune, judge] = &ground.windows;
    let window = |r: &std::ops::Range<usize>| {
        let all = &ground.sessions.sessions[r.clone()];
        json!({
            "sessions": all.len(), "buyers": all.iter().filter(|s| s.purchased).count(),
            "from": all.first().map(|s| s.first), "to": all.last().map(|s| s.first),
        })
    };
    let sum = |power: i32| ground.weights.iter().map(|w| f64::from(*w).powi(power)).sum::<f64>();
    Stage {
        stage: "sessions".into(),
        segment: 0,
        spec: serde_json::to_value(&ground.job.spec.sessions).expect("a specification is JSON"),
        card: json!({
            "rules": ground.sessions.rules,
            "sessions": ground.sessions.sessions.len(),
            "buyers": ground.sessions.buyers(),
            "unattributed_purchases": ground.sessions.unattributed,
            "issued_left_out": ground.issued,
            "memory": ground.estimate,
            "effective_sessions": sum(1).powi(2) / sum(2),
            "train": window(fit), "validation": window(tune), "test": window(judge),
        }),
        weights: Vec::new(),
    }
}

/// How good a version is on the closed sessions of [since, until), as rows of the view `coupon.model_metrics`. Sessions are
/// scored under the segment their customer had at the start of their day.
pub fn evaluate(
    log: &Log,
    since: Micros,
    until: Micros,
    spec: &sessions::Spec,
    version: &Version,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<churn::Row>> {
    let Some(model) = &version.churn else {
        return Err(Error::InsufficientData("the active version has no churn model".into()));
    };
    let mut sessions = Sessions::build(log, until, spec, check)?;
    sessions.sessions.retain(|s| s.first >= since);
    check()?;
    let as_of = Loyalty::new(log, version.segment.definition())?.as_of(&sessions, check)?;
    let segments = assign(&version.segment, &as_of);
    churn_stage::evaluate(log, &sessions, &segments, model, check)
}

/// One row of `coupon.customer`: what is known of a customer as of a day.
#[derive(Debug, Clone, PartialEq)]
pub struct Customer {
    pub customer: Text,
    /// A row of the model's definition.
    pub variables: Vec<f64>,
    pub segment: u32,
    /// Order lines by category, over the whole log.
    pub lines: Vec<(Text, f64)>,
}

/// Everybody known before the day of `at`, in the order of first appearance, with the variables and the segment that a
/// model sees.
pub fn customers(
    log: &Log,
    at: Micros,
    model: &coupon_segment::Model,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Customer>> {
    let (loyalty, purchases, day) = (Loyalty::new(log, model.definition())?, Purchases::new(log), day_of(at));
    let mut rows = Vec::new();
    for customer in loyalty.customers(day) {
        check()?;
        let Some(variables) = loyalty.variables(customer, day) else { continue };
        let lines = purchases.lines(customer, Micros::MIN, at).into_iter().collect();
        rows.push(Customer { customer, segment: model.assign(&variables), variables, lines });
    }
    Ok(rows)
}

#[cfg(test)]
pub(crate) mod tests;
