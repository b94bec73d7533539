//! One session's events as they are stored in the watched tables, each read with its owner's rights.

use crate::pg::error::spi;
use crate::pg::owner::as_owner;
use crate::pg::settings::micros;
use crate::pg::subtransaction::{self, with_setting};
use coupon_events::events::Kind;
use coupon_model::live::Click;
use pgrx::name;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};

#[pg_extern(sql = false)]
fn session_events(
    session: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(at, TimestampWithTimeZone),
        name!(session, Option<String>),
        name!(customer, Option<String>),
        name!(kind, String),
        name!(page, Option<String>),
        name!(category, Option<String>),
        name!(product, Option<String>),
        name!(quantity, Option<f64>),
        name!(price, Option<f64>),
        name!(order_id, Option<String>),
        name!(zone, Option<String>),
        name!(attributes, Option<Vec<Option<String>>>),
    ),
> {
    let clicks = session.and_then(|session| Spi::connect(|client| clicks(client, session))).unwrap_or_default();
    TableIterator::new(clicks.into_iter().map(|c| {
        let attributes = (!c.attributes.is_empty()).then_some(c.attributes);
        let kind = c.kind.name().to_string();
        let (at, session) = (micros(c.at), c.session);
        #[rustfmt::skip]
        let row = (at, session, c.customer, kind, c.page, c.category, c.product, c.quantity, c.price, c.order_id, c.zone, attributes);
        row
    }))
}

/// A session's stored events in their total order; `None`, with a warning, where one of the tables cannot be read, and the
/// session is not known whole.
pub fn clicks(client: &SpiClient, session: &str) -> Option<Vec<Click>> {
    let sql = "SELECT s.query, c.relowner, s.relation::text FROM coupon_internal.list_sources() s \
               JOIN pg_catalog.pg_class c ON c.oid = s.relation";
    let sources: Vec<(String, pg_sys::Oid, String)> = spi(client.select(sql, None, &[]))
        .filter_map(|row| Some((spi(row.get(1))?, spi(row.get(2))?, spi(row.get(3))?)))
        .collect();
    let mut clicks = Vec::new();
    for (query, owner, relation) in sources {
        let sql = format!(
            "SELECT at, customer, kind, page, category, product, quantity, price, order_id, zone, attributes \
             FROM ({query}) s WHERE session_key = $1"
        );
        // A date or a float used as an id must not depend on who asks.
        let select = || spi(client.select(&sql, None, &[session.into()]));
        let read = || with_setting(c"datestyle", c"ISO, YMD", || with_setting(c"extra_float_digits", c"1", select));
        let found = || as_owner(owner, read).filter_map(|row| click(&row, session)).collect::<Vec<_>>();
        match subtransaction::quiet_subtransaction(found) {
            Ok(found) => clicks.extend(found),
            Err(mut caught) => {
                caught.message =
                    format!("\"{relation}\" cannot be read, so a session is not rebuilt: {}", caught.message);
                subtransaction::warn(&caught);
                return None;
            }
        }
    }
    clicks.sort_by(|a, b| a.order(b));
    Some(clicks)
}

fn click(row: &SpiHeapTupleData, session: &str) -> Option<Click> {
    Some(Click {
        at: spi(row.get::<TimestampWithTimeZone>(1))?.into(),
        session: Some(session.to_string()),
        customer: spi(row.get(2)),
        kind: Kind::parse(spi(row.get::<&str>(3))?)?,
        page: spi(row.get(4)),
        category: spi(row.get(5)),
        product: spi(row.get(6)),
        quantity: spi(row.get(7)),
        price: spi(row.get(8)),
        order_id: spi(row.get(9)),
        zone: spi(row.get(10)),
        attributes: spi(row.get(11)).unwrap_or_default(),
    })
}
