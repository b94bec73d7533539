//! Decisions and coupons: when a session becomes eligible, which draw it gets, and what is written of it.

use crate::cache::{Decoded, statement};
use crate::campaigns::{Campaign, Campaigns, Draws};
use crate::error::{report, spi, throw};
use crate::guard;
use crate::rows::Live;
use crate::sessions;
use crate::settings::{self, micros};
use coupon_model::issue::{Moment, SALT_ARM, SALT_ISSUE, Thresholds, arm, code, draw, eligible};
use coupon_model::rank::SessionCategories;
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;
use std::rc::Rc;

/// How many categories of the ranking a decision keeps.
const KEPT: usize = 5;
/// Where a version has no churn model, a coin decides and half are held out: the quickest way to learn an effect.
const BLIND_HOLDOUT: f64 = 0.5;

/// Whether a click is recent enough on the clock to decide by: neither old nor of the future.
pub fn fresh(at: i64, clock: i64) -> bool {
    at <= clock && clock.saturating_sub(at) <= settings::max_click_age()
}

/// A session that has just become eligible.
pub struct Due {
    pub session: String,
    campaign: Rc<Campaign>,
    arm: usize,
    arm_draw: f64,
    arm_probability: f64,
    thresholds: Rc<Thresholds>,
    version: Rc<Decoded>,
    customer: Option<String>,
    clicked_at: i64,
    view: u32,
    segment: u32,
    churn: Option<f64>,
    interest: Option<f64>,
    categories: SessionCategories,
}

pub fn moment(live: &Live, campaign: &Campaign) -> Moment {
    Moment {
        view: live.visit.views,
        max_purchase: live.visit.interest.unwrap_or(0.0),
        churn: live.visit.churn.unwrap_or(0.0),
        unit: campaign.draws(&live.session).view,
    }
}

/// The first campaign that finds the session eligible now. The first decision takes a session: no other follows.
pub fn due(campaigns: &Campaigns, live: &mut Live, clicked_at: i64) -> Option<Due> {
    let version = live.version.clone()?;
    let early = live.visit.views < version.version.plan.segments.min_views;
    if early || live.visit.frozen || !live.decided.is_empty() {
        return None;
    }
    for campaign in campaigns {
        let Draws { arm, arm_draw, arm_probability, .. } = campaign.draws(&live.session);
        let thresholds = campaign.thresholds(arm, &version);
        if eligible(&thresholds, &moment(live, campaign)) {
            live.decided.push(campaign.name.clone());
            return Some(Due {
                session: live.session.clone(),
                campaign: campaign.clone(),
                arm,
                arm_draw,
                arm_probability,
                thresholds,
                customer: live.customer.clone(),
                clicked_at,
                view: live.visit.views,
                segment: live.segment,
                churn: live.visit.churn,
                interest: live.visit.interest,
                categories: live.visit.categories(),
                version,
            });
        }
    }
    None
}

/// Writes the decision and, as the last step after all rules, draws: issue or hold out.
pub fn decide(client: &mut SpiClient, due: &Due, clock: i64) {
    let (campaign, arm) = (&due.campaign, &due.campaign.arms[due.arm]);
    let profile = due.customer.as_deref().map(|c| profile(client, &due.version, c)).unwrap_or_default();
    let rank = &due.version.version.rank;
    let ranked = if arm.popular {
        rank.rank(0, &[], &SessionCategories::default(), KEPT)
    } else {
        rank.rank(due.segment, &profile, &due.categories, KEPT)
    };
    let categories: Vec<_> = ranked
        .iter()
        .map(|r| json!({"category": rank.categories[r.category as usize], "score": r.score, "alpha": r.alpha}))
        .collect();
    let category = ranked.first().map(|r| rank.categories[r.category as usize].clone());
    let blind = due.version.version.churn.is_none();
    let issue_draw = draw(SALT_ISSUE, &campaign.salt, &due.session);
    let probability = match (campaign.live, blind) {
        (false, _) => 0.0,
        (true, false) => 1.0 - campaign.holdout(clock),
        (true, true) => 1.0 - BLIND_HOLDOUT,
    };
    let outcome = match campaign.live {
        false => "shadow",
        true if issue_draw < probability => "issued",
        true => "held out",
    };
    let reason = if blind { "no churn model: policy random" } else { "eligible" };
    let sql = "WITH d AS (INSERT INTO coupon.decision (session, campaign, arm, policy, segments, ranking, customer, \
               decided_at, clicked_at, view, segment, version, churn, interest, eta, tau, target, arm_draw, \
               arm_probability, issue_draw, issue_probability, category, categories, outcome, reason) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, \
               $22, $23, $24, $25) ON CONFLICT DO NOTHING RETURNING session) \
               UPDATE coupon.session s SET decided = array_append(s.decided, $2) FROM d WHERE s.session = d.session";
    let t = &due.thresholds;
    let args = [
        due.session.as_str().into(),
        campaign.name.as_str().into(),
        arm.name.as_str().into(),
        t.policy.name().into(),
        arm.segments.into(),
        (if arm.popular { "popular" } else { "personal" }).into(),
        due.customer.clone().into(),
        micros(clock).into(),
        micros(due.clicked_at).into(),
        (due.view as i32).into(),
        (due.segment as i32).into(),
        due.version.number.into(),
        due.churn.into(),
        due.interest.into(),
        t.eta.into(),
        t.tau.into(),
        t.target.into(),
        due.arm_draw.into(),
        due.arm_probability.into(),
        issue_draw.into(),
        probability.into(),
        category.clone().into(),
        JsonB(json!(categories)).into(),
        outcome.into(),
        reason.into(),
    ];
    let written = spi(client.update(sql, None, &args)).len();
    if written == 1 && outcome == "issued" {
        issue(client, due, category, clock);
    }
}

fn issue(client: &mut SpiClient, due: &Due, category: Option<String>, clock: i64) {
    let expired = "UPDATE coupon.coupon SET closed_at = expires_at \
                   WHERE session = $1 AND closed_at IS NULL AND expires_at <= $2";
    spi(client.update(expired, None, &[due.session.as_str().into(), micros(clock).into()]));
    let sql = "INSERT INTO coupon.coupon (session, code, campaign, customer, category, discount, message, \
               display_seconds, issued_at, expires_at) \
               SELECT $1, $2, c.campaign, $3, $4, c.discount, replace(replace(replace(c.message, \
               '{discount}', trim_scale(c.discount)::text), '{category}', coalesce($4, 'everything')), \
               '{hours}', trim_scale(round(extract(epoch FROM c.valid_for) / 3600, 1))::text), \
               c.display_seconds, $5, $5 + c.valid_for FROM coupon.campaign c WHERE c.campaign = $6 RETURNING id::text";
    let args = [
        due.session.as_str().into(),
        code::encode(random_bits()).into(),
        due.customer.clone().into(),
        category.into(),
        micros(clock).into(),
        due.campaign.name.as_str().into(),
    ];
    let id: Option<String> = spi(spi(client.update(sql, None, &args)).first().get_one());
    if settings::notify() {
        spi(client.select("SELECT pg_notify('coupon_issued', $1)", None, &[id.into()]));
    }
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

/// A customer's order lines by the ranking's category numbers.
pub fn profile(client: &SpiClient, version: &Decoded, customer: &str) -> Vec<(u32, f64)> {
    let sql = "SELECT categories, lines FROM coupon.customer WHERE customer = $1";
    let prepared = statement(client, sql, &[PgBuiltInOids::TEXTOID.into()]);
    let rows = spi(client.select(prepared, Some(1), &[customer.into()]));
    if rows.is_empty() {
        return Vec::new();
    }
    let (categories, lines) = spi(rows.first().get_two::<Vec<String>, Vec<f64>>());
    let pairs = categories.unwrap_or_default().into_iter().zip(lines.unwrap_or_default());
    pairs.filter_map(|(c, n)| Some((version.version.rank.index(&c)?, n))).collect()
}

#[pg_extern(sql = false)]
fn consider(session: &str) {
    if !settings::enabled() {
        return;
    }
    if session.len() > crate::events::LONGEST_ID {
        return;
    }
    if let Err(caught) = guard::subtransaction(|| sessions::consider(session)) {
        guard::warn(&caught);
        crate::fault::record("issue_coupon", Some(session), &caught);
    }
}

#[pg_extern(sql = false)]
fn normalise_code(code: &str) -> Option<String> {
    code::normalise(code)
}

#[pg_extern(sql = false)]
fn draw_arm(salt: &str, shares: Vec<f64>, session: &str) -> i32 {
    arm(draw(SALT_ARM, salt, session), &shares) as i32 + 1
}
