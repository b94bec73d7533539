//! The active version and the running campaigns. They change rarely; each change gives coupon.storage a new revision, and
//! a backend reads them again when it sees one.

use crate::click::campaigns::{self, Campaigns};
use crate::models::active::{self, Versions};
use crate::pg::statement::with_snapshot;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

pub struct ServingState {
    revision: pgrx::Uuid,
    pub versions: Rc<Versions>,
    pub campaigns: Campaigns,
}

thread_local! {
    static KEPT: RefCell<Option<Rc<ServingState>>> = const { RefCell::new(None) };
}

fn kept(revision: pgrx::Uuid) -> Option<Rc<ServingState>> {
    KEPT.with_borrow(|kept| kept.as_ref().filter(|w| w.revision == revision).cloned())
}

/// The state at a revision that a statement has just read: in a snapshot no older than that statement's, because what is
/// kept under a revision must be of it.
pub fn at_now(revision: pgrx::Uuid) -> Rc<ServingState> {
    kept(revision).unwrap_or_else(|| with_snapshot(|| at(revision)))
}

/// The state at a revision, read in the caller's snapshot.
pub fn at(revision: pgrx::Uuid) -> Rc<ServingState> {
    kept(revision).unwrap_or_else(|| {
        let state =
            Spi::connect(|_| ServingState { revision, versions: active::at(revision), campaigns: campaigns::read() });
        let state = Rc::new(state);
        KEPT.set(Some(state.clone()));
        state
    })
}
