//! Which version is active. Deployments change rarely; each change gives coupon.storage a new revision, and a backend reads
//! them again when it sees one.

use crate::models::cache::{self, Decoded};
use crate::models::registry;
use crate::pg::error::{report, throw};
use crate::pg::statement::{Fields, Row, Statement};
use coupon_model::version::Stage;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The storage version this code works with; coupon_internal.get_storage_version() says the same.
const STORAGE: i32 = 1;

thread_local! {
    static STORED: Statement = const { Statement::new(c"SELECT revision, version FROM coupon.storage", &[]) };
    static VERSIONS: Statement = const { Statement::new(c"SELECT version, digest FROM coupon.version WHERE dropped_at IS NULL", &[]) };
    static NEWEST: Statement = const { Statement::new(
        c"SELECT version FROM coupon.deployment ORDER BY id DESC LIMIT 1", &[]) };
    static KEPT: RefCell<Option<Rc<Versions>>> = const { RefCell::new(None) };
}

/// The versions that can serve, at one revision of the storage.
pub struct Versions {
    revision: pgrx::Uuid,
    active: Option<i64>,
    digests: HashMap<i64, String>,
}

impl Versions {
    pub fn active(&self) -> Option<Rc<Decoded>> {
        self.version(self.active?)
    }

    /// A version as it serves; `None` for a number that was never stored, or was dropped.
    pub fn version(&self, number: i64) -> Option<Rc<Decoded>> {
        Some(cache::version(number, self.digests.get(&number)?))
    }
}

/// The versions at a revision, read in the caller's snapshot; refused where the storage is of another version than the
/// functions.
pub fn at(revision: pgrx::Uuid) -> Rc<Versions> {
    let kept = KEPT.with_borrow(|kept| kept.as_ref().filter(|k| k.revision == revision).cloned());
    kept.unwrap_or_else(|| {
        let versions = Rc::new(Spi::connect(|_| read(revision)));
        KEPT.set(Some(versions.clone()));
        versions
    })
}

fn read(revision: pgrx::Uuid) -> Versions {
    let storage = stored().and_then(|row| row.field(2)).unwrap_or(0);
    if storage != STORAGE {
        throw(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the storage is not ready: version {storage}, these functions need {STORAGE}"),
            "SELECT coupon.create_storage()",
        ));
    }
    let digest = |row: Row| Some((row.field(1)?, row.field(2)?));
    let digests = VERSIONS.with(|versions| versions.read([])).iter().filter_map(digest).collect();
    let active = NEWEST.with(|newest| newest.read([])).first().and_then(|row| row.field(1));
    let versions = Versions { revision, active, digests };
    // Decoded in the same snapshot.
    versions.active();
    versions
}

fn stored() -> Option<Row> {
    STORED.with(|stored| stored.read([])).first()
}

/// The revision of the storage; `None` before there is one.
pub fn revision(_: &SpiClient) -> Option<pgrx::Uuid> {
    if registry::exists() { stored()?.field(1) } else { None }
}

/// The active version; `None` before there is one.
pub fn active(client: &SpiClient) -> Option<Rc<Decoded>> {
    at(revision(client)?).active()
}

/// The active version with its stored stages.
pub fn active_with_stages(client: &SpiClient) -> Option<(Rc<Decoded>, Vec<Stage>)> {
    let active = active(client)?;
    let stages = registry::stages(client, active.number);
    Some((active, stages))
}
