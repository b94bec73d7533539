//! What failed in our part of a click: rows for coupon.fault and coupon.gap, written in a subtransaction of their own.

use crate::guard::{self, Caught};
use pgrx::Spi;
use pgrx::prelude::*;
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    static REPEATED: Cell<i64> = const { Cell::new(0) };
}

/// Appends a fault that came so many times, at most a row a second a backend; the next row says how many there were.
pub fn record(relation: &str, session: Option<&str>, caught: &Caught, times: i64) {
    REPEATED.set(REPEATED.get() + times);
    if LAST.get().is_some_and(|t| t.elapsed() < Duration::from_secs(1)) {
        return;
    }
    LAST.set(Some(Instant::now()));
    let sql = "INSERT INTO coupon.fault (relation, session, sqlstate, message, detail, hint, repeated) \
               VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let session = session.map(|s| s.chars().take(256).collect::<String>());
    let args = [
        relation.into(),
        session.into(),
        sqlstate(caught.code).into(),
        caught.message.as_str().into(),
        caught.detail.clone().into(),
        caught.hint.clone().into(),
        REPEATED.replace(0).into(),
    ];
    // Where even this fails, the warning has said what there is to say.
    if let Err(second) = guard::quiet_subtransaction(|| Spi::run_with_args(sql, &args)) {
        guard::warn(&second);
    }
}

/// Marks sessions that missed a click: no decision until they were rebuilt from the log.
pub fn missed(sessions: &[String], caught: &Caught) {
    if sessions.is_empty() {
        return;
    }
    let sql = "INSERT INTO coupon.gap (session, reason) SELECT s, $2 FROM unnest($1::text[]) s";
    let args = [sessions.to_vec().into(), caught.message.as_str().into()];
    if let Err(second) = guard::quiet_subtransaction(|| Spi::run_with_args(sql, &args)) {
        guard::warn(&second);
    }
}

/// The five characters of an SQLSTATE.
fn sqlstate(code: PgSqlErrorCode) -> String {
    let code = code as i32;
    (0..5).map(|i| char::from(((code >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}
