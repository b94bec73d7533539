//! A statement's clicks by session, in bounded memory: written down one behind the other (postcard) where they fit, otherwise
//! sorted by PostgreSQL, on disk if need be.

use crate::pg::error::ok;
use coupon_base::memory;
use coupon_events::events::{Interner, NONE};
use coupon_model::live::Click;
use pgrx::prelude::*;
use std::ops::Range;
use std::ptr::null_mut;

/// Sessions that are read, advanced and stored together: so few stay in the cache. (With a thousand, a COPY of 100,000 clicks
/// took 380 ms instead of 322.)
const CHUNK: usize = 100;

/// A session's clicks in a statement; purchases that know only their customer have no session.
pub type Group<'a> = (Option<&'a str>, Vec<Click<&'a str>>);

/// Calls `advance` for the clicks that `read` hands over, a chunk of sessions at a time, in the order of the sessions, in
/// which everybody locks; those without one last.
pub fn by_session(read: impl FnOnce(&mut dyn FnMut(&Click<&str>)), mut advance: impl FnMut(&mut [Group])) {
    // SAFETY: plain read of the context that outlives the rows.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    let (mut grouped, mut sorted) = (Grouped::default(), None::<Sorted>);
    read(&mut |click| match &mut sorted {
        Some(sorted) => sorted.push(click, &ok(written(click))),
        None => {
            grouped.push(click);
            if grouped.size() > budget() {
                let sorted = sorted.insert(Sorted::new(context));
                std::mem::take(&mut grouped).drain(|click, bytes| sorted.push(&click, bytes));
            }
        }
    });
    match sorted {
        None => grouped.chunks(advance),
        Some(mut sorted) => {
            sorted.sort();
            while sorted.chunk(&mut advance) {}
            sorted.end();
        }
    }
}

/// Bytes that a statement's clicks may take up in memory, and again in the sort: what PostgreSQL allows a hash table, and no
/// more than 24 MB.
fn budget() -> usize {
    // SAFETY: plain reads of settings.
    unsafe { pg_sys::get_hash_memory_limit() }.min(24 << 20)
}

/// At most so many bytes are written for a click: its texts and their lengths, its numbers.
fn most(click: &Click<&str>) -> usize {
    let texts = [click.session, click.customer, click.page, click.category, click.product, click.order_id, click.zone];
    let all = texts.into_iter().chain(click.attributes.iter().copied()).flatten();
    64 + 8 * texts.len() + 8 * click.attributes.len() + all.map(str::len).sum::<usize>()
}

fn write(click: &Click<&str>, mut bytes: Vec<u8>) -> coupon_base::Result<Vec<u8>> {
    memory::amortised(&mut bytes, most(click))?;
    Ok(postcard::to_extend(click, bytes).expect("a click can be written"))
}

fn written(click: &Click<&str>) -> coupon_base::Result<Vec<u8>> {
    write(click, Vec::new())
}

fn read(bytes: &[u8]) -> (Click<&str>, &[u8]) {
    postcard::take_from_bytes(bytes).expect("it was written by us")
}

/// Clicks that fit into memory.
#[derive(Default)]
struct Grouped {
    bytes: Vec<u8>,
    sessions: Interner,
    /// Where each session's clicks begin.
    places: Vec<Vec<u32>>,
    /// Where those without a session do.
    nobodys: Vec<u32>,
    count: usize,
}

impl Grouped {
    fn push(&mut self, click: &Click<&str>) {
        let at = self.bytes.len() as u32;
        self.bytes = ok(write(click, std::mem::take(&mut self.bytes)));
        let session = ok(self.sessions.intern(click.session));
        let places = if session == NONE {
            &mut self.nobodys
        } else {
            if session as usize == self.places.len() {
                ok(memory::double(&mut self.places));
                self.places.push(Vec::new());
            }
            &mut self.places[session as usize]
        };
        ok(memory::double(places));
        places.push(at);
        self.count += 1;
    }

    fn size(&self) -> usize {
        self.bytes.len()
            + self.sessions.bytes()
            + self.places.len() * size_of::<Vec<u32>>()
            + self.count * size_of::<u32>()
    }

    fn chunks(&self, mut advance: impl FnMut(&mut [Group])) {
        let mut order: Vec<u32> = ok(memory::collect(0..self.places.len() as u32));
        order.sort_unstable_by_key(|&session| self.sessions.get(session));
        let clicks = |places: &[u32]| places.iter().map(|&at| read(&self.bytes[at as usize..]).0).collect();
        for chunk in order.chunks(CHUNK) {
            let group = |&session: &u32| (self.sessions.get(session), clicks(&self.places[session as usize]));
            advance(&mut chunk.iter().map(group).collect::<Vec<Group>>());
        }
        for chunk in self.nobodys.chunks(CHUNK) {
            advance(&mut [(None, clicks(chunk))]);
        }
    }

    fn drain(self, mut push: impl FnMut(Click<&str>, &[u8])) {
        let mut rest = &self.bytes[..];
        while !rest.is_empty() {
            let (click, behind) = read(rest);
            push(click, &rest[..rest.len() - behind.len()]);
            rest = behind;
        }
    }
}

/// Clicks that do not: session, time and the click as it is written, in a sort of PostgreSQL's, which spills to files of the
/// transaction.
struct Sorted {
    sort: *mut pg_sys::Tuplesortstate,
    /// Of the three columns, to fill in, and of the sort's rows, to read.
    filled: *mut pg_sys::TupleTableSlot,
    row: *mut pg_sys::TupleTableSlot,
    /// A row was read that the next chunk begins with.
    ahead: bool,
}

impl Sorted {
    /// It lives in a memory context of the caller's.
    fn new(context: pg_sys::MemoryContext) -> Sorted {
        let columns = [(c"session", pg_sys::TEXTOID), (c"at", pg_sys::INT8OID), (c"click", pg_sys::BYTEAOID)];
        // SAFETY: the descriptor has three columns and outlives sort and slots, which end with the memory context and the
        // resource owner of the subtransaction; the operators are those of the types, C is text's bytewise collation.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(context);
            let descriptor = pg_sys::CreateTemplateTupleDesc(3);
            for (n, (name, typ)) in columns.into_iter().enumerate() {
                pg_sys::TupleDescInitEntry(descriptor, n as i16 + 1, name.as_ptr(), typ, -1, 0);
            }
            let sort = pg_sys::tuplesort_begin_heap(
                descriptor,
                2,
                [1i16, 2].as_mut_ptr(),
                [pg_sys::TextLessOperator, pg_sys::Int8LessOperator].map(pg_sys::Oid::from_u32).as_mut_ptr(),
                [pg_sys::C_COLLATION_OID, pg_sys::Oid::INVALID].as_mut_ptr(),
                [false, false].as_mut_ptr(),
                (budget() / 1024) as i32,
                null_mut(),
                pg_sys::TUPLESORT_NONE as i32,
            );
            let filled = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            let row = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsMinimalTuple);
            pg_sys::MemoryContextSwitchTo(before);
            Sorted { sort, filled, row, ahead: false }
        }
    }

    /// The caller resets the memory context it is called in from time to time.
    fn push(&mut self, click: &Click<&str>, bytes: &[u8]) {
        let values = [click.session.into_datum(), click.at.into_datum(), bytes.into_datum()];
        // SAFETY: the slot has three columns; the sort copies the row.
        unsafe {
            pg_sys::ExecClearTuple(self.filled);
            for (n, value) in values.into_iter().enumerate() {
                *(*self.filled).tts_values.add(n) = value.unwrap_or(pg_sys::Datum::null());
                *(*self.filled).tts_isnull.add(n) = value.is_none();
            }
            pg_sys::ExecStoreVirtualTuple(self.filled);
            pg_sys::tuplesort_puttupleslot(self.sort, self.filled);
        }
    }

    fn sort(&mut self) {
        // SAFETY: all rows are in.
        unsafe { pg_sys::tuplesort_performsort(self.sort) };
    }

    /// Hands the next sessions over, their clicks in order of time; `false` when all were. A session of very many clicks
    /// comes in several chunks.
    fn chunk(&mut self, mut advance: impl FnMut(&mut [Group])) -> bool {
        let mut bytes: Vec<u8> = Vec::new();
        // The clicks of a session, one range each.
        let mut groups: Vec<Range<usize>> = Vec::new();
        while self.ahead || self.next() {
            self.ahead = false;
            // SAFETY: the third column is a bytea that is never NULL; its bytes are copied before the next row is read.
            let row = unsafe {
                pg_sys::slot_getsomeattrs_int(self.row, 3);
                <&[u8]>::from_datum(*(*self.row).tts_values.add(2), false).expect("is not NULL")
            };
            let of = |range: &Range<usize>| read(&bytes[range.start..]).0.session;
            let same = groups.last().is_some_and(|group| of(group) == read(row).0.session);
            if bytes.len() > budget() / 8 || !same && groups.len() == CHUNK {
                self.ahead = true;
                break;
            }
            ok(memory::amortised(&mut bytes, row.len()));
            let start = bytes.len();
            bytes.extend_from_slice(row);
            match groups.last_mut().filter(|_| same) {
                Some(group) => group.end = bytes.len(),
                None => groups.push(start..bytes.len()),
            }
        }
        let clicks = |range: &Range<usize>| {
            let mut rest = &bytes[range.clone()];
            let mut clicks = Vec::new();
            while !rest.is_empty() {
                let (click, behind) = read(rest);
                ok(memory::double(&mut clicks));
                clicks.push(click);
                rest = behind;
            }
            (clicks[0].session, clicks)
        };
        let mut groups: Vec<Group> = groups.iter().map(clicks).collect();
        if !groups.is_empty() {
            advance(&mut groups);
        }
        !groups.is_empty()
    }

    /// After an ERROR the end of the subtransaction does the same.
    fn end(self) {
        // SAFETY: what was read is not used any more.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.filled);
            pg_sys::ExecDropSingleTupleTableSlot(self.row);
            pg_sys::tuplesort_end(self.sort);
        }
    }

    fn next(&mut self) -> bool {
        // SAFETY: the slot is of the sort's rows.
        unsafe { pg_sys::tuplesort_gettupleslot(self.sort, true, false, self.row, null_mut()) }
    }
}
