//! The path of a click, in order: [`trigger`], [`session_store`], [`advance`], [`decide`], and [`issue_coupon`], by which the
//! application asks; [`explain_decision`] beside them.

pub mod advance;
pub mod attempts;
pub mod campaigns;
pub mod code;
pub mod decide;
pub mod decision_log;
pub mod eligible;
pub mod error_log;
pub mod explain_churn;
pub mod explain_decision;
pub mod firing;
pub mod grouped;
pub mod issue_coupon;
pub mod marks;
pub mod prepaid_budget;
pub mod rebuild;
pub mod serving_state;
pub mod session;
pub mod session_store;
pub mod trigger;
