//! PostgreSQL's own: settings, errors, statements, rows, subtransactions, threads. Nothing here knows of shops, and all
//! unsafe code is here or carries its reason.

pub mod error;
pub mod owner;
pub mod settings;
pub mod statement;
pub mod stream;
pub mod subtransaction;
pub mod threads;
pub mod tuple;
