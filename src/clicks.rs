//! A statement's clicks by session, in bounded memory: grouped where they fit, otherwise sorted by PostgreSQL, on disk if
//! need be.

use crate::error::ok;
use crate::transition::Texts;
use coupon_model::live::Click;
use coupon_model::memory;
use pgrx::prelude::*;
use std::collections::HashMap;
use std::ptr::null_mut;

/// Sessions that are read, advanced and stored together: so few stay in the cache. (With a thousand, a COPY of 100,000 clicks
/// took 380 ms instead of 322.)
pub const CHUNK: usize = 100;

/// A session's clicks in a statement; purchases that know only their customer have no session.
pub type Group<'a> = (Option<&'a str>, Vec<Click<&'a str>>);

/// Clicks that fit into memory.
#[derive(Default)]
pub struct Grouped<'a> {
    groups: Vec<Group<'a>>,
    /// Where a session stands there.
    places: HashMap<Option<&'a str>, usize>,
    bytes: usize,
}

impl<'a> Grouped<'a> {
    /// Whether there is room for more.
    pub fn push(&mut self, click: Click<&'a str>) -> bool {
        self.bytes += size(&click);
        let place = match self.places.get(&click.session) {
            Some(place) => *place,
            None => {
                ok(memory::double(&mut self.groups));
                ok(memory::grow_map(&mut self.places));
                self.places.insert(click.session, self.groups.len());
                self.groups.push((click.session, Vec::new()));
                self.groups.len() - 1
            }
        };
        let clicks = &mut self.groups[place].1;
        ok(memory::double(clicks));
        clicks.push(click);
        self.bytes <= budget()
    }

    /// The groups in the order of their sessions, in which everybody locks; those without one last.
    pub fn sorted(mut self) -> Vec<Group<'a>> {
        self.groups.sort_unstable_by_key(|group| (group.0.is_none(), group.0));
        self.groups
    }

    pub fn into_clicks(self) -> impl Iterator<Item = Click<&'a str>> {
        self.groups.into_iter().flat_map(|group| group.1)
    }
}

/// Bytes that a statement's clicks may take up in memory, and again in the sort: what PostgreSQL allows a hash table, and no
/// more than 24 MB.
fn budget() -> usize {
    // SAFETY: plain reads of settings.
    unsafe { pg_sys::get_hash_memory_limit() }.min(24 << 20)
}

/// Bytes of a click in memory.
fn size(click: &Click<&str>) -> usize {
    let texts = [click.session, click.customer, click.page, click.category, click.product, click.order_id, click.zone];
    let all = texts.into_iter().chain(click.attributes.iter().copied()).flatten();
    size_of::<Click<&str>>() + click.attributes.len() * size_of::<Option<&str>>() + all.map(str::len).sum::<usize>()
}

/// Clicks that do not: session, time and the click itself (postcard) in a sort of PostgreSQL's, which spills to files of the
/// transaction.
pub struct Sorted {
    sort: *mut pg_sys::Tuplesortstate,
    /// Of the three columns, to fill in, and of the sort's rows, to read.
    filled: *mut pg_sys::TupleTableSlot,
    read: *mut pg_sys::TupleTableSlot,
    /// A row was read that the next chunk begins with.
    ahead: bool,
}

impl Sorted {
    /// It lives in a memory context of the caller's.
    pub fn new(context: pg_sys::MemoryContext) -> Sorted {
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
            let read = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsMinimalTuple);
            pg_sys::MemoryContextSwitchTo(before);
            Sorted { sort, filled, read, ahead: false }
        }
    }

    /// The caller resets the memory context it is called in from time to time.
    pub fn push(&mut self, click: &Click<&str>) {
        let bytes = postcard::to_stdvec(click).expect("a click can be written");
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

    pub fn sort(&mut self) {
        // SAFETY: all rows are in.
        unsafe { pg_sys::tuplesort_performsort(self.sort) };
    }

    /// The next sessions, their clicks in order of time; none when all were read. A session of very many clicks comes in
    /// several chunks.
    pub fn next_chunk<'a>(&mut self, texts: &'a Texts) -> Vec<Group<'a>> {
        let mut chunk: Vec<Group> = Vec::new();
        let mut bytes = 0;
        while self.ahead || self.advance() {
            self.ahead = false;
            let click = self.click(texts);
            let same = chunk.last().is_some_and(|group| group.0 == click.session);
            if !chunk.is_empty() && (bytes > budget() / 4 || !same && chunk.len() == CHUNK) {
                self.ahead = true;
                break;
            }
            bytes += size(&click);
            if !same {
                chunk.push((click.session, Vec::new()));
            }
            let clicks = &mut chunk.last_mut().expect("there is one").1;
            ok(memory::double(clicks));
            clicks.push(click);
        }
        chunk
    }

    /// After an ERROR the end of the subtransaction does the same.
    pub fn end(self) {
        // SAFETY: what was read is not used any more.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.filled);
            pg_sys::ExecDropSingleTupleTableSlot(self.read);
            pg_sys::tuplesort_end(self.sort);
        }
    }

    fn advance(&mut self) -> bool {
        // SAFETY: the slot is of the sort's rows.
        unsafe { pg_sys::tuplesort_gettupleslot(self.sort, true, false, self.read, null_mut()) }
    }

    fn click<'a>(&self, texts: &'a Texts) -> Click<&'a str> {
        // SAFETY: the third column is a bytea that is never NULL; its bytes are copied.
        let bytes = unsafe {
            pg_sys::slot_getsomeattrs_int(self.read, 3);
            texts.keep_bytes(<&[u8]>::from_datum(*(*self.read).tts_values.add(2), false).expect("is not NULL"))
        };
        postcard::from_bytes(bytes).expect("it was written by push")
    }
}
