//! assign_segment: one row read, one nearest cluster; and refresh_segments, which computes those rows anew.

use crate::cache::statement;
use crate::error::{no_model, ok, report, spi, throw};
use crate::{rows, settings, store, threads, world};
use coupon_model::sessions::day_of;
use coupon_model::training::customers;
use pgrx::prelude::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

#[pg_extern(sql = false)]
pub fn assign_segment(customer: Option<&str>) -> i32 {
    let Some(customer) = customer else { return 0 };
    Spi::connect(|client| {
        let Some(active) = world::active(client) else { return 0 };
        let sql = "SELECT spending_last_month, average_payment, items_per_purchase, searches_last_month, \
                   stay_per_session, visits_last_month, definition, variables FROM coupon.customer WHERE customer = $1";
        let prepared = statement(client, sql, &[PgBuiltInOids::TEXTOID.into()]);
        let row = spi(client.select(prepared, Some(1), &[customer.into()])).next();
        row.map_or(0, |row| rows::segment(&row, 1, &active.version.segment) as i32)
    })
}

#[pg_extern(sql = false)]
fn refresh_segments(as_of: Option<TimestampWithTimeZone>) -> i64 {
    let at = as_of.map_or_else(settings::clock, Into::into);
    if !settings::finite(at) {
        throw(report(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "as_of is infinite", "Pass a day."));
    }
    Spi::connect_mut(|client| {
        let Some(active) = world::active(client) else { throw(no_model()) };
        let model = &active.version.segment;
        let read = store::read_log(client, i64::MIN, at, settings::training_memory(), |_| {});
        let work = |stop: &AtomicBool, _: Sender<()>| customers(&read.log, at, model, &mut || threads::go_on(stop));
        let rows = ok(threads::run(1, work, |()| {}));
        store::one_at_a_time(client);
        store::save_customers(client, &read.log, &rows, day_of(at), active.number, model);
        rows.len() as i64
    })
}
