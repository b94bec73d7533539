//! What a statement sees beside its sessions: the active version and the running campaigns. They change rarely; each
//! change gives coupon.storage a new revision, and a backend reads them again when it sees one.

use crate::cache::{self, Decoded};
use crate::campaigns::{self, Campaigns};
use crate::error::{report, throw};
use crate::guard::pinned;
use crate::plain::Source;
use crate::rows::Fields;
use crate::whole;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The storage version this code works with; coupon.storage_version() says the same.
const STORAGE: i32 = 1;

/// One row, with the storage version first and the revision third.
pub const STORED: Source = Source {
    name: c"storage",
    columns: &[(c"version", pg_sys::INT4OID), (c"at", pg_sys::TIMESTAMPTZOID), (c"revision", pg_sys::UUIDOID)],
    write: false,
    index: None,
};
const VERSION: Source = Source {
    name: c"version",
    columns: &[(c"version", pg_sys::INT8OID), (c"digest", pg_sys::TEXTOID)],
    write: false,
    index: None,
};
const DEPLOYMENT: Source = Source {
    name: c"deployment",
    columns: &[(c"id", pg_sys::INT8OID), (c"version", pg_sys::INT8OID)],
    write: false,
    index: None,
};

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
pub fn at(storage: i32, revision: pgrx::Uuid) -> Rc<World> {
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
    let world = Rc::new(pinned(|| Spi::connect(|client| read(client, revision))));
    KEPT.with(|k| *k.borrow_mut() = Some(world.clone()));
    world
}

fn read(client: &SpiClient, revision: pgrx::Uuid) -> World {
    let mut digests = HashMap::new();
    whole::each(client, &VERSION, |row| {
        digests.extend(row.field::<i64>(1).zip(row.field::<String>(2)));
    });
    let mut newest = None;
    whole::each(client, &DEPLOYMENT, |row| {
        newest = newest.max(row.field::<i64>(1).zip(row.field::<i64>(2)));
    });
    let active = newest.map(|(_, version)| version);
    World { revision, active, digests, campaigns: campaigns::read(client) }
}

/// The world now; `None` before there is storage.
pub fn now(client: &SpiClient) -> Option<Rc<World>> {
    let mut stored = None;
    if crate::store::exists() {
        whole::each(client, &STORED, |row| stored = row.field::<i32>(1).zip(row.field::<pgrx::Uuid>(3)));
    }
    let (storage, revision) = stored?;
    Some(at(storage, revision))
}

/// The active version; `None` before there is one.
pub fn active(client: &SpiClient) -> Option<Rc<Decoded>> {
    now(client)?.active()
}

impl World {
    pub fn active(&self) -> Option<Rc<Decoded>> {
        self.version(self.active?)
    }

    /// A version as it serves; `None` for a number that was never stored.
    pub fn version(&self, number: i64) -> Option<Rc<Decoded>> {
        Some(cache::version(number, self.digests.get(&number)?))
    }
}
