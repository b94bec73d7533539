//! refresh_segments: what is known of the customers, computed anew from the log.

use crate::models::{active, customers, registry};
use crate::pg::error::{no_model, ok, report, throw};
use crate::pg::{settings, threads};
use crate::train::log;
use coupon_events::sessions::day_of;
use coupon_model::training;
use pgrx::prelude::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

#[pg_extern(sql = false)]
fn refresh_segments(as_of: Option<TimestampWithTimeZone>) -> i64 {
    let at = as_of.map_or_else(settings::clock, Into::into);
    if !settings::finite(at) {
        throw(report(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "as_of is infinite", "Pass a day."));
    }
    Spi::connect_mut(|client| {
        let Some(active) = active::active(client) else { throw(no_model()) };
        let model = &active.version.segment;
        let read = log::read_log(client, i64::MIN, at, |_| {});
        let work =
            |stop: &AtomicBool, _: Sender<()>| training::customers(&read.log, at, model, &mut || threads::go_on(stop));
        let rows = ok(threads::run(1, work, |()| {}));
        registry::one_at_a_time(client);
        customers::save_customers(client, &read.log, &rows, day_of(at), active.number, model);
        rows.len() as i64
    })
}
