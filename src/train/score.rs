//! Many stored sessions scored at once.

use crate::models::active;
use crate::models::customers::{segment_columns, segment_of};
use crate::pg::error::{no_model, ok, report, spi, throw};
use crate::pg::settings::{self, micros};
use crate::pg::stream::{self, Output, Row};
use crate::pg::subtransaction::with_setting;
use crate::pg::threads::{self, Pipeline};
use coupon_base::Error;
use coupon_base::Result;
use coupon_events::events::{Kind, MAX_ATTRIBUTES};
use coupon_model::churn::{Buffers, Model, Queue, Scored, Stream};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::ffi::CString;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// Views a batch: some milliseconds of a worker.
const BATCH: usize = 4096;

/// Kilobytes that PostgreSQL may sort the log in: a default of 4 MB would put a day's clicks on the disk.
const SORTED: i32 = 64 * 1024;

// A plain V1 function: its rows go to PostgreSQL's own store, which no iterator of pgrx can fill.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_score_sessions_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// # Safety
/// Called by PostgreSQL as coupon.score_sessions, which is strict.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn score_sessions_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the frame holds the two arguments the function is declared with.
    let (window, mut out) = unsafe {
        let arguments = (*call).args.as_slice(2);
        let at = |n: usize| arguments[n].value.value() as i64;
        (at(0)..at(1), Output::new(call))
    };
    // SAFETY: a plain read of PostgreSQL's setting, in kB.
    let memory = unsafe { pg_sys::work_mem }.max(SORTED);
    let memory = CString::new(memory.to_string()).expect("digits");
    with_setting(c"work_mem", &memory, || score(window, &mut out));
    pg_sys::Datum::from(0)
}

/// Reads on this thread, scores on others, in order of session.
fn score(window: Range<i64>, out: &mut Output) {
    Spi::connect(|client| {
        let Some(active) = active::active(client) else { throw(no_model()) };
        let Some(model) = &active.version.churn else {
            return ok(Err(Error::InsufficientData("the active version has no churn model".into())));
        };
        // A window without ends needs no look-up of the sessions that lie in it.
        let whole = !settings::finite(window.start) && !settings::finite(window.end);
        let query = spi(client.select("SELECT coupon_internal.build_score_query($1)", Some(1), &[whole.into()]))
            .first()
            .get_one();
        let Some(query) = spi::<Option<String>>(query) else { return };
        let timeout = (settings::session_timeout() * 1e6) as i64;
        let typed =
            [(pg_sys::TIMESTAMPTZOID, window.start), (pg_sys::TIMESTAMPTZOID, window.end), (pg_sys::INT8OID, timeout)];
        let parameters = typed.map(|(typ, value)| (typ, value.into_datum()));
        let mut stream = Stream::new(window);
        let mut facts = Facts::default();
        let budget = settings::training_memory();
        // A worker takes the room that another has left.
        let rooms: Mutex<Vec<Buffers>> = Mutex::default();
        let work = |batch: Queue, stop: &AtomicBool| {
            let mut room = rooms.lock().ok().and_then(|mut rooms| rooms.pop()).unwrap_or_default();
            let scored = batch.score(model, &mut room, &mut || threads::go_on(stop));
            rooms.lock().into_iter().for_each(|mut rooms| rooms.push(std::mem::take(&mut room)));
            (batch, scored)
        };
        threads::pipeline(settings::threads(), work, |line: &mut Pipeline<_, _>| {
            let mut put = |answer| put(out, active.number, answer);
            let mut send = |line: &mut Pipeline<_, _>, mut batch: Queue| {
                assign(&mut batch, &active.version.segment);
                line.send(batch, &mut put);
            };
            stream::read(&query, &parameters, |row| {
                take_in(row, model, &mut facts, &mut stream);
                if stream.bytes() > budget {
                    let message = Error::Memory { needed: stream.bytes(), budget }.to_string();
                    let hint = "One session has that many views; have a superuser raise coupon_ext.training_memory.";
                    throw(report(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message, hint));
                }
                if stream.ready() >= BATCH {
                    send(line, stream.take());
                }
            });
            stream.close();
            send(line, stream.take());
            line.finish(&mut put);
        });
    });
}

/// The attributes of the row before: they seldom change within a session, and an array takes long to read.
#[derive(Default)]
struct Facts {
    bytes: Vec<u8>,
    texts: Vec<Option<String>>,
}

impl Facts {
    fn of(&mut self, row: &Row, column: usize) -> [Option<&str>; MAX_ATTRIBUTES] {
        let bytes = row.bytes(column).unwrap_or_default();
        if bytes != self.bytes {
            self.bytes.clear();
            self.bytes.extend(bytes);
            self.texts = row.texts(column).unwrap_or_default();
        }
        let mut facts = [None; MAX_ATTRIBUTES];
        facts.iter_mut().zip(&self.texts).for_each(|(fact, text)| *fact = text.as_deref());
        facts
    }
}

/// A row of coupon.score_query.
fn take_in(row: &Row, model: &Model, facts: &mut Facts, stream: &mut Stream) {
    let kind = row.text(3).and_then(Kind::parse).expect("coupon_internal.build_score_query knows only our kinds");
    let (session, at) = (row.text(0).unwrap_or_default(), row.time(1).unwrap_or_default());
    if stream.row(session, row.text(2), at, kind) {
        let attributes = facts.of(row, 7);
        stream.view(model.vocabulary().view(at, kind, row.text(4), row.text(5), row.float(6), &attributes));
    }
}

/// Gives each session the segment that assign_segment gives its customer now.
fn assign(batch: &mut Queue, model: &coupon_segment::Model) {
    let customers: Vec<&str> = batch.sessions.iter().filter_map(|s| s.customer.as_deref()).collect();
    if customers.is_empty() {
        return;
    }
    let sql = concat!("SELECT customer, ", segment_columns!(), " FROM coupon.customer WHERE customer = ANY ($1)");
    let mut segments: HashMap<String, u32> = HashMap::new();
    // A connection of its own: this runs while the log is being read in another.
    Spi::connect(|_| {
        stream::read(sql, &[(pg_sys::TEXTARRAYOID, customers.into_datum())], |row| {
            segments.insert(row.text(0).unwrap_or_default().to_string(), segment_of(row, 2, model));
        });
    });
    for queued in &mut batch.sessions {
        queued.segment = queued.customer.as_ref().and_then(|c| segments.get(c)).copied().unwrap_or(0);
    }
}

fn put(out: &mut Output, version: i64, (batch, scored): (Queue, Result<Vec<Scored>>)) {
    for (queued, scored) in batch.sessions.iter().zip(ok(scored)) {
        out.put(|| {
            [
                queued.session.as_str().into_datum(),
                queued.customer.as_deref().into_datum(),
                micros(queued.first).into_datum(),
                (queued.segment as i32).into_datum(),
                (scored.views as i32).into_datum(),
                scored.churn.into_datum(),
                scored.interest.into_datum(),
                version.into_datum(),
            ]
        });
    }
}
