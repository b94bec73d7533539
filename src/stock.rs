//! What is in stock: the shop's own table, read with the rights of its owner.

use crate::error::spi;
use crate::owner::as_owner;
use pgrx::AnyNumeric;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

#[pg_extern(sql = false)]
fn stock(category: Option<&str>) -> Option<AnyNumeric> {
    let category = category?;
    Spi::connect(|client| {
        let sql = "SELECT s.relation::text, s.category::text, s.quantity::text, c.relowner \
                   FROM coupon.stock_source s JOIN pg_catalog.pg_class c ON c.oid = s.relation";
        let rows = spi(client.select(sql, Some(1), &[]));
        if rows.is_empty() {
            return None;
        }
        let row = rows.first();
        let name = |n: usize| spi(row.get::<String>(n));
        let (relation, column, quantity) = (name(1)?, quote_identifier(name(2)?), quote_identifier(name(3)?));
        let owner = spi(row.get::<pg_sys::Oid>(4))?;
        let sql = format!("SELECT sum({quantity})::numeric FROM {relation} WHERE {column}::text = $1");
        as_owner(owner, || spi(spi(client.select(&sql, Some(1), &[category.into()])).first().get_one()))
    })
}
