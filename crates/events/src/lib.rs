//! events and sessions: a shop's log, the sessions its events make, and the variables of the customers they are of.
#![deny(unsafe_code)]

pub mod events;
pub mod sessions;
