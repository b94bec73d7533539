//! What a statement sees beside its sessions: the active version and the running campaigns. They change rarely; each
//! change gives coupon.storage a new revision, and a backend reads them again when it sees one.

use crate::cache::{self, Decoded, statement};
use crate::campaigns::{self, Campaigns};
use crate::error::{report, spi, throw};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The storage version this code works with; coupon.storage_version() says the same.
const STORAGE: i32 = 1;

pub struct World {
    revision: pgrx::Uuid,
    active: Option<i64>,
    digests: HashMap<i64, String>,
    pub campaigns: Campaigns,
}

thread_local! {
    static KEPT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world at a revision; refused where the storage is of another version than the functions.
pub fn at(client: &SpiClient, storage: i32, revision: pgrx::Uuid) -> Rc<World> {
    if storage != STORAGE {
        throw(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the storage is of version {storage}, these functions are of version {STORAGE}"),
            "SELECT coupon.create_storage()",
        ));
    }
    if let Some(kept) = KEPT.with(|k| k.borrow().as_ref().filter(|w| w.revision == revision).cloned()) {
        return kept;
    }
    let sql = "SELECT version, digest, version = (SELECT d.version FROM coupon.deployment d ORDER BY d.id DESC LIMIT 1) \
               FROM coupon.version";
    let mut digests = HashMap::new();
    let mut active = None;
    for row in spi(client.select(statement(client, sql, &[]), None, &[])) {
        let (Some(number), Some(digest)) = (spi(row.get::<i64>(1)), spi(row.get::<String>(2))) else { continue };
        if spi(row.get(3)).unwrap_or(false) {
            active = Some(number);
        }
        digests.insert(number, digest);
    }
    let world = World { revision, active, digests, campaigns: campaigns::read(client) };
    let world = Rc::new(world);
    KEPT.with(|k| *k.borrow_mut() = Some(world.clone()));
    world
}

/// The world now; `None` before there is storage.
pub fn now(client: &SpiClient) -> Option<Rc<World>> {
    if !crate::store::exists(client) {
        return None;
    }
    let sql = "SELECT version, revision FROM coupon.storage";
    let rows = spi(client.select(statement(client, sql, &[]), Some(1), &[]));
    if rows.is_empty() {
        return None;
    }
    let (storage, revision) = spi(rows.first().get_two::<i32, pgrx::Uuid>());
    Some(at(client, storage?, revision?))
}

/// The active version; `None` before there is one.
pub fn active(client: &SpiClient) -> Option<Rc<Decoded>> {
    now(client)?.active(client)
}

impl World {
    pub fn active(&self, client: &SpiClient) -> Option<Rc<Decoded>> {
        self.version(client, self.active?)
    }

    /// A version as it serves; `None` for a number that was never stored.
    pub fn version(&self, client: &SpiClient, number: i64) -> Option<Rc<Decoded>> {
        Some(cache::version(client, number, self.digests.get(&number)?))
    }
}
