//! Watched tables that are left out because their mapping does not fit: what they hold of a session is not known.

use crate::pg::error::spi;
use crate::pg::owner::as_owner;
use crate::pg::subtransaction::{self, CaughtError, with_setting};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

/// Whether such a table holds rows of a session, which is then not rebuilt without them. A table whose session ids cannot be
/// read says nothing: its owner would stop all rebuilding.
pub fn hold(client: &SpiClient, session: &str) -> bool {
    let sql = "SELECT m.relation::text, m.sessions, c.relowner FROM coupon_internal.list_misfits() m \
               JOIN pg_catalog.pg_class c ON c.oid = m.relation WHERE m.sessions IS NOT NULL";
    let tables: Vec<(String, String, pg_sys::Oid)> = spi(client.select(sql, None, &[]))
        .filter_map(|row| Some((spi(row.get(1))?, spi(row.get(2))?, spi(row.get(3))?)))
        .collect();
    tables.iter().any(|(relation, query, owner)| {
        let sql = format!("SELECT 1 FROM ({query}) s WHERE session = $1");
        let select = || !spi(client.select(&sql, Some(1), &[session.into()])).is_empty();
        let read = || with_setting(c"datestyle", c"ISO, YMD", || with_setting(c"extra_float_digits", c"1", select));
        let holds = subtransaction::quiet_subtransaction(|| as_owner(*owner, read)).unwrap_or(false);
        if holds {
            subtransaction::warn(&CaughtError {
                code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                message: format!("a session that \"{relation}\" holds clicks of cannot be rebuilt"),
                detail: None,
                hint: Some("SELECT problem FROM coupon.watched says why the table is left out; watch it anew.".into()),
            });
        }
        holds
    })
}
