//! Decisions and coupons: when a session becomes eligible, which draw it gets, and what is written of it.

use crate::click::campaigns::{Campaign, Campaigns, Draws};
use crate::click::code;
use crate::click::session::Live;
use crate::models::cache::Decoded;
use crate::models::customers::profile;
use crate::pg::error::spi;
use crate::pg::settings::{self, micros};
use crate::pg::statement::statement;
use crate::pg::subtransaction;
use crate::shop::event_log;
use coupon_model::issue::{Moment, Policy, SALT_ISSUE, Thresholds, draw, eligible};
use coupon_model::rank::SessionCategories;
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How many categories of the ranking a decision keeps.
const KEPT: usize = 5;

/// Whether a click is recent enough on the clock to decide by: neither old nor of the future.
pub fn fresh(at: i64, clock: i64) -> bool {
    at <= clock && clock.saturating_sub(at) <= settings::max_click_age()
}

/// A session that some campaign's policy wants.
pub struct Due {
    pub session: String,
    candidates: Vec<Candidate>,
    version: Rc<Decoded>,
    customer: Option<String>,
    clicked_at: i64,
    view: u32,
    segment: u32,
    churn: Option<f64>,
    interest: Option<f64>,
    zone: Option<String>,
    categories: SessionCategories,
}

/// A campaign whose policy wants it, in the order in which they are asked.
struct Candidate {
    campaign: Rc<Campaign>,
    draws: Draws,
    thresholds: Rc<Thresholds>,
}

/// What a campaign's rules say to a session: `coupon.admit`.
pub struct Admitted {
    /// The first rule that stops it, and how things stand.
    pub stopped: Option<(String, String)>,
    category: Option<String>,
    pace: f64,
}

pub fn moment(live: &Live, campaign: &Campaign, policy: Policy) -> Moment {
    Moment {
        view: live.visit.views,
        max_purchase: live.visit.interest.unwrap_or(0.0),
        churn: live.visit.churn.unwrap_or(0.0),
        // Nobody else asks for it, and each click does.
        unit: if policy == Policy::Random { campaign.view_draw(&live.session) } else { 0.0 },
    }
}

/// What the policies of the running campaigns make of the session now; their rules are asked in [`decide`].
pub fn due(campaigns: &Campaigns, live: &Live, clicked_at: i64, zone: Option<&str>) -> Option<Due> {
    let version = live.version.clone()?;
    if live.visit.views < version.version.plan.segments.min_views || live.visit.frozen {
        return None;
    }
    let mut candidates = Vec::new();
    for campaign in campaigns {
        if live.decided.len() >= campaign.per_session || live.decided.contains(&campaign.name) {
            continue;
        }
        // An arm that has none finds nobody eligible.
        let Ok(thresholds) = campaign.thresholds(campaign.arm(&live.session), &version) else { continue };
        if eligible(&thresholds, &moment(live, campaign, thresholds.policy)) {
            let draws = campaign.draws(&live.session);
            candidates.push(Candidate { campaign: campaign.clone(), draws, thresholds });
        }
    }
    if candidates.is_empty() {
        return None;
    }
    Some(Due {
        session: live.session.clone(),
        candidates,
        customer: live.customer.clone(),
        clicked_at,
        view: live.visit.views,
        segment: live.segment,
        churn: live.visit.churn,
        interest: live.visit.interest,
        zone: zone.map(Into::into),
        categories: live.visit.categories(),
        version,
    })
}

/// Asks the rules of each campaign in turn; the first that has none against it decides about the session. The draw,
/// issue or hold out, comes last.
pub fn decide(client: &mut SpiClient, due: &Due, clock: i64) {
    by_keys(|| ask(client, due, &mut Prepaid::default(), clock));
}

/// Decides about sessions of one statement, in their order. Of many the budget is taken at once.
pub fn decide_all(client: &mut SpiClient, all: &[Due], clock: i64) {
    by_keys(|| {
        let mut prepaid = Prepaid::default();
        if all.len() >= PREPAID {
            all.iter().for_each(|due| prepaid.expect(due));
            prepaid.take(client);
        }
        all.iter().for_each(|due| ask(client, due, &mut prepaid, clock));
        prepaid.give_back(client);
    });
}

/// From so many decisions of a statement on it is worth while.
const PREPAID: usize = 10;

/// Coupons of each campaign whose budget is taken already.
#[derive(Default)]
struct Prepaid(BTreeMap<String, i32>);

impl Prepaid {
    /// The first campaign that wants a session is the one that mostly gets it.
    fn expect(&mut self, due: &Due) {
        if let Some(candidate) = due.candidates.first().filter(|candidate| candidate.campaign.live) {
            *self.0.entry(candidate.campaign.name.clone()).or_default() += 1;
        }
    }

    fn take(&mut self, client: &mut SpiClient) {
        self.0.retain(|campaign, n| {
            let prepared =
                statement(client, "SELECT coupon.prepay($1, $2)", &[pg_sys::TEXTOID, pg_sys::INT4OID].map(PgOid::from));
            let row = spi(client.update(prepared, Some(1), &[campaign.as_str().into(), (*n).into()])).first();
            spi(row.get_one()) == Some(true)
        });
    }

    fn has(&self, campaign: &str) -> bool {
        self.0.get(campaign).is_some_and(|n| *n > 0)
    }

    fn spend(&mut self, campaign: &str) {
        self.0.entry(campaign.to_string()).and_modify(|n| *n -= 1);
    }

    fn give_back(self, client: &mut SpiClient) {
        for (campaign, n) in self.0.into_iter().filter(|(_, n)| *n > 0) {
            let types = [pg_sys::TEXTOID, pg_sys::INT4OID].map(PgOid::from);
            let prepared = statement(client, "SELECT coupon.return_budget($1, $2)", &types);
            spi(client.update(prepared, None, &[campaign.as_str().into(), n.into()]));
        }
    }
}

/// Runs statements that look rows up by their keys, planned once and for that. PostgreSQL would plan each anew five times;
/// and while our tables are small it would read them whole, and go on so while they grow under a plan that is kept.
pub fn by_keys<T>(body: impl FnOnce() -> T) -> T {
    let planned_once = || subtransaction::with_setting(c"plan_cache_mode", c"force_generic_plan", body);
    // Without JIT: a table that has to be read whole counts as expensive then.
    subtransaction::with_setting(c"jit", c"off", || {
        subtransaction::with_setting(c"enable_seqscan", c"off", planned_once)
    })
}

fn ask(client: &mut SpiClient, due: &Due, prepaid: &mut Prepaid, clock: i64) {
    let profile = due.customer.as_deref().map(|c| profile(client, &due.version, c)).unwrap_or_default();
    for candidate in &due.candidates {
        let campaign = &candidate.campaign;
        let ranked = ranked(&due.version, due.segment, &profile, &due.categories, campaign, candidate.draws.arm);
        let of = (due.session.as_str(), due.customer.as_deref(), due.segment, due.zone.as_deref());
        let admitted = admit(client, campaign, of, &ranked);
        if decide_one(client, due, candidate, &ranked, admitted, prepaid, clock) {
            return;
        }
    }
}

/// The categories a campaign may give, best first, with score and alpha.
pub fn ranked(
    version: &Decoded,
    segment: u32,
    profile: &[(u32, f64)],
    seen: &SessionCategories,
    campaign: &Campaign,
    arm: usize,
) -> Vec<(String, f64, f64)> {
    let rank = &version.version.rank;
    let most = if campaign.categories.is_some() { rank.categories.len() } else { KEPT };
    let ranked = if campaign.arms[arm].popular {
        rank.rank(0, &[], &SessionCategories::default(), most)
    } else {
        rank.rank(segment, profile, seen, most)
    };
    let named = ranked.iter().map(|r| (rank.categories[r.category as usize].clone(), r.score, r.alpha));
    let given = |(name, _, _): &(String, f64, f64)| campaign.categories.as_ref().is_none_or(|c| c.contains(name));
    named.filter(given).take(KEPT).collect()
}

/// Asks a campaign's rules about a session: its name, customer, segment and zone. Changes nothing.
pub fn admit(
    client: &SpiClient,
    campaign: &Campaign,
    (session, customer, segment, zone): (&str, Option<&str>, u32, Option<&str>),
    ranked: &[(String, f64, f64)],
) -> Admitted {
    let sql = "SELECT rule, detail, category, pace FROM coupon.admit($1, $2, $3, $4, $5, $6)";
    use pg_sys::BuiltinOid::*;
    let types = [TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTARRAYOID];
    let names: Vec<&str> = ranked.iter().map(|r| r.0.as_str()).collect();
    let args = [
        campaign.name.as_str().into(),
        session.into(),
        customer.into(),
        (segment as i32).into(),
        zone.into(),
        names.into(),
    ];
    let rows = spi(client.select(statement(client, sql, &types.map(Into::into)), Some(1), &args)).first();
    let rule: Option<String> = spi(rows.get(1));
    Admitted {
        stopped: rule.map(|rule| (rule, spi(rows.get(2)).unwrap_or_default())),
        category: spi(rows.get(3)),
        pace: spi(rows.get(4)).unwrap_or(1.0),
    }
}

/// What a decision comes to.
struct Outcome<'a> {
    name: &'a str,
    reason: &'a str,
    probability: f64,
    draw: f64,
    pace: f64,
    category: Option<&'a str>,
    ranked: &'a [(String, f64, f64)],
}

/// Whether the campaign decided: it does not where a rule or another transaction stopped it, which is noted once.
fn decide_one(
    client: &mut SpiClient,
    due: &Due,
    candidate: &Candidate,
    ranked: &[(String, f64, f64)],
    admitted: Admitted,
    prepaid: &mut Prepaid,
    clock: i64,
) -> bool {
    let campaign = &candidate.campaign;
    let draw = draw(SALT_ISSUE, &campaign.salt, &due.session);
    let category = admitted.category.as_deref();
    let pace = admitted.pace;
    let stopped = Outcome { name: "stopped", reason: "", probability: 0.0, draw, pace, category, ranked };
    if let Some((rule, _)) = &admitted.stopped {
        note(client, due, candidate, &Outcome { reason: rule, ..stopped }, clock);
        return false;
    }
    let probability = if campaign.live { pace * (1.0 - campaign.holdout(clock)) } else { 0.0 };
    let issued = draw < probability;
    if campaign.live {
        let sql = "SELECT coupon.claim($1, $2, $3, $4, $5)";
        use pg_sys::BuiltinOid::*;
        let prepared = statement(client, sql, &[TEXTOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID].map(Into::into));
        let args = [
            campaign.name.as_str().into(),
            due.session.as_str().into(),
            due.customer.as_deref().into(),
            issued.into(),
            prepaid.has(&campaign.name).into(),
        ];
        let held: Option<String> = spi(spi(client.update(prepared, Some(1), &args)).first().get_one());
        if let Some(by) = held {
            note(client, due, candidate, &Outcome { reason: &by, ..stopped }, clock);
            return false;
        }
    }
    let name = match campaign.live {
        false => "shadow",
        true if issued => "issued",
        true => "held out",
    };
    note(client, due, candidate, &Outcome { name, reason: "eligible", probability, ..stopped }, clock);
    if name == "issued" {
        prepaid.spend(&campaign.name);
        issue(client, due, campaign, category, clock);
    }
    true
}

/// Writes the decision. One that was stopped gives way to the one that was not; the first stop is kept.
fn note(client: &mut SpiClient, due: &Due, candidate: &Candidate, outcome: &Outcome, clock: i64) {
    let key = [due.session.as_str().into(), candidate.campaign.name.as_str().into()];
    let types = [PgBuiltInOids::TEXTOID.into(), PgBuiltInOids::TEXTOID.into()];
    if outcome.name == "stopped" {
        // Its later clicks are stopped as well, and find it noted.
        let sql = "SELECT FROM coupon.decision WHERE session = $1 AND campaign = $2";
        if spi(client.select(statement(client, sql, &types), Some(1), &key)).is_empty() {
            store(client, due, candidate, outcome, clock);
        }
        return;
    }
    let mut stored = store(client, due, candidate, outcome, clock);
    if !stored {
        let sql = "DELETE FROM coupon.decision WHERE session = $1 AND campaign = $2 AND outcome = 'stopped'";
        spi(client.update(statement(client, sql, &types), None, &key));
        stored = store(client, due, candidate, outcome, clock);
    }
    if stored {
        let sql = "UPDATE coupon.session s SET decided = array_append(s.decided, $2) WHERE s.session = $1";
        spi(client.update(statement(client, sql, &types), None, &key));
    }
}

/// Whether the decision was stored: not where there is one of the campaign about the session.
fn store(client: &mut SpiClient, due: &Due, candidate: &Candidate, outcome: &Outcome, clock: i64) -> bool {
    let (campaign, draws, t) = (&candidate.campaign, &candidate.draws, &candidate.thresholds);
    let arm = &campaign.arms[draws.arm];
    let sql = "INSERT INTO coupon.decision (session, campaign, arm, policy, segments, ranking, customer, \
               decided_at, clicked_at, view, segment, version, churn, interest, eta, tau, target, arm_draw, \
               arm_probability, issue_draw, issue_probability, pace, category, categories, outcome, reason) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, \
               $22, $23, $24, $25, $26) ON CONFLICT DO NOTHING";
    let scored = |(name, score, alpha): &(String, f64, f64)| json!({"category": name, "score": score, "alpha": alpha});
    let categories: Vec<_> = outcome.ranked.iter().map(scored).collect();
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
        due.session.as_str().into(),
        campaign.name.as_str().into(),
        arm.name.as_str().into(),
        t.policy.name().into(),
        arm.segments.into(),
        (if arm.popular { "popular" } else { "personal" }).into(),
        due.customer.as_deref().into(),
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
        draws.arm_draw.into(),
        draws.arm_probability.into(),
        outcome.draw.into(),
        outcome.probability.into(),
        outcome.pace.into(),
        outcome.category.into(),
        JsonB(json!(categories)).into(),
        outcome.name.into(),
        outcome.reason.into(),
    ];
    !spi(client.update(statement(client, sql, &types.map(Into::into)), None, &args)).is_empty()
}

/// The campaign's terms are copied onto the coupon and never change after. A code that is stored hashed is drawn when it
/// is first shown.
fn issue(client: &mut SpiClient, due: &Due, campaign: &Campaign, category: Option<&str>, clock: i64) {
    let sql = "INSERT INTO coupon.coupon (session, code, campaign, customer, category, discount, unit, currency, \
               max_discount, minimum_basket, exclusive, stacking, bearer, hashed, message, display_seconds, issued_at, \
               expires_at, held, budget_day) \
               SELECT $1, CASE WHEN NOT c.hashed THEN $2 END, c.campaign, $3, $4, c.discount, c.unit, c.currency, \
               c.max_discount, c.minimum_basket, c.exclusive, c.stacking, c.bearer, c.hashed, \
               replace(replace(replace(c.message, '{discount}', trim_scale(c.discount)::text || ' ' || \
               CASE c.unit WHEN 'percent' THEN '%' ELSE c.currency END), '{category}', coalesce($4, 'everything')), \
               '{hours}', trim_scale(round(extract(epoch FROM c.valid_for) / 3600, 1))::text), c.display_seconds, $5, \
               $5 + c.valid_for, coupon.worst_case(c.discount, c.unit, c.max_discount), coupon.budget_date(c.time_zone) \
               FROM coupon.campaign c WHERE c.campaign = $6 RETURNING id::text";
    use pg_sys::BuiltinOid::*;
    let types = [TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID];
    let args = [
        due.session.as_str().into(),
        code::new_code().into(),
        due.customer.as_deref().into(),
        category.into(),
        micros(clock).into(),
        campaign.name.as_str().into(),
    ];
    let prepared = statement(client, sql, &types.map(Into::into));
    let id: Option<String> = spi(spi(client.update(prepared, None, &args)).first().get_one());
    if settings::notify() {
        spi(client.select("SELECT pg_notify('coupon_issued', $1)", None, &[id.into()]));
    }
}

/// The zone of a session's last click, where some campaign asks for it: only the log knows.
pub fn last_zone(client: &SpiClient, session: &str, campaigns: &Campaigns) -> Option<String> {
    let asked = campaigns.iter().any(|c| c.zoned);
    if asked { event_log::clicks(client, session)?.pop()?.zone } else { None }
}
