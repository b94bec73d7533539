//! Refused attempts of this connection. A table forgets what is rolled back; this does not.

use crate::pg::settings;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

/// Microseconds within which attempts count.
const WINDOW: i64 = 600_000_000;

/// Presenters that are remembered; of more, the one whose count began first is forgotten.
const MOST: usize = 256;

thread_local! {
    /// When the count began, and the count.
    static REFUSED: RefCell<HashMap<String, (i64, i32)>> = RefCell::default();
}

/// A clock that was set back begins anew.
fn counts(since: i64, now: i64) -> bool {
    (0..=WINDOW).contains(&now.saturating_sub(since))
}

#[pg_extern(sql = false)]
fn count_refused_attempt(presenter: &str) -> i32 {
    let now = settings::clock();
    REFUSED.with_borrow_mut(|refused| {
        if !refused.contains_key(presenter) && refused.len() >= MOST {
            refused.retain(|_, (since, _)| counts(*since, now));
            if refused.len() >= MOST
                && let Some(first) = refused.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone())
            {
                refused.remove(&first);
            }
        }
        let entry = refused.entry(presenter.to_owned()).or_insert((now, 0));
        if !counts(entry.0, now) {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(1);
        entry.1
    })
}

#[pg_extern(sql = false)]
fn count_refused_here(presenter: &str) -> i32 {
    let now = settings::clock();
    let count = |(since, n): &(i64, i32)| if counts(*since, now) { *n } else { 0 };
    REFUSED.with_borrow(|refused| refused.get(presenter).map_or(0, count))
}
