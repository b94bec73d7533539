//! The shop comes first: our part of a click runs in one internal subtransaction and is rolled back alone.

use crate::pg::settings;
use pgrx::pg_sys::panic::CaughtError as PgCaughtError;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

/// What was caught, as plain values: the error's own memory is gone with the subtransaction.
#[derive(Debug, Clone)]
pub struct CaughtError {
    pub code: PgSqlErrorCode,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// A caught failure that may still be raised.
pub struct Failure {
    pub caught: CaughtError,
    error: Box<PgCaughtError>,
}

impl Failure {
    pub fn raise(self) -> ! {
        self.error.rethrow()
    }

    /// The error to be logged; raised instead where `coupon_ext.on_error` is `raise`.
    pub fn settle(self) -> CaughtError {
        if settings::raise() {
            self.raise();
        }
        self.caught
    }
}

/// Runs `body` in an internal subtransaction. An ERROR or a panic inside is rolled back and returned; a cancel, a shutdown
/// and, in SERIALIZABLE transactions, a serialisation failure are rethrown unchanged.
pub fn subtransaction<T>(body: impl FnOnce() -> T) -> Result<T, CaughtError> {
    attempt(settings::lock_wait(), body).map_err(Failure::settle)
}

/// The same for writing down what failed: never raised, whatever `coupon_ext.on_error` says.
pub fn quiet_subtransaction<T>(body: impl FnOnce() -> T) -> Result<T, CaughtError> {
    attempt(settings::lock_wait(), body).map_err(|failure| failure.caught)
}

/// The same for what may be tried again before its failure is settled. No statement inside waits for a lock longer than so
/// many milliseconds: for a table that is locked as a whole, above all.
pub fn attempt<T>(wait: i32, body: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: the protocol of PL/pgSQL's exception blocks: begin, run under a handler, release or roll back, and put
    // memory context and resource owner back whatever happened.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let bounded = || {
            set_local(c"lock_timeout", &milliseconds(wait));
            Ok(body())
        };
        let result = PgTryBuilder::new(AssertUnwindSafe(bounded))
            .catch_others(|e| Err(Box::new(e)))
            .catch_rust_panic(|e| Err(Box::new(e)))
            .execute();
        match result {
            Ok(value) => {
                pg_sys::ReleaseCurrentSubTransaction();
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::CurrentResourceOwner = owner;
                Ok(value)
            }
            Err(error) => {
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::CurrentResourceOwner = owner;
                let mut caught = describe(&error);
                // Asked whatever the error is: a queue that ended in one must not be taken for a later cancel's.
                let queued = was_queueing();
                if caught.code == PgSqlErrorCode::ERRCODE_QUERY_CANCELED && queued {
                    caught.code = PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE;
                }
                if rethrown(caught.code) {
                    error.rethrow();
                }
                Err(Failure { caught, error })
            }
        }
    }
}

fn describe(error: &PgCaughtError) -> CaughtError {
    let (PgCaughtError::PostgresError(e) | PgCaughtError::ErrorReport(e) | PgCaughtError::RustPanic { ereport: e, .. }) =
        error;
    let (code, hint) = (e.sql_error_code(), e.hint().map(str::to_string));
    // PostgreSQL quotes rows in its details, and values in its messages about them. Either may be a person's id, which is
    // to be forgotten, so neither is kept.
    if matches!(error, PgCaughtError::PostgresError(_)) {
        return CaughtError { code, message: without_value(code, e.message()), detail: None, hint };
    }
    CaughtError { code, message: e.message().to_string(), detail: e.detail().map(str::to_string), hint }
}

/// A message up to the first value it quotes, in whatever language; only those of class 22 quote any.
fn without_value(code: PgSqlErrorCode, message: &str) -> String {
    const CLASS_22: i32 = 2 | 2 << 6;
    match message.find(['"', '\'', '«', '»', '„', '“', '”', '‘', '’', '「']) {
        Some(quote) if code as i32 & 0xfff == CLASS_22 => format!("{}…", &message[..quote]),
        _ => message.to_string(),
    }
}

fn rethrown(code: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode as Code;
    match code {
        Code::ERRCODE_QUERY_CANCELED
        | Code::ERRCODE_ADMIN_SHUTDOWN
        | Code::ERRCODE_CRASH_SHUTDOWN
        | Code::ERRCODE_CANNOT_CONNECT_NOW => true,
        // SAFETY: plain read of the transaction's isolation level.
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE => unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 },
        _ => false,
    }
}

/// How long a statement may still wait for what others hold, over all its waits. It looks again and again instead of
/// queueing: whoever queues can make the transaction it waits for the victim of a deadlock.
pub struct LockWaitBudget(Cell<Duration>);

impl LockWaitBudget {
    pub fn new(milliseconds: i32) -> LockWaitBudget {
        LockWaitBudget(Cell::new(Duration::from_millis(milliseconds.max(0) as u64)))
    }

    /// Milliseconds that are left.
    pub fn left(&self) -> i32 {
        self.0.get().as_millis() as i32
    }

    pub fn spend(&self, spent: Duration) {
        self.0.set(self.0.get().saturating_sub(spent));
    }

    /// Sleeps about a millisecond, a tenth of that at first: most locks are shorter. `false` where the budget is at
    /// its end.
    pub fn wait(&self, attempt: u32) -> bool {
        let left = self.0.get();
        if left.is_zero() {
            return false;
        }
        let pause = Duration::from_micros(100 << attempt.min(4)).min(Duration::from_millis(1)).min(left);
        let began = Instant::now();
        // SAFETY: a plain sleep, which a signal ends early.
        unsafe { pg_sys::pg_usleep(pause.as_micros() as std::ffi::c_long) };
        pgrx::check_for_interrupts!();
        self.spend(began.elapsed());
        true
    }
}

thread_local! {
    /// When the statement began that queues for a single row.
    static QUEUEING: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `body`, a statement about `rows` rows, with a queue of a millisecond at most, inside a subtransaction of ours.
pub fn with_short_queue<T>(rows: usize, body: impl FnOnce() -> T) -> T {
    // SAFETY: plain read of a setting.
    let before = unsafe { pg_sys::LockTimeout };
    set_local(c"lock_timeout", c"1");
    QUEUEING.set((rows == 1).then(Instant::now));
    let result = body();
    QUEUEING.set(None);
    set_local(c"lock_timeout", &milliseconds(before));
    result
}

/// Whether a cancel came from our own lock_timeout. Where it fires in the instant in which the wait is over, and the statement
/// goes on to wait for another transaction, PostgreSQL takes it for a user's; a user's that comes in that millisecond is
/// taken for ours, and asked for again.
fn was_queueing() -> bool {
    let Some(began) = QUEUEING.take() else { return false };
    // SAFETY: plain reads.
    let (limit, now) = unsafe { (pg_sys::StatementTimeout, pg_sys::GetCurrentTimestamp()) };
    let run = now - unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    began.elapsed() >= Duration::from_millis(1) && (limit == 0 || run < i64::from(limit) * 1000)
}

/// A lock_timeout; 0 would be none.
fn milliseconds(n: i32) -> CString {
    CString::new(n.max(1).to_string()).expect("digits")
}

/// Changes a setting until the end of the subtransaction we are in: PostgreSQL puts back what a function's SET or this
/// changed, whether it commits or not.
pub fn set_local(name: &CStr, value: &CStr) {
    // SAFETY: name and value are those of a setting; a subtransaction has a nest level of its own.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Runs `body` with a setting changed, in its own GUC nest level; an ERROR inside restores it with the (sub)transaction.
pub fn with_setting<T>(name: &CStr, value: &CStr, body: impl FnOnce() -> T) -> T {
    // SAFETY: the nest level is closed below, or by the abort of the (sub)transaction it was opened in.
    unsafe {
        let nest = pg_sys::NewGUCNestLevel();
        set_local(name, value);
        let result = body();
        pg_sys::AtEOXact_GUC(true, nest);
        result
    }
}

thread_local! {
    static WARNED: RefCell<HashSet<i32>> = RefCell::new(HashSet::new());
}

/// Warns once a backend and SQLSTATE: the shop's log must not fill with one fault.
pub fn warn(caught: &CaughtError) {
    if WARNED.with(|w| w.borrow_mut().insert(caught.code as i32)) {
        // Without the detail: it may show one of our rows to whoever clicks. coupon.error_log keeps it.
        let message = format!("coupon_ext: {}", caught.message);
        let hint =
            caught.hint.clone().unwrap_or_else(|| "The click was kept; coupon.error_log holds what failed.".into());
        let report = pgrx::pg_sys::panic::ErrorReport::new(caught.code, message, "coupon_ext").set_hint(hint);
        crate::pg::error::send_message(PgLogLevel::WARNING, report);
    }
}
