//! assign_segment: one row read, one nearest centroid.

use crate::cache::statement;
use crate::error::spi;
use crate::world;
use coupon_model::segment::Variables;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
pub fn assign_segment(customer: Option<&str>) -> i32 {
    let Some(customer) = customer else { return 0 };
    Spi::connect(|client| {
        let Some(active) = world::active(client) else { return 0 };
        let sql = "SELECT ARRAY[spending_last_month, average_payment, items_per_purchase, searches_last_month, \
                   stay_per_session, visits_last_month] FROM coupon.customer WHERE customer = $1";
        let prepared = statement(client, sql, &[PgBuiltInOids::TEXTOID.into()]);
        let rows = spi(client.select(prepared, Some(1), &[customer.into()]));
        if rows.is_empty() {
            return 0;
        }
        let values: Vec<f64> = spi(rows.first().get_one()).unwrap_or_default();
        let &[
            spending_last_month,
            average_payment,
            items_per_purchase,
            searches_last_month,
            stay_per_session,
            visits_last_month,
        ] = values.as_slice()
        else {
            return 0;
        };
        let variables = Variables {
            spending_last_month,
            average_payment,
            items_per_purchase,
            searches_last_month,
            stay_per_session,
            visits_last_month,
        };
        active.version.segment.assign(&variables) as i32
    })
}
