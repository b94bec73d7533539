//! Errors of the numerics as PostgreSQL reports: SQLSTATE, DETAIL, HINT. One place.

use coupon_model::Error;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// A report with a hint; the common shape of everything refused here.
pub fn report(code: PgSqlErrorCode, message: impl Into<String>, hint: &str) -> ErrorReport {
    let report = ErrorReport::new(code, message.into(), "coupon_ext");
    if hint.is_empty() { report } else { report.set_hint(hint.to_string()) }
}

pub fn model(e: Error) -> ErrorReport {
    use PgSqlErrorCode as Code;
    let message = e.to_string();
    match e {
        Error::Spec(_) => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            message,
            "SELECT stage, spec FROM coupon.model shows the keys of a version; models/*.json of the source holds the defaults.",
        ),
        Error::Expression { .. } => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, message, &expressions()),
        Error::Corrupt(_) => report(
            Code::ERRCODE_DATA_CORRUPTED,
            message,
            "SELECT coupon.rollback() serves the version before; training makes a new one.",
        ),
        Error::TooLittle(_) => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message,
            "Widen the window, or collect more clicks first.",
        ),
        Error::Memory { .. } => report(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            message,
            "Train on a shorter window, or have a superuser raise coupon_ext.training_memory.",
        ),
        Error::Cancelled => report(Code::ERRCODE_QUERY_CANCELED, message, ""),
        Error::Numerics(_) => report(Code::ERRCODE_INTERNAL_ERROR, message, ""),
    }
}

/// What the expression of a variable may be made of.
fn expressions() -> String {
    use coupon_model::sessions::{COLUMNS, FUNCTIONS};
    format!(
        "An expression is made of aggregates over a customer's events. Columns: {COLUMNS}. Functions: {FUNCTIONS}, with \
         FILTER (WHERE …), DISTINCT in count, arithmetic, comparisons, AND, OR, NOT, IN, BETWEEN, IS NULL and CASE."
    )
}

/// Reports an ERROR; does not return.
pub fn throw(report: ErrorReport) -> ! {
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Unwraps what the numerics return, reporting what they refuse.
pub fn ok<T>(result: coupon_model::Result<T>) -> T {
    result.unwrap_or_else(|e| throw(model(e)))
}

/// Unwraps what SPI returns: its errors are ours, never the user's.
pub fn spi<T>(result: pgrx::spi::Result<T>) -> T {
    result.unwrap_or_else(|e| throw(report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, e.to_string(), "")))
}

pub fn no_model() -> ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "no model is active",
        "SELECT * FROM coupon.train() trains one on the watched tables.",
    )
}
