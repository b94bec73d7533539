//! Statistics: metrics of a classifier, recalibration, and the small numerics that several stages share.
#![deny(unsafe_code)]

pub mod math;
pub mod metrics;
