//! explain_churn: why a session is thought to leave.

use crate::click::session_store;
use crate::models::active;
use crate::pg::error::{ok, report};
use crate::pg::settings::micros;
use crate::shop::event_log;
use coupon_model::churn::{View, contributions};
use pgrx::name;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

/// Views of a session that are left out in turn: the last ones.
const EXPLAINED: usize = 200;

#[pg_extern(sql = false)]
fn explain_churn(
    session: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(view, i32),
        name!(at, TimestampWithTimeZone),
        name!(kind, String),
        name!(page, Option<String>),
        name!(category, Option<String>),
        name!(churn_after, f64),
        name!(contribution, Option<f64>),
        name!(rank, i32),
    ),
> {
    let lines = session.map(|s| Spi::connect(|client| explain_lines(client, s))).unwrap_or_default();
    TableIterator::new(lines)
}

type Line = (i32, TimestampWithTimeZone, String, Option<String>, Option<String>, f64, Option<f64>, i32);

fn explain_lines(client: &SpiClient, session: &str) -> Vec<Line> {
    if active::revision(client).is_none() {
        return Vec::new();
    }
    let (context, live, seen) = session_store::peek(session);
    let Some(live) = live else { return Vec::new() };
    let Some(model) = live.version.as_ref().and_then(|v| v.version.churn.as_ref()) else {
        let hint = "churn_probability(session) is NULL too: it was never scored.";
        let none = "the session began before there was a churn model, so there is nothing to explain";
        report(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, none, hint).report(PgLogLevel::NOTICE);
        return Vec::new();
    };
    let Some(mut clicks) = event_log::clicks(client, session) else { return Vec::new() };
    let end = clicks.iter().position(|c| c.kind.ends()).unwrap_or(clicks.len());
    // A purchase that knew only its customer froze the session, and is not among its own events.
    let counted = if live.visit.frozen && !seen.marked { live.visit.views as usize } else { end };
    clicks.truncate(end.min(counted));
    let views: Vec<View> = clicks.iter().map(|c| c.view(model.vocabulary())).collect();
    let segment = live.model_segment(&context.serving.campaigns);
    let found = contributions(model, segment, &views, EXPLAINED, &mut || {
        pgrx::check_for_interrupts!();
        Ok(())
    });
    let line = |(i, c): (usize, coupon_model::churn::Contribution)| {
        let click = &mut clicks[c.view];
        let kind = click.kind.name().to_string();
        let (page, category) = (click.page.take(), click.category.take());
        (c.view as i32 + 1, micros(click.at), kind, page, category, c.churn_after, c.contribution, i as i32 + 1)
    };
    ok(found).into_iter().enumerate().map(line).collect()
}
