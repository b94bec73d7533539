//! Versions of the models: stored, decoded, active, carried to other servers; and what they say of a customer.

pub mod active;
pub mod artefact;
pub mod cache;
pub mod churn;
pub mod customers;
pub mod rank;
pub mod registry;
