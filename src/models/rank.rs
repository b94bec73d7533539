//! rank_categories: a customer's history, a running session, the hybrid score.

use crate::models::{active, cache, customers};
use crate::pg::error::{no_model, report, spi, throw};
use coupon_model::live::LiveSession;
use coupon_rank::SessionCategories;
use pgrx::name;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

#[pg_extern(sql = false)]
fn rank_categories(
    customer: Option<&str>,
    session: Option<&str>,
    k: Option<i32>,
) -> TableIterator<
    'static,
    (
        name!(rank, i32),
        name!(category, String),
        name!(score, f64),
        name!(collaborative, f64),
        name!(content, f64),
        name!(alpha, f64),
    ),
> {
    let k = match k {
        None => 10,
        Some(k) if k >= 0 => k as usize,
        Some(k) => throw(report(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("k is {k}"),
            "k is how many categories to return, at least 0.",
        )),
    };
    let number = customers::assign_segment(customer) as u32;
    let lines = Spi::connect(|client| {
        let Some(active) = active::active(client) else { throw(no_model()) };
        let profile = customer.map(|c| customers::profile(client, &active, c)).unwrap_or_default();
        let seen = session.map(|s| seen(client, &active, s)).unwrap_or_default();
        let model = &active.version.rank;
        let ranked = model.rank(number, &profile, &seen, k);
        let line = |(i, r): (usize, &coupon_rank::Ranked)| {
            let category = model.categories[r.category as usize].clone();
            (i as i32 + 1, category, r.score, r.collaborative, r.content, r.alpha)
        };
        ranked.iter().enumerate().map(line).collect::<Vec<_>>()
    });
    TableIterator::new(lines)
}

/// What a running session looked at; nothing where it runs under another version, whose numbers differ.
fn seen(client: &SpiClient, active: &cache::Decoded, session: &str) -> SessionCategories {
    let sql = "SELECT state FROM coupon.session WHERE session = $1 AND version = $2";
    let rows = spi(client.select(sql, Some(1), &[session.into(), active.number.into()]));
    let state: Option<Vec<u8>> = if rows.is_empty() { None } else { spi(rows.first().get_one()) };
    let mut visit = LiveSession::default();
    if let Some(state) = state {
        crate::pg::error::ok(visit.restore(&active.version, &state));
    }
    visit.categories()
}
