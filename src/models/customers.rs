//! What is known of the customers: their loyalty variables, segments and order lines.

use crate::models::active::active;
use crate::models::cache::Decoded;
use crate::models::registry::time;
use crate::pg::error::spi;
use crate::pg::statement::{Fields, statement};
use coupon_model::events::{Log, NONE};
use coupon_model::segment::Model;
use coupon_model::sessions::SIX;
use coupon_model::training::Customer;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgrx::{JsonB, PgMemoryContexts, check_for_interrupts};

/// The columns of the six loyalty variables, each behind a prefix.
macro_rules! loyalty_variables {
    ($of:literal) => {
        concat!(
            $of,
            "spending_last_month, ",
            $of,
            "average_payment, ",
            $of,
            "items_per_purchase, ",
            $of,
            "searches_last_month, ",
            $of,
            "stay_per_session, ",
            $of,
            "visits_last_month"
        )
    };
}
/// What [`segment_of`] reads.
macro_rules! segment_columns {
    () => {
        concat!($crate::models::customers::loyalty_variables!(""), ", definition, variables")
    };
}
pub(crate) use {loyalty_variables, segment_columns};

/// The segment of the customer whose variables begin in column `first`: the six, the key of their definition, the rest;
/// 0 for one who is not known.
pub fn segment_of(row: &impl Fields, first: usize, model: &Model) -> u32 {
    let number = |n: usize| row.field::<f64>(first + n);
    let six = || Some([number(0)?, number(1)?, number(2)?, number(3)?, number(4)?, number(5)?]);
    let (Some(six), Some(key)) = (six(), row.field::<i64>(first + 6)) else { return 0 };
    model.assign_stored(six, key, || Some(row.field::<JsonB>(first + 7)?.0))
}

/// The segment of a customer under the active version; 0 for one who is not known.
#[pg_extern(sql = false)]
pub fn assign_segment(customer: Option<&str>) -> i32 {
    let Some(customer) = customer else { return 0 };
    Spi::connect(|client| {
        let Some(active) = active(client) else { return 0 };
        let sql = concat!("SELECT ", segment_columns!(), " FROM coupon.customer WHERE customer = $1");
        let prepared = statement(client, sql, &[PgBuiltInOids::TEXTOID.into()]);
        let row = spi(client.select(prepared, Some(1), &[customer.into()])).next();
        row.map_or(0, |row| segment_of(&row, 1, &active.version.segment) as i32)
    })
}

/// A customer's order lines by the ranking's category numbers.
pub fn profile(client: &SpiClient, version: &Decoded, customer: &str) -> Vec<(u32, f64)> {
    let sql = "SELECT categories, lines FROM coupon.customer WHERE customer = $1";
    let prepared = statement(client, sql, &[PgBuiltInOids::TEXTOID.into()]);
    let rows = spi(client.select(prepared, Some(1), &[customer.into()]));
    if rows.is_empty() {
        return Vec::new();
    }
    let (categories, lines) = spi(rows.first().get_two::<Vec<String>, Vec<f64>>());
    let pairs = categories.unwrap_or_default().into_iter().zip(lines.unwrap_or_default());
    pairs.filter_map(|(c, n)| Some((version.version.rank.index(&c)?, n))).collect()
}

/// Replaces what is known of the customers by rows that `model`, the segments of `version`, sees. Who moves to another
/// segment of the same version keeps the one before; those who are not among the rows are forgotten.
pub fn save_customers(
    client: &mut SpiClient,
    log: &Log,
    customers: &[Customer],
    as_of: i64,
    version: i64,
    model: &Model,
) {
    let sql = concat!(
        "INSERT INTO coupon.customer AS c (customer, as_of, ",
        loyalty_variables!(""),
        ", categories, lines, definition, variables, version, segment, refreshed_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (customer) DO UPDATE SET as_of = excluded.as_of, (",
        loyalty_variables!(""),
        ") = (",
        loyalty_variables!("excluded."),
        "), categories = excluded.categories, lines = excluded.lines, definition = excluded.definition, \
         variables = excluded.variables, version = excluded.version, segment = excluded.segment, \
         previous_segment = CASE WHEN c.version <> excluded.version THEN NULL \
         WHEN c.segment <> excluded.segment THEN c.segment ELSE c.previous_segment END, \
         moved_at = CASE WHEN c.version <> excluded.version THEN NULL \
         WHEN c.segment <> excluded.segment THEN excluded.as_of ELSE c.moved_at END, \
         refreshed_at = excluded.refreshed_at"
    );
    use pg_sys::BuiltinOid::*;
    let types = [
        TEXTOID,
        TIMESTAMPTZOID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        TEXTARRAYOID,
        FLOAT8ARRAYOID,
        INT8OID,
        JSONBOID,
        INT8OID,
        INT4OID,
        TIMESTAMPTZOID,
    ];
    let upsert = statement(client, sql, &types.map(Into::into));
    // Not now(), which a transaction that refreshes twice has only one of.
    let started: TimestampWithTimeZone =
        spi(spi(client.select("SELECT clock_timestamp()", Some(1), &[])).first().get_one()).expect("there is a time");
    let definition = model.definition();
    for c in customers.iter().filter(|c| c.customer != NONE) {
        check_for_interrupts!();
        let mut context = PgMemoryContexts::new("coupon_ext row");
        let categories: Vec<Option<&str>> = c.lines.iter().map(|l| log.text(l.0)).collect();
        let lines: Vec<f64> = c.lines.iter().map(|l| l.1).collect();
        let (six, own) = c.variables.split_at(SIX.len());
        let own: serde_json::Map<String, serde_json::Value> =
            definition.own.iter().map(|v| v.name.clone()).zip(own.iter().map(|v| (*v).into())).collect();
        let upsert_row = |_: &mut PgMemoryContexts| {
            let mut args = vec![log.text(c.customer).into(), time(as_of).into()];
            args.extend(six.iter().map(|v| (*v).into()));
            args.extend([
                categories.into(),
                lines.into(),
                definition.key().into(),
                JsonB(own.into()).into(),
                version.into(),
                (c.segment as i32).into(),
                started.into(),
            ]);
            spi(client.update(upsert, None, &args));
        };
        // SAFETY: nothing of the parameters is kept.
        unsafe { context.switch_to(upsert_row) };
    }
    let sql = "DELETE FROM coupon.customer WHERE refreshed_at <> $1";
    spi(client.update(sql, None, &[started.into()]));
}
