//! Codes of coupons, and the draw of the arm for who checks it in SQL.

use crate::pg::error::{report, throw};
use coupon_model::issue::{SALT_ARM, arm, code, draw};
use pgrx::prelude::*;

/// A code nobody can guess.
#[pg_extern(sql = false)]
pub fn generate_code() -> String {
    code::encode(random_bits())
}

#[pg_extern(sql = false)]
fn normalise_code(code: &str) -> Option<String> {
    code::normalise(code)
}

#[pg_extern(sql = false)]
fn draw_arm(salt: &str, shares: Array<f64>, session: &str) -> i32 {
    let given: Option<Vec<f64>> = shares.iter().collect();
    // SAFETY: an array that PostgreSQL passed.
    let dimensions = unsafe { (*shares.into_array_type()).ndim };
    let why = match &given {
        _ if dimensions > 1 => "shares has more than one dimension",
        None => "shares holds a NULL",
        Some(shares) if shares.iter().any(|share| !(*share >= 0.0 && share.is_finite())) => {
            "shares holds a number that is no share: negative, infinite or NaN"
        }
        Some(shares) if !(shares.iter().sum::<f64>() > 0.0 && shares.iter().sum::<f64>().is_finite()) => {
            "the sum of shares is not above 0 and finite"
        }
        Some(shares) => return arm(draw(SALT_ARM, salt, session), shares) as i32 + 1,
    };
    let hint = "It is the list of the arms' shares, in order of the arms' names: SELECT array_agg(share ORDER BY arm \
                COLLATE \"C\") FROM coupon.arm WHERE campaign = …";
    throw(report(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, why, hint))
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
