//! Reading a trigger's transition table row by row, and its values as the mapping wants them: the one place that touches
//! tuples directly.

use crate::pg::settings;
use pgrx::prelude::*;
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varlena_to_byte_slice};
use pgrx::{PgBox, PgMemoryContexts, PgRelation, direct_function_call};
use std::ffi::CStr;

/// A row taken apart, for as long as it is looked at.
pub struct Row {
    values: *const pg_sys::Datum,
    nulls: *const bool,
}

/// A column of the watched relation, looked up anew in every statement: it may have been altered since the last.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    index: usize,
    /// The type itself, or what a domain is over.
    typ: pg_sys::Oid,
}

impl Column {
    /// Whether its text may depend on a setting: dates and floats do, and what is not known may.
    pub fn styled(self) -> bool {
        use pg_sys::{
            BOOLOID, BPCHAROID, INT2OID, INT4OID, INT8OID, NUMERICOID, TEXTARRAYOID, TEXTOID, UUIDOID, VARCHAROID,
        };
        ![TEXTOID, VARCHAROID, BPCHAROID, TEXTARRAYOID, INT2OID, INT4OID, INT8OID, NUMERICOID, BOOLOID, UUIDOID]
            .contains(&self.typ)
    }
}

/// What a column is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Text,
    Number,
    Time,
    /// A text[], or any other type as one element.
    Texts,
}

/// The relation's column of that name, or what keeps it from being read in that role.
pub fn column(relation: &PgRelation, name: &str, role: Role) -> Result<Column, String> {
    let tuple = relation.tuple_desc();
    let found = tuple.iter().enumerate().find(|(_, a)| !a.attisdropped && a.name() == name);
    let Some((index, attribute)) = found else { return Err(format!("it has no column \"{name}\"")) };
    column_of_type(index, attribute.atttypid, role)
        .ok_or_else(|| format!("its column \"{name}\" is of another type now"))
}

/// The value at `index` of a row, of a type that can be read in that role.
pub fn column_of_type(index: usize, typ: pg_sys::Oid, role: Role) -> Option<Column> {
    use pg_sys::{DATEOID, FLOAT4OID, FLOAT8OID, INT2OID, INT4OID, INT8OID, NUMERICOID, TIMESTAMPOID, TIMESTAMPTZOID};
    let typ = match typ {
        // PostgreSQL's own types by hand-assigned number: no domains among them, so no look-up for each.
        own if own.to_u32() < pg_sys::FirstGenbkiObjectId => own,
        // SAFETY: catalogue look-up of a type that exists.
        other => unsafe { pg_sys::getBaseType(other) },
    };
    let fits = match role {
        Role::Time => [TIMESTAMPTZOID, TIMESTAMPOID, DATEOID].contains(&typ),
        Role::Number => [INT2OID, INT4OID, INT8OID, FLOAT4OID, FLOAT8OID, NUMERICOID].contains(&typ),
        Role::Text => is_text(typ),
        Role::Texts => typ == pg_sys::TEXTARRAYOID || is_text(typ),
    };
    fits.then_some(Column { index, typ })
}

/// Whether values of a type serve as texts, as coupon_internal.find_mapping_fault says it.
fn is_text(typ: pg_sys::Oid) -> bool {
    use pg_sys::{BPCHAROID, DATEOID, INT4OID, INT8OID, NUMERICOID, TEXTOID, TIMESTAMPTZOID, UUIDOID, VARCHAROID};
    if [TEXTOID, VARCHAROID, BPCHAROID, INT4OID, INT8OID, NUMERICOID, UUIDOID, DATEOID, TIMESTAMPTZOID].contains(&typ) {
        return true;
    }
    let (mut category, mut preferred) = (0, false);
    // SAFETY: catalogue look-up of a type that exists.
    unsafe { pg_sys::get_type_category_preferred(typ, &mut category, &mut preferred) };
    match category as u8 {
        b'S' | b'B' | b'E' | b'D' => true,
        b'N' => [pg_sys::INT2OID, pg_sys::FLOAT4OID, pg_sys::FLOAT8OID, pg_sys::OIDOID].contains(&typ),
        _ => false,
    }
}

/// Calls `f` for every inserted row, in insertion order, in a memory context that lasts for the row.
pub fn for_each(data: &PgBox<pg_sys::TriggerData>, relation: &PgRelation, mut f: impl FnMut(&Row)) {
    // SAFETY: an AFTER statement trigger declared with REFERENCING NEW TABLE has tg_newtable for as long as it runs; the
    // slot is of the relation's own descriptor and of the kind the tuplestore holds, and is dropped before returning. An
    // ERROR in between is rolled back by the caller's subtransaction, which frees both.
    unsafe {
        let table = data.tg_newtable;
        if table.is_null() {
            return;
        }
        let descriptor = (*relation.as_ptr()).rd_att;
        let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsMinimalTuple);
        let mut context = PgMemoryContexts::new("coupon_ext row");
        let outer = pg_sys::CurrentMemoryContext;
        pg_sys::tuplestore_rescan(table);
        while pg_sys::tuplestore_gettupleslot(table, true, false, slot) {
            pg_sys::slot_getsomeattrs_int(slot, (*descriptor).natts);
            pg_sys::MemoryContextSwitchTo(context.value());
            f(&Row { values: (*slot).tts_values, nulls: (*slot).tts_isnull });
            pg_sys::MemoryContextSwitchTo(outer);
            context.reset();
            pgrx::check_for_interrupts!();
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
}

/// Whether the statement inserted no row.
pub fn is_empty(data: &PgBox<pg_sys::TriggerData>) -> bool {
    // SAFETY: as in for_each.
    unsafe { data.tg_newtable.is_null() || pg_sys::tuplestore_tuple_count(data.tg_newtable) == 0 }
}

/// A numeric as a float8; infinite where it has none. PostgreSQL's cast writes the digits as text and reads them again: a
/// twentieth of a large COPY's time.
///
/// # Safety
/// The datum is a numeric.
unsafe fn numeric(datum: pg_sys::Datum) -> f64 {
    let at: *const pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the datum is of that type; its bytes are read where they lie whole, as in a transition table they mostly do.
    unsafe {
        let whole = !varatt_is_1b_e(at) && !varatt_is_4b_c(at);
        let read = if whole { price(varlena_to_byte_slice(at)) } else { None };
        let cast = || direct_function_call(pg_sys::numeric_float8_no_overflow, &[Some(datum)]);
        read.or_else(cast).expect("a number is not NULL")
    }
}

/// A stored numeric of few digits, as prices are: a header, which is that of PostgreSQL's `NumericShort`, and digits to
/// the base of 10,000. Both the digits together and the power of ten are exact, so that one operation rounds correctly.
fn price(bytes: &[u8]) -> Option<f64> {
    const SHORT: u16 = 0x8000;
    const NEGATIVE: u16 = 0x2000;
    let mut words = bytes.as_chunks::<2>().0.iter().map(|word| u16::from_ne_bytes(*word));
    let header = words.next().filter(|header| header & 0xc000 == SHORT)?;
    // Seven bits with a sign: the power of the first digit.
    let weight = i32::from((header << 9) as i16 >> 9);
    let count = words.len() as i32;
    let digits = words.try_fold(0u64, |all, digit| all.checked_mul(10_000)?.checked_add(digit.into()))?;
    let power = 4 * (weight + 1 - count);
    if digits > 1 << f64::MANTISSA_DIGITS || power.abs() > 22 {
        return None;
    }
    // Every power of ten up to the twenty-second is a float8.
    let ten = (0..power.abs()).fold(1.0, |ten, _| ten * 10.0);
    let value = if power < 0 { digits as f64 / ten } else { digits as f64 * ten };
    Some(if header & NEGATIVE != 0 { -value } else { value })
}

/// A number as a click has it: infinities and NaN are none.
fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

/// A time as a click has it: infinities are none, nor is what lies outside PostgreSQL's range of timestamptz.
fn moment(at: i64) -> Option<i64> {
    settings::finite(at).then_some(at)
}

/// `value::timestamptz` in the session's time zone; `None` where it has none.
fn from_timestamp(timestamp: i64) -> Option<i64> {
    let mut overflow = 0;
    // SAFETY: plain arithmetic, which says instead of raising that it overflowed.
    let at = unsafe { pg_sys::timestamp2timestamptz_opt_overflow(timestamp, &mut overflow) };
    moment(at).filter(|_| overflow == 0)
}

fn from_date(date: i32) -> Option<i64> {
    let mut overflow = 0;
    // SAFETY: as above.
    let at = unsafe { pg_sys::date2timestamptz_opt_overflow(date, &mut overflow) };
    moment(at).filter(|_| overflow == 0)
}

// For the WHERE clause by which an index on the column finds a window's rows.

#[pg_extern(sql = false)]
fn convert_time_of_timestamp(value: Timestamp) -> Option<TimestampWithTimeZone> {
    from_timestamp(value.into()).map(settings::micros)
}

#[pg_extern(sql = false)]
fn convert_time_of_date(value: Date) -> Option<TimestampWithTimeZone> {
    from_date(value.to_pg_epoch_days()).map(settings::micros)
}

impl Row {
    /// A row of values that live as long as it is looked at.
    ///
    /// # Safety
    /// The values are of the types their columns were made for.
    pub unsafe fn of(values: &[pg_sys::Datum], nulls: &[bool]) -> Row {
        assert_eq!(values.len(), nulls.len());
        Row { values: values.as_ptr(), nulls: nulls.as_ptr() }
    }

    fn datum(&self, column: Column) -> Option<pg_sys::Datum> {
        // SAFETY: the row is taken apart whole, and the column's index is below the number of its values.
        unsafe {
            let null = *self.nulls.add(column.index);
            (!null).then(|| *self.values.add(column.index))
        }
    }

    /// The value as text; coupon_internal.build_text_sql() says the same of a session id, for the index on its column.
    pub fn text(&self, column: Column) -> Option<&str> {
        let datum = self.datum(column)?;
        match column.typ {
            // SAFETY: the datum is of the type its column has.
            pg_sys::TEXTOID | pg_sys::VARCHAROID => unsafe { <&str>::from_datum(datum, false) },
            // SAFETY: as above; the cast to text drops the padding, the output function does not.
            pg_sys::BPCHAROID => unsafe { <&str>::from_datum(datum, false) }.map(|s| s.trim_end_matches(' ')),
            // In UTC, whatever the session's time zone is: as the timestamp of the same number.
            pg_sys::TIMESTAMPTZOID => written(pg_sys::F_TIMESTAMP_OUT.into(), datum),
            // The cast to text spells booleans out, the output function does not.
            pg_sys::BOOLOID => Some(if datum.value() != 0 { "true" } else { "false" }),
            typ => {
                let (mut output, mut varlena) = (pg_sys::Oid::INVALID, false);
                // SAFETY: catalogue look-up of a type that exists.
                unsafe { pg_sys::getTypeOutputInfo(typ, &mut output, &mut varlena) };
                written(output, datum)
            }
        }
    }

    /// The value as a float8.
    pub fn number(&self, column: Column) -> Option<f64> {
        let datum = self.datum(column)?;
        // SAFETY: the datum is of the type its column has.
        let number = unsafe {
            match column.typ {
                pg_sys::INT2OID => i16::from_datum(datum, false).map(f64::from),
                pg_sys::INT4OID => i32::from_datum(datum, false).map(f64::from),
                pg_sys::INT8OID => i64::from_datum(datum, false).map(|v| v as f64),
                pg_sys::FLOAT4OID => f32::from_datum(datum, false).map(f64::from),
                pg_sys::FLOAT8OID => f64::from_datum(datum, false),
                _ => Some(numeric(datum)),
            }
        };
        number.and_then(finite)
    }

    /// The value as a timestamptz, in microseconds since 2000.
    pub fn time(&self, column: Column) -> Option<i64> {
        let datum = self.datum(column)?;
        match column.typ {
            pg_sys::TIMESTAMPOID => from_timestamp(datum.value() as i64),
            pg_sys::DATEOID => from_date(datum.value() as i32),
            _ => moment(datum.value() as i64),
        }
    }

    /// The elements of a text[], at most so many; any other type is one element.
    pub fn elements(&self, column: Column, most: usize) -> Vec<Option<&str>> {
        if column.typ != pg_sys::TEXTARRAYOID {
            return vec![self.text(column)];
        }
        // SAFETY: the datum is of the type its column has.
        let array = self.datum(column).and_then(|datum| unsafe { pgrx::Array::<&str>::from_datum(datum, false) });
        array.map_or_else(Vec::new, |array| array.iter().take(most).map(|element| element.map(copied)).collect())
    }
}

/// What a type's output function makes of a value, in the row's memory context.
fn written<'a>(output: pg_sys::Oid, datum: pg_sys::Datum) -> Option<&'a str> {
    // SAFETY: the type's own output function on its own value; the text lives as long as the row is looked at.
    unsafe { CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, datum)) }.to_str().ok()
}

/// A text in the row's memory context.
fn copied<'a>(text: &str) -> &'a str {
    // SAFETY: as many bytes as are copied, of a whole text.
    unsafe {
        let to = pg_sys::palloc(text.len().max(1)).cast::<u8>();
        std::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
        std::str::from_utf8_unchecked(std::slice::from_raw_parts(to, text.len()))
    }
}
