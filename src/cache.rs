//! What a backend keeps between statements, bounded: prepared statements and decoded versions, the latter by digest, so
//! that nothing has to be invalidated on standbys or after an aborted training.

use crate::error::spi;
use crate::store;
use coupon_model::version::Version;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The active version, the one before, and one more a session may have begun with. A version is about a megabyte.
const VERSIONS: usize = 3;

thread_local! {
    static STATEMENTS: RefCell<HashMap<&'static str, &'static OwnedPreparedStatement>> = RefCell::default();
    static DECODED: RefCell<Vec<Rc<Decoded>>> = const { RefCell::new(Vec::new()) };
}

/// A decoded version and what it is called.
pub struct Decoded {
    pub number: i64,
    pub digest: String,
    pub version: Version,
}

/// A statement prepared once a backend. The texts are constants of this crate, so their number is bounded. It reads in
/// the caller's snapshot through `select` and writes through `update`.
pub fn statement(client: &SpiClient, sql: &'static str, types: &[PgOid]) -> &'static OwnedPreparedStatement {
    if let Some(found) = STATEMENTS.with(|s| s.borrow().get(sql).copied()) {
        return found;
    }
    let prepared: &'static _ = Box::leak(Box::new(spi(client.prepare(sql, types)).keep()));
    STATEMENTS.with(|s| s.borrow_mut().insert(sql, prepared));
    prepared
}

/// A version as it serves, decoded at most once while it stays among the last three used.
pub fn version(number: i64, digest: &str) -> Rc<Decoded> {
    let found = DECODED.with(|d| {
        let mut kept = d.borrow_mut();
        let at = kept.iter().position(|v| v.number == number && v.digest == digest)?;
        kept[..=at].rotate_right(1);
        Some(kept[0].clone())
    });
    found.unwrap_or_else(|| {
        let version = Spi::connect(|client| crate::error::ok(store::serving(client, number)));
        let decoded = Rc::new(Decoded { number, digest: digest.to_string(), version });
        DECODED.with(|d| {
            let mut kept = d.borrow_mut();
            kept.truncate(VERSIONS - 1);
            kept.insert(0, decoded.clone());
        });
        decoded
    })
}
