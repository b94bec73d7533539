//! What is in stock: the shop's own table, read with the rights of its owner. A table that may not be read, or cannot be,
//! has no stock that is known: a campaign that asks for one gives nothing, and the click goes on.

use crate::pg::error::spi;
use crate::pg::owner::as_owner;
use crate::pg::subtransaction::{self, CaughtError};
use pgrx::AnyNumeric;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

/// Rights, row security and columns are looked at for each read: they change after the table was named.
const SOURCE: &str = "SELECT s.relation::text, s.category::text, s.quantity::text, c.relowner, coalesce(f.message, \
    CASE WHEN NOT has_table_privilege(c.relowner, c.oid, 'SELECT') THEN 'its owner may not read it' END) \
    FROM coupon.stock_source s JOIN pg_catalog.pg_class c ON c.oid = s.relation \
    CROSS JOIN LATERAL coupon_internal.find_stock_fault(s.relation, s.category, s.quantity) f";

#[pg_extern(sql = false)]
fn read_stock(category: Option<&str>) -> Option<AnyNumeric> {
    let category = category?;
    Spi::connect(|client| {
        let rows = spi(client.select(SOURCE, Some(1), &[]));
        if rows.is_empty() {
            return None;
        }
        let row = rows.first();
        let name = |n: usize| spi(row.get::<String>(n));
        let (relation, column, quantity) = (name(1)?, quote_identifier(name(2)?), quote_identifier(name(3)?));
        if let Some(why) = name(5) {
            warn(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, &relation, &why);
            return None;
        }
        let owner = spi(row.get::<pg_sys::Oid>(4))?;
        let sql = format!("SELECT sum({quantity})::numeric FROM {relation} WHERE {column}::text = $1");
        // What the owner's code raises must not cost a click.
        let read = || as_owner(owner, || spi(spi(client.select(&sql, Some(1), &[category.into()])).first().get_one()));
        subtransaction::quiet_subtransaction(read).unwrap_or_else(|caught| {
            warn(caught.code, &relation, &caught.message);
            None
        })
    })
}

fn warn(code: PgSqlErrorCode, relation: &str, why: &str) {
    subtransaction::warn(&CaughtError {
        code,
        message: format!("the stock in \"{relation}\" is not read: {why}"),
        detail: None,
        hint: Some(
            "Campaigns with minimum_stock give nothing until coupon.watch_stock() names a table that can be read."
                .into(),
        ),
    });
}
