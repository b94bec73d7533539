//! Sessions read, locked and written through [`crate::table`]: what [`crate::rows`] says in SQL, where all tables are as
//! `coupon.create_storage()` made them.

use crate::guard::Patience;
use crate::plain::Source;
use crate::rows::{self, Fields, Found, Live, Scene, Stored, Wanted};
use crate::table::{self, Keyed, Lock, Place, Table};
use crate::world;
use pgrx::prelude::*;
use std::cell::Cell;

const GAP: Source = Source { name: c"gap", columns: &[(c"session", pg_sys::TEXTOID)], write: false, index: None };
const CUSTOMER: Source = Source {
    name: c"customer",
    columns: &[
        (c"customer", pg_sys::TEXTOID),
        (c"as_of", pg_sys::TIMESTAMPTZOID),
        (c"spending_last_month", pg_sys::FLOAT8OID),
        (c"average_payment", pg_sys::FLOAT8OID),
        (c"items_per_purchase", pg_sys::FLOAT8OID),
        (c"searches_last_month", pg_sys::FLOAT8OID),
        (c"stay_per_session", pg_sys::FLOAT8OID),
        (c"visits_last_month", pg_sys::FLOAT8OID),
        (c"definition", pg_sys::INT8OID),
        (c"variables", pg_sys::JSONBOID),
    ],
    write: false,
    index: None,
};
const SESSION: Source = Source {
    name: c"session",
    columns: &[
        (c"session", pg_sys::TEXTOID),
        (c"customer", pg_sys::TEXTOID),
        (c"started_at", pg_sys::TIMESTAMPTZOID),
        (c"last_at", pg_sys::TIMESTAMPTZOID),
        (c"views", pg_sys::INT4OID),
        (c"segment", pg_sys::INT4OID),
        (c"version", pg_sys::INT8OID),
        (c"frozen", pg_sys::BOOLOID),
        (c"purchased", pg_sys::BOOLOID),
        (c"churn", pg_sys::FLOAT8OID),
        (c"interest", pg_sys::FLOAT8OID),
        (c"decided", pg_sys::TEXTARRAYOID),
        (c"state", pg_sys::BYTEAOID),
    ],
    write: true,
    index: None,
};
const COUPON: Source =
    Source { name: c"coupon", columns: &[(c"session", pg_sys::TEXTOID)], write: false, index: Some(c"coupon_live") };

thread_local! {
    /// Where the one row of coupon.storage lay.
    static STORED: Cell<Option<Place>> = const { Cell::new(None) };
}

impl Fields for Table {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T> {
        self.get(n)
    }
}

/// As [`rows::load`]; `None` where that has to be asked: a table is not plain, or locked as a whole.
pub fn load(wanted: &Wanted, patience: &Patience) -> Option<(Scene, Vec<Found>)> {
    if !table::allowed() {
        return None;
    }
    table::with_snapshot(|| {
        let scene = scene()?;
        let mut keyed = Keyed::open(&SESSION)?;
        let found = load_from(&mut keyed, &scene, wanted, patience);
        keyed.close();
        Some((scene, found?))
    })
}

/// A session as it is stored, unlocked, and whether it missed a click; `None` as for [`load`].
pub fn peek(session: &str) -> Option<(Scene, Option<Live>, bool)> {
    if !table::allowed() {
        return None;
    }
    table::with_snapshot(|| {
        let scene = scene()?;
        let keyed = Keyed::open(&SESSION)?;
        let live = keyed.find(session).then(|| rows::live(&keyed.table, 2, session, &scene.world));
        keyed.close();
        let marks = Keyed::open(&GAP)?;
        let gap = marks.find(session);
        marks.close();
        Some((scene, live, gap))
    })
}

/// Whether a session has a coupon that is not closed, though it may have expired; `None` as for [`load`].
pub fn has_coupon(session: &str) -> Option<bool> {
    if !table::allowed() {
        return None;
    }
    table::with_snapshot(|| {
        let coupons = Keyed::open(&COUPON)?;
        let found = coupons.find(session);
        coupons.close();
        Some(found)
    })
}

fn scene() -> Option<Scene> {
    let storage = Table::open(&world::STORED)?;
    let seen = STORED.with(|place| storage.only(place)).then(|| (storage.get::<i32>(1), storage.get::<pgrx::Uuid>(3)));
    storage.close();
    let (Some(version), Some(revision)) = seen? else { return None };
    Some(Scene::new(world::at(version, revision)))
}

fn load_from(keyed: &mut Keyed, scene: &Scene, wanted: &Wanted, patience: &Patience) -> Option<Vec<Found>> {
    let Wanted { sessions, customers, .. } = *wanted;
    let mut found = Vec::with_capacity(sessions.len());
    for session in sessions {
        let lock = match wanted.look {
            true if keyed.find(session) => Lock::Taken(keyed.place()),
            true => Lock::Absent,
            false => lock(keyed, session, wanted.raced, patience),
        };
        let row = match lock {
            Lock::Held => Stored::Held,
            Lock::Absent => Stored::New(0),
            Lock::Taken(place) => {
                let live = rows::live(&keyed.table, 2, session, &scene.world);
                Stored::Known(Box::new(Live { place: Some(place), ..live }))
            }
        };
        found.push(Found { row, gap: false });
    }
    let marks = Table::open(&GAP)?;
    let none = marks.is_empty();
    marks.close();
    if !none {
        // Marks that were set while it waited for a row count.
        table::with_snapshot(|| {
            let gap = Keyed::open(&GAP)?;
            for (found, session) in found.iter_mut().zip(sessions) {
                found.gap = gap.find(session);
            }
            gap.close();
            Some(())
        })?;
    }
    let segmented =
        |(found, customer): (&Found, &Option<&str>)| matches!(found.row, Stored::New(_)) && customer.is_some();
    if scene.active.is_some() && found.iter().zip(customers).any(segmented) {
        let known = Keyed::open(&CUSTOMER)?;
        for (found, customer) in found.iter_mut().zip(customers) {
            if let (Stored::New(segment), Some(customer)) = (&mut found.row, customer)
                && known.find(customer)
            {
                *segment = scene.segment(&known.table, 3);
            }
        }
        known.close();
    }
    Some(found)
}

/// Locks a session's row, looking again while another transaction holds it, or is about to store it.
fn lock(keyed: &mut Keyed, session: &str, raced: bool, patience: &Patience) -> Lock {
    for attempt in 0.. {
        let mut lock = keyed.lock(session);
        if raced && matches!(lock, Lock::Absent) && keyed.underway(session) {
            lock = Lock::Held;
        }
        if !matches!(lock, Lock::Held) || !patience.wait(attempt) {
            return lock;
        }
        keyed.refresh();
    }
    unreachable!("patience ends")
}

/// As [`rows::update`], for rows whose place is known; `None` where that has to be asked.
pub fn update(rows: &[Live], locked: bool) -> Option<bool> {
    if !rows.iter().all(|r| r.place.is_some()) {
        return None;
    }
    let table = Table::open(&SESSION)?;
    let done = rows.iter().all(|row| {
        let place = row.place.as_ref().expect("all have one");
        table.update(
            place,
            locked,
            &[
                (2, row.customer.as_deref().into_datum()),
                (4, row.last_at.into_datum()),
                (5, (row.visit.views as i32).into_datum()),
                (8, row.visit.frozen.into_datum()),
                (9, row.visit.purchased.into_datum()),
                (10, row.visit.churn.into_datum()),
                (11, row.visit.interest.into_datum()),
                (13, row.visit.to_bytes().into_datum()),
            ],
        )
    });
    table.close();
    // SAFETY: makes what was written visible to what follows in this transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
    Some(done)
}

/// As [`rows::insert`], without waiting for whoever stores the same session; `None` where that has to be asked.
pub fn insert(rows: &[Live]) -> Option<Vec<usize>> {
    if !table::allowed() {
        return None;
    }
    let table = Table::open(&SESSION)?;
    if !table.takes(SESSION.columns.len()) {
        table.close();
        return None;
    }
    let taken = table::with_snapshot(|| {
        table.insert(rows.len(), |n| {
            let row = &rows[n];
            [
                row.session.as_str().into_datum(),
                row.customer.as_deref().into_datum(),
                row.started_at.into_datum(),
                row.last_at.into_datum(),
                (row.visit.views as i32).into_datum(),
                (row.segment as i32).into_datum(),
                row.version.as_ref().and_then(|v| v.number.into_datum()),
                row.visit.frozen.into_datum(),
                row.visit.purchased.into_datum(),
                row.visit.churn.into_datum(),
                row.visit.interest.into_datum(),
                None,
                row.visit.to_bytes().into_datum(),
            ]
        })
    });
    table.close();
    // SAFETY: makes what was written visible to what follows in this transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
    Some(taken)
}
