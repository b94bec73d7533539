//! The churn stage: the models, how good they are on the judge window, and the thresholds that window sets.

use super::{Ground, Observer, Report};
use crate::churn::{self, Example, Gate, Model, Step, Trainer, View, Vocabulary, Words};
use crate::error::{Error, Result};
use crate::events::{Event, Log, MAX_ATTRIBUTES};
use crate::issue::{self, Replay};
use crate::metrics::Metrics;
use crate::sessions::Sessions;
use crate::version::{Plan, Stage};
use serde_json::{Value, json};
use std::ops::Range;

pub(super) struct Trained {
    pub stages: Vec<Stage>,
    pub gate: Gate,
}

pub(super) fn train(ground: &Ground, segments: &[u32], observer: &mut dyn Observer) -> Result<Trained> {
    let (job, spec) = (ground.job, &ground.job.spec.churn);
    let all = &ground.sessions.sessions;
    if let Err(reason) = spec.enough(all.len(), ground.sessions.buyers()) {
        let Error::TooLittle(reason) = reason else { return Err(reason) };
        let note = format!("no churn model: {reason}; campaigns fall back to policy random with half held out");
        observer.report(Report { stage: "churn", note: Some(note), ..Report::default() });
        let counts: Vec<usize> = all.iter().map(|s| s.len()).collect();
        let replay = Replay::fallback(&counts, &job.spec.issue)?;
        let stage = issue_stage(ground, Plan { segments: replay.clone(), pooled: replay });
        return Ok(Trained { stages: vec![stage], gate: churn::gate(&[], None, usize::MAX) });
    }
    let [fit, tune, judge] = ground.windows.clone();
    let words = all[fit.clone()].iter().flat_map(|s| ground.sessions.views(job.log, s)).map(|e| words(job.log, e));
    let vocabulary = Vocabulary::build(spec, job.columns, words);
    let needed = ground.sessions.view_count() * size_of::<View>();
    if needed > job.budget {
        return Err(Error::Memory { needed, budget: job.budget });
    }
    let views = encode(job.log, &ground.sessions, &vocabulary, 0..all.len());
    let examples = examples(&ground.sessions, &views, &ground.weights, segments, 0..all.len());
    let mut trainer = Trainer::new(
        &examples[fit],
        &examples[tune],
        vocabulary,
        spec.clone(),
        job.seed,
        job.budget.saturating_sub(needed),
    )?;
    loop {
        observer.check()?;
        match trainer.step()? {
            Step::Batch { .. } => {}
            Step::Epoch(e) => observer.report(Report {
                stage: "churn",
                segment: Some(e.segment),
                step: Some(e.epoch),
                loss: Some(e.fit_loss),
                tune_loss: e.tune_loss,
                auroc: e.tune.as_ref().and_then(|m| m.auroc),
                auprc: e.tune.as_ref().and_then(|m| m.auprc),
                accuracy: e.tune.as_ref().map(|m| m.accuracy),
                note: None,
            }),
            Step::Segment(s) => observer.report(Report {
                stage: "churn",
                segment: Some(s.segment),
                tune_loss: s.own_log_loss.or(s.pooled_log_loss),
                note: Some(verdict(&s)),
                ..Report::default()
            }),
            Step::Done => break,
        }
    }
    let model = trainer.finish()?;
    let report = churn::report(&model, &examples[judge.clone()], &mut || observer.check())?;
    let gate = compare(ground, &report, observer)?;
    for row in judge_rows(&report.card) {
        let note =
            format!("judge, {} {}: ECE {:.3}", row["population"], row["model"], row["ece"].as_f64().unwrap_or(0.0));
        observer.report(Report {
            stage: "churn",
            loss: row["log_loss"].as_f64(),
            auroc: row["auroc"].as_f64(),
            auprc: row["auprc"].as_f64(),
            accuracy: row["accuracy"].as_f64(),
            note: Some(note.replace('"', "")),
            ..Report::default()
        });
    }
    let plan = Plan {
        segments: replay(ground, &model, &examples[judge.clone()], true, observer)?,
        pooled: replay(ground, &model, &examples[judge], false, observer)?,
    };
    let card = json!({
        "judge": judge_rows(&report.card), "judge_card": report.card, "gate": gate,
        "vocabulary": { "pages": model.vocabulary().pages.len(), "categories": model.vocabulary().categories.len() },
    });
    let part = |(segment, weights): (u32, Vec<u8>)| Stage {
        stage: "churn".into(),
        segment,
        spec: serde_json::to_value(spec).expect("a specification is JSON"),
        card: if segment == 0 { card.clone() } else { json!({}) },
        weights,
    };
    let mut stages: Vec<Stage> = model.parts().into_iter().map(part).collect();
    stages.push(issue_stage(ground, plan));
    Ok(Trained { stages, gate })
}

fn verdict(s: &churn::SegmentReport) -> String {
    match (s.own_log_loss, s.difference, s.standard_error) {
        (Some(_), Some(d), Some(e)) => format!(
            "own minus pooled log loss on tune {d:.4}, standard error {e:.4}: {}",
            if s.used { "its own model serves" } else { "the pooled model serves" }
        ),
        _ => format!("{} sessions and {} buyers: the pooled model serves", s.sessions, s.buyers),
    }
}

fn words<'a>(log: &'a Log, e: &Event) -> Words<'a> {
    let text = |t| log.text(t);
    let mut attributes = [None; MAX_ATTRIBUTES];
    attributes.iter_mut().zip(e.attributes).for_each(|(a, t)| *a = text(t));
    Words { page: text(e.page), category: text(e.category), attributes }
}

fn encode(log: &Log, all: &Sessions, vocabulary: &Vocabulary, range: Range<usize>) -> Vec<View> {
    let sessions = &all.sessions[range];
    let mut views = Vec::with_capacity(sessions.iter().map(|s| s.len()).sum());
    for e in sessions.iter().flat_map(|s| all.views(log, s)) {
        let w = words(log, e);
        let price = (!e.price.is_nan()).then_some(e.price);
        views.push(vocabulary.view(e.at, e.kind, w.page, w.category, price, &w.attributes));
    }
    views
}

/// `weights` and `segments` are of all sessions, `views` of those in the range.
fn examples<'a>(
    all: &Sessions,
    mut views: &'a [View],
    weights: &[f32],
    segments: &[u32],
    range: Range<usize>,
) -> Vec<Example<'a>> {
    let of = |i: usize| {
        let session = &all.sessions[i];
        let (own, rest) = views.split_at(session.len());
        views = rest;
        Example { views: own, purchased: session.purchased, weight: weights[i], segment: segments[i] }
    };
    range.map(of).collect()
}

/// The gate: new and active version on the same judge sessions.
fn compare(ground: &Ground, new: &churn::Report, observer: &mut dyn Observer) -> Result<Gate> {
    let judge = ground.windows[2].clone();
    let old = match ground.job.base.and_then(|(version, _)| Some((version, version.churn.as_ref()?))) {
        None => None,
        Some((version, model)) => {
            let segments = ground.segments(&version.segment, &mut || observer.check())?;
            let views = encode(ground.job.log, &ground.sessions, model.vocabulary(), judge.clone());
            let examples = examples(&ground.sessions, &views, &ground.weights, &segments, judge);
            Some(churn::report(model, &examples, &mut || observer.check())?.losses)
        }
    };
    Ok(churn::gate(&new.losses, old.as_deref(), new.card.buyers))
}

/// A model on sessions that it has not seen, with weights of 1.
pub(super) fn judge(
    log: &Log,
    all: &Sessions,
    segments: &[u32],
    model: &Model,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Value>> {
    let n = all.sessions.len();
    let views = encode(log, all, model.vocabulary(), 0..n);
    let examples = examples(all, &views, &vec![1.0; n], segments, 0..n);
    Ok(judge_rows(&churn::report(model, &examples, check)?.card))
}

/// The judge card as the rows of the view `coupon.accuracy`.
fn judge_rows(card: &churn::Card) -> Vec<Value> {
    let row = |population: &str, model: &str, sessions: usize, m: &Metrics| {
        let mut row = serde_json::to_value(m).expect("metrics are JSON");
        row["population"] = json!(population);
        row["model"] = json!(model);
        row["sessions"] = json!(sessions);
        row["predictions"] = json!(m.n);
        row
    };
    let rows = |population, sessions, pair: &churn::Pair| {
        [row(population, "final", sessions, &pair.used), row(population, "pooled", sessions, &pair.pooled)]
    };
    // At the cut every session has one score, and short sessions have none.
    let cut = card.cut.iter().flat_map(|pair| rows("cut", pair.used.n, pair));
    cut.chain(card.live.iter().flat_map(|pair| rows("live", card.sessions, pair))).collect()
}

/// Thresholds from the judge window, replayed as the trigger would score it.
fn replay(ground: &Ground, model: &Model, judge: &[Example], own: bool, observer: &mut dyn Observer) -> Result<Replay> {
    let mut paths = Vec::with_capacity(judge.len());
    for e in judge {
        observer.check()?;
        paths.push(model.score(if own { e.segment } else { 0 }, e.views));
    }
    issue::replay(&paths, &ground.job.spec.issue)
}

fn issue_stage(ground: &Ground, plan: Plan) -> Stage {
    Stage {
        stage: "issue".into(),
        segment: 0,
        spec: serde_json::to_value(&ground.job.spec.issue).expect("a specification is JSON"),
        card: serde_json::to_value(plan).expect("a plan is JSON"),
        weights: Vec::new(),
    }
}
