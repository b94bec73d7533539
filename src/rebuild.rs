//! Sessions that missed a click: marked, and run again through what the log holds of them.
//!
//! A click of a marked session holds a mark until it commits, and adds one only where none is free to hold. Whoever rebuilds
//! has all marks alone before the log is read: so it shows every click that counts on one of them.

use crate::error::{report, spi, throw};
use crate::rows::{self, Live, Scene, Stored};
use crate::sessions::{begin, note, scoring};
use crate::statement::{Fields, Statement, with_snapshot};
use crate::{misfits, stored};
use coupon_model::live::{Click, Visit};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

thread_local! {
    /// A mark of the same customer serves; one without is no help to coupon.forget().
    static MARK: Statement = const { Statement::new(
        c"INSERT INTO coupon.gap (session, customer, reason) SELECT $1, $2, $3 WHERE NOT EXISTS ( \
          SELECT FROM coupon.gap g WHERE g.session = $1 AND ($2 IS NULL OR g.customer = $2) FOR KEY SHARE SKIP LOCKED)",
        &[pg_sys::TEXTOID; 3]) };
    static MARK_MANY: Statement = const { Statement::new(
        c"INSERT INTO coupon.gap (session, customer, reason) SELECT u.session, u.customer, $3 \
          FROM unnest($1::text[], $2::text[]) u(session, customer) WHERE NOT EXISTS (SELECT FROM coupon.gap g \
          WHERE g.session = u.session AND (u.customer IS NULL OR g.customer = u.customer) FOR KEY SHARE SKIP LOCKED)",
        &[pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTOID]) };
    static MARKS: Statement = const { Statement::new(
        c"SELECT (SELECT count(*) FROM coupon.gap s WHERE s.session = $1), count(*), bool_and(g.rebuildable), array_agg(g.id) \
          FROM (SELECT id, rebuildable FROM coupon.gap WHERE session = $1 FOR UPDATE SKIP LOCKED) g", &[pg_sys::TEXTOID]) };
    static HOPELESS: Statement = const { Statement::new(
        c"SELECT reason FROM coupon.gap WHERE session = $1 AND NOT rebuildable ORDER BY id LIMIT 1", &[pg_sys::TEXTOID]) };
    static UNREAD: Statement = const { Statement::new(c"SELECT count(*) FROM coupon.watched WHERE NOT fits", &[]) };
}

/// Marks a session that missed a click of a customer.
pub fn mark(client: &mut SpiClient, session: &str, customer: Option<&str>, reason: &str) {
    if in_one_snapshot() {
        // It may show marks that are gone, and a lock on one of those is an ERROR.
        let sql = "INSERT INTO coupon.gap (session, customer, reason) VALUES ($1, $2, $3)";
        spi(client.update(sql, None, &[session.into(), customer.into(), reason.into()]));
        return;
    }
    MARK.with(|mark| mark.run([session.into_datum(), customer.into_datum(), reason.into_datum()]));
}

/// Marks sessions that missed clicks, of these customers where they are known: as many as sessions, or none.
pub fn mark_many(client: &mut SpiClient, sessions: &[String], customers: &[Option<String>], reason: &str) {
    if in_one_snapshot() {
        let sql = "INSERT INTO coupon.gap (session, customer, reason) \
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
fn marks(session: &str) -> Option<Vec<i64>> {
    let rows = MARKS.with(|marks| marks.run([session.into_datum()]));
    let row = rows.first()?;
    let count = |n: usize| row.field::<i64>(n).unwrap_or(0);
    let all = count(1) == count(2) && row.field(3) != Some(false);
    all.then(|| row.field(4).unwrap_or_default())
}

/// Runs a session through its stored clicks from the start; `None`, with the mark left, where that cannot be. The caller has
/// locked the session's row: whoever advances it waits, or has committed what the log now shows.
pub fn rebuild(client: &mut SpiClient, session: &str, scene: &Scene, stored: Stored) -> Option<Live> {
    // Of an older snapshot the log would lack clicks that the marks stand for.
    if in_one_snapshot() {
        return None;
    }
    let marks = marks(session)?;
    // In a snapshot of after the lock: that of the statement that asks may lack clicks which the row already counts.
    let clicks = with_snapshot(|| if misfits::hold(client, session) { None } else { stored::clicks(client, session) })?;
    if let Some(why) = lost(&stored, &clicks) {
        give_up(client, session, &stored, marks, why);
        return None;
    }
    let customer = clicks[0].customer.as_deref();
    // Kept, because a purchase that knew only its customer is not among the session's own events.
    let mut kept = (false, false);
    let mut live = if let Stored::Known(stored) = stored {
        kept = (stored.visit.frozen, stored.visit.purchased);
        let scoring = scoring(&stored, &scene.world.campaigns);
        let again = Visit::begin(stored.version.as_ref().map(|v| &v.version), scoring);
        Live { visit: again, ..*stored }
    } else {
        let (_, mut found) = rows::lock(&[session], &[customer]);
        let Some(Stored::New(segment)) = found.pop().map(|f| f.row) else { return None };
        begin(session, clicks[0].at, segment, scene)
    };
    for click in &clicks {
        live.visit.click(live.version.as_ref().map(|v| &v.version), click);
        note(&mut live, click);
    }
    live.visit.frozen |= kept.0;
    live.visit.purchased |= kept.1;
    live.swept = false;
    let live = [live];
    if live[0].known {
        rows::update(&live);
    } else if !rows::insert(&live).is_empty() {
        // Somebody stored it meanwhile, without the click it missed: the rollback leaves the mark for the next try.
        throw(report(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "another transaction began the session", ""));
    }
    unmark(client, marks);
    live.into_iter().next()
}

/// Why a session cannot be what its clicks made of it: the shop has removed some of them, a partition that was detached
/// above all.
fn lost(stored: &Stored, clicks: &[Click]) -> Option<&'static str> {
    let Some(first) = clicks.first() else { return Some("the log holds none of its clicks") };
    let Stored::Known(stored) = stored else { return None };
    let views = clicks.iter().filter(|click| !click.kind.ends()).count();
    if first.at > stored.started_at {
        Some("the log no longer holds its beginning")
    } else if views < stored.visit.views as usize {
        Some("the log no longer holds all its clicks")
    } else {
        None
    }
}

/// A session that the log no longer holds stays as it is, and marked; of one that is not stored either, nothing is left to
/// mark. A table that cannot be read for now says nothing about what it holds.
fn give_up(client: &mut SpiClient, session: &str, stored: &Stored, marks: Vec<i64>, why: &str) {
    if UNREAD.with(|unread| unread.run([])).first().and_then(|row| row.field::<i64>(1)) != Some(0) {
        return;
    }
    if !matches!(stored, Stored::Known(_)) {
        return unmark(client, marks);
    }
    let sql = if marks.is_empty() {
        // Its state was freed, and it has come back.
        "INSERT INTO coupon.gap (session, reason, rebuildable) SELECT $1, $2, false WHERE $3 = '{}'"
    } else {
        "UPDATE coupon.gap SET rebuildable = false, reason = $2 WHERE session = $1 AND id = ANY ($3)"
    };
    spi(client.update(sql, None, &[session.into(), why.into(), marks.into()]));
}

fn unmark(client: &mut SpiClient, marks: Vec<i64>) {
    spi(client.update("DELETE FROM coupon.gap WHERE id = ANY ($1)", None, &[marks.into()]));
}
