//! What both tests do with the shop of `tests/server/shop.sql`. PGHOST, PGPORT, PGUSER and PGDATABASE name the database.

use postgres::{Client, Config, NoTls};
use std::env::var;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T = ()> = Result<T, Failure>;

pub fn connect() -> Outcome<Client> {
    let mut config = Config::new();
    config.host(&var("PGHOST")?).port(var("PGPORT")?.parse()?).user(&var("PGUSER")?).dbname(&var("PGDATABASE")?);
    Ok(config.connect(NoTls)?)
}

/// An error with its causes: of one from the server, `postgres` itself says only that there was one.
pub fn told(error: &Failure) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// An amount of cents as SQL writes it.
pub fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// A number from the first column of the first row.
pub fn number(client: &mut Client, sql: &str) -> Outcome<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// Fails with what was wanted where `found` is something else.
pub fn expect<T: PartialEq + std::fmt::Debug>(what: &str, wanted: T, found: T) -> Outcome {
    if wanted == found {
        println!("ok: {what}");
        return Ok(());
    }
    Err(format!("{what}: wanted {wanted:?}, found {found:?}").into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn cents_keep_their_zeros() {
        assert_eq!([5, 100, 1234].map(super::money), ["0.05", "1.00", "12.34"]);
    }
}
