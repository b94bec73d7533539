//! coupon.explain: the conditions of a decision, one by one, with no side effect.

use crate::click::campaigns::Draws;
use crate::click::{decide, marks, session_store};
use crate::models::{active, customers};
use crate::pg::settings;
use coupon_model::issue::{Policy, eligible};
use pgrx::name;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

/// A condition of `coupon.explain`.
type Line = (Option<String>, i32, String, Option<bool>, String);

#[pg_extern(sql = false)]
fn explain(
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
    let (scene, live, seen) = session_store::peek(session);
    let gap = seen.gap || live.as_ref().is_some_and(|l| l.swept);
    let (campaigns, clock) = (&scene.world.campaigns, scene.clock);
    let missed = marks::hopeless(session)
        .map_or("issue_coupon and coupon.sweep rebuild a session that missed one".into(), |why| {
            format!("{why}, so it cannot be rebuilt and is never scored again")
        });
    if !say(None, "no click was missed", !gap, missed) {
        return lines;
    }
    let seen = live.as_ref().map_or("no click of it was noticed".into(), |l| {
        format!(
            // Who the customer is, is nobody's business here.
            "{} views, segment {}, customer {}",
            l.visit.views,
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
    let age = (clock - live.last_at) as f64 / 1e6;
    let limit = settings::max_click_age() as f64 / 1e6;
    say(
        None,
        "its last click is recent",
        decide::fresh(live.last_at, clock),
        format!("{age:.0} s old, at most {limit:.0} s"),
    );
    if campaigns.is_empty() {
        say(None, "a campaign runs", false, "SELECT coupon.go_live('default') starts one".into());
    }
    let profile = live.customer.as_deref().map(|c| customers::profile(client, &version, c)).unwrap_or_default();
    let zone = decide::last_zone(client, session, campaigns);
    for campaign in campaigns.iter() {
        let name = Some(campaign.name.as_str());
        let Draws { arm: at, arm_probability: share, .. } = campaign.draws(&live.session);
        let policy = campaign.arms[at].policy;
        say(
            name,
            "arm",
            true,
            format!("{}, with probability {share:.2}; policy {}", campaign.arms[at].name, policy.name()),
        );
        let t = match campaign.thresholds(at, &version) {
            Ok(found) => found,
            Err(why) => {
                say(name, "its policy has thresholds", false, format!("{why}, so this arm issues nothing"));
                continue;
            }
        };
        let m = decide::moment(&live, campaign, policy);
        say(name, "enough views", m.view >= t.min_views, format!("{} of at least {}", m.view, t.min_views));
        match t.policy {
            Policy::AtRisk | Policy::Risk => {
                if t.policy == Policy::AtRisk {
                    let detail = format!("largest P(purchase) {:.4}, at least {:.4}", m.max_purchase, t.eta);
                    say(name, "it was interested", m.max_purchase >= t.eta, detail);
                }
                say(name, "it is leaving", m.churn >= t.tau, format!("P(churn) {:.4}, at least {:.4}", m.churn, t.tau));
            }
            Policy::Random => {
                let detail = format!("the coin takes {:.2} % of sessions", 100.0 * t.random_share);
                say(name, "drawn", eligible(&t, &m), detail);
            }
        }
        let ranked = decide::ranked(&version, live.segment, &profile, &live.visit.categories(), campaign, at);
        let of = (live.session.as_str(), live.customer.as_deref(), live.segment, zone.as_deref());
        match decide::by_keys(|| decide::admit(client, campaign, of, &ranked)).stopped {
            Some((rule, detail)) => say(name, &format!("rule {rule}"), false, detail),
            None => say(name, "all rules", true, "hours, limits, stock, budget and the others hold".into()),
        };
        let detail = if campaign.live {
            format!("{:.0} % of eligible sessions are held out", 100.0 * campaign.holdout(clock))
        } else {
            "in shadow: it decides and logs and issues nothing".into()
        };
        say(name, "it issues", campaign.live, detail);
    }
    lines
}
