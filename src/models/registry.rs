//! The stored versions: the one place that reads and writes them.

use crate::pg::error::{ok, spi};
use crate::pg::settings::{self, micros};
use crate::pg::statement::statement;
use coupon_base::Error;
use coupon_model::artefact::Artefact;
use coupon_model::churn::Gate;
use coupon_model::version::{Stage, Version};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgrx::{JsonB, direct_function_call};
use std::ffi::CStr;

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
pub fn serving(client: &SpiClient, version: i64) -> coupon_base::Result<Version> {
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
        if stage != "evaluated" {
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
    spi(client.update("SELECT coupon_internal.lock_mutex('training')", None, &[]));
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

/// The rules a version's sessions were made by, under today's `coupon_ext.session_timeout`.
pub fn sessions_spec(stages: &[Stage]) -> coupon_events::sessions::Spec {
    let stored = stages.iter().find(|s| s.stage == "sessions").map_or(&serde_json::Value::Null, |s| &s.spec);
    let mut spec = ok(coupon_events::sessions::Spec::read(stored));
    spec.session_timeout = settings::session_timeout();
    spec
}
