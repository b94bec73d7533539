//! The rows of coupon.session, read and locked together with what a statement needs to know, and written back. One click
//! takes two statements; no statement here queues for a session's row.

use crate::click::serving_state;
use crate::click::session::{SessionRow, StatementContext};
use crate::models::customers::{segment_columns, segment_of};
use crate::pg::error::{report, throw};
use crate::pg::settings::{self, micros};
use crate::pg::statement::{Fields, Row, Statement};
use crate::pg::subtransaction;
use coupon_model::live::Click;
use pgrx::prelude::*;
use std::collections::HashSet;

/// A session of a statement, and whether it missed a click earlier: then it is left as it is until it was rebuilt.
pub struct Lookup {
    pub row: LockOutcome,
    pub marked: bool,
}

pub enum LockOutcome {
    Known(Box<SessionRow>),
    /// Not stored yet, with the segment its customer has.
    New(u32),
    /// Another transaction holds its row.
    Held,
}

/// A session's row as it is read, from the column `FOUND` on behind the revision of the storage and whether it is marked.
/// A row that another transaction holds is passed by: to queue for it could make the shop's own transaction the victim of a
/// deadlock. No EXISTS over many keys: PostgreSQL may hash the whole table to answer one.
macro_rules! row_sql {
    ($gap:literal, $more:literal, $variables:expr, $from:literal, $customer:literal, $order:literal) => {
        concat!(
            "SELECT (SELECT revision FROM coupon.storage), ",
            $gap,
            ", s.customer, s.started_at, s.last_at, s.views, s.segment, s.version, s.ended, s.purchased, s.churn, \
             s.max_purchase_probability, s.decided_campaigns, s.state",
            $more,
            $variables,
            " FROM ",
            $from,
            $customer,
            $order,
            "\0"
        )
    };
}
macro_rules! c_str {
    ($sql:expr) => {
        match std::ffi::CStr::from_bytes_with_nul($sql.as_bytes()) {
            Ok(sql) => sql,
            Err(_) => panic!("a statement ends with NUL"),
        }
    };
}
const FOUND: usize = 3;
const LOCK_ONE: &str = row_sql!(
    "EXISTS (SELECT FROM coupon.missed_click g WHERE g.session = $1)",
    "",
    "",
    "coupon.session s WHERE s.session = $1",
    "",
    " FOR NO KEY UPDATE SKIP LOCKED"
);
/// What is to be known of a session whose row was not to be had: whether there is one, and its customer's variables.
const LOOK_ONE: &str = concat!(
    "SELECT t.revision, EXISTS (SELECT FROM coupon.missed_click g WHERE g.session = $1), \
     EXISTS (SELECT FROM coupon.session s WHERE s.session = $1), ",
    segment_columns!(),
    " FROM coupon.storage t LEFT JOIN coupon.customer k ON k.customer = $2\0"
);
const VARIABLES: usize = 4;
/// Both of many sessions, locked in a nested loop in the order of the keys. Marks are looked for one by one only where there
/// are any.
macro_rules! lock_all {
    ($variables:expr, $customer:literal) => {
        row_sql!(
            "CASE WHEN (SELECT EXISTS (SELECT FROM coupon.missed_click)) THEN \
             (SELECT true FROM coupon.missed_click g WHERE g.session = u.session LIMIT 1) END",
            ", s.session IS NOT NULL, CASE WHEN s.session IS NULL THEN \
             (SELECT true FROM coupon.session y WHERE y.session = u.session) END",
            $variables,
            "unnest($1::text[], $2::text[]) WITH ORDINALITY u(session, customer, n) LEFT JOIN LATERAL \
             (SELECT * FROM coupon.session x WHERE x.session = u.session FOR NO KEY UPDATE SKIP LOCKED) s ON true",
            $customer,
            " ORDER BY u.n"
        )
    };
}
const LOCK_ALL: &str = lock_all!("", "");
const LOCK_CUSTOMERS: &str = lock_all!(
    concat!(", ", segment_columns!()),
    " LEFT JOIN LATERAL (SELECT * FROM coupon.customer z WHERE z.customer = u.customer LIMIT 1) k ON true"
);
const OF_MANY: usize = 15;
const PEEK_ONE: &str = row_sql!(
    "EXISTS (SELECT FROM coupon.missed_click g WHERE g.session = $1)",
    ", s.session IS NOT NULL, EXISTS (SELECT FROM coupon.coupon c WHERE c.session = $1 AND c.closed_at IS NULL)",
    "",
    "(VALUES (1)) one LEFT JOIN coupon.session s ON s.session = $1",
    "",
    ""
);

const UPDATE: &str = "UPDATE coupon.session SET customer = $2, last_at = $3, views = $4, ended = $5, purchased = $6, \
                      churn = $7, max_purchase_probability = $8, state = $9 WHERE session = $1\0";
const UPDATE_MANY: &str = "UPDATE coupon.session s SET customer = u.customer, last_at = u.last_at, views = u.views, \
     ended = u.ended, purchased = u.purchased, churn = u.churn, max_purchase_probability = u.max_purchase_probability, state = u.state \
     FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::bool[], $6::bool[], $7::float8[], \
     $8::float8[], $9::bytea[]) u(session, customer, last_at, views, ended, purchased, churn, max_purchase_probability, state) \
     WHERE s.session = u.session\0";
/// Without a target: the table may have been partitioned, and have another key then.
const INSERT: &str = "INSERT INTO coupon.session (session, customer, last_at, views, ended, purchased, churn, max_purchase_probability, \
     state, started_at, segment, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
     ON CONFLICT DO NOTHING RETURNING session\0";
const INSERT_MANY: &str = "INSERT INTO coupon.session (session, customer, last_at, views, ended, purchased, churn, \
     max_purchase_probability, state, started_at, segment, version) \
     SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::bool[], $6::bool[], $7::float8[], \
     $8::float8[], $9::bytea[], $10::timestamptz[], $11::int[], $12::bigint[]) \
     ON CONFLICT DO NOTHING RETURNING session\0";

mod types {
    use pgrx::pg_sys::*;
    pub const KEY: [Oid; 1] = [TEXTOID];
    pub const KEYS: [Oid; 2] = [TEXTOID; 2];
    pub const ARRAYS: [Oid; 2] = [TEXTARRAYOID; 2];
    pub const ROW: [Oid; 12] = [
        TEXTOID,
        TEXTOID,
        TIMESTAMPTZOID,
        INT4OID,
        BOOLOID,
        BOOLOID,
        FLOAT8OID,
        FLOAT8OID,
        BYTEAOID,
        TIMESTAMPTZOID,
        INT4OID,
        INT8OID,
    ];
    pub const ROWS: [Oid; 12] = [
        TEXTARRAYOID,
        TEXTARRAYOID,
        TIMESTAMPTZARRAYOID,
        INT4ARRAYOID,
        BOOLARRAYOID,
        BOOLARRAYOID,
        FLOAT8ARRAYOID,
        FLOAT8ARRAYOID,
        BYTEAARRAYOID,
        TIMESTAMPTZARRAYOID,
        INT4ARRAYOID,
        INT8ARRAYOID,
    ];
    pub const fn changed(all: &[Oid; 12]) -> &[Oid] {
        all.split_at(9).0
    }
}

thread_local! {
    static LOCK: Statement = const { Statement::new(c_str!(LOCK_ONE), &types::KEY) };
    static LOOK: Statement = const { Statement::new(c_str!(LOOK_ONE), &types::KEYS) };
    static LOCK_MANY: Statement = const { Statement::new(c_str!(LOCK_ALL), &types::ARRAYS) };
    static LOCK_KNOWN: Statement = const { Statement::new(c_str!(LOCK_CUSTOMERS), &types::ARRAYS) };
    static PEEK: Statement = const { Statement::new(c_str!(PEEK_ONE), &types::KEY) };
    static WRITE: Statement = const { Statement::new(c_str!(UPDATE), types::changed(&types::ROW)) };
    static WRITE_MANY: Statement = const { Statement::new(c_str!(UPDATE_MANY), types::changed(&types::ROWS)) };
    static STORE: Statement = const { Statement::new(c_str!(INSERT), &types::ROW) };
    static STORE_MANY: Statement = const { Statement::new(c_str!(INSERT_MANY), &types::ROWS) };
}

/// Reads and locks sessions in the order given, each with the customer of its first click; waits for none.
pub fn lock(sessions: &[&str], customers: &[Option<&str>]) -> (StatementContext, Vec<Lookup>) {
    let ([session], [customer]) = (sessions, customers) else { return lock_many(sessions, customers) };
    let rows = LOCK.with(|lock| lock.run([session.into_datum()]));
    if let Some(row) = rows.first() {
        let context = context_of(&row);
        let row_found = LockOutcome::Known(Box::new(SessionRow::stored(&row, FOUND, session, &context.serving)));
        let found = Lookup { row: row_found, marked: row.field(2) == Some(true) };
        return (context, vec![found]);
    }
    let rows = LOOK.with(|look| look.run([session.into_datum(), customer.into_datum()]));
    let Some(row) = rows.first() else { no_storage() };
    let context = context_of(&row);
    let stored = if row.field(3) == Some(true) { LockOutcome::Held } else { new(&row, VARIABLES, &context, *customer) };
    let found = Lookup { row: stored, marked: row.field(2) == Some(true) };
    (context, vec![found])
}

fn lock_many(sessions: &[&str], customers: &[Option<&str>]) -> (StatementContext, Vec<Lookup>) {
    let statement = if customers.iter().any(Option::is_some) { &LOCK_KNOWN } else { &LOCK_MANY };
    let rows = statement.with(|lock| lock.run([sessions.to_vec().into_datum(), customers.to_vec().into_datum()]));
    let context = context_of(&rows.row(0));
    let found = rows.iter().zip(sessions).zip(customers).map(|((row, session), customer)| {
        let (row_found, locked) = (row.field(OF_MANY) == Some(true), row.field(OF_MANY + 1) == Some(true));
        let stored = match (row_found, locked) {
            (true, _) => LockOutcome::Known(Box::new(SessionRow::stored(&row, FOUND, session, &context.serving))),
            (_, true) => LockOutcome::Held,
            _ => new(&row, OF_MANY + 2, &context, *customer),
        };
        Lookup { row: stored, marked: row.field(2) == Some(true) }
    });
    let found = found.collect();
    (context, found)
}

/// A session that is not stored, with the segment of its customer, whose variables begin in column `first`.
fn new(row: &Row, first: usize, context: &StatementContext, customer: Option<&str>) -> LockOutcome {
    let model = context.active.as_ref().filter(|_| customer.is_some());
    LockOutcome::New(model.map_or(0, |active| segment_of(row, first, &active.version.segment)))
}

/// Facts about a session that its row does not hold.
pub struct Seen {
    /// It missed a click.
    pub marked: bool,
    /// It has a coupon that is not closed, though it may have expired.
    pub coupon: bool,
}

/// A session as it is stored, unlocked, in the caller's snapshot.
pub fn peek(session: &str) -> (StatementContext, Option<SessionRow>, Seen) {
    let row = PEEK.with(|peek| peek.read([session.into_datum()])).row(0);
    let context = StatementContext::new(serving_state::at(row.field(1).unwrap_or_else(|| no_storage())));
    let live = (row.field(OF_MANY) == Some(true)).then(|| SessionRow::stored(&row, FOUND, session, &context.serving));
    let seen = Seen { marked: row.field(2) == Some(true), coupon: row.field(OF_MANY + 1) == Some(true) };
    (context, live, seen)
}

/// The context at the revision in the first column of a row just read.
fn context_of(row: &Row) -> StatementContext {
    StatementContext::new(serving_state::at_now(row.field(1).unwrap_or_else(|| no_storage())))
}

fn no_storage() -> ! {
    throw(report(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "coupon.storage holds no row",
        "SELECT coupon.create_storage()",
    ))
}

/// What a click changes, in the order of the statements' parameters.
fn changed(row: &SessionRow) -> [Option<pg_sys::Datum>; 9] {
    [
        row.session.as_str().into_datum(),
        row.customer.as_deref().into_datum(),
        micros(row.last_at).into_datum(),
        (row.visit.views as i32).into_datum(),
        row.visit.frozen.into_datum(),
        row.visit.purchased.into_datum(),
        row.visit.churn.into_datum(),
        row.visit.interest.into_datum(),
        row.visit.to_bytes().into_datum(),
    ]
}

fn changed_many(rows: &[SessionRow]) -> [Option<pg_sys::Datum>; 9] {
    [
        column(rows, |r| r.session.as_str()),
        column(rows, |r| r.customer.as_deref()),
        column(rows, |r| micros(r.last_at)),
        column(rows, |r| r.visit.views as i32),
        column(rows, |r| r.visit.frozen),
        column(rows, |r| r.visit.purchased),
        column(rows, |r| r.visit.churn),
        column(rows, |r| r.visit.interest),
        column(rows, |r| r.visit.to_bytes()),
    ]
}

fn column<'a, T>(rows: &'a [SessionRow], value: impl Fn(&'a SessionRow) -> T) -> Option<pg_sys::Datum>
where
    Vec<T>: IntoDatum,
{
    rows.iter().map(value).collect::<Vec<T>>().into_datum()
}

/// The parameters of an insert: what a click changes, and what stays as it began.
fn with<const N: usize>(
    changed: [Option<pg_sys::Datum>; 9],
    began: [Option<pg_sys::Datum>; 3],
) -> [Option<pg_sys::Datum>; N] {
    let mut all = changed.into_iter().chain(began);
    std::array::from_fn(|_| all.next().flatten())
}

/// Writes known sessions back; their rows are locked.
pub fn update(rows: &[SessionRow]) {
    let written = match rows {
        [] => 0,
        [row] => WRITE.with(|write| write.run(changed(row))).count,
        _ => WRITE_MANY.with(|write| write.run(changed_many(rows))).count,
    };
    // A trigger or a rule on the table may pass a row by, but then its session is not what the log says.
    if written != rows.len() {
        throw(report(
            PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            format!("{} of {} rows of coupon.session were written", written, rows.len()),
            "A trigger or a rule on coupon.session passes rows by.",
        ));
    }
}

/// Stores new sessions; the numbers of those that another connection has stored meanwhile are returned. One that another
/// transaction is about to store is queued for a millisecond, then 55P03: PostgreSQL can tell who that is only by waiting.
pub fn insert(rows: &[SessionRow]) -> Vec<usize> {
    let began = |row: &SessionRow| {
        let version = row.version.as_ref().map(|v| v.number);
        [micros(row.started_at).into_datum(), (row.segment as i32).into_datum(), version.into_datum()]
    };
    let stored = subtransaction::with_short_queue(rows.len(), || match rows {
        [] => None,
        [row] => Some(STORE.with(|store| store.run(with::<12>(changed(row), began(row))))),
        _ => {
            let began = [
                column(rows, |r| micros(r.started_at)),
                column(rows, |r| r.segment as i32),
                column(rows, |r| r.version.as_ref().map(|v| v.number)),
            ];
            Some(STORE_MANY.with(|store| store.run(with::<12>(changed_many(rows), began))))
        }
    });
    match stored {
        Some(stored) if stored.count < rows.len() => {
            let stored: HashSet<String> = stored.iter().filter_map(|row| row.field(1)).collect();
            (0..rows.len()).filter(|&n| !stored.contains(&rows[n].session)).collect()
        }
        _ => Vec::new(),
    }
}

thread_local! {
    static LATEST: Statement = const { Statement::new(
        c"SELECT s.session FROM coupon.session s WHERE s.customer = $1 AND s.started_at <= $2 AND s.last_at >= $3 \
          ORDER BY s.last_at DESC LIMIT 1", &[pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID]) };
}

/// The session that a purchase which knows only its customer belongs to: the customer's latest, if it was seen within the
/// timeout.
pub fn latest_of(purchase: &Click<&str>) -> Option<String> {
    let timeout = (settings::session_timeout() * 1e6) as i64;
    let (at, since) = (micros(purchase.at), micros(purchase.at.saturating_sub(timeout)));
    let args = [purchase.customer.into_datum(), at.into_datum(), since.into_datum()];
    LATEST.with(|latest| latest.run(args)).first()?.field(1)
}
