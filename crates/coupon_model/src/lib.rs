//! The numerics of `coupon_ext`, one module a word of the flow:
//! events → sessions → segment → churn → rank → issue → results.
//!
//! Nothing in here knows PostgreSQL, reads a clock or holds global state: every function is a value of its arguments.
#![deny(unsafe_code)]

pub mod artefact;
pub mod churn;
pub mod error;
pub mod events;
pub mod issue;
pub mod live;
mod math;
pub mod memory;
pub mod metrics;
pub mod rank;
pub mod segment;
pub mod sessions;
pub mod simulate;
pub mod spec;
pub mod training;
pub mod tune;
pub mod version;
mod weights;

pub use error::{Error, Result};
