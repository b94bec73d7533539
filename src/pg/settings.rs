//! The settings of `coupon_ext`. All but one are the DBA's, because the trigger runs in everybody's session.

use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;

#[derive(PostgresGucEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnError {
    #[name = c"warn"]
    Warn,
    #[name = c"raise"]
    Raise,
}

/// Minutes.
const DAY: i32 = 24 * 60;

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static ON_ERROR: GucSetting<OnError> = GucSetting::<OnError>::new(OnError::Warn);
static LOCK_WAIT: GucSetting<i32> = GucSetting::<i32>::new(50);
static REDEEM_WAIT: GucSetting<i32> = GucSetting::<i32>::new(500);
static SESSION_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(1800);
static MAX_CLICK_AGE: GucSetting<i32> = GucSetting::<i32>::new(300);
static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(20);
static SESSION_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
static COUPON_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
static MOCK_CLOCK: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static NOTIFY_ISSUED: GucSetting<bool> = GucSetting::<bool>::new(false);
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
static TRAINING_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(2 * 1024 * 1024);

pub fn define() {
    use GucContext::{Suset, Userset};
    let none = GucFlags::default();
    GucRegistry::define_bool_guc(
        c"coupon_ext.enabled",
        c"Whether clicks are noticed; off is the kill switch.",
        c"",
        &ENABLED,
        Suset,
        none,
    );
    GucRegistry::define_enum_guc(
        c"coupon_ext.on_error",
        c"What a failure in our part of a click does: warn keeps the click, raise fails it.",
        c"",
        &ON_ERROR,
        Suset,
        none,
    );
    GucRegistry::define_int_guc(
        c"coupon_ext.lock_wait",
        c"Longest wait for another session's row in one statement; 0 never waits.",
        c"Kept below half of deadlock_timeout, so that the shop is never deadlocked.",
        &LOCK_WAIT,
        0,
        60_000,
        Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"coupon_ext.redeem_wait",
        c"Longest wait of a checkout for a coupon or an order that another transaction holds; 0 never waits.",
        c"Kept below half of deadlock_timeout, so that the shop is never deadlocked.",
        &REDEEM_WAIT,
        0,
        60_000,
        Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"coupon_ext.session_timeout",
        c"Silence after which training takes a session as closed.",
        c"",
        &SESSION_TIMEOUT,
        1,
        7 * 86_400,
        Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"coupon_ext.max_click_age",
        c"A click older than this on coupon.clock() advances its session and never makes a decision.",
        c"",
        &MAX_CLICK_AGE,
        0,
        7 * 86_400,
        Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"coupon_ext.max_attempts",
        c"Codes of others that a session or customer may present within ten minutes; then all its codes are refused.",
        c"",
        &MAX_ATTEMPTS,
        1,
        1_000_000,
        Suset,
        none,
    );
    // What coupon.maintain reads.
    let retentions = [
        (
            c"coupon_ext.session_retention",
            c"How long coupon.maintain() keeps sessions after their last click, with errors and marks; 0 = for ever.",
            &SESSION_RETENTION,
        ),
        (
            c"coupon_ext.coupon_retention",
            c"How long coupon.maintain() keeps closed coupons, decisions and attempts; then only totals. 0 = for ever.",
            &COUPON_RETENTION,
        ),
    ];
    for (name, what, setting) in retentions {
        // SAFETY: the hook follows the contract of an integer GUC's check hook; see check_retention.
        unsafe {
            GucRegistry::define_int_guc_with_hooks(
                name,
                what,
                c"A day or more, with its unit: '90d'.",
                setting,
                0,
                36_500 * DAY,
                Suset,
                GucFlags::UNIT_MIN,
                Some(check_retention),
                None,
                None,
            );
        }
    }
    // SAFETY: the hook follows the contract of a string GUC's check hook; see check_clock.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"coupon_ext.mock_clock",
            c"The time coupon.clock() tells instead of now(): replay, simulation, tests.",
            c"",
            &MOCK_CLOCK,
            Suset,
            none,
            Some(check_clock),
            None,
            None,
        );
    }
    GucRegistry::define_bool_guc(
        c"coupon_ext.notify_issued",
        c"Whether an issued coupon sends NOTIFY coupon_issued with its random id.",
        c"",
        &NOTIFY_ISSUED,
        Suset,
        none,
    );
    GucRegistry::define_int_guc(
        c"coupon_ext.threads",
        c"Threads that training and coupon.score_sessions use; 0 = one a core.",
        c"",
        &THREADS,
        0,
        256,
        Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"coupon_ext.training_memory",
        c"Memory a training may hold; a larger log is refused before it is allocated.",
        c"",
        &TRAINING_MEMORY,
        16 * 1024,
        i32::MAX,
        Suset,
        GucFlags::UNIT_KB,
    );
}

/// Refuses less than a day: a number without a unit is minutes to PostgreSQL, and days to whoever writes it.
#[pg_guard]
unsafe extern "C-unwind" fn check_retention(
    value: *mut i32,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a pointer to the new value, and takes the hint until it has reported the refusal.
    unsafe {
        let fits = *value == 0 || *value >= DAY;
        if !fits {
            pg_sys::GUC_check_errhint_string =
                pg_sys::pstrdup(c"Write days with their unit, as in '90d'; 0 is for ever.".as_ptr());
        }
        fits
    }
}

/// Refuses what does not look like a time, so that a typo is found at SET and not at the next click. The full check is
/// PostgreSQL's own, in [`clock`]: a check hook may run where no catalogue can be read.
#[pg_guard]
unsafe extern "C-unwind" fn check_clock(
    value: *mut *mut std::ffi::c_char,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a pointer to a NUL-terminated string, or to NULL.
    let text = unsafe {
        if (*value).is_null() {
            return true;
        }
        std::ffi::CStr::from_ptr(*value).to_bytes()
    };
    text.is_empty() || text.iter().filter(|b| b.is_ascii_digit()).count() >= 6
}

pub fn enabled() -> bool {
    ENABLED.get()
}

pub fn raise() -> bool {
    ON_ERROR.get() == OnError::Raise
}

/// Milliseconds, below half of deadlock_timeout, and no more than the user's own lock_timeout.
pub fn lock_wait() -> i32 {
    bounded(LOCK_WAIT.get())
}

fn bounded(wait: i32) -> i32 {
    // SAFETY: plain reads of settings.
    let (deadlock, own) = unsafe { (pg_sys::DeadlockTimeout, pg_sys::LockTimeout) };
    wait.min(deadlock / 2).min(if own > 0 { own } else { i32::MAX })
}

#[pg_extern(sql = false)]
fn get_redeem_wait() -> i32 {
    bounded(REDEEM_WAIT.get())
}

pub fn session_timeout() -> f64 {
    f64::from(SESSION_TIMEOUT.get())
}

/// Microseconds.
pub fn max_click_age() -> i64 {
    i64::from(MAX_CLICK_AGE.get()) * 1_000_000
}

pub fn notify_issued() -> bool {
    NOTIFY_ISSUED.get()
}

pub fn threads() -> usize {
    match THREADS.get() {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n as usize,
    }
}

/// Bytes.
pub fn training_memory() -> usize {
    TRAINING_MEMORY.get() as usize * 1024
}

/// `coupon.clock()` in microseconds since 2000: the transaction's start, or the time the setting holds.
pub fn clock() -> i64 {
    match MOCK_CLOCK.get() {
        Some(text) if !text.is_empty() => {
            let args = [text.as_c_str().into_datum(), pg_sys::Oid::INVALID.into_datum(), (-1i32).into_datum()];
            // SAFETY: the arguments are those of the type's input function.
            let at = unsafe { pgrx::direct_function_call::<TimestampWithTimeZone>(pg_sys::timestamptz_in, &args) };
            at.expect("timestamptz_in returns a value").into()
        }
        // SAFETY: plain read of the current transaction's start time.
        _ => unsafe { pg_sys::GetCurrentTransactionStartTimestamp() },
    }
}

#[pg_extern(sql = false)]
fn clock_now() -> TimestampWithTimeZone {
    micros(clock())
}

/// A PostgreSQL time from its own count of microseconds.
pub fn micros(at: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(at).unwrap_or_else(|_| TimestampWithTimeZone::positive_infinity())
}

/// Whether a time is one: PostgreSQL's infinities are the ends of the range.
pub fn finite(at: i64) -> bool {
    at != i64::MIN && at != i64::MAX
}
