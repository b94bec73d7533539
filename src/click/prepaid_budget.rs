//! The budget of many coupons, claimed at once: a statement that may issue thousands locks a bucket once instead of for each.

use crate::click::eligible::EligibleSession;
use crate::pg::error::spi;
use crate::pg::statement::statement;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::collections::BTreeMap;

/// From so many decisions of a statement on it is worth while.
const LEAST: usize = 10;

/// Coupons of each campaign whose budget is claimed already.
#[derive(Default)]
pub struct PrepaidBudget(BTreeMap<String, i32>);

impl PrepaidBudget {
    /// One coupon a session, of the first campaign that finds it eligible: that one mostly decides.
    pub fn claim(client: &mut SpiClient, sessions: &[EligibleSession]) -> PrepaidBudget {
        let mut prepaid = PrepaidBudget::default();
        if sessions.len() < LEAST {
            return prepaid;
        }
        for matched in sessions.iter().filter_map(|s| s.matches.first()).filter(|m| m.campaign.live) {
            *prepaid.0.entry(matched.campaign.name.clone()).or_default() += 1;
        }
        prepaid.0.retain(|campaign, n| {
            let types = [pg_sys::TEXTOID, pg_sys::INT4OID].map(PgOid::from);
            let prepared = statement(client, "SELECT coupon_internal.prepay_budget($1, $2)", &types);
            let row = spi(client.update(prepared, Some(1), &[campaign.as_str().into(), (*n).into()])).first();
            spi(row.get_one()) == Some(true)
        });
        prepaid
    }

    pub fn has(&self, campaign: &str) -> bool {
        self.0.get(campaign).is_some_and(|n| *n > 0)
    }

    pub fn spend(&mut self, campaign: &str) {
        self.0.entry(campaign.to_string()).and_modify(|n| *n -= 1);
    }

    pub fn give_back(self, client: &mut SpiClient) {
        for (campaign, n) in self.0.into_iter().filter(|(_, n)| *n > 0) {
            let types = [pg_sys::TEXTOID, pg_sys::INT4OID].map(PgOid::from);
            let prepared = statement(client, "SELECT coupon_internal.return_budget($1, $2)", &types);
            spi(client.update(prepared, None, &[campaign.as_str().into(), n.into()]));
        }
    }
}
