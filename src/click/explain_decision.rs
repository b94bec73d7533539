//! coupon.explain_decision: the conditions of a decision, one by one, with no side effect.

use crate::click::{decide, eligible, marks, session_store};
use crate::models::{active, customers};
use crate::pg::settings;
use crate::pg::statement::planned_by_keys;
use coupon_policy::{Assignment, Condition, conditions};
use pgrx::name;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

/// A condition of `coupon.explain_decision`.
type Line = (Option<String>, i32, String, Option<bool>, String);

#[pg_extern(sql = false)]
fn explain_decision(
    session: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(campaign, Option<String>),
        name!(step, i32),
        name!(condition, String),
        name!(holds, Option<bool>),
        name!(detail, String),
    ),
> {
    let lines = Spi::connect(|client| explain_lines(client, session.unwrap_or_default()));
    TableIterator::new(lines)
}

fn explain_lines(client: &SpiClient, session: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut say = |campaign: Option<&str>, condition: &str, holds: bool, detail: String| {
        lines.push((campaign.map(Into::into), lines.len() as i32 + 1, condition.into(), Some(holds), detail));
        holds
    };
    if !say(None, "enabled", settings::enabled(), "setting coupon_ext.enabled".into()) {
        return lines;
    }
    let active = active::active(client);
    let what = active.as_ref().map_or("SELECT * FROM coupon.train() trains one".into(), |a| {
        let churn = if a.version.churn.is_some() { "with" } else { "without" };
        format!("version {} is active, {churn} a churn model", a.number)
    });
    if !say(None, "a model is active", active.is_some(), what) {
        return lines;
    }
    let (context, live, seen) = session_store::peek(session);
    let marked = seen.marked || live.as_ref().is_some_and(|l| l.state_purged);
    let (campaigns, clock) = (&context.serving.campaigns, context.clock);
    let missed = marks::hopeless(session)
        .map_or("issue_coupon and coupon.maintain rebuild a session that missed one".into(), |why| {
            format!("{why}, so it cannot be rebuilt and is never scored again")
        });
    if !say(None, "no click was missed", !marked, missed) {
        return lines;
    }
    let seen = live.as_ref().map_or("no click of it was noticed".into(), |l| {
        format!(
            // Who the customer is, is nobody's business here.
            "{} view{}, segment {}, customer {}",
            l.visit.views,
            if l.visit.views == 1 { "" } else { "s" },
            l.segment,
            if l.customer.is_some() { "known" } else { "unknown" }
        )
    });
    if !say(None, "the session is known", live.is_some(), seen) {
        return lines;
    }
    let live = live.expect("said so");
    let Some(version) = live.version.clone() else {
        say(None, "it began with a model", false, "it began before there was one, and is never scored".into());
        return lines;
    };
    say(None, "no checkout or purchase yet", !live.visit.frozen, "after one there is nothing to win".into());
    let (age, limit) = ((clock - live.last_at) as f64 / 1e6, settings::max_click_age() as f64 / 1e6);
    let detail = match age {
        0.0.. => format!("{age:.0} s old, at most {limit:.0} s"),
        _ => format!("{:.0} s ahead of the clock", -age),
    };
    say(None, "its last click is recent", eligible::fresh(live.last_at, clock), detail);
    if campaigns.is_empty() {
        say(None, "a campaign runs", false, "SELECT coupon.go_live('default') starts one".into());
    }
    let profile = live.customer.as_deref().map(|c| customers::profile(client, &version, c)).unwrap_or_default();
    let zone = decide::last_zone(client, session, campaigns);
    for campaign in campaigns.iter() {
        let name = Some(campaign.name.as_str());
        let Assignment { arm, probability, .. } = campaign.assignment(&live.session);
        let policy = campaign.arms[arm].policy;
        let detail =
            format!("{}, with probability {probability:.2}; policy {}", campaign.arms[arm].name, policy.name());
        say(name, "arm", true, detail);
        let thresholds = match campaign.thresholds(arm, &version) {
            Ok(found) => found,
            Err(why) => {
                say(name, "its policy has thresholds", false, format!("{why}, so this arm issues nothing"));
                continue;
            }
        };
        for condition in conditions(&thresholds, &campaign.moment(&live.session, &live.visit, policy)) {
            let (what, detail) = describe(&condition);
            say(name, what, condition.holds(), detail);
        }
        let ranked = decide::ranked(&version, live.segment, &profile, &live.visit.categories(), campaign, arm);
        let of = (live.session.as_str(), live.customer.as_deref(), live.segment, zone.as_deref());
        match planned_by_keys(|| decide::check_rules(client, campaign, of, &ranked)).stopped {
            Some((rule, detail)) => say(name, &format!("rule {rule}"), false, detail),
            None => say(name, "all rules", true, "hours, limits, stock, budget and the others hold".into()),
        };
        let detail = if campaign.live {
            format!("{:.0} % of eligible sessions are held out", 100.0 * campaign.holdout(clock))
        } else {
            "in shadow: it decides and logs and issues nothing".into()
        };
        say(name, "the campaign is live", campaign.live, detail);
    }
    lines
}

/// A condition of a policy in words, and how things stand.
fn describe(condition: &Condition) -> (&'static str, String) {
    match *condition {
        Condition::Views { views, least } => ("enough views", format!("{views} of at least {least}")),
        Condition::Interested { max_purchase, eta } => {
            ("it was interested", format!("largest P(purchase) {max_purchase:.4}, at least {eta:.4}"))
        }
        Condition::Leaving { churn, tau } => ("it is leaving", format!("P(churn) {churn:.4}, at least {tau:.4}")),
        Condition::Drawn { share, .. } => ("drawn", format!("the coin takes {:.2} % of sessions", 100.0 * share)),
    }
}
