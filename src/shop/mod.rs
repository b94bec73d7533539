//! The shop's own tables: what their rows mean, one session's rows, its stock; and a simulated shop.

pub mod event_log;
pub mod mapping;
pub mod misfits;
pub mod simulate;
pub mod stock;
