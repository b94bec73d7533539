//! Training on the stored log, and scoring all of it.

pub mod evaluate;
pub mod log;
pub mod progress;
pub mod refresh;
pub mod run;
pub mod score;
pub mod tune;
