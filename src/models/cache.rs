//! The decoded versions that a backend keeps between statements: bounded, and by digest, so that nothing has to be
//! invalidated on standbys or after an aborted training.

use crate::models::registry;
use coupon_model::version::Version;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

/// The active version, the one before, and one more a session may have begun with. A version is about a megabyte.
const VERSIONS: usize = 3;

thread_local! {
    static DECODED: RefCell<Vec<Rc<Decoded>>> = const { RefCell::new(Vec::new()) };
}

/// A decoded version and what it is called.
pub struct Decoded {
    pub number: i64,
    pub digest: String,
    pub version: Version,
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
        let version = Spi::connect(|client| crate::pg::error::ok(registry::serving(client, number)));
        let decoded = Rc::new(Decoded { number, digest: digest.to_string(), version });
        DECODED.with(|d| {
            let mut kept = d.borrow_mut();
            kept.truncate(VERSIONS - 1);
            kept.insert(0, decoded.clone());
        });
        decoded
    })
}
