//! Errors of the numerics as PostgreSQL reports: SQLSTATE, DETAIL, HINT. One place.

use coupon_model::Error;
use coupon_model::error::Fault;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

const MB: usize = 1 << 20;

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
        Error::Artefact { fault, why } => artefact(fault, why),
        Error::TooLittle(_) => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message,
            "Widen the window, or collect more clicks first.",
        ),
        Error::Memory { needed, budget } => report(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "training needs more memory than coupon_ext.training_memory allows",
            "Train on a shorter window, or have a superuser raise coupon_ext.training_memory.",
        )
        .set_detail(format!("It needs at least {} MB, the budget is {} MB.", needed.div_ceil(MB), budget / MB)),
        Error::Refused { bytes } => report(
            Code::ERRCODE_OUT_OF_MEMORY,
            "out of memory",
            "Train on a shorter window, or raise the limit on the server's memory (ulimit -v, overcommit).",
        )
        .set_detail(format!("The operating system refused {} MB.", bytes.div_ceil(MB))),
        Error::Cancelled => report(Code::ERRCODE_QUERY_CANCELED, message, ""),
        Error::Numerics(_) => report(Code::ERRCODE_INTERNAL_ERROR, message, ""),
    }
}

fn artefact(fault: Fault, why: String) -> ErrorReport {
    use PgSqlErrorCode as Code;
    let again = "Nothing was stored. Export the version again and carry all of it, as binary.";
    let (code, hint) = match fault {
        Fault::Foreign => (Code::ERRCODE_INVALID_PARAMETER_VALUE, "Pass what coupon.export_model(version) returned."),
        Fault::Newer => (Code::ERRCODE_INVALID_PARAMETER_VALUE, "Update coupon_ext on this server first."),
        Fault::Large => (
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "Train with fewer targets, words or hidden units, or carry it by pg_dump.",
        ),
        Fault::Damaged => (Code::ERRCODE_DATA_CORRUPTED, again),
        Fault::Unfit => (
            Code::ERRCODE_DATA_CORRUPTED,
            "Nothing was stored. Only coupon.export_model() makes artefacts; train it again.",
        ),
    };
    report(code, fault.to_string(), hint).set_detail(why)
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

/// Sends the client a message below ERROR. PostgreSQL checks for a cancel while it sends, and pgrx has no guard there: the
/// cancel would jump over our frames with their destructors and threads. Interrupts are held off until we check ourselves.
pub fn send_message(level: PgLogLevel, report: ErrorReport) {
    // SAFETY: what HOLD_INTERRUPTS and RESUME_INTERRUPTS do; nothing between them leaves but by returning.
    unsafe { pg_sys::InterruptHoldoffCount += 1 };
    report.report(level);
    unsafe { pg_sys::InterruptHoldoffCount -= 1 };
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
