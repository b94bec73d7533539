//! evaluate_churn: how good the active version is on any window of the log.

use crate::models::{active, registry};
use crate::pg::error::{no_model, ok, throw};
use crate::pg::threads;
use crate::train::log;
use coupon_model::training;
use pgrx::name;
use pgrx::prelude::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

#[pg_extern(sql = false)]
fn evaluate_churn(
    since: TimestampWithTimeZone,
    until: TimestampWithTimeZone,
) -> TableIterator<
    'static,
    (
        name!(population, String),
        name!(model, String),
        name!(segment, Option<i32>),
        name!(sessions, i64),
        name!(predictions, i64),
        name!(buyers, i64),
        name!(base_rate, f64),
        name!(auroc, Option<f64>),
        name!(auprc, Option<f64>),
        name!(brier, f64),
        name!(log_loss, f64),
        name!(ece, f64),
        name!(slope, Option<f64>),
        name!(intercept, Option<f64>),
        name!(accuracy, f64),
        name!(majority, f64),
    ),
> {
    let (since, until): (i64, i64) = (since.into(), until.into());
    let rows = Spi::connect_mut(|client| {
        let Some((active, stages)) = active::active_with_stages(client) else { throw(no_model()) };
        let spec = registry::sessions_spec(&stages);
        // The customers' past lies before the window: segments are as of each session's own day.
        let read = log::read_log(client, i64::MIN, until, |_| {});
        let version = &active.version;
        let end = if until == i64::MAX { read.log.events.last().map_or(0, |e| e.at) + 1 } else { until };
        let work = |stop: &AtomicBool, _: Sender<()>| {
            training::evaluate(&read.log, since, end, &spec, version, &mut || threads::go_on(stop))
        };
        ok(threads::run(1, work, |()| {}))
    });
    TableIterator::new(rows.into_iter().map(|r| {
        let m = r.metrics;
        (
            r.population,
            r.model,
            r.segment.map(|s| s as i32),
            r.sessions as i64,
            m.n as i64,
            m.buyers as i64,
            m.base_rate,
            m.auroc,
            m.auprc,
            m.brier,
            m.log_loss,
            m.ece,
            m.slope,
            m.intercept,
            m.accuracy,
            m.majority,
        )
    }))
}
