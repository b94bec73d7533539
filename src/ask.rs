//! What an application asks: the coupon of a session.

use crate::events::LONGEST_ID;
use crate::guard;
use crate::{direct, fault, sessions, settings};
use pgrx::fn_call::{Arg, FnCallArg, fn_call};
use pgrx::prelude::*;

/// Most who ask have no coupon and are due none: two look-ups say so, without SQL, and so without the settings that SQL
/// is to run under (two thirds of such an answer's 33 µs). Whatever else there is, PL/pgSQL answers.
#[pg_extern(sql = false)]
fn issue_coupon(session: Option<&str>) -> Option<pgrx::composite_type!('static, "coupon.offer")> {
    // In this order: a coupon that is issued between the two is seen.
    let none = |s: &&str| sessions::settled(s) && direct::has_coupon(s) == Some(false);
    // An error will come again there, and is told there.
    if settings::enabled() && guard::subtransaction(|| session.as_ref().is_some_and(none)).unwrap_or(false) {
        return None;
    }
    let argument: &dyn FnCallArg = &match session {
        Some(session) => Arg::Value(session),
        None => Arg::Null,
    };
    fn_call("coupon.due_offer", &[argument]).unwrap_or_else(|e| error!("coupon.due_offer: {e}"))
}

/// Whether there may be a coupon now.
#[pg_extern(sql = false)]
fn consider(session: &str) -> bool {
    if !settings::enabled() || session.len() > LONGEST_ID {
        return false;
    }
    guard::subtransaction(|| sessions::consider(session)).unwrap_or_else(|caught| {
        guard::warn(&caught);
        fault::record("issue_coupon", Some(session), &caught);
        false
    })
}
