//! assign_segment: one row read, one nearest centroid.

use crate::cache::statement;
use crate::error::spi;
use crate::{rows, world};
use pgrx::prelude::*;

#[pg_extern(sql = false)]
pub fn assign_segment(customer: Option<&str>) -> i32 {
    let Some(customer) = customer else { return 0 };
    Spi::connect(|client| {
        let Some(active) = world::active(client) else { return 0 };
        let sql = "SELECT spending_last_month, average_payment, items_per_purchase, searches_last_month, \
                   stay_per_session, visits_last_month FROM coupon.customer WHERE customer = $1";
        let prepared = statement(client, sql, &[PgBuiltInOids::TEXTOID.into()]);
        let row = spi(client.select(prepared, Some(1), &[customer.into()])).next();
        let variables = row.and_then(|row| rows::variables(&row, 1));
        variables.map_or(0, |v| active.version.segment.assign(&v) as i32)
    })
}
