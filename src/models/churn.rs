//! churn_probability of any array of page views.

use crate::models::active;
use crate::pg::error::{no_model, report, throw};
use crate::pg::settings;
use coupon_events::events::{Kind, MAX_ATTRIBUTES};
use coupon_model::churn::{BATCH_SESSIONS, Buffers};
use pgrx::prelude::*;
use std::cell::RefCell;

thread_local! {
    /// Kept from call to call: fresh memory would cost more than the scoring.
    static ROOM: RefCell<Buffers> = RefCell::default();
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
        let Some(active) = active::active(client) else { throw(no_model()) };
        let model = active.version.churn.as_ref()?;
        // All at once where that is little; otherwise step by step, which takes no memory and can be cancelled.
        let at_once = page_views.len() <= BATCH_SESSIONS;
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
