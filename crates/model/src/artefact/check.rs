//! Whether what an artefact holds could have been trained. That it can be decoded is for [`Version::decode`] to say, which
//! also serves; here stands what training holds to and serving takes on trust: that the parts agree.

use super::{Artefact, Fault, refuse, said};
use crate::churn;
use crate::version::{Stage, Version};
use coupon_base::error::{Error, Result};
use coupon_events::events::Micros;
use coupon_events::sessions;
use serde_json::Value;

/// The times PostgreSQL can store, but for the infinities: from 4714-11-24 BC, before 294277-01-01.
const TIMES: std::ops::Range<Micros> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
/// Longest name of a build.
const MOST_BUILD: usize = 200;

fn unfit(why: impl std::fmt::Display) -> Error {
    refuse(Fault::Unfit, why)
}

pub(super) fn check(artefact: &Artefact) -> Result<Version> {
    let time = |at: Micros| at == Micros::MIN || at == Micros::MAX || TIMES.contains(&at);
    if !time(artefact.since) || !time(artefact.until) || artefact.since > artefact.until {
        return Err(unfit("its window is no span of time"));
    }
    if artefact.threads < 1 || artefact.build.len() > MOST_BUILD || artefact.build.contains('\0') {
        return Err(unfit("the build or the number of threads is out of range"));
    }
    let place = |s: &Stage| format!("stage {}, segment {}", s.stage, s.segment);
    if let Some(pair) = artefact.stages.windows(2).find(|p| (&p[0].stage, p[0].segment) >= (&p[1].stage, p[1].segment))
    {
        return Err(unfit(format!("{} stands twice or out of order", place(&pair[1]))));
    }
    for stage in &artefact.stages {
        shape(stage).map_err(|e| unfit(format!("{}: {}", place(stage), said(e))))?;
    }
    if !artefact.stages.iter().any(|s| s.stage == "sessions") {
        return Err(unfit("stage sessions is missing"));
    }
    let version = Version::decode(&artefact.stages).map_err(|e| unfit(said(e)))?;
    let networks = version.churn.as_ref().map_or(0, |m| 1 + m.segments().count());
    if artefact.stages.iter().filter(|s| s.stage == "churn").count() != networks {
        return Err(unfit("a row of stage churn holds models of several segments"));
    }
    for stage in &artefact.stages {
        agrees(stage, &version).map_err(|e| unfit(format!("{}: {}", place(stage), said(e))))?;
    }
    Ok(version)
}

/// What can be said of one row alone.
fn shape(s: &Stage) -> Result<()> {
    let rule = |holds: bool, why: &str| if holds { Ok(()) } else { Err(Error::Corrupt(why.into())) };
    rule(s.segment == 0 || s.stage == "churn", "only churn has models of segments")?;
    rule(s.spec.is_object() && s.card.is_object(), "a specification and a card are JSON objects")?;
    rule(storable(&s.spec) && storable(&s.card), "a text or number that PostgreSQL would not give back unchanged")?;
    let weightless = matches!(&*s.stage, "sessions" | "issue");
    rule(weightless == s.weights.is_empty(), if weightless { "weights where there are none" } else { "no weights" })
}

/// The specification as its own stage reads it, beside what the weights were trained by.
fn agrees(s: &Stage, version: &Version) -> Result<()> {
    let agree = match &*s.stage {
        "sessions" => sessions::Spec::read(&s.spec).map(|_| true)?,
        "issue" => coupon_policy::Spec::read(&s.spec)?.min_views == version.plan.segments.min_views,
        "segment" => {
            let definition = version.segment.definition();
            coupon_segment::Spec::read(&s.spec)?.definition(definition.lookback_days) == *definition
        }
        "churn" => Some(&churn::Spec::read(&s.spec)?) == version.churn.as_ref().map(|m| m.spec()),
        "evaluated" => {
            let model = churn::Model::from_safetensors(&s.weights)?;
            version.churn.is_some() && churn::Spec::read(&s.spec)? == *model.spec()
        }
        "rank" => {
            let (spec, model) = (coupon_rank::Spec::read(&s.spec)?, &version.rank);
            let segments = model.highest_segment() <= version.segment.groups();
            segments && spec.view_decay == model.decay() && spec.candidates >= model.categories.len()
        }
        _ => return Err(Error::Corrupt("there is no such stage".into())),
    };
    if agree { Ok(()) } else { Err(Error::Corrupt("the specification is not the one of the weights".into())) }
}

/// Whether `jsonb` gives it back as it is: no NUL in texts; no negative zero, and no whole number that would come back as
/// an integer although it went as a float.
fn storable(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(all) => all.iter().all(storable),
        Value::Object(all) => all.iter().all(|(key, value)| !key.contains('\0') && storable(value)),
        Value::Number(n) => n.as_f64().is_none_or(|x| {
            let whole = (1e16..1.9e19).contains(&x.abs());
            !n.is_f64() || !(whole || x == 0.0 && x.is_sign_negative())
        }),
        Value::Null | Value::Bool(_) => true,
    }
}
