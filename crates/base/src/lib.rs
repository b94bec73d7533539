//! What every crate of the numerics shares: errors, memory that may be refused, specifications, saved weights.
//!
//! Nothing in these crates knows PostgreSQL, reads a clock or holds global state: every function is a value of its
//! arguments.
#![deny(unsafe_code)]

pub mod error;
pub mod memory;
pub mod spec;
pub mod weights;

pub use error::{Error, Result};
