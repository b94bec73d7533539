//! The variables of a customer: which there are, and rows of their values.

use super::parse;
use crate::spec::require;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The six loyalty variables of CCP/2DL in the order in which a row of variables begins, over the window before a day:
/// money spent; money a purchase, on average; products bought at one time, on average; searches; seconds a session, on
/// average; sessions.
pub const SIX: [&str; 6] = [
    "spending_last_month",
    "average_payment",
    "items_per_purchase",
    "searches_last_month",
    "stay_per_session",
    "visits_last_month",
];

/// Most variables a dimension of customers has.
pub const MOST_VARIABLES: usize = 16;
/// Longest window of a variable, in days.
const MOST_DAYS: u32 = 366;

/// A variable that an expression defines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Own {
    pub name: String,
    pub expression: String,
}

/// What a row of variables means: [`SIX`], then these, all over the same window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Days before the as-of day that are looked at.
    pub window_days: u32,
    pub own: Vec<Own>,
}

/// Refuses with [`Error::Spec`] what cannot name a variable.
pub fn check_name(name: &str) -> Result<()> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if letters && !name.is_empty() && name.len() <= 63 {
        return Ok(());
    }
    Err(Error::Spec(format!("`{name}` is no name of a variable: use a-z, 0-9 and _")))
}

impl Definition {
    /// Refuses what no specification defines, with [`Error::Spec`] or [`Error::Expression`].
    pub fn validate(&self) -> Result<()> {
        require((1..=MOST_DAYS).contains(&self.window_days), "window_days", &format!("from 1 to {MOST_DAYS}"))?;
        require(self.own.len() <= 2 * MOST_VARIABLES, "own", "a list of variables of two dimensions")?;
        for v in &self.own {
            check_name(&v.name)?;
            parse(&v.name, &v.expression)?;
        }
        Ok(())
    }

    /// Names of all values of a row, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        SIX.into_iter().chain(self.own.iter().map(|v| v.name.as_str()))
    }

    /// Tells definitions apart: rows of another key are of other variables.
    pub fn key(&self) -> i64 {
        let hash = Sha256::digest(serde_json::to_string(self).expect("a definition is JSON"));
        i64::from_le_bytes(hash[..8].try_into().expect("a digest has 32 bytes"))
    }
}

/// Rows of variables, one a customer, all of one definition. A value that is not finite counts as unknown.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    width: usize,
    values: Vec<f64>,
}

impl Rows {
    /// No rows yet, of `width` values each.
    pub fn new(width: usize) -> Rows {
        Rows { width, values: Vec::new() }
    }

    /// Adds a row; its place. Panics where it is not of the right width.
    pub fn push(&mut self, row: &[f64]) -> u32 {
        assert_eq!(row.len(), self.width, "a row of another definition");
        self.values.extend_from_slice(row);
        self.len() as u32 - 1
    }

    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn get(&self, row: usize) -> &[f64] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width.max(1))
    }
}
