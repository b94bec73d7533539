//! The one place that reads logs and reads and writes versions.

use crate::cache::{Decoded, statement};
use crate::error::{ok, spi};
use crate::settings::micros;
use coupon_model::Error;
use coupon_model::artefact::Artefact;
use coupon_model::churn::Gate;
use coupon_model::events::{Event, Interner, Kind, Log, MAX_ATTRIBUTES, NONE};
use coupon_model::memory;
use coupon_model::segment::{Model, SIX};
use coupon_model::training::{Customer, Estimate, Treatment};
use coupon_model::version::{Stage, Version};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgrx::{JsonB, PgMemoryContexts, check_for_interrupts, direct_function_call};
use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::ManuallyDrop;

/// Rows a fetch: large enough to be quick, small enough that a cancel is noticed.
const BATCH: i64 = 10_000;

/// Bytes that must be left beside the log.
const HEADROOM: usize = 16 << 20;

/// Whether there is storage.
pub fn exists() -> bool {
    // SAFETY: catalogue look-ups by name.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"coupon".as_ptr(), true);
        schema != pg_sys::Oid::INVALID && pg_sys::get_relname_relid(c"storage".as_ptr(), schema) != pg_sys::Oid::INVALID
    }
}

/// The stages of a version, in the order of their names.
pub fn stages(client: &SpiClient, version: i64) -> Vec<Stage> {
    let sql = "SELECT stage, segment, spec, card, weights FROM coupon.model WHERE version = $1 \
               ORDER BY stage COLLATE \"C\", segment";
    let rows = spi(client.select(statement(client, sql, &[PgBuiltInOids::INT8OID.into()]), None, &[version.into()]));
    let stage = |row: pgrx::spi::SpiHeapTupleData| {
        Some(Stage {
            stage: spi(row.get(1))?,
            segment: spi(row.get::<i32>(2))? as u32,
            spec: spi(row.get::<JsonB>(3))?.0,
            card: spi(row.get::<JsonB>(4))?.0,
            weights: spi(row.get::<Vec<u8>>(5))?,
        })
    };
    rows.filter_map(stage).collect()
}

/// A version as it is stored; refused where it is not what was stored. `None` for a number that never was.
pub fn load(client: &SpiClient, version: i64) -> Option<Artefact> {
    let sql = "SELECT since, until, seed, threads, build, digest FROM coupon.version WHERE version = $1";
    let rows = spi(client.select(statement(client, sql, &[PgBuiltInOids::INT8OID.into()]), Some(1), &[version.into()]));
    let row = rows.into_iter().next()?;
    let at = |n: usize| spi(row.get::<TimestampWithTimeZone>(n)).map(i64::from);
    let loaded = Artefact {
        since: at(1)?,
        until: at(2)?,
        seed: spi(row.get(3))?,
        threads: spi(row.get(4))?,
        build: spi(row.get(5))?,
        stages: stages(client, version),
    };
    if !loaded.stages.is_empty() && spi(row.get::<String>(6)) != Some(loaded.digest()) {
        ok::<()>(Err(Error::Corrupt(format!("version {version} is not what its digest says"))));
    }
    Some(loaded)
}

/// A version as it serves: weights, and the card that holds the thresholds. The other cards and the specifications are the
/// larger part and are for people; the networks before the refit are for the next training.
pub fn serving(client: &SpiClient, version: i64) -> coupon_model::Result<Version> {
    // No expressions: a backend's first click waits for this, and to look up what they are made of is a part of it.
    let sql = "SELECT stage, segment, card, weights FROM coupon.model WHERE version = $1";
    let rows = spi(client.select(statement(client, sql, &[PgBuiltInOids::INT8OID.into()]), None, &[version.into()]));
    let mut thresholds = String::new();
    let mut parts = Vec::new();
    for row in rows {
        let (Some(stage), Some(segment)) = (spi(row.get::<&str>(1)), spi(row.get::<i32>(2))) else { continue };
        if stage == "issue" {
            thresholds = spi(row.get::<Written>(3)).map_or(thresholds, |card| card.0);
        }
        if stage != "judged" {
            parts.extend(spi(row.get::<&[u8]>(4)).map(|weights| (stage, segment as u32, weights)));
        }
    }
    Version::decode_with(&parts, &thresholds)
}

/// A jsonb as its text.
struct Written(String);

impl FromDatum for Written {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Written> {
        // SAFETY: the datum is a jsonb, as the caller promises.
        let text =
            (!is_null).then(|| unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]) })??;
        Some(Written(text.to_string_lossy().into_owned()))
    }
}

impl IntoDatum for Written {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

/// Whoever stores what was trained waits for whoever else does, until that one commits.
pub fn one_at_a_time(client: &mut SpiClient) {
    spi(client.update("SELECT coupon.lock_mutex('training')", None, &[]));
}

/// What trained a version here.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("COUPON_TARGET"));

/// Stores a version; its number.
pub fn save(client: &mut SpiClient, version: &Artefact) -> i64 {
    let Artefact { since, until, seed, threads, build, stages } = version;
    let sql = "INSERT INTO coupon.version (digest, since, until, seed, threads, build) VALUES ($1, $2, $3, $4, $5, $6) \
               RETURNING version";
    let args = [
        version.digest().into(),
        time(*since).into(),
        time(*until).into(),
        (*seed).into(),
        (*threads).into(),
        build.as_str().into(),
    ];
    let version: i64 = spi(spi(client.update(sql, None, &args)).first().get_one()).expect("a version has a number");
    let sql = "INSERT INTO coupon.model (version, stage, segment, spec, card, weights, digest) \
               VALUES ($1, $2, $3, $4, $5, $6, $7)";
    for s in stages {
        let args = [
            version.into(),
            s.stage.as_str().into(),
            (s.segment as i32).into(),
            JsonB(s.spec.clone()).into(),
            JsonB(s.card.clone()).into(),
            s.weights.as_slice().into(),
            s.digest().into(),
        ];
        spi(client.update(sql, None, &args));
    }
    version
}

/// Makes a version serve if the gate lets it; whether it did.
pub fn deploy(client: &mut SpiClient, version: i64, gate: &Gate) -> bool {
    if gate.accepted {
        let sql = "INSERT INTO coupon.deployment (version, reason) VALUES ($1, $2)";
        let reason = gate.reason.clone().unwrap_or_else(|| "trained".into());
        spi(client.update(sql, None, &[version.into(), reason.into()]));
    }
    gate.accepted
}

pub fn time(at: i64) -> TimestampWithTimeZone {
    match at {
        i64::MIN => TimestampWithTimeZone::negative_infinity(),
        at => micros(at),
    }
}

/// A log and how many attribute columns it has.
pub struct Read {
    pub log: Log,
    pub columns: usize,
}

/// The whole log in [since, until), in the total order of coupon.events; refused where it would pass the budget, or where
/// the operating system has not so much. `heard` is told how many events have been read.
pub fn read_log(client: &mut SpiClient, since: i64, until: i64, budget: usize, mut heard: impl FnMut(usize)) -> Read {
    let sql = "SELECT at, session, customer, kind, page, category, product, quantity, price, order_id, attributes \
               FROM coupon.events($1, $2)";
    // Not dropped by an ERROR: closing the portal then would unmap what PostgreSQL's parallel workers share before the
    // abort takes leave of them, and the abort closes it anyway.
    let mut cursor = ManuallyDrop::new(client.open_cursor(sql, &[time(since).into(), time(until).into()]));
    let mut read = Read { log: Log::default(), columns: 0 };
    loop {
        check_for_interrupts!();
        if spi(cursor.fetch(BATCH)).is_empty() {
            drop(ManuallyDrop::into_inner(cursor));
            return read;
        }
        // What decoding detoasts goes with the batch's context, what SPI fetched with its table: either would otherwise
        // stay until training ends, as large as the log and outside the budget.
        let mut context = PgMemoryContexts::new("coupon_ext batch");
        // SAFETY: SPI's table is the one just fetched, no other call came between. Everything decoded is copied into the
        // log before the context is left and dropped, and the table freed.
        unsafe {
            let table = pg_sys::SPI_tuptable;
            let tuples = std::slice::from_raw_parts((*table).vals, (*table).numvals as usize);
            context.switch_to(|_| tuples.iter().for_each(|&t| ok(push(&Columns::of(t, (*table).tupdesc), &mut read))));
            pg_sys::SPI_freetuptable(table);
        }
        drop(context);
        heard(read.log.events.len());
        let needed = Estimate::least(&read.log);
        if needed > budget {
            ok::<()>(Err(Error::Memory { needed, budget }));
        }
        // What a batch allocates beside the log is small and could not be refused without ending the backend.
        ok(memory::probe(HEADROOM));
    }
}

/// A row of the query in [`read_log`], taken apart in one pass and in place: pgrx's `get` walks the row for every column,
/// and copies each text into the parent of the current memory context.
struct Columns {
    values: [pg_sys::Datum; 11],
    nulls: [bool; 11],
}

impl Columns {
    /// # Safety
    /// A tuple of that query with its descriptor, not freed while what [`Columns::get`] returns is used.
    unsafe fn of(tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> Columns {
        let mut columns = Columns { values: [pg_sys::Datum::null(); 11], nulls: [true; 11] };
        // SAFETY: the query has eleven columns.
        unsafe {
            pg_sys::heap_deform_tuple(tuple, descriptor, columns.values.as_mut_ptr(), columns.nulls.as_mut_ptr())
        };
        columns
    }

    /// Columns count from 1. `T` must be of the column's type.
    unsafe fn get<T: FromDatum>(&self, n: usize) -> Option<T> {
        // SAFETY: by contract.
        unsafe { T::from_datum(self.values[n - 1], self.nulls[n - 1]) }
    }
}

fn push(row: &Columns, read: &mut Read) -> coupon_model::Result<()> {
    let texts = &mut read.log.texts;
    // SAFETY: the types are those of coupon.event, and what is borrowed from the row does not leave this function.
    unsafe {
        let text = |n: usize, texts: &mut Interner| texts.intern(row.get::<&str>(n));
        let at: i64 = row.get::<TimestampWithTimeZone>(1).expect("coupon.events leaves no time NULL").into();
        let kind = row.get::<&str>(4).and_then(Kind::parse).expect("coupon.events knows only our kinds");
        let mut event = Event::new(at, text(2, texts)?, kind);
        event.customer = text(3, texts)?;
        event.page = text(5, texts)?;
        event.category = text(6, texts)?;
        event.product = text(7, texts)?;
        event.quantity = row.get(8).unwrap_or(1.0);
        event.price = row.get(9).unwrap_or(f64::NAN);
        event.order = text(10, texts)?;
        let mut attributes = [NONE; MAX_ATTRIBUTES];
        if let Some(values) = row.get::<pgrx::Array<&str>>(11) {
            read.columns = read.columns.max(values.len().min(MAX_ATTRIBUTES));
            for (slot, value) in attributes.iter_mut().zip(values.iter()) {
                *slot = texts.intern(value)?;
            }
        }
        read.log.push(event, &attributes)
    }
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
    let sql = "INSERT INTO coupon.customer AS c (customer, as_of, spending_last_month, average_payment, \
               items_per_purchase, searches_last_month, stay_per_session, visits_last_month, categories, lines, \
               definition, variables, version, segment, refreshed_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
               ON CONFLICT (customer) DO UPDATE SET as_of = excluded.as_of, \
               spending_last_month = excluded.spending_last_month, average_payment = excluded.average_payment, \
               items_per_purchase = excluded.items_per_purchase, searches_last_month = excluded.searches_last_month, \
               stay_per_session = excluded.stay_per_session, visits_last_month = excluded.visits_last_month, \
               categories = excluded.categories, lines = excluded.lines, definition = excluded.definition, \
               variables = excluded.variables, version = excluded.version, segment = excluded.segment, \
               previous_segment = CASE WHEN c.version <> excluded.version THEN NULL \
               WHEN c.segment <> excluded.segment THEN c.segment ELSE c.previous_segment END, \
               moved_at = CASE WHEN c.version <> excluded.version THEN NULL \
               WHEN c.segment <> excluded.segment THEN excluded.as_of ELSE c.moved_at END, \
               refreshed_at = excluded.refreshed_at";
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

/// The active version with its stored stages.
pub fn active_with_stages(client: &SpiClient) -> Option<(std::rc::Rc<Decoded>, Vec<Stage>)> {
    let active = crate::world::active(client)?;
    let stages = stages(client, active.number);
    Some((active, stages))
}

/// The rules a version's sessions were made by, under today's `coupon_ext.session_timeout`.
pub fn sessions_spec(stages: &[Stage]) -> coupon_model::sessions::Spec {
    let stored = stages.iter().find(|s| s.stage == "sessions").map_or(&serde_json::Value::Null, |s| &s.spec);
    let mut spec = ok(coupon_model::sessions::Spec::read(stored));
    spec.session_timeout = crate::settings::session_timeout();
    spec
}
