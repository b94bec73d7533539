//! What is written of a decision: its row in coupon.decision, and the coupon.

use crate::click::campaigns::Campaign;
use crate::click::code;
use crate::click::eligible::{CampaignMatch, EligibleSession};
use crate::pg::error::spi;
use crate::pg::settings::{self, micros};
use crate::pg::statement::statement;
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;

/// A row of coupon.decision.
pub struct Entry<'a> {
    pub session: &'a EligibleSession,
    pub matched: &'a CampaignMatch,
    /// Categories with score and alpha, best first.
    pub ranked: &'a [(String, f64, f64)],
    pub category: Option<&'a str>,
    pub pacing: f64,
    pub outcome: &'a str,
    pub reason: &'a str,
    /// The draw of issue or hold-out.
    pub draw: f64,
    pub probability: f64,
    pub clock: i64,
}

const KEY: [PgBuiltInOids; 2] = [PgBuiltInOids::TEXTOID; 2];

/// Logs that a campaign was stopped; the first stop is kept, because later clicks of the session are stopped as well.
pub fn log_stop(client: &mut SpiClient, entry: &Entry) {
    let key = [entry.session.session.as_str().into(), entry.matched.campaign.name.as_str().into()];
    let sql = "SELECT FROM coupon.decision WHERE session = $1 AND campaign = $2";
    if spi(client.select(statement(client, sql, &KEY.map(Into::into)), Some(1), &key)).is_empty() {
        insert(client, entry);
    }
}

/// Logs a decision; a stop of the same campaign gives way to it.
pub fn log_decision(client: &mut SpiClient, entry: &Entry) {
    let key = [entry.session.session.as_str().into(), entry.matched.campaign.name.as_str().into()];
    let mut inserted = insert(client, entry);
    if !inserted {
        let sql = "DELETE FROM coupon.decision WHERE session = $1 AND campaign = $2 AND outcome = 'stopped'";
        spi(client.update(statement(client, sql, &KEY.map(Into::into)), None, &key));
        inserted = insert(client, entry);
    }
    if inserted {
        let sql = "UPDATE coupon.session s SET decided_campaigns = array_append(s.decided_campaigns, $2) WHERE s.session = $1";
        spi(client.update(statement(client, sql, &KEY.map(Into::into)), None, &key));
    }
}

/// Whether the decision was inserted: not where there is one of the campaign about the session.
fn insert(client: &mut SpiClient, entry: &Entry) -> bool {
    let Entry { session, matched, .. } = entry;
    let (campaign, assignment, t) = (&matched.campaign, &matched.assignment, &matched.thresholds);
    let arm = &campaign.arms[assignment.arm];
    let sql = "INSERT INTO coupon.decision (session, campaign, arm, policy, segments, ranking, customer, \
               decided_at, clicked_at, view, segment, version, churn, max_purchase_probability, eta, tau, target, arm_draw, \
               arm_probability, issue_draw, issue_probability, pacing_factor, category, categories, outcome, reason) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, \
               $22, $23, $24, $25, $26) ON CONFLICT DO NOTHING";
    let scored = |(name, score, alpha): &(String, f64, f64)| json!({"category": name, "score": score, "alpha": alpha});
    let categories: Vec<_> = entry.ranked.iter().map(scored).collect();
    use pg_sys::BuiltinOid::*;
    let types = [
        TEXTOID,
        TEXTOID,
        TEXTOID,
        TEXTOID,
        BOOLOID,
        TEXTOID,
        TEXTOID,
        TIMESTAMPTZOID,
        TIMESTAMPTZOID,
        INT4OID,
        INT4OID,
        INT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        FLOAT8OID,
        TEXTOID,
        JSONBOID,
        TEXTOID,
        TEXTOID,
    ];
    let args = [
        session.session.as_str().into(),
        campaign.name.as_str().into(),
        arm.name.as_str().into(),
        t.policy.name().into(),
        arm.segments.into(),
        (if arm.popular { "popular" } else { "personal" }).into(),
        session.customer.as_deref().into(),
        micros(entry.clock).into(),
        micros(session.clicked_at).into(),
        (session.view as i32).into(),
        (session.segment as i32).into(),
        session.version.number.into(),
        session.churn.into(),
        session.interest.into(),
        t.eta.into(),
        t.tau.into(),
        t.target.into(),
        assignment.draw.into(),
        assignment.probability.into(),
        entry.draw.into(),
        entry.probability.into(),
        entry.pacing.into(),
        entry.category.into(),
        JsonB(json!(categories)).into(),
        entry.outcome.into(),
        entry.reason.into(),
    ];
    !spi(client.update(statement(client, sql, &types.map(Into::into)), None, &args)).is_empty()
}

/// The campaign's terms are copied onto the coupon and never change after. A code that is stored hashed is drawn when it
/// is first shown.
pub fn insert_coupon(
    client: &mut SpiClient,
    session: &EligibleSession,
    campaign: &Campaign,
    category: Option<&str>,
    clock: i64,
) {
    let sql = "INSERT INTO coupon.coupon (session, code, campaign, customer, category, discount, unit, currency, \
               max_discount, minimum_basket, exclusive, stacking_group, transferable, code_hashed, message, display_seconds, issued_at, \
               expires_at, reserved_amount, budget_day) \
               SELECT $1, CASE WHEN NOT c.code_hashed THEN $2 END, c.campaign, $3, $4, c.discount, c.unit, c.currency, \
               c.max_discount, c.minimum_basket, c.exclusive, c.stacking_group, c.transferable, c.code_hashed, \
               replace(replace(replace(c.message, '{discount}', trim_scale(c.discount)::text || ' ' || \
               CASE c.unit WHEN 'percent' THEN '%' ELSE c.currency END), '{category}', coalesce($4, 'everything')), \
               '{hours}', trim_scale(round(extract(epoch FROM c.valid_for) / 3600, 1))::text), c.display_seconds, $5, \
               $5 + c.valid_for, coupon_internal.compute_worst_case(c.discount, c.unit, c.max_discount), coupon_internal.get_budget_date(c.time_zone) \
               FROM coupon.campaign c WHERE c.campaign = $6 RETURNING id::text";
    use pg_sys::BuiltinOid::*;
    let types = [TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID];
    let args = [
        session.session.as_str().into(),
        code::generate_code().into(),
        session.customer.as_deref().into(),
        category.into(),
        micros(clock).into(),
        campaign.name.as_str().into(),
    ];
    let prepared = statement(client, sql, &types.map(Into::into));
    let id: Option<String> = spi(spi(client.update(prepared, None, &args)).first().get_one());
    if settings::notify_issued() {
        spi(client.select("SELECT pg_notify('coupon_issued', $1)", None, &[id.into()]));
    }
}
