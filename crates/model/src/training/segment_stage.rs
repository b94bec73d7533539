//! The segment stage: clusters of customers, regrouped by the churn rates of their sessions.

use super::{Observer, PreparedData, Report};
use crate::version::Stage;
use coupon_base::error::Result;
use coupon_events::sessions::Rows;
use coupon_events::sessions::day_of;
use coupon_segment::{CellCount, Fit, Model};
use std::ops::Range;

/// The cells on one snapshot at the start of tune (geometry only); churn rates from the fit window's sessions, each with
/// the variables its customer had at the start of its own day. The judge window's rates are told beside them.
pub(super) fn train(ground: &PreparedData, observer: &mut dyn Observer) -> Result<(Model, Stage)> {
    let (job, loyalty, day) = (ground.job, &ground.loyalty, day_of(ground.cut()));
    observer.enter("segment");
    let mut snapshot = Rows::new(ground.definition.names().count());
    for customer in loyalty.customers(day) {
        observer.check()?;
        if let Some(row) = loyalty.variables(customer, day) {
            snapshot.push(&row);
        }
    }
    let mut fit = Fit::new(&snapshot, &ground.definition, &job.spec.segment, job.seed)?;
    while fit.step() {
        observer.check()?;
    }
    let (mut model, mut card) = fit.finish();
    model.regroup(&counts(ground, &model, ground.windows[0].clone()), &job.spec.segment, &mut card)?;
    card.judge(&counts(ground, &model, ground.windows[2].clone()));
    card.describe(&model, &snapshot);
    for elbow in card.elbow.iter().filter(|e| e.chosen) {
        let note = format!("{}: {} clusters by the elbow, inertia {:.1}", elbow.dimension, elbow.k, elbow.inertia);
        observer.report(Report { stage: "segment", step: Some(elbow.k), note: Some(note), ..Report::default() });
    }
    for group in &card.groups {
        let note = format!(
            "{}: {} cells, {} sessions, {} buyers in the fit window",
            group.name, group.cells, group.rates.sessions, group.rates.buyers
        );
        observer.report(Report { stage: "segment", segment: Some(group.group), note: Some(note), ..Report::default() });
    }
    let stage = Stage {
        stage: "segment".into(),
        segment: 0,
        spec: serde_json::to_value(&job.spec.segment).expect("a specification is JSON"),
        card: serde_json::to_value(&card).expect("a card is JSON"),
        weights: model.to_bytes()?,
    };
    Ok((model, stage))
}

fn counts(ground: &PreparedData, model: &Model, window: Range<usize>) -> Vec<CellCount> {
    let mut counts = vec![CellCount::default(); model.cells()];
    for i in window {
        if let Some(row) = ground.as_of.get(i) {
            let count = &mut counts[model.cell(row) as usize];
            count.sessions += 1;
            count.buyers += u64::from(ground.sessions.sessions[i].purchased);
        }
    }
    counts
}
