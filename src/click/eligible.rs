//! Which campaigns find a session eligible after a click.

use crate::click::campaigns::{Campaign, Campaigns};
use crate::click::session::SessionRow;
use crate::models::cache::Decoded;
use crate::pg::settings;
use coupon_policy::{Assignment, Thresholds, eligible};
use coupon_rank::SessionCategories;
use std::rc::Rc;

/// Whether a click is recent enough on the clock to decide by: neither old nor of the future.
pub fn fresh(at: i64, clock: i64) -> bool {
    at <= clock && clock.saturating_sub(at) <= settings::max_click_age()
}

/// A session that the policy of some campaign finds eligible, as it is at that click.
pub struct EligibleSession {
    pub session: String,
    /// In the order in which their rules are asked.
    pub matches: Vec<CampaignMatch>,
    pub version: Rc<Decoded>,
    pub customer: Option<String>,
    pub clicked_at: i64,
    pub view: u32,
    pub segment: u32,
    pub churn: Option<f64>,
    pub interest: Option<f64>,
    pub zone: Option<String>,
    pub categories: SessionCategories,
}

/// A campaign whose policy finds a session eligible.
pub struct CampaignMatch {
    pub campaign: Rc<Campaign>,
    pub assignment: Assignment,
    pub thresholds: Rc<Thresholds>,
}

/// The campaigns whose policies find a session eligible after a click; `None` where there is none.
pub fn match_campaigns(
    campaigns: &Campaigns,
    row: &SessionRow,
    clicked_at: i64,
    zone: Option<&str>,
) -> Option<EligibleSession> {
    let version = row.version.clone()?;
    if row.visit.views < version.version.plan.segments.min_views || row.visit.frozen {
        return None;
    }
    let mut matches = Vec::new();
    for campaign in campaigns {
        if row.decided.len() >= campaign.per_session || row.decided.contains(&campaign.name) {
            continue;
        }
        // An arm without thresholds finds nobody eligible.
        let Ok(thresholds) = campaign.thresholds(campaign.arm(&row.session), &version) else { continue };
        if eligible(&thresholds, &campaign.moment(&row.session, &row.visit, thresholds.policy)) {
            let assignment = campaign.assignment(&row.session);
            matches.push(CampaignMatch { campaign: campaign.clone(), assignment, thresholds });
        }
    }
    (!matches.is_empty()).then(|| EligibleSession {
        session: row.session.clone(),
        matches,
        customer: row.customer.clone(),
        clicked_at,
        view: row.visit.views,
        segment: row.segment,
        churn: row.visit.churn,
        interest: row.visit.interest,
        zone: zone.map(Into::into),
        categories: row.visit.categories(),
        version,
    })
}
