//! Codes of coupons, and the draw of the arm for who checks it in SQL.

use crate::error::{report, throw};
use coupon_model::issue::{SALT_ARM, arm, code, draw};
use pgrx::prelude::*;

/// A code nobody can guess.
#[pg_extern(sql = false)]
pub fn new_code() -> String {
    code::encode(random_bits())
}

#[pg_extern(sql = false)]
fn normalise_code(code: &str) -> Option<String> {
    code::normalise(code)
}

#[pg_extern(sql = false)]
fn draw_arm(salt: &str, shares: Vec<f64>, session: &str) -> i32 {
    arm(draw(SALT_ARM, salt, session), &shares) as i32 + 1
}

/// 80 bits from PostgreSQL's strong random source.
fn random_bits() -> [u8; 10] {
    let mut bits = [0u8; 10];
    // SAFETY: the buffer is as long as is said.
    if !unsafe { pg_sys::pg_strong_random(bits.as_mut_ptr().cast(), bits.len()) } {
        throw(report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "no strong random numbers to be had", ""));
    }
    bits
}
