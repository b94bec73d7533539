//! Deciding about an eligible session: what the rules of its campaigns say, and whether a coupon is issued or held out.

use crate::click::campaigns::{Campaign, Campaigns};
use crate::click::decision_log::{self, Entry};
use crate::click::eligible::{CampaignMatch, EligibleSession};
use crate::click::prepaid_budget::PrepaidBudget;
use crate::models::cache::Decoded;
use crate::models::customers::profile;
use crate::pg::error::spi;
use crate::pg::statement::{planned_by_keys, statement};
use crate::shop::event_log;
use coupon_policy::Outcome;
use coupon_rank::SessionCategories;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

/// How many categories of the ranking a decision keeps.
const KEPT: usize = 5;

/// What the rules of a campaign say to a session.
pub struct RuleOutcome {
    /// The first rule that stops it, and how things stand.
    pub stopped: Option<(String, String)>,
    category: Option<String>,
    pacing: f64,
}

/// Asks the rules of each campaign in turn; the first campaign that no rule stops decides about the session. The draw,
/// issue or hold out, comes last.
pub fn decide(client: &mut SpiClient, session: &EligibleSession, clock: i64) {
    planned_by_keys(|| decide_session(client, session, &mut PrepaidBudget::default(), clock));
}

/// Decides about sessions of one statement, in their order. The budget of many is claimed at once.
pub fn decide_all(client: &mut SpiClient, sessions: &[EligibleSession], clock: i64) {
    planned_by_keys(|| {
        let mut prepaid = PrepaidBudget::claim(client, sessions);
        sessions.iter().for_each(|session| decide_session(client, session, &mut prepaid, clock));
        prepaid.give_back(client);
    });
}

fn decide_session(client: &mut SpiClient, session: &EligibleSession, prepaid: &mut PrepaidBudget, clock: i64) {
    let profile = session.customer.as_deref().map(|c| profile(client, &session.version, c)).unwrap_or_default();
    for matched in &session.matches {
        let campaign = &matched.campaign;
        let arm = matched.assignment.arm;
        let ranked = ranked(&session.version, session.segment, &profile, &session.categories, campaign, arm);
        let of = (session.session.as_str(), session.customer.as_deref(), session.segment, session.zone.as_deref());
        let rules = check_rules(client, campaign, of, &ranked);
        if decide_campaign(client, session, matched, &ranked, &rules, prepaid, clock) {
            return;
        }
    }
}

/// Whether the campaign decided: it does not where a rule or another transaction stopped it, which is logged once.
fn decide_campaign(
    client: &mut SpiClient,
    session: &EligibleSession,
    matched: &CampaignMatch,
    ranked: &[(String, f64, f64)],
    rules: &RuleOutcome,
    prepaid: &mut PrepaidBudget,
    clock: i64,
) -> bool {
    let campaign = &matched.campaign;
    let verdict = campaign.verdict(&session.session, rules.pacing, clock);
    let category = rules.category.as_deref();
    let entry = |outcome, reason, probability| Entry {
        session,
        matched,
        ranked,
        category,
        pacing: rules.pacing,
        outcome,
        reason,
        draw: verdict.draw,
        probability,
        clock,
    };
    if let Some((rule, _)) = &rules.stopped {
        decision_log::log_stop(client, &entry("stopped", rule, 0.0));
        return false;
    }
    let issued = verdict.outcome == Outcome::Issued;
    if campaign.live
        && let Some(holder) = claim(client, session, campaign, issued, prepaid)
    {
        decision_log::log_stop(client, &entry("stopped", &holder, 0.0));
        return false;
    }
    decision_log::log_decision(client, &entry(verdict.outcome.name(), "eligible", verdict.probability));
    if issued {
        prepaid.spend(&campaign.name);
        decision_log::insert_coupon(client, session, campaign, category, clock);
    }
    true
}

/// Claims what a live decision needs: its place within the limits, and for a coupon the budget. What another transaction
/// holds is named.
fn claim(
    client: &mut SpiClient,
    session: &EligibleSession,
    campaign: &Campaign,
    issued: bool,
    prepaid: &PrepaidBudget,
) -> Option<String> {
    let sql = "SELECT coupon_internal.claim_decision($1, $2, $3, $4, $5)";
    use pg_sys::BuiltinOid::*;
    let prepared = statement(client, sql, &[TEXTOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID].map(Into::into));
    let args = [
        campaign.name.as_str().into(),
        session.session.as_str().into(),
        session.customer.as_deref().into(),
        issued.into(),
        prepaid.has(&campaign.name).into(),
    ];
    spi(spi(client.update(prepared, Some(1), &args)).first().get_one())
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
pub fn check_rules(
    client: &SpiClient,
    campaign: &Campaign,
    (session, customer, segment, zone): (&str, Option<&str>, u32, Option<&str>),
    ranked: &[(String, f64, f64)],
) -> RuleOutcome {
    let sql = "SELECT rule, detail, category, pacing_factor FROM coupon_internal.check_rules($1, $2, $3, $4, $5, $6)";
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
    RuleOutcome {
        stopped: rule.map(|rule| (rule, spi(rows.get(2)).unwrap_or_default())),
        category: spi(rows.get(3)),
        pacing: spi(rows.get(4)).unwrap_or(1.0),
    }
}

/// The zone of a session's last click, where some campaign asks for it: only the log knows.
pub fn last_zone(client: &SpiClient, session: &str, campaigns: &Campaigns) -> Option<String> {
    let asked = campaigns.iter().any(|c| c.zoned);
    if asked { event_log::clicks(client, session)?.pop()?.zone } else { None }
}
