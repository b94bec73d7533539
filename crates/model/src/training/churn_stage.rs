//! The churn stage: the models, how good they are on the judge window, and the thresholds that window sets.

use super::{Job, Observer, PreparedData, Report};
use crate::churn::{self, Example, Gate, Model, Step, Trainer, View, Vocabulary, Words};
use crate::version::{Stage, ThresholdPlan};
use coupon_base::error::{Error, Result};
use coupon_base::memory;
use coupon_events::events::{Event, Log};
use coupon_events::sessions::{Sessions, pause};
use coupon_policy::{self, ReplayTable};
use serde_json::json;
use std::borrow::Cow;
use std::ops::Range;

/// The stage that holds the networks before the refit: those that the card is of.
pub(super) const EVALUATED: &str = "evaluated";

pub(super) struct Trained {
    pub stages: Vec<Stage>,
    pub gate: Gate,
}

pub(super) fn train(ground: &PreparedData, segments: &[u32], observer: &mut dyn Observer) -> Result<Trained> {
    let (job, spec) = (ground.job, &ground.job.spec.churn);
    let all = &ground.sessions.sessions;
    if let Err(reason) = spec.enough(all.len(), ground.sessions.buyers()) {
        let Error::InsufficientData(reason) = reason else { return Err(reason) };
        return without(ground, &reason, observer);
    }
    let [fit, tune, judge] = ground.windows.clone();
    observer.enter("churn");
    let before = judged_before(job)?;
    let learned = match learn(ground, segments, [fit, tune], before.as_deref(), "churn", observer) {
        // Enough in the whole log, and not in the window it learns from.
        Err(Error::InsufficientData(reason)) => return without(ground, &reason, observer),
        learned => learned?,
    };
    let model = learned.model;
    observer.enter("evaluation");
    let views = encode(job.log, &ground.sessions, model.vocabulary(), judge.clone(), &mut || observer.check())?;
    let judged = examples(&ground.sessions, &views, &ground.weights, segments, judge)?;
    let report = churn::report_compared(&model, learned.contender.as_ref(), &judged, &mut || observer.check())?;
    let gate = compare(ground, &report, before.as_deref(), observer)?;
    // The view coupon.model_metrics has them all; here what is asked first.
    let asked = |row: &&churn::Row| row.segment.is_none() && ["truncated", "live"].contains(&&*row.population);
    for row in report.card.rows.iter().filter(asked) {
        observer.report(Report {
            stage: "churn",
            loss: Some(row.metrics.log_loss),
            auroc: row.metrics.auroc,
            auprc: row.metrics.auprc,
            accuracy: Some(row.metrics.accuracy),
            note: Some(format!("judge, {} {}: ECE {:.3}", row.population, row.model, row.metrics.ece)),
            ..Report::default()
        });
    }
    observer.enter("replay");
    let plan = ThresholdPlan {
        segments: replay(ground, &model, &judged, true, observer)?,
        pooled: replay(ground, &model, &judged, false, observer)?,
    };
    drop(judged);
    drop(views);
    let refitted = if spec.refit { Some(refit(ground, segments, observer)?) } else { None };
    let serving = refitted.as_ref().map_or(&model, |refitted| &refitted.model);
    let mut card = serde_json::to_value(&report.card).expect("a card is JSON");
    card["gate"] = json!(gate);
    card["segments"] = json!(learned.decided);
    card["epochs"] = json!(learned.epochs);
    card["refit"] = json!(refitted.as_ref().map(|r| json!({ "segments": r.decided, "epochs": r.epochs })));
    card["vocabulary"] =
        json!({ "pages": serving.vocabulary().pages.len(), "categories": serving.vocabulary().categories.len() });
    let stage = |name: &str, segment, card, weights| Stage {
        stage: name.into(),
        segment,
        spec: serde_json::to_value(spec).expect("a specification is JSON"),
        card,
        weights,
    };
    let card_of = |segment| if segment == 0 { card.clone() } else { json!({}) };
    let part = |(segment, weights)| stage("churn", segment, card_of(segment), weights);
    let mut stages: Vec<Stage> = serving.parts().into_iter().map(part).collect();
    if refitted.is_some() {
        stages.push(stage(EVALUATED, 0, json!({}), model.to_safetensors()));
    }
    stages.push(issue_stage(ground, plan));
    Ok(Trained { stages, gate })
}

/// A model as it leaves the trainer, and what led to it.
struct Learned {
    model: Model,
    contender: Option<Model>,
    epochs: Vec<churn::EpochReport>,
    decided: Vec<churn::SegmentReport>,
}

/// Trains on the sessions of two windows that lie together, starting from `warm` where the specification says so.
fn learn(
    ground: &PreparedData,
    segments: &[u32],
    [fit, tune]: [Range<usize>; 2],
    warm: Option<&Model>,
    stage: &'static str,
    observer: &mut dyn Observer,
) -> Result<Learned> {
    let (job, spec) = (ground.job, &ground.job.spec.churn);
    let vocabulary = vocabulary(ground, fit.clone(), observer)?;
    let both = fit.start..tune.end;
    let views = encode(job.log, &ground.sessions, &vocabulary, both.clone(), &mut || observer.check())?;
    let both = examples(&ground.sessions, &views, &ground.weights, segments, both)?;
    let (fitted, tuned) = both.split_at(fit.len());
    let budget = job.budget.saturating_sub(ground.estimate.beside_trainer());
    let mut trainer = Trainer::new(fitted, tuned, vocabulary, spec.clone(), job.seed, budget)?;
    if spec.warm_start {
        let warm = match warm {
            Some(old) => trainer.start_from(old)?,
            None => false,
        };
        let said = if warm {
            "warm start from the active version's network"
        } else {
            "no warm start: the active version has no network of these layers and inputs"
        };
        observer.report(Report { stage, note: Some(said.into()), ..Report::default() });
    }
    let (mut epochs, mut decided) = (Vec::new(), Vec::new());
    loop {
        observer.check()?;
        match trainer.step()? {
            Step::Batch { .. } => {}
            Step::Epoch(e) => {
                observer.report(Report {
                    stage,
                    segment: Some(e.segment),
                    step: Some(e.epoch),
                    loss: Some(e.train_loss),
                    validation_loss: e.validation_loss,
                    auroc: e.tune.as_ref().and_then(|m| m.auroc),
                    auprc: e.tune.as_ref().and_then(|m| m.auprc),
                    accuracy: e.tune.as_ref().map(|m| m.accuracy),
                    note: None,
                });
                epochs.push(e);
            }
            Step::Segment(s) => {
                observer.report(Report {
                    stage,
                    segment: Some(s.segment),
                    validation_loss: s.own_log_loss.or(s.pooled_log_loss),
                    note: Some(verdict(&s)),
                    ..Report::default()
                });
                decided.push(s);
            }
            Step::Done => break,
        }
    }
    let contender = trainer.contender();
    Ok(Learned { model: trainer.finish()?, contender, epochs, decided })
}

/// What serves, once the card is written: the same training over the whole log, of which the newest sessions, as many as
/// tune has, are tune. The card stays that of the training before: nothing is left that could judge this one.
fn refit(ground: &PreparedData, segments: &[u32], observer: &mut dyn Observer) -> Result<Learned> {
    observer.enter("refit");
    let said = "the same training a window later: it serves, and the card is of the one before";
    observer.report(Report { stage: "refit", note: Some(said.into()), ..Report::default() });
    let all = &ground.sessions.sessions;
    let mut border = all.len() - ground.windows[1].len();
    while border > 0 && border < all.len() && all[border - 1].first == all[border].first {
        border -= 1;
    }
    // The active version was refitted on older sessions than these.
    let warm = ground.job.base.and_then(|(version, _)| version.churn.as_ref());
    learn(ground, segments, [0..border, border..all.len()], warm, "refit", observer)
}

/// The stage where there is too little to learn from: only arms of policy `random` can issue under such a version.
fn without(ground: &PreparedData, reason: &str, observer: &mut dyn Observer) -> Result<Trained> {
    let note = format!("no churn model: {reason}; only arms of policy random can issue");
    observer.report(Report { stage: "churn", note: Some(note), ..Report::default() });
    let counts: Vec<usize> = ground.sessions.sessions.iter().map(|s| s.len()).collect();
    let replay = ReplayTable::fallback(&counts, &ground.job.spec.issue)?;
    let stage = issue_stage(ground, ThresholdPlan { segments: replay.clone(), pooled: replay });
    Ok(Trained { stages: vec![stage], gate: churn::gate(&[], None, usize::MAX) })
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
    Words { page: text(e.page), category: text(e.category), attributes: log.attributes(e).map(text) }
}

/// The words of the sessions in the range.
pub(super) fn vocabulary(
    ground: &PreparedData,
    range: Range<usize>,
    observer: &mut dyn Observer,
) -> Result<Vocabulary> {
    let (job, sessions) = (ground.job, &ground.sessions.sessions[range]);
    let mut stopped = Ok(());
    let views = sessions.iter().flat_map(|s| ground.sessions.views(job.log, s)).enumerate();
    let words = views.map_while(|(n, e)| {
        stopped = pause(n, &mut || observer.check());
        stopped.is_ok().then(|| words(job.log, e))
    });
    let vocabulary = Vocabulary::build(&job.spec.churn, job.columns, words);
    stopped.map(|()| vocabulary)
}

pub(super) fn encode(
    log: &Log,
    all: &Sessions,
    vocabulary: &Vocabulary,
    range: Range<usize>,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<View>> {
    let sessions = &all.sessions[range];
    let mut views = memory::room(sessions.iter().map(|s| s.len()).sum())?;
    for e in sessions.iter().flat_map(|s| all.views(log, s)) {
        pause(views.len(), check)?;
        let w = words(log, e);
        let price = (!e.price.is_nan()).then_some(e.price);
        views.push(vocabulary.view(e.at, e.kind, w.page, w.category, price, &w.attributes));
    }
    Ok(views)
}

/// `weights` and `segments` are of all sessions, `views` of those in the range.
fn examples<'a>(
    all: &Sessions,
    mut views: &'a [View],
    weights: &[f32],
    segments: &[u32],
    range: Range<usize>,
) -> Result<Vec<Example<'a>>> {
    let of = |i: usize| {
        let session = &all.sessions[i];
        let (own, rest) = views.split_at(session.len());
        views = rest;
        Example { views: own, purchased: session.purchased, weight: weights[i], segment: segments[i] }
    };
    memory::collect(range.map(of))
}

/// The active version's model as its own card judged it. Its refit has learned from sessions that the new version is tuned
/// and judged on: the gate would favour it, and a warm start would leak them into the card.
fn judged_before<'a>(job: &Job<'a>) -> Result<Option<Cow<'a, Model>>> {
    let Some((version, stages)) = job.base else { return Ok(None) };
    match stages.iter().find(|s| s.stage == EVALUATED) {
        Some(before) => Ok(Some(Cow::Owned(Model::from_safetensors(&before.weights)?))),
        None => Ok(version.churn.as_ref().map(Cow::Borrowed)),
    }
}

/// The gate: new and active version on the same judge sessions.
fn compare(
    ground: &PreparedData,
    new: &churn::Report,
    before: Option<&Model>,
    observer: &mut dyn Observer,
) -> Result<Gate> {
    let judge = ground.windows[2].clone();
    let old = match (ground.job.base, before) {
        (Some((version, _)), Some(model)) => {
            let check = &mut || observer.check();
            let segments = ground.segments(&version.segment, check)?;
            let views = encode(ground.job.log, &ground.sessions, model.vocabulary(), judge.clone(), check)?;
            let examples = examples(&ground.sessions, &views, &ground.weights, &segments, judge)?;
            Some(churn::report(model, &examples, &mut || observer.check())?.losses)
        }
        _ => None,
    };
    Ok(churn::gate(&new.losses, old.as_deref(), new.card.buyers))
}

/// A model on sessions that it has not seen, with weights of 1.
pub(super) fn evaluate(
    log: &Log,
    all: &Sessions,
    segments: &[u32],
    model: &Model,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<churn::Row>> {
    let n = all.sessions.len();
    let views = encode(log, all, model.vocabulary(), 0..n, check)?;
    let examples = examples(all, &views, &vec![1.0; n], segments, 0..n)?;
    Ok(churn::report(model, &examples, check)?.card.rows)
}

/// Thresholds from the judge window, replayed as the trigger would score it.
fn replay(
    ground: &PreparedData,
    model: &Model,
    judge: &[Example],
    own: bool,
    observer: &mut dyn Observer,
) -> Result<ReplayTable> {
    let mut paths = Vec::with_capacity(judge.len());
    for e in judge {
        observer.check()?;
        paths.push(model.score(if own { e.segment } else { 0 }, e.views));
    }
    coupon_policy::replay(&paths, &ground.job.spec.issue)
}

fn issue_stage(ground: &PreparedData, plan: ThresholdPlan) -> Stage {
    Stage {
        stage: "issue".into(),
        segment: 0,
        spec: serde_json::to_value(&ground.job.spec.issue).expect("a specification is JSON"),
        card: serde_json::to_value(plan).expect("a plan is JSON"),
        weights: Vec::new(),
    }
}
