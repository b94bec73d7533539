//! Rows in and rows out without a copy of either: a query's rows are handed over as the executor makes them, and a
//! function's rows go to a tuplestore, which PostgreSQL keeps in work_mem and then on disk. No cursor: PostgreSQL runs
//! one without parallel workers, and fetching copies every row twice.

use crate::pg::error::{report, throw};
use crate::pg::statement::Fields;
use pgrx::prelude::*;
use pgrx::varlena;
use pgrx::{PgMemoryContexts, pg_guard};
use std::ffi::CString;

/// A row while its query runs.
pub struct Row {
    slot: *mut pg_sys::TupleTableSlot,
}

#[repr(C)]
struct Receiver<'a> {
    /// What the executor knows of us. First, so that a pointer to it is a pointer to all.
    base: pg_sys::DestReceiver,
    row: &'a mut dyn FnMut(&Row),
    /// What the row's values detoast to and what is made of them.
    context: pg_sys::MemoryContext,
}

/// Runs a query in the caller's snapshot and calls `row` for each of its rows. A parameter is its type and its value.
///
/// `row` may itself run a query, within an SPI connection of its own.
pub fn read(sql: &str, parameters: &[(pg_sys::Oid, Option<pg_sys::Datum>)], mut row: impl FnMut(&Row)) {
    let sql = CString::new(sql).expect("a query holds no NUL");
    let context = PgMemoryContexts::new("coupon_ext row");
    let mut receiver = Receiver {
        base: pg_sys::DestReceiver {
            receiveSlot: Some(receive),
            rStartup: Some(start),
            rShutdown: Some(end),
            rDestroy: Some(end),
            mydest: pg_sys::CommandDest::DestTuplestore,
        },
        row: &mut row,
        context: context.value(),
    };
    // SAFETY: the options and the receiver outlive the call, which is the only one to use them; the parameter list is as
    // long as it was made. An ERROR inside unwinds through here as a panic and leaves nothing but memory of the
    // transaction behind.
    let code = unsafe {
        let list = pg_sys::makeParamList(parameters.len() as i32);
        for (i, (typ, value)) in parameters.iter().enumerate() {
            *(*list).params.as_mut_ptr().add(i) = pg_sys::ParamExternData {
                value: value.unwrap_or(pg_sys::Datum::from(0)),
                isnull: value.is_none(),
                pflags: pg_sys::PARAM_FLAG_CONST as u16,
                ptype: *typ,
            };
        }
        let options = pg_sys::SPIExecuteOptions {
            params: list,
            read_only: true,
            dest: (&raw mut receiver).cast(),
            ..Default::default()
        };
        pg_sys::SPI_execute_extended(sql.as_ptr(), &options)
    };
    if code != pg_sys::SPI_OK_SELECT as i32 {
        throw(report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("a query of coupon_ext ended with {code}"), ""));
    }
    drop(context);
}

#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, this: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: PostgreSQL hands back the receiver of `read`, which is on its stack while the query runs, and a slot that
    // is valid during this call.
    unsafe {
        let receiver = &mut *this.cast::<Receiver>();
        let columns = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < columns {
            pg_sys::slot_getsomeattrs_int(slot, columns);
        }
        let before = pg_sys::MemoryContextSwitchTo(receiver.context);
        (receiver.row)(&Row { slot });
        pg_sys::MemoryContextSwitchTo(before);
        if !(*receiver.context).isReset {
            pg_sys::MemoryContextReset(receiver.context);
        }
    }
    true
}

#[pg_guard]
unsafe extern "C-unwind" fn start(_this: *mut pg_sys::DestReceiver, _operation: i32, _columns: pg_sys::TupleDesc) {}

#[pg_guard]
unsafe extern "C-unwind" fn end(_this: *mut pg_sys::DestReceiver) {}

impl Fields for Row {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T> {
        // SAFETY: the caller knows the column's type.
        unsafe { T::from_datum(self.datum(n - 1)?, false) }
    }
}

impl Row {
    /// The value of a column, from 0; the caller knows its type.
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        // SAFETY: `receive` has deformed all columns of the slot; a query of ours has as many as we ask for.
        unsafe {
            debug_assert!(column < (*(*self.slot).tts_tupleDescriptor).natts as usize);
            let null = *(*self.slot).tts_isnull.add(column);
            (!null).then(|| *(*self.slot).tts_values.add(column))
        }
    }

    /// The bytes of a value of variable length, as they are stored.
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        let value: *mut pg_sys::varlena = self.datum(column)?.cast_mut_ptr();
        // SAFETY: the datum is a varlena, and lives until the next row; what it is detoasted to lives as long.
        unsafe {
            let plain =
                varlena::varatt_is_4b_u(value) || varlena::varatt_is_1b(value) && !varlena::varatt_is_1b_e(value);
            let value = if plain { value } else { pg_sys::pg_detoast_datum_packed(value) };
            Some(varlena::varlena_to_byte_slice(value))
        }
    }

    pub fn text(&self, column: usize) -> Option<&str> {
        let text = std::str::from_utf8(self.bytes(column)?);
        Some(
            text.unwrap_or_else(|e| {
                throw(report(PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, e.to_string(), ""))
            }),
        )
    }

    pub fn texts(&self, column: usize) -> Option<Vec<Option<String>>> {
        // SAFETY: the column is a text[].
        unsafe { Vec::from_datum(self.datum(column)?, false) }
    }

    pub fn float(&self, column: usize) -> Option<f64> {
        // SAFETY: the column is a float8.
        unsafe { f64::from_datum(self.datum(column)?, false) }
    }

    pub fn bigint(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|d| d.value() as i64)
    }

    /// Microseconds since 2000.
    pub fn time(&self, column: usize) -> Option<i64> {
        self.bigint(column)
    }
}

/// The rows a set-returning function gives.
pub struct Output {
    store: *mut pg_sys::Tuplestorestate,
    columns: pg_sys::TupleDesc,
    context: PgMemoryContexts,
}

impl Output {
    /// Of the function that is being called.
    ///
    /// # Safety
    /// `call` is the frame of a call of a function that is declared to return a table.
    pub unsafe fn new(call: pg_sys::FunctionCallInfo) -> Output {
        // SAFETY: PostgreSQL refuses callers that cannot take a set, and fills in the result info otherwise.
        unsafe {
            pg_sys::InitMaterializedSRF(call, 0);
            let info = (*call).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Output {
                store: (*info).setResult,
                columns: (*info).setDesc,
                context: PgMemoryContexts::new("coupon_ext result"),
            }
        }
    }

    /// Adds a row whose columns `values` makes; it may allocate.
    pub fn put<const N: usize>(&mut self, values: impl FnOnce() -> [Option<pg_sys::Datum>; N]) {
        // SAFETY: the row has as many columns as the function declares, which is checked, and of their types; it is
        // copied into the store before the memory it was made in is freed.
        unsafe {
            assert_eq!((*self.columns).natts as usize, N, "columns of the result");
            let before = pg_sys::MemoryContextSwitchTo(self.context.value());
            let given = values();
            let mut datums = given.map(|d| d.unwrap_or(pg_sys::Datum::from(0)));
            let mut nulls = given.map(|d| d.is_none());
            pg_sys::tuplestore_putvalues(self.store, self.columns, datums.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(self.context.value());
        }
    }
}
