//! What a statement sees beside its sessions: the active version and the running campaigns. They change rarely; each
//! change gives coupon.storage a new revision, and a backend reads them again when it sees one.

use crate::cache::{self, Decoded};
use crate::campaigns::{self, Campaigns};
use crate::error::{report, throw};
use crate::statement::{Fields, Row, Statement, with_snapshot};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The storage version this code works with; coupon.storage_version() says the same.
const STORAGE: i32 = 1;

thread_local! {
    static STORED: Statement = const { Statement::new(c"SELECT revision, version FROM coupon.storage", &[]) };
    static VERSIONS: Statement = const { Statement::new(c"SELECT version, digest FROM coupon.version WHERE dropped_at IS NULL", &[]) };
    static NEWEST: Statement = const { Statement::new(
        c"SELECT version FROM coupon.deployment ORDER BY id DESC LIMIT 1", &[]) };
}

pub struct World {
    revision: pgrx::Uuid,
    active: Option<i64>,
    digests: HashMap<i64, String>,
    pub campaigns: Campaigns,
}

thread_local! {
    static KEPT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

fn kept(revision: pgrx::Uuid) -> Option<Rc<World>> {
    KEPT.with(|k| k.borrow().as_ref().filter(|w| w.revision == revision).cloned())
}

/// The world at a revision that a statement has just read: in a snapshot no older than that statement's, because what is
/// kept under a revision must be of it.
pub fn at_now(revision: pgrx::Uuid) -> Rc<World> {
    kept(revision).unwrap_or_else(|| with_snapshot(|| at(revision)))
}

/// The world at a revision; refused where the storage is of another version than the functions.
pub fn at(revision: pgrx::Uuid) -> Rc<World> {
    if let Some(kept) = kept(revision) {
        return kept;
    }
    let world = Rc::new(Spi::connect(|_| read(revision)));
    KEPT.with(|k| *k.borrow_mut() = Some(world.clone()));
    world
}

fn read(revision: pgrx::Uuid) -> World {
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
    let world = World { revision, active, digests, campaigns: campaigns::read() };
    // In the same snapshot.
    world.active();
    world
}

fn stored() -> Option<Row> {
    STORED.with(|stored| stored.read([])).first()
}

/// The world now; `None` before there is storage.
pub fn now(_: &SpiClient) -> Option<Rc<World>> {
    let revision = if crate::store::exists() { stored()?.field(1) } else { None };
    revision.map(at)
}

/// The active version; `None` before there is one.
pub fn active(client: &SpiClient) -> Option<Rc<Decoded>> {
    now(client)?.active()
}

impl World {
    pub fn active(&self) -> Option<Rc<Decoded>> {
        self.version(self.active?)
    }

    /// A version as it serves; `None` for a number that was never stored, or was dropped.
    pub fn version(&self, number: i64) -> Option<Rc<Decoded>> {
        Some(cache::version(number, self.digests.get(&number)?))
    }
}
