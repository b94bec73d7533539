//! coupon.simulate: the simulated shop's clicks, through ordinary INSERTs, so that they are noticed like any other.

use crate::models::active;
use crate::pg::error::{ok, report, spi, throw};
use crate::pg::settings::{self, micros};
use crate::pg::subtransaction;
use coupon_events::events::{DAY, SECOND};
use coupon_events::sessions::day_of;
use coupon_simulate::{Click, Shop};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::ffi::CString;

const MINUTE: i64 = 60 * SECOND;

#[pg_extern(sql = false)]
fn simulate(customers: Option<i32>, days: Option<i32>, seed: Option<i64>, start: Option<TimestampWithTimeZone>) -> i64 {
    let (customers, days, seed) = (customers.unwrap_or(2000), days.unwrap_or(35), seed.unwrap_or(0));
    if customers < 1 || days < 0 {
        throw(report(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{customers} customers and {days} days"),
            "Both count; a shop has at least one customer.",
        ));
    }
    if start.is_some_and(|t| !settings::finite(t.into())) {
        throw(report(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "start is infinite",
            "Pass the shop's first day.",
        ));
    }
    // By default the shop's last day is yesterday, so that its log is history.
    let start = start.map_or_else(|| day_of(settings::clock()) - i64::from(days) * DAY, Into::into);
    let shop = ok(Shop::new(customers as u32, seed as u64));
    Spi::connect_mut(|client| {
        spi(client.update("SELECT coupon.create_storage()", None, &[]));
        // Where a model serves, the clock goes along with the clicks, so that what happens is what would have happened;
        // a log that nobody watches yet is filled in large steps.
        let pace = if active::active(client).is_some() { MINUTE } else { DAY };
        let mut stored = 0;
        for day in 0..i64::from(days) {
            let clicks = shop.day(day_of(start) + day * DAY);
            for batch in clicks.chunk_by(|a, b| a.at.div_euclid(pace) == b.at.div_euclid(pace)) {
                pgrx::check_for_interrupts!();
                let last = batch.last().map_or(start, |c| c.at);
                subtransaction::with_setting(c"coupon_ext.mock_clock", &text_of(last), || insert(client, batch));
                stored += batch.len() as i64;
            }
        }
        stored
    })
}

/// A time as the setting coupon_ext.mock_clock takes it, whatever the session's DateStyle.
fn text_of(at: i64) -> CString {
    CString::new(micros(at).to_iso_string()).expect("a time holds no NUL")
}

fn insert(client: &mut SpiClient, clicks: &[Click]) {
    let sql = "INSERT INTO coupon.click (session, at, kind, customer, page, category, product, quantity, price, order_id, \
               attributes) SELECT s, t, k, c, p, g, i, q, m, o, ARRAY[d, r] FROM unnest($1::text[], $2::timestamptz[], \
               $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::float8[], $10::text[], \
               $11::text[], $12::text[]) u(s, t, k, c, p, g, i, q, m, o, d, r)";
    let args = [
        clicks.iter().map(|c| c.session.as_str()).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| micros(c.at)).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.kind.name()).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.customer.as_deref()).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.page).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.category).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.product.as_deref()).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.quantity).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.price).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.order_id.as_deref()).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.device).collect::<Vec<_>>().into(),
        clicks.iter().map(|c| c.referrer).collect::<Vec<_>>().into(),
    ];
    spi(client.update(sql, None, &args));
}
