//! Marks of sessions that missed a click: such a session is not decided about until it is rebuilt.
//!
//! A click of a marked session holds a mark until it commits, and adds one only where none is free to hold. Whoever rebuilds
//! has all marks alone before the log is read: so it shows every click that counts on one of them.

use crate::pg::error::spi;
use crate::pg::statement::{Fields, Statement};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

thread_local! {
    /// A mark of the same customer serves; one without is no help to coupon.forget().
    static MARK: Statement = const { Statement::new(
        c"INSERT INTO coupon.missed_click (session, customer, reason) SELECT $1, $2, $3 WHERE NOT EXISTS ( \
          SELECT FROM coupon.missed_click g WHERE g.session = $1 AND ($2 IS NULL OR g.customer = $2) FOR KEY SHARE SKIP LOCKED)",
        &[pg_sys::TEXTOID; 3]) };
    static MARK_MANY: Statement = const { Statement::new(
        c"INSERT INTO coupon.missed_click (session, customer, reason) SELECT u.session, u.customer, $3 \
          FROM unnest($1::text[], $2::text[]) u(session, customer) WHERE NOT EXISTS (SELECT FROM coupon.missed_click g \
          WHERE g.session = u.session AND (u.customer IS NULL OR g.customer = u.customer) FOR KEY SHARE SKIP LOCKED)",
        &[pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTOID]) };
    static MARKS: Statement = const { Statement::new(
        c"SELECT (SELECT count(*) FROM coupon.missed_click s WHERE s.session = $1), count(*), bool_and(g.rebuildable), array_agg(g.id) \
          FROM (SELECT id, rebuildable FROM coupon.missed_click WHERE session = $1 FOR UPDATE SKIP LOCKED) g", &[pg_sys::TEXTOID]) };
    static HOPELESS: Statement = const { Statement::new(
        c"SELECT reason FROM coupon.missed_click WHERE session = $1 AND NOT rebuildable ORDER BY id LIMIT 1", &[pg_sys::TEXTOID]) };
}

/// Marks a session that missed a click of a customer.
pub fn mark(client: &mut SpiClient, session: &str, customer: Option<&str>, reason: &str) {
    if in_one_snapshot() {
        // It may show marks that are gone, and a lock on one of those is an ERROR.
        let sql = "INSERT INTO coupon.missed_click (session, customer, reason) VALUES ($1, $2, $3)";
        spi(client.update(sql, None, &[session.into(), customer.into(), reason.into()]));
        return;
    }
    MARK.with(|mark| mark.run([session.into_datum(), customer.into_datum(), reason.into_datum()]));
}

/// Marks sessions that missed clicks, of these customers where they are known: as many as sessions, or none.
pub fn mark_many(client: &mut SpiClient, sessions: &[String], customers: &[Option<String>], reason: &str) {
    if in_one_snapshot() {
        let sql = "INSERT INTO coupon.missed_click (session, customer, reason) \
                   SELECT u.*, $3 FROM unnest($1::text[], $2::text[]) u(session, customer)";
        spi(client.update(sql, None, &[sessions.to_vec().into(), customers.to_vec().into(), reason.into()]));
        return;
    }
    let args = [sessions.to_vec().into_datum(), customers.to_vec().into_datum(), reason.into_datum()];
    MARK_MANY.with(|mark| mark.run(args));
}

/// Why a session will never be rebuilt, if so.
pub fn hopeless(session: &str) -> Option<String> {
    HOPELESS.with(|hopeless| hopeless.read([session.into_datum()])).first()?.field(1)
}

/// REPEATABLE READ or SERIALIZABLE.
pub fn in_one_snapshot() -> bool {
    // SAFETY: plain read of the transaction's isolation level.
    unsafe { pg_sys::XactIsoLevel > pg_sys::XACT_READ_COMMITTED as i32 }
}

/// A session's marks, locked; `None` where some could not be, or say that the log no longer holds the session.
pub fn lock(session: &str) -> Option<Vec<i64>> {
    let rows = MARKS.with(|marks| marks.run([session.into_datum()]));
    let row = rows.first()?;
    let count = |n: usize| row.field::<i64>(n).unwrap_or(0);
    let all = count(1) == count(2) && row.field(3) != Some(false);
    all.then(|| row.field(4).unwrap_or_default())
}

pub fn unmark(client: &mut SpiClient, marks: Vec<i64>) {
    spi(client.update("DELETE FROM coupon.missed_click WHERE id = ANY ($1)", None, &[marks.into()]));
}
