//! Prints the clicks of a simulated shop as CSV:
//!
//!     cargo run --release --example simulate -- [customers] [days] [seed] > clicks.csv
//!
//! Times are microseconds since 2000-01-01 UTC; the first day is 2026-01-01. Empty fields are NULL.

use coupon_events::events::{DAY, Micros};
use coupon_simulate::{DEFAULT_CUSTOMERS, DEFAULT_DAYS, Shop};
use std::io::{BufWriter, Write};

const START: Micros = 9_497 * DAY;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |a| a.parse::<u64>());
    let customers = u32::try_from(number(DEFAULT_CUSTOMERS.into())?)?;
    let days = i64::try_from(number(DEFAULT_DAYS.into())?)?;
    let shop = Shop::new(customers, number(0)?)?;

    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "at,session,customer,kind,page,category,product,quantity,price,order_id,device,referrer")?;
    for day in 0..days {
        for c in shop.day(START + day * DAY) {
            let quantity = c.quantity.map(|q| q.to_string()).unwrap_or_default();
            let price = c.price.map(|p| format!("{p:.2}")).unwrap_or_default();
            let fields = [
                c.customer.as_deref().unwrap_or(""),
                c.kind.name(),
                c.page,
                c.category.unwrap_or(""),
                c.product.as_deref().unwrap_or(""),
                &quantity,
                &price,
                c.order_id.as_deref().unwrap_or(""),
                c.device,
                c.referrer,
            ];
            writeln!(out, "{},{},{}", c.at, c.session, fields.join(","))?;
        }
    }
    out.flush()?;
    Ok(())
}
