//! How the click trigger may be fired: AFTER INSERT FOR EACH STATEMENT, with a transition table. A trigger that fires it
//! otherwise counts nothing, and costs the shop no row.

use crate::click::error_log;
use crate::pg::settings;
use crate::pg::subtransaction::{self, CaughtError};
use pgrx::PgTrigger;
use pgrx::prelude::*;

/// What a trigger that is fired the wrong way answers; `None` for one that may go on.
pub fn refuse(trigger: &PgTrigger) -> Option<pg_sys::Datum> {
    use pg_sys::{
        TRIGGER_EVENT_BEFORE, TRIGGER_EVENT_INSTEAD, TRIGGER_EVENT_OPMASK, TRIGGER_EVENT_ROW, TRIGGER_EVENT_UPDATE,
    };
    let data = trigger.trigger_data();
    let has = |bits: u32| data.tg_event & bits != 0;
    // AFTER INSERT FOR EACH STATEMENT is the event of no bits.
    if !has(TRIGGER_EVENT_OPMASK | TRIGGER_EVENT_ROW | TRIGGER_EVENT_BEFORE | TRIGGER_EVENT_INSTEAD)
        && !data.tg_newtable.is_null()
    {
        return None;
    }
    if settings::enabled() {
        report(trigger);
    }
    // The row as it came: without it PostgreSQL would leave the row out of the statement.
    Some(match has(TRIGGER_EVENT_ROW) && has(TRIGGER_EVENT_BEFORE | TRIGGER_EVENT_INSTEAD) {
        true if data.tg_event & TRIGGER_EVENT_OPMASK == TRIGGER_EVENT_UPDATE => data.tg_newtuple.into(),
        true => data.tg_trigtuple.into(),
        false => pg_sys::Datum::from(0),
    })
}

fn report(trigger: &PgTrigger) {
    let name = trigger.name().unwrap_or("?");
    let caught = CaughtError {
        code: PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        message: format!(
            "trigger \"{name}\" must be AFTER INSERT FOR EACH STATEMENT with a transition table, and counts nothing"
        ),
        detail: None,
        hint: Some("SELECT coupon.unwatch() the table, then coupon.watch() it.".into()),
    };
    if settings::raise() {
        crate::pg::error::throw(crate::pg::error::report(
            caught.code,
            caught.message,
            caught.hint.as_deref().unwrap_or_default(),
        ));
    }
    let Ok(relation) = trigger.relation() else { return };
    subtransaction::warn(&caught);
    error_log::record(relation.name(), None, None, &caught, 1);
}
