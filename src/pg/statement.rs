//! Prepared statements by keys: planned once a backend and kept, run without settings of their own.

use crate::pg::error::{report, spi, throw};
use crate::pg::subtransaction::with_setting;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiHeapTupleData};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::ptr::null_mut;

/// A statement whose text is a constant of this crate. Its plan is generic from the first call on: PostgreSQL would plan the
/// first five calls anew, and calls with arrays for ever.
pub struct Statement {
    sql: &'static CStr,
    types: &'static [pg_sys::Oid],
    plan: Cell<pg_sys::SPIPlanPtr>,
    planned: Cell<bool>,
}

impl Statement {
    pub const fn new(sql: &'static CStr, types: &'static [pg_sys::Oid]) -> Statement {
        Statement { sql, types, plan: Cell::new(null_mut()), planned: Cell::new(false) }
    }

    /// Runs it in a new snapshot; the caller is connected to SPI.
    pub fn run<const N: usize>(&self, args: [Option<pg_sys::Datum>; N]) -> Rows {
        self.execute(args, false)
    }

    /// Reads in the caller's snapshot, as functions that are STABLE must, and parallel workers.
    pub fn read<const N: usize>(&self, args: [Option<pg_sys::Datum>; N]) -> Rows {
        self.execute(args, true)
    }

    fn execute<const N: usize>(&self, args: [Option<pg_sys::Datum>; N], read_only: bool) -> Rows {
        assert_eq!(N, self.types.len(), "one argument a parameter");
        let plan = self.prepared();
        let mut values = args.map(|arg| arg.unwrap_or(pg_sys::Datum::null()));
        let nulls = args.map(|arg| if arg.is_some() { b' ' } else { b'n' } as std::ffi::c_char);
        // SAFETY: the plan is kept for the backend's life, and is given as many values and nulls as it has parameters.
        let mut run = || unsafe { pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0) };
        // SAFETY: as above.
        let code = if self.planned.get() && unsafe { pg_sys::SPI_plan_is_valid(plan) } { run() } else { by_keys(run) };
        self.planned.set(true);
        self.check(code);
        // SAFETY: plain reads of what the call has just set.
        unsafe { Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize } }
    }

    fn prepared(&self) -> pg_sys::SPIPlanPtr {
        if self.plan.get().is_null() {
            let (count, types) = (self.types.len() as i32, self.types.as_ptr().cast_mut());
            // SAFETY: PostgreSQL copies text and types; SPI_keepplan moves the plan out of the connection's memory.
            let plan = unsafe {
                let plan =
                    pg_sys::SPI_prepare_cursor(self.sql.as_ptr(), count, types, pg_sys::CURSOR_OPT_GENERIC_PLAN as i32);
                if plan.is_null() {
                    self.check(pg_sys::SPI_result);
                }
                self.check(pg_sys::SPI_keepplan(plan));
                plan
            };
            self.plan.set(plan);
        }
        self.plan.get()
    }

    fn check(&self, code: i32) {
        if code < 0 {
            throw(report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("SPI returned {code}"), ""));
        }
    }
}

/// Plans by keys: a table that is small at the time would be read whole, and go on being read whole while it grows. Without
/// JIT, because a scan of the one row of coupon.storage counts as forbidden, hence as expensive.
fn by_keys<T>(body: impl FnOnce() -> T) -> T {
    with_setting(c"jit", c"off", || with_setting(c"enable_seqscan", c"off", body))
}

/// Runs `body` in a snapshot of this moment, for reads of what a new statement has seen.
pub fn with_snapshot<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: pushed and popped in pairs; an ERROR in between pops it with the (sub)transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = body();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// What a statement returned; valid while SPI is connected.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    /// Rows returned, or written.
    pub count: usize,
}

impl Rows {
    pub fn row(&self, n: usize) -> Row {
        assert!(n < self.count, "there are {} rows", self.count);
        // SAFETY: the table holds `count` tuples of its descriptor.
        unsafe { Row { tuple: *(*self.table).vals.add(n), descriptor: (*self.table).tupdesc } }
    }

    pub fn first(&self) -> Option<Row> {
        (self.count > 0).then(|| self.row(0))
    }

    pub fn iter(&self) -> impl Iterator<Item = Row> {
        (0..self.count).map(|n| self.row(n))
    }
}

/// A row's columns by number, from 1, however it was read.
pub trait Fields {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T>;
}

pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Fields for Row {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T> {
        let mut null = false;
        // SAFETY: the tuple is of the descriptor; a number it does not have gives NULL; the type is compared below.
        unsafe {
            let value = pg_sys::SPI_getbinval(self.tuple, self.descriptor, n as i32, &mut null);
            debug_assert!(T::is_compatible_with(pg_sys::SPI_gettypeid(self.descriptor, n as i32)));
            T::from_datum(value, null)
        }
    }
}

impl Fields for SpiHeapTupleData<'_> {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T> {
        spi(self.get(n))
    }
}

thread_local! {
    static PREPARED: RefCell<HashMap<&'static str, &'static OwnedPreparedStatement>> = RefCell::default();
}

/// A statement prepared once a backend. The texts are constants of this crate, so their number is bounded. It reads in
/// the caller's snapshot through `select` and writes through `update`.
pub fn statement(client: &SpiClient, sql: &'static str, types: &[PgOid]) -> &'static OwnedPreparedStatement {
    if let Some(found) = PREPARED.with(|s| s.borrow().get(sql).copied()) {
        return found;
    }
    let prepared: &'static _ = Box::leak(Box::new(spi(client.prepare(sql, types)).keep()));
    PREPARED.with(|s| s.borrow_mut().insert(sql, prepared));
    prepared
}

/// Runs statements that look rows up by their keys, planned once and for that. PostgreSQL would plan each anew five times;
/// and while our tables are small it would read them whole, and go on so while they grow under a plan that is kept.
pub fn planned_by_keys<T>(body: impl FnOnce() -> T) -> T {
    by_keys(|| with_setting(c"plan_cache_mode", c"force_generic_plan", body))
}
