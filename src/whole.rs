//! Small tables of ours read whole: a scan through [`crate::table`] where they are plain. A backend's first click and
//! first scoring wait for this: four queries to plan took 3 of its 6 ms.

use crate::error::spi;
use crate::plain::Source;
use crate::rows::Fields;
use crate::table::Table;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};

/// A row, however it was read.
pub enum Row<'a> {
    Scanned(&'a Table),
    Queried(SpiHeapTupleData<'a>),
}

impl Fields for Row<'_> {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T> {
        match self {
            Row::Scanned(table) => table.field(n),
            Row::Queried(row) => row.field(n),
        }
    }
}

/// Calls `row` for every row of a table that the active snapshot sees, in no order.
pub fn each(client: &SpiClient, source: &Source, mut row: impl FnMut(&Row)) {
    if let Some(table) = Table::open(source) {
        table.each(|table| row(&Row::Scanned(table)));
        return table.close();
    }
    let column = |(name, _): &(&std::ffi::CStr, pg_sys::Oid)| name.to_string_lossy().into_owned();
    let columns = source.columns.iter().map(column).collect::<Vec<_>>().join(", ");
    // Both are constants of this crate, and words that need no quotes.
    let sql = format!("SELECT {columns} FROM coupon.{}", source.name.to_string_lossy());
    for found in spi(client.select(&sql, None, &[])) {
        row(&Row::Queried(found));
    }
}
