//! A session that missed a click, run again through what the log holds of it.

use crate::click::marks::{self, in_one_snapshot, unmark};
use crate::click::session::{SessionRow, StatementContext};
use crate::click::session_store::{self, LockOutcome};
use crate::pg::error::{report, spi, throw};
use crate::pg::statement::{Fields, Statement, with_snapshot};
use crate::shop::{event_log, misfits};
use coupon_model::live::{Click, LiveSession};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

thread_local! {
    static UNREAD: Statement = const { Statement::new(c"SELECT count(*) FROM coupon.watched WHERE NOT fits", &[]) };
}

/// Runs a session through its stored clicks from the start; `None`, with the mark left, where that cannot be. The caller has
/// locked the session's row: whoever advances it waits, or has committed what the log now shows.
pub fn rebuild(
    client: &mut SpiClient,
    session: &str,
    context: &StatementContext,
    stored: LockOutcome,
) -> Option<SessionRow> {
    // Of an older snapshot the log would lack clicks that the marks stand for.
    if in_one_snapshot() {
        return None;
    }
    let marks = marks::lock(session)?;
    // In a snapshot of after the lock: that of the statement that asks may lack clicks which the row already counts.
    let clicks =
        with_snapshot(|| if misfits::hold(client, session) { None } else { event_log::clicks(client, session) })?;
    if let Some(why) = lost(&stored, &clicks) {
        give_up(client, session, &stored, marks, why);
        return None;
    }
    let customer = clicks[0].customer.as_deref();
    // Kept, because a purchase that knew only its customer is not among the session's own events.
    let mut kept = (false, false);
    let mut live = if let LockOutcome::Known(stored) = stored {
        kept = (stored.visit.frozen, stored.visit.purchased);
        let model_segment = stored.model_segment(&context.serving.campaigns);
        let again = LiveSession::begin(stored.version.as_ref().map(|v| &v.version), model_segment);
        SessionRow { visit: again, ..*stored }
    } else {
        let (_, mut found) = session_store::lock(&[session], &[customer]);
        let Some(LockOutcome::New(segment)) = found.pop().map(|f| f.row) else { return None };
        SessionRow::begin(session, clicks[0].at, segment, context)
    };
    for click in &clicks {
        live.apply(click);
    }
    live.visit.frozen |= kept.0;
    live.visit.purchased |= kept.1;
    live.state_purged = false;
    let live = [live];
    if live[0].known {
        session_store::update(&live);
    } else if !session_store::insert(&live).is_empty() {
        // Somebody stored it meanwhile, without the click it missed: the rollback leaves the mark for the next try.
        throw(report(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "another transaction began the session", ""));
    }
    unmark(client, marks);
    live.into_iter().next()
}

/// Why a session cannot be what its clicks made of it: the shop has removed some of them, a partition that was detached
/// above all.
fn lost(stored: &LockOutcome, clicks: &[Click]) -> Option<&'static str> {
    let Some(first) = clicks.first() else { return Some("the log holds none of its clicks") };
    let LockOutcome::Known(stored) = stored else { return None };
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
fn give_up(client: &mut SpiClient, session: &str, stored: &LockOutcome, marks: Vec<i64>, why: &str) {
    if UNREAD.with(|unread| unread.run([])).first().and_then(|row| row.field::<i64>(1)) != Some(0) {
        return;
    }
    if !matches!(stored, LockOutcome::Known(_)) {
        return unmark(client, marks);
    }
    let sql = if marks.is_empty() {
        // Its state was freed, and it has come back.
        "INSERT INTO coupon.missed_click (session, reason, rebuildable) SELECT $1, $2, false WHERE $3 = '{}'"
    } else {
        "UPDATE coupon.missed_click SET rebuildable = false, reason = $2 WHERE session = $1 AND id = ANY ($3)"
    };
    spi(client.update(sql, None, &[session.into(), why.into(), marks.into()]));
}
