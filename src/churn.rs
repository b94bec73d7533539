//! churn_probability of any array of page views, and the judging of a version on any window.

use crate::error::{no_model, ok, report, throw};
use crate::{settings, store, threads, world};
use coupon_model::churn::{AT_ONCE, Room};
use coupon_model::events::{Kind, MAX_ATTRIBUTES};
use coupon_model::training;
use pgrx::name;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

thread_local! {
    /// Kept from call to call: fresh memory would cost more than the scoring.
    static ROOM: RefCell<Room> = RefCell::default();
}

#[pg_extern(sql = false)]
fn churn_of_views(
    segment: Option<i32>,
    page_views: Option<pgrx::Array<pgrx::composite_type!("coupon.page_view")>>,
) -> Option<f64> {
    let (segment, page_views) = (segment?, page_views?);
    if segment < 0 {
        throw(report(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("segment is {segment}"),
            "0 is unknown.",
        ));
    }
    Spi::connect(|client| {
        let Some(active) = world::active(client) else { throw(no_model()) };
        let model = active.version.churn.as_ref()?;
        // All at once where that is little; otherwise step by step, which takes no memory and can be cancelled.
        let at_once = page_views.len() <= AT_ONCE;
        let mut views = Vec::with_capacity(if at_once { page_views.len() } else { 0 });
        let (mut state, mut churn) = (model.begin(), None);
        for (i, view) in page_views.iter().enumerate() {
            if i % 1024 == 0 {
                pgrx::check_for_interrupts!();
            }
            let refuse = |what: &str| -> ! {
                throw(report(
                    PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                    format!("page view {} {what}", i + 1),
                    "A page view needs a time and one of the kinds view, search, cart, uncart.",
                ))
            };
            let Some(view) = view else { refuse("is NULL") };
            let text = |n: i32| field(view.get_by_index::<String>(index(n)));
            let at = field(view.get_by_index::<TimestampWithTimeZone>(index(1))).map(i64::from);
            let Some(at) = at.filter(|at| settings::finite(*at)) else { refuse("has no finite time") };
            let kind = match text(2).as_deref().map(Kind::parse) {
                None => Kind::View,
                Some(Some(kind)) if !kind.ends() => kind,
                _ => refuse("is of no kind that can be scored"),
            };
            let (page, category) = (text(3), text(4));
            let price = field(view.get_by_index::<f64>(index(6)));
            let attributes = field(view.get_by_index::<pgrx::Array<&str>>(index(7)));
            let attributes: Vec<Option<&str>> = attributes.iter().flat_map(|a| a.iter()).take(MAX_ATTRIBUTES).collect();
            let vocabulary = model.vocabulary();
            let seen = vocabulary.view(at, kind, page.as_deref(), category.as_deref(), price, &attributes);
            if at_once {
                views.push(seen);
            } else {
                churn = Some(model.step(segment as u32, &mut state, &seen));
            }
        }
        churn.or_else(|| ROOM.with_borrow_mut(|room| model.score_last(segment as u32, &views, room)))
    })
}

fn index(n: i32) -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(n as usize).expect("fields count from 1")
}

fn field<T>(value: Result<Option<T>, impl std::fmt::Display>) -> Option<T> {
    value.unwrap_or_else(|e| throw(report(PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH, e.to_string(), "")))
}

#[pg_extern(sql = false)]
fn judge_churn(
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
        let Some((active, stages)) = store::active_with_stages(client) else { throw(no_model()) };
        let spec = store::sessions_spec(&stages);
        // The customers' past lies before the window: segments are as of each session's own day.
        let read = store::read_log(client, i64::MIN, until, settings::training_memory(), |_| {});
        let version = &active.version;
        let end = if until == i64::MAX { read.log.events.last().map_or(0, |e| e.at) + 1 } else { until };
        let work = |stop: &AtomicBool, _: Sender<()>| {
            training::judge(&read.log, since, end, &spec, version, &mut || threads::go_on(stop))
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
