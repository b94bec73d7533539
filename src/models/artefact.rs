//! A version leaves one server and comes to another.

use crate::models::registry;
use crate::pg::error::{ok, report, spi, throw};
use coupon_model::Error;
use coupon_model::artefact::Artefact;
use coupon_model::version::digest;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

#[pg_extern(sql = false)]
fn export_model(version: Option<i64>) -> Vec<u8> {
    Spi::connect(|client| {
        spi(client.select("SELECT coupon_internal.require_storage()", None, &[]));
        let Some(found) = version.and_then(|version| registry::load(client, version)) else {
            throw(report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("there is no version {}", version.map_or("NULL".into(), |v| v.to_string())),
                "SELECT version, at FROM coupon.version shows what there is.",
            ))
        };
        if found.stages.is_empty() {
            throw(report(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("version {} has no models any more", version.unwrap_or_default()),
                "SELECT version, at FROM coupon.version WHERE dropped_at IS NULL shows what there is.",
            ))
        }
        // What cannot be imported is better known here than there.
        ok(found.check());
        ok(found.encode())
    })
}

#[pg_extern(sql = false)]
fn import_model(artefact: Option<&[u8]>) -> i64 {
    let Some(bytes) = artefact else {
        throw(report(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "the artefact is NULL",
            "Pass what coupon.export_model(version) returned.",
        ))
    };
    let artefact = ok(Artefact::decode(bytes));
    Spi::connect_mut(|client| {
        spi(client.update("SELECT coupon.create_storage()", None, &[]));
        registry::one_at_a_time(client);
        existing(client, &artefact.digest()).unwrap_or_else(|| {
            let version = registry::save(client, &artefact);
            if registry::stages(client, version) != artefact.stages {
                ok::<()>(Err(Error::Corrupt("this database does not give back what was imported".into())));
            }
            version
        })
    })
}

/// The first version of a digest that is still what it was.
fn existing(client: &SpiClient, digest_sought: &str) -> Option<i64> {
    let sql = "SELECT version FROM coupon.version WHERE digest = $1 ORDER BY version";
    let rows = spi(client.select(sql, None, &[digest_sought.into()]));
    let versions: Vec<i64> = rows.filter_map(|row| spi(row.get(1))).collect();
    versions.into_iter().find(|&version| digest(&registry::stages(client, version)) == digest_sought)
}
