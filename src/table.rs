//! Point reads and writes of our own tables without the executor: an index probe, a row lock, an insert and an update
//! through the table access method, as logical replication's apply worker has them.
//!
//! Why: one locking SELECT and one UPDATE over arrays took 43 % of a click's time (50 and 27 µs of 180). Without them a
//! backend spends 48 µs of CPU on a click instead of 95 with one client, and 64 instead of 142 with eight.
//!
//! Only for what is an ordinary heap table still ([`crate::plain`]); whoever has partitioned, distributed, guarded or
//! otherwise altered one of them gets the SQL statements of [`crate::rows`], which are right for any of these. Everything
//! here is the access methods' own work: WAL, logical decoding, HOT and visibility are as for any other statement. Nothing
//! here waits for another transaction.

use crate::plain::{self, Plain, Source, checked, first_column_index, is_plain, open_relation, remember};
use pgrx::datum::FromDatum;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ptr::null_mut;

/// Rows that are stored at once: some pages, each written and logged once.
const BATCH: usize = 64;

/// Where a row lies that this (sub)transaction has locked, so that nobody can move it, or has seen.
pub type Place = pg_sys::ItemPointerData;

pub enum Lock {
    /// There is no such row, or none that is visible to the snapshot.
    Absent,
    /// Another transaction holds it.
    Held,
    Taken(Place),
}

/// An open table and the row it was last positioned at. Closed by [`Table::close`]; after an ERROR by the
/// (sub)transaction, so there is no Drop.
pub struct Table {
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
}

/// An open table with an index over its first column, a text.
pub struct Keyed {
    pub table: Table,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
}

/// Runs `body` in a snapshot of this moment, which sees what this transaction has done so far.
pub fn with_snapshot<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: pushed and popped in pairs; an ERROR in between pops it with the (sub)transaction.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = body();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Whether rows may be read and written beside the executor in this transaction: where its snapshot is older than the
/// statement, the executor knows when to refuse (40001) and what to note for SERIALIZABLE.
pub fn allowed() -> bool {
    // SAFETY: plain reads of the transaction's characteristics.
    unsafe {
        let own = pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 && !pg_sys::XactReadOnly;
        own && !pg_sys::IsInParallelMode()
    }
}

impl Table {
    /// Opens a table; `None` where using it takes the executor.
    pub fn open(source: &Source) -> Option<Table> {
        let mode = if source.write { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock } as i32;
        let known = checked(source.name);
        // SAFETY: catalogue look-ups by name; the relation stays open until close().
        unsafe {
            let oid = known.map_or_else(
                || pg_sys::get_relname_relid(source.name.as_ptr(), pg_sys::get_namespace_oid(c"coupon".as_ptr(), true)),
                |p| p.relation,
            );
            let relation = open_relation(oid, mode)?;
            // Locking has read the news: what was known may be so no longer.
            let still = known.is_some() && checked(source.name) == known;
            if !still && (known.is_some() || !is_plain(relation, source)) {
                pg_sys::relation_close(relation, pg_sys::NoLock as i32);
                return None;
            }
            if !still {
                let user = pg_sys::GetUserId();
                remember(Plain { name: source.name, user, relation: oid, index: pg_sys::Oid::INVALID });
            }
            Some(Table { relation, slot: pg_sys::table_slot_create(relation, null_mut()) })
        }
    }

    /// Whether it has no page, let alone a row: far cheaper to see than that an index has no entry.
    pub fn is_empty(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) == 0 }
    }

    pub fn close(self) {
        // SAFETY: both were opened by open(); the lock stays until the transaction ends.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::relation_close(self.relation, pg_sys::NoLock as i32);
        }
    }

    /// Positions at the only row of a table of one row, first looking where it lay the last time.
    pub fn only(&self, place: &Cell<Option<Place>>) -> bool {
        // SAFETY: a fetch by position sees a row only if it is visible; the slot keeps its pin. Only the first page is
        // sure to exist; should even that be gone, the fetch fails once, because the place is put back after it.
        unsafe {
            let snapshot = pg_sys::GetActiveSnapshot();
            let last = place.take().filter(|p| p.ip_blkid.bi_hi == 0 && p.ip_blkid.bi_lo == 0);
            let fetch = |mut p| pg_sys::table_tuple_fetch_row_version(self.relation, &mut p, snapshot, self.slot);
            let found = last.is_some_and(fetch) || self.first();
            place.set(found.then(|| (*self.slot).tts_tid));
            found
        }
    }

    /// Positions at the first visible row, in the active snapshot.
    fn first(&self) -> bool {
        // SAFETY: a scan of an open table, begun and ended here; the slot holds its own pin on the row.
        unsafe {
            let scan = pg_sys::table_beginscan(self.relation, pg_sys::GetActiveSnapshot(), 0, null_mut());
            let found = pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot);
            pg_sys::table_endscan(scan);
            found
        }
    }

    /// Positions at every visible row in turn, in the active snapshot.
    pub fn each(&self, mut row: impl FnMut(&Table)) {
        // SAFETY: as in first(); what `row` raises ends the scan with the (sub)transaction.
        unsafe {
            let scan = pg_sys::table_beginscan(self.relation, pg_sys::GetActiveSnapshot(), 0, null_mut());
            while pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                row(self);
            }
            pg_sys::table_endscan(scan);
        }
    }

    /// A column of the row it is positioned at, counted from 1. What borrows from the row must be copied at once.
    pub fn get<T: FromDatum>(&self, column: usize) -> Option<T> {
        // SAFETY: the slot holds a row, open() has checked the column's type, and deforming is idempotent.
        unsafe {
            pg_sys::slot_getsomeattrs_int(self.slot, column as i32);
            T::from_datum(*(*self.slot).tts_values.add(column - 1), *(*self.slot).tts_isnull.add(column - 1))
        }
    }

    /// Replaces columns, counted from 1, of a row that is `locked`, or was only seen in a snapshot of this command; `false`
    /// where another transaction has changed or locked it since. The next snapshot sees it.
    pub fn update(&self, place: &Place, locked: bool, changes: &[(usize, Option<pg_sys::Datum>)]) -> bool {
        // SAFETY: a row that a snapshot sees lies where it lay; the new one borrows from the old one, whose slot keeps its
        // pin until the access method has copied all.
        unsafe {
            let mut place = *place;
            let (old, any) = (self.slot, &raw mut pg_sys::SnapshotAnyData);
            if !pg_sys::table_tuple_fetch_row_version(self.relation, &mut place, any, old) {
                return false;
            }
            let descriptor = (*self.relation).rd_att;
            let columns = (*descriptor).natts as usize;
            pg_sys::slot_getsomeattrs_int(old, columns as i32);
            let new = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            std::ptr::copy_nonoverlapping((*old).tts_values, (*new).tts_values, columns);
            std::ptr::copy_nonoverlapping((*old).tts_isnull, (*new).tts_isnull, columns);
            for &(column, value) in changes {
                *(*new).tts_values.add(column - 1) = value.unwrap_or(pg_sys::Datum::from(0));
                *(*new).tts_isnull.add(column - 1) = value.is_none();
            }
            pg_sys::ExecStoreVirtualTuple(new);
            let (mut failure, mut lock, mut indexes) = Default::default();
            let result = pg_sys::table_tuple_update(
                self.relation,
                &mut place,
                new,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::GetActiveSnapshot(),
                null_mut(),
                // Our own lock counts as somebody's who is to be waited for, and is not.
                locked,
                &mut failure,
                &mut lock,
                &mut indexes,
            );
            let done = result == pg_sys::TM_Result::TM_Ok;
            if done && indexes {
                self.index(&[new], true);
            }
            pg_sys::ExecDropSingleTupleTableSlot(new);
            done
        }
    }

    /// Whether [`Table::insert`] does for rows of that many columns what an INSERT would.
    pub fn takes(&self, columns: usize) -> bool {
        // SAFETY: the relation is open.
        unsafe { plain::has_only(self.relation, columns) }
    }

    /// Stores `count` whole rows, which `row` makes by number; the numbers of those whose key is taken, be it by a
    /// transaction that has not ended: these are left out, and nobody is waited for. The next snapshot sees the others.
    ///
    /// An INSERT … ON CONFLICT DO NOTHING would wait for that transaction. As there, each key is checked when its index
    /// entry is made, under the page's lock, so of two transactions that insert one key the second finds the first.
    pub fn insert<const N: usize>(
        &self,
        count: usize,
        mut row: impl FnMut(usize) -> [Option<pg_sys::Datum>; N],
    ) -> Vec<usize> {
        assert!(self.takes(N));
        let mut taken = Vec::new();
        let slots: Vec<_> = (0..count.min(BATCH))
            // SAFETY: the relation is open; they are dropped below.
            .map(|_| unsafe { pg_sys::table_slot_create(self.relation, null_mut()) })
            .collect();
        for first in (0..count).step_by(BATCH) {
            let slots = &slots[..BATCH.min(count - first)];
            // SAFETY: a virtual row of all columns, whose values live as long as the caller's memory context; the access
            // method copies what it stores, and says in the slot where.
            unsafe {
                for (n, &slot) in slots.iter().enumerate() {
                    pg_sys::ExecClearTuple(slot);
                    for (column, value) in row(first + n).into_iter().enumerate() {
                        *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0));
                        *(*slot).tts_isnull.add(column) = value.is_none();
                    }
                    pg_sys::ExecStoreVirtualTuple(slot);
                }
                let mut all = slots.to_vec();
                let (command, number) = (pg_sys::GetCurrentCommandId(true), all.len() as i32);
                pg_sys::table_multi_insert(self.relation, all.as_mut_ptr(), number, command, 0, null_mut());
                let conflicts = self.index(slots, false);
                if !conflicts.is_empty() {
                    // A command cannot delete what it has itself inserted.
                    pg_sys::CommandCounterIncrement();
                    for &n in &conflicts {
                        let place = &raw mut (*slots[n]).tts_tid;
                        pg_sys::simple_table_tuple_delete(self.relation, place, pg_sys::GetActiveSnapshot());
                    }
                }
                taken.extend(conflicts.into_iter().map(|n| first + n));
            }
        }
        // SAFETY: made above.
        slots.into_iter().for_each(|slot| unsafe { pg_sys::ExecDropSingleTupleTableSlot(slot) });
        taken
    }

    /// Makes the index entries of rows that were just stored: new ones, or new versions that did not fit on their page or
    /// whose indexed column changed, less than one in a hundred. The numbers of new ones whose key is taken.
    ///
    /// # Safety
    /// The slots hold rows of this table that were just stored.
    unsafe fn index(&self, rows: &[*mut pg_sys::TupleTableSlot], update: bool) -> Vec<usize> {
        let mut taken = Vec::new();
        // SAFETY: as the executor does it; the table's lock covers its indexes.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let mut target = PgBox::<pg_sys::ResultRelInfo>::alloc_node(pg_sys::NodeTag::T_ResultRelInfo);
            pg_sys::InitResultRelInfo(target.as_ptr(), self.relation, 0, null_mut(), 0);
            pg_sys::ExecOpenIndices(target.as_ptr(), false);
            for (n, &row) in rows.iter().enumerate() {
                let mut conflict = false;
                let none = null_mut();
                // What is not to raise an error for a duplicate does not wait to learn whether it is one.
                pg_sys::ExecInsertIndexTuples(target.as_ptr(), row, state, update, !update, &mut conflict, none);
                if conflict {
                    taken.push(n);
                }
                let evaluated = (*state).es_per_tuple_exprcontext;
                if !evaluated.is_null() {
                    pg_sys::MemoryContextReset((*evaluated).ecxt_per_tuple_memory);
                }
            }
            pg_sys::ExecCloseIndices(target.as_ptr());
            pg_sys::FreeExecutorState(state);
            target.ri_RelationDesc = null_mut();
        }
        taken
    }
}

impl Keyed {
    /// As [`Table::open`], with the index to probe. Within [`with_snapshot`] only.
    pub fn open(source: &Source) -> Option<Keyed> {
        let table = Table::open(source)?;
        let known = checked(source.name).map(|p| p.index).filter(|i| *i != pg_sys::Oid::INVALID);
        let index = match known {
            Some(oid) => open_relation(oid, pg_sys::AccessShareLock as i32),
            None => first_column_index(table.relation, source),
        };
        let Some(index) = index else {
            table.close();
            return None;
        };
        if known.is_none()
            && let Some(plain) = checked(source.name)
        {
            // SAFETY: it is open.
            remember(Plain { index: unsafe { (*index).rd_id }, ..plain });
        }
        // SAFETY: both are open until close().
        let scan = unsafe { pg_sys::index_beginscan(table.relation, index, pg_sys::GetActiveSnapshot(), 1, 0) };
        Some(Keyed { table, index, scan })
    }

    pub fn close(self) {
        // SAFETY: what open() has opened.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::relation_close(self.index, pg_sys::NoLock as i32);
        }
        self.table.close();
    }

    /// Puts a snapshot of this moment in the place of the active one, which [`with_snapshot`] has pushed: rows that others
    /// have committed meanwhile are found too.
    pub fn refresh(&mut self) {
        // SAFETY: as many are pushed as popped; the scan, which reads in the old one, ends before and begins anew.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::ExecClearTuple(self.table.slot);
            pg_sys::PopActiveSnapshot();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            let snapshot = pg_sys::GetActiveSnapshot();
            self.scan = pg_sys::index_beginscan(self.table.relation, self.index, snapshot, 1, 0);
        }
    }

    /// Whether there is a row with that key which the active snapshot may not see: just committed, or inserted by a
    /// transaction that has not ended.
    pub fn underway(&self, key: &str) -> bool {
        let mut dirty =
            pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
        // SAFETY: the snapshot outlives the scan, which is ended here; the slot holds its own pin.
        unsafe {
            let scan = pg_sys::index_beginscan(self.table.relation, self.index, &mut dirty, 1, 0);
            let found = self.probe(scan, key);
            pg_sys::index_endscan(scan);
            pg_sys::ExecClearTuple(self.table.slot);
            found
        }
    }

    /// Positions at the visible row with that key.
    pub fn find(&self, key: &str) -> bool {
        // SAFETY: its own scan.
        unsafe { self.probe(self.scan, key) }
    }

    /// Where the row lies that it is positioned at.
    pub fn place(&self) -> Place {
        // SAFETY: the slot lives as long as the table is open.
        unsafe { (*self.table.slot).tts_tid }
    }

    /// # Safety
    /// A scan of this table's index.
    unsafe fn probe(&self, scan: pg_sys::IndexScanDesc, key: &str) -> bool {
        // SAFETY: first_column_index() has checked that the index compares texts; the key outlives the fetch.
        unsafe {
            let mut entry = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyEntryInitialize(
                &mut entry,
                0,
                1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::INVALID,
                *(*self.index).rd_indcollation,
                pg_sys::Oid::from(pg_sys::F_TEXTEQ),
                key.into_datum().expect("a text is not NULL"),
            );
            pg_sys::index_rescan(scan, &mut entry, 1, null_mut(), 0);
            pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.table.slot)
        }
    }

    /// Locks the newest version of the row with that key, as FOR NO KEY UPDATE SKIP LOCKED in READ COMMITTED would, and
    /// positions at it.
    pub fn lock(&self, key: &str) -> Lock {
        if !self.find(key) {
            return Lock::Absent;
        }
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: the slot holds the row that was found; locking replaces it by the version that was locked.
        let result = unsafe {
            let mut place = (*self.table.slot).tts_tid;
            pg_sys::table_tuple_lock(
                self.table.relation,
                &mut place,
                pg_sys::GetActiveSnapshot(),
                self.table.slot,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitSkip,
                pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION as u8,
                &mut failure,
            )
        };
        match result {
            // Somebody may have renamed it since.
            pg_sys::TM_Result::TM_Ok if self.table.get::<&str>(1) == Some(key) => Lock::Taken(self.place()),
            pg_sys::TM_Result::TM_Ok | pg_sys::TM_Result::TM_Deleted => Lock::Absent,
            pg_sys::TM_Result::TM_WouldBlock => Lock::Held,
            other => error!("a row could not be locked: {other}"),
        }
    }
}
