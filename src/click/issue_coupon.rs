//! What an application asks: the coupon of a session.

use crate::click::{advance, error_log};
use crate::models::registry;
use crate::pg::settings;
use crate::pg::subtransaction;
use crate::shop::mapping::LONGEST_ID;
use pgrx::fn_call::{Arg, FnCallArg, fn_call};
use pgrx::prelude::*;

/// Most who ask have no coupon and are due none: one statement says so. Whatever else there is, PL/pgSQL answers.
#[pg_extern(sql = false)]
fn issue_coupon(session: Option<&str>) -> Option<pgrx::composite_type!('static, "coupon.offer")> {
    let none = |s: &&str| registry::exists() && advance::has_nothing_due(s);
    // PL/pgSQL would meet the same error, and reports it.
    if settings::enabled() && subtransaction::subtransaction(|| session.as_ref().is_some_and(none)).unwrap_or(false) {
        return None;
    }
    let argument: &dyn FnCallArg = &match session {
        Some(session) => Arg::Value(session),
        None => Arg::Null,
    };
    fn_call("coupon_internal.issue_due_offer", &[argument])
        .unwrap_or_else(|e| error!("coupon_internal.issue_due_offer: {e}"))
}

/// Whether there may be a coupon now.
#[pg_extern(sql = false)]
fn evaluate_session(session: &str) -> bool {
    if !settings::enabled() || session.len() > LONGEST_ID {
        return false;
    }
    subtransaction::subtransaction(|| advance::evaluate(session)).unwrap_or_else(|caught| {
        subtransaction::warn(&caught);
        error_log::record("issue_coupon", Some(session), None, &caught, 1);
        false
    })
}
