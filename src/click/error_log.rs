//! What failed in our part of a click: rows for coupon.error_log and coupon.missed_click, written in a subtransaction of their own.

use crate::click::marks;
use crate::pg::subtransaction::{self, CaughtError};
use pgrx::Spi;
use pgrx::prelude::*;
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    static REPEATED: Cell<i64> = const { Cell::new(0) };
}

/// Appends a fault that came so many times, at most a row a second a backend; the next row says how many there were.
pub fn record(relation: &str, session: Option<&str>, customer: Option<&str>, caught: &CaughtError, times: i64) {
    REPEATED.set(REPEATED.get() + times);
    if LAST.get().is_some_and(|t| t.elapsed() < Duration::from_secs(1)) {
        return;
    }
    LAST.set(Some(Instant::now()));
    let sql = "INSERT INTO coupon.error_log (relation, session, customer, sqlstate, message, detail, hint, repeated) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let short = |id: Option<&str>| id.map(|s| s.chars().take(256).collect::<String>());
    let args = [
        relation.into(),
        short(session).into(),
        short(customer).into(),
        sqlstate(caught.code).into(),
        caught.message.as_str().into(),
        caught.detail.clone().into(),
        caught.hint.clone().into(),
        REPEATED.replace(0).into(),
    ];
    // Where even this fails, the warning is all there is.
    if let Err(second) = subtransaction::quiet_subtransaction(|| Spi::run_with_args(sql, &args)) {
        subtransaction::warn(&second);
    }
}

/// Marks sessions that missed a click: no decision until they were rebuilt from the log. `customers` are of those clicks, as
/// many as sessions, or none where they are not known.
pub fn missed(sessions: &[String], customers: &[Option<String>], caught: &CaughtError) {
    if sessions.is_empty() {
        return;
    }
    let mark = || Spi::connect_mut(|client| marks::mark_many(client, sessions, customers, &caught.message));
    if let Err(second) = subtransaction::quiet_subtransaction(mark) {
        subtransaction::warn(&second);
    }
}

/// The five characters of an SQLSTATE.
fn sqlstate(code: PgSqlErrorCode) -> String {
    let code = code as i32;
    (0..5).map(|i| char::from(((code >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}
