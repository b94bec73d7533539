//! The log as training reads it: the events of all watched tables, and what the campaigns did.

use crate::models::registry::time;
use crate::pg::error::{ok, spi};
use crate::pg::settings;
use crate::pg::stream::{self, Row};
use coupon_model::Error;
use coupon_model::events::{Event, Kind, Log, MAX_ATTRIBUTES, NONE};
use coupon_model::memory;
use coupon_model::training::{Estimate, Treatment};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::collections::HashMap;

/// Rows between two looks at the memory.
const BATCH: usize = 10_000;

/// Bytes that must stay free while the log is read.
const HEADROOM: usize = 16 << 20;

/// A log and how many attribute columns it has.
#[derive(Default)]
pub struct Read {
    pub log: Log,
    pub columns: usize,
}

/// The whole log in [since, until), in the total order of coupon.events; refused where it would pass the budget, or where
/// the operating system has not so much. `on_progress` gets the number of events that have been read.
pub fn read_log(_: &SpiClient, since: i64, until: i64, mut on_progress: impl FnMut(usize)) -> Read {
    let sql = "SELECT at, session, customer, kind, page, category, product, quantity, price, order_id, attributes \
               FROM coupon.events($1, $2)";
    let budget = settings::training_memory();
    let mut read = Read::default();
    let window = [since, until].map(|at| (pg_sys::TIMESTAMPTZOID, time(at).into_datum()));
    let mut check = |log: &Log| {
        on_progress(log.events.len());
        let needed = Estimate::least(log);
        if needed > budget {
            ok::<()>(Err(Error::Memory { needed, budget }));
        }
        // Other allocations are small, and could not be refused without ending the backend.
        ok(memory::probe(HEADROOM));
    };
    stream::read(sql, &window, |row| {
        ok(push(row, &mut read));
        if read.log.events.len().is_multiple_of(BATCH) {
            check(&read.log);
        }
    });
    check(&read.log);
    read
}

fn push(row: &Row, read: &mut Read) -> coupon_model::Result<()> {
    let texts = &mut read.log.texts;
    let mut text = |column: usize| texts.intern(row.text(column));
    let at = row.time(0).expect("coupon.events leaves no time NULL");
    let kind = row.text(3).and_then(Kind::parse).expect("coupon.events knows only our kinds");
    let mut event = Event::new(at, text(1)?, kind);
    event.customer = text(2)?;
    event.page = text(4)?;
    event.category = text(5)?;
    event.product = text(6)?;
    event.quantity = row.float(7).unwrap_or(1.0);
    event.price = row.float(8).unwrap_or(f64::NAN);
    event.order = text(9)?;
    let mut attributes = [NONE; MAX_ATTRIBUTES];
    if let Some(values) = row.texts(10) {
        read.columns = read.columns.max(values.len().min(MAX_ATTRIBUTES));
        for (slot, value) in attributes.iter_mut().zip(values.iter()) {
            *slot = texts.intern(value.as_deref())?;
        }
    }
    read.log.push(event, &attributes)
}

/// What the campaigns did to the sessions of a log.
pub fn treatments(client: &SpiClient, log: &Log) -> HashMap<u32, Treatment> {
    let sql =
        "SELECT session, bool_or(outcome = 'issued'), max(issue_probability) FROM coupon.decision GROUP BY session";
    let rows = spi(client.select(sql, None, &[]));
    let treatment = |row: pgrx::spi::SpiHeapTupleData| {
        let session = log.texts.find(spi(row.get::<&str>(1))?)?;
        let issued = spi(row.get(2)).unwrap_or(false);
        Some((session, Treatment { issued, probability: spi(row.get(3)).unwrap_or(0.0) }))
    };
    rows.filter_map(treatment).collect()
}
