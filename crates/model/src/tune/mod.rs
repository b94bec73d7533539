//! tune: which values of the churn specification to try next, given what the earlier ones gave.
//!
//! Bayesian optimisation as ask and tell: a Gaussian process over the trials so far says where the largest improvement is
//! expected (Jones, Schonlau & Welch, "Efficient global optimization of expensive black-box functions", 1998; the process
//! and the search for its maximum are egobox's). What is asked is a value of the space, the seed and the trials told, so
//! that a study that was interrupted goes on as if it had not been.

mod search;
mod space;

#[cfg(test)]
mod tests;

pub use search::{Search, Told};
pub use space::{Parameter, Range, Space, Spec};
