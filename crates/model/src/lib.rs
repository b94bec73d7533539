//! The models of a version: churn, live sessions, training, tuning, and what is stored and carried of them.
//!
//! The flow is events → sessions → segment → churn → rank → issue → results; each word but churn has a crate of its own.
#![deny(unsafe_code)]

pub mod artefact;
pub mod churn;
pub mod live;
pub mod training;
pub mod tune;
pub mod version;
