//! The trigger of watched tables: the rows of a statement become clicks, and these advance their sessions.

use crate::click::advance::{self, SkippedClicks};
use crate::click::{error_log, firing, grouped};
use crate::pg::subtransaction::{self, CaughtError, LockWaitBudget};
use crate::pg::{settings, tuple};
use crate::shop::mapping::{self, SkippedClick};
use pgrx::prelude::*;
use pgrx::{PgBox, PgRelation, PgTrigger};
use std::time::Instant;

// A plain V1 function: a statement trigger returns a null pointer that is not SQL NULL, which pg_trigger cannot say.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_on_click_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// # Safety
/// Called by PostgreSQL as a trigger function only.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn on_click_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL passes a valid call frame; from_fcinfo checks that it is a trigger's.
    match unsafe { fcinfo.as_ref() }.map(|f| unsafe { PgTrigger::from_fcinfo(f) }) {
        Some(Ok(trigger)) => match firing::refuse(&trigger) {
            Some(answer) => return answer,
            None => on_click(&trigger),
        },
        _ => error!("coupon_internal.on_click() is a trigger function"),
    }
    pg_sys::Datum::from(0)
}

fn on_click(trigger: &PgTrigger) {
    // SAFETY: the trigger data outlives the call; the box does not own it.
    let data = unsafe { PgBox::from_pg(std::ptr::from_ref(trigger.trigger_data()).cast_mut()) };
    if !settings::enabled() || tuple::is_empty(&data) {
        return;
    }
    let Ok(relation) = trigger.relation() else { return };
    let arguments = trigger.extra_args().unwrap_or_default();
    let statement = Statement { data, relation, mapping: arguments.first().map_or("", String::as_str) };
    let wait_budget = LockWaitBudget::new(settings::lock_wait());
    let mut attempts = 0;
    let skipped = loop {
        let began = Instant::now();
        match subtransaction::attempt(wait_budget.left(), || statement.advance(&wait_budget, attempts > 0)) {
            Ok(skipped) => break skipped,
            // Another transaction is about to store one of the sessions, or holds a whole table. The second attempt stores
            // each on its own.
            Err(failure)
                if failure.caught.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
                    && (attempts == 0 || wait_budget.wait(attempts)) =>
            {
                wait_budget.spend(began.elapsed());
                attempts += 1;
            }
            Err(failure) => {
                let caught = failure.settle();
                let (session, customer) = statement.mark(&caught);
                break SkippedClicks { first: Some(SkippedClick { session, customer, caught }), count: 1 };
            }
        }
    };
    if let Some(first) = skipped.first {
        subtransaction::warn(&first.caught);
        let SkippedClick { session, customer, caught } = &first;
        error_log::record(statement.relation.name(), session.as_deref(), customer.as_deref(), caught, skipped.count);
    }
}

/// A statement of the shop's and how its rows are to be read.
struct Statement<'a> {
    data: PgBox<pg_sys::TriggerData>,
    relation: PgRelation,
    mapping: &'a str,
}

/// Sessions that are marked at a time.
const MARKED: usize = 1000;

impl Statement<'_> {
    /// Advances the sessions of all rows that are clicks; what had to be left out is returned.
    fn advance(&self, wait_budget: &LockWaitBudget, careful: bool) -> SkippedClicks {
        let mapping = mapping::parse(self.mapping);
        let bound = mapping.bind(&self.relation);
        if bound.styled() {
            // A date or a float that is an id must not depend on who inserts it.
            subtransaction::set_local(c"datestyle", c"ISO, YMD");
            subtransaction::set_local(c"extra_float_digits", c"1");
        }
        let (mut unfit, mut skipped) = (SkippedClicks::default(), SkippedClicks::default());
        grouped::by_session(
            |found| {
                tuple::for_each(&self.data, &self.relation, |row| match bound.click(row) {
                    Ok(Some(click)) => found(&click),
                    Ok(None) => {}
                    Err(why) => unfit.add(*why),
                })
            },
            |groups| advance::advance(groups, wait_budget, careful, &mut skipped),
        );
        unfit.join(skipped)
    }

    /// Marks the sessions of a statement that could not be advanced, so that they are rebuilt before they go on; the first
    /// of them is returned.
    fn mark(&self, caught: &CaughtError) -> (Option<String>, Option<String>) {
        let mut first = (None, None);
        let marked = subtransaction::quiet_subtransaction(|| {
            let ids = mapping::parse(self.mapping).bind_ids(&self.relation);
            let mut missed: Vec<(String, Option<String>)> = Vec::new();
            let mut mark = |missed: &mut Vec<(String, Option<String>)>| {
                missed.sort_unstable();
                missed.dedup();
                let (sessions, customers): (Vec<String>, Vec<Option<String>>) = missed.drain(..).unzip();
                if let (None, Some(session)) = (&first.0, sessions.first()) {
                    first = (Some(session.clone()), customers[0].clone());
                }
                error_log::missed(&sessions, &customers, caught);
            };
            tuple::for_each(&self.data, &self.relation, |row| {
                missed.extend(ids.of(row));
                if missed.len() == MARKED {
                    mark(&mut missed);
                }
            });
            mark(&mut missed);
        });
        if let Err(second) = marked {
            subtransaction::warn(&second);
        }
        first
    }
}
