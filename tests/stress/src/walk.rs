//! A random walk through campaigns and coupons on a real server: at every step the server says what the model said.

use crate::model::{Action, Answer, Campaign, Discount, LIMITS, MINUTE, Model, Presented, SECOND, Terms};
use crate::shop::{Failure, Outcome, connect, money, told};
use postgres::{Client, Row};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

const HOUR: i64 = 60 * MINUTE;
/// 2026-03-02 08:00 UTC in microseconds since 1970.
const BEGIN: i64 = 1_772_438_400 * SECOND;
const MEMBERS: [&str; 5] = ["ada", "ben", "cleo", "dan", "eva"];

struct Walk {
    client: Client,
    random: StdRng,
    model: Model,
    sessions: u32,
    counts: BTreeMap<String, u32>,
}

/// Walks `steps` steps. On a difference, says the seed, the step, and what was wanted and found.
pub fn walk(steps: u32, seed: u64) -> Outcome {
    let mut walk = Walk::new(seed)?;
    for step in 0..steps {
        let fail = |e: Failure| -> Failure { format!("seed {seed}, step {step}: {}", told(&e)).into() };
        walk.step().map_err(fail)?;
        if step % 250 == 0 || step + 1 == steps {
            walk.compare_coupons().map_err(fail)?;
        }
    }
    for (what, count) in &walk.counts {
        println!("{count:>7}  {what}");
    }
    let missing = EVERY.iter().find(|what| !walk.counts.contains_key(**what));
    if let Some(what) = missing.filter(|_| steps >= 5000) {
        return Err(format!("seed {seed}: the walk never met {what}").into());
    }
    println!("= model: {steps} steps as predicted, seed {seed}");
    Ok(())
}

/// What a long walk must have met, or it proves nothing.
const EVERY: [&str; 25] = [
    "decision issued eligible",
    "decision held out eligible",
    "decision stopped budget",
    "decision stopped budget_day",
    "decision stopped coupons",
    "decision stopped coupons_day",
    "decision stopped per_customer",
    "decision stopped cool_down",
    "decision stopped one live coupon",
    "Redeem redeemed ok",
    "Redeem redeemed redeemed before",
    "Redeem refused already redeemed",
    "Redeem refused expired",
    "Redeem refused below the minimum basket",
    "Redeem refused reserved for another order",
    "Redeem refused not with the order's other coupon",
    "Redeem refused nothing is left of the order",
    "Redeem refused not valid",
    "Reserve reserved ok",
    "Reserve reserved reserved before",
    "release released valid again",
    "release released no longer valid",
    "release refused expired",
    "release refused not taken for this order",
    "limit refused",
];

impl Walk {
    fn new(seed: u64) -> Outcome<Walk> {
        let percent = Terms {
            discount: Discount::Percent(10),
            max_discount: 500,
            minimum_basket: 500,
            exclusive: false,
            stacking: Some("s"),
            valid_for: 2 * HOUR,
        };
        let fixed = Terms {
            discount: Discount::Money(400),
            max_discount: 1000,
            minimum_basket: 0,
            exclusive: false,
            stacking: None,
            valid_for: 3 * HOUR,
        };
        let campaigns = vec![Campaign::new("alpha", percent), Campaign::new("beta", fixed)];
        let model = Model::new(BEGIN, campaigns);
        let mut client = connect()?;
        client.batch_execute(
            "LOAD 'coupon_ext'; SET timezone = 'UTC'; SET client_min_messages = error; SET coupon_ext.on_error = raise; \
             UPDATE coupon.campaign SET state = 'paused' WHERE state = 'live'; \
             INSERT INTO coupon.campaign (campaign, priority, salt, target, holdout, per_session, time_zone, discount, \
                 unit, max_discount, minimum_basket, stacking_group, valid_for, unlimited) VALUES \
                 ('alpha', 2, 'a', 0.5, 0.1, 2, 'Etc/GMT-3', 10, 'percent', 5, 5, 's', '2 hours', true), \
                 ('beta', 1, 'b', 0.5, 0.1, 2, 'Etc/GMT-3', 4, 'money', 10, 0, NULL, '3 hours', true); \
             INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('alpha', 'all', 'random', 1), \
                 ('beta', 'all', 'random', 1); \
             SELECT coupon.go_live('alpha'), coupon.go_live('beta')",
        )?;
        let random = StdRng::seed_from_u64(seed);
        Ok(Walk { client, random, model, sessions: 0, counts: BTreeMap::new() })
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    fn note(&mut self, what: String) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn step(&mut self) -> Outcome {
        self.pass_time()?;
        match self.random.random_range(0..100) {
            0..30 => self.click()?,
            30..32 => self.sweep()?,
            32..37 => self.change_limit()?,
            37..40 => self.change_terms()?,
            _ if self.model.coupons.is_empty() => self.click()?,
            // Rolled back, whole or to a savepoint: the answer is the same, and nothing has happened.
            94.. => {
                let before = self.model.clone();
                let (begin, end) = if self.one_in(2) {
                    ("BEGIN", "ROLLBACK")
                } else {
                    ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT")
                };
                self.client.batch_execute(begin)?;
                self.offer()?;
                self.compare_budgets()?;
                self.client.batch_execute(end)?;
                let here = std::mem::take(&mut self.model.here);
                self.model = before;
                self.model.here = here;
                self.note(format!("undone by {end}"));
            }
            _ => self.offer()?,
        }
        self.compare_budgets()
    }

    fn pass_time(&mut self) -> Outcome {
        let most = match self.random.random_range(0..200) {
            0 => 26 * HOUR,
            1..4 => 2 * HOUR,
            4..16 => 12 * MINUTE,
            _ => 30 * SECOND,
        };
        // Never the same instant twice, so that no two coupons expire at once.
        self.model.at += self.random.random_range(SECOND..most);
        let (seconds, micros) = (self.model.at / SECOND, self.model.at % SECOND);
        Ok(self.client.batch_execute(&format!(
            "SELECT set_config('coupon_ext.mock_clock', (to_timestamp({seconds}) + interval '{micros} microseconds')::text, false)"
        ))?)
    }

    fn click(&mut self) -> Outcome {
        let fresh = |s: &crate::model::Session| s.clicked > self.model.at - 12 * HOUR;
        let mut known: Vec<String> = self.model.sessions.iter().filter(|s| fresh(s.1)).map(|s| s.0.clone()).collect();
        known.sort();
        let (session, clicks) = if known.is_empty() || self.one_in(3) {
            self.sessions += 1;
            (format!("walk-{}", self.sessions), self.random.random_range(4..9))
        } else {
            (known.swap_remove(self.random.random_range(0..known.len())), 1)
        };
        let stored = self.model.sessions.get(&session).map(|s| s.customer.clone());
        let customer = match stored {
            Some(customer) => customer,
            None if self.one_in(3) => None,
            None => Some(MEMBERS[self.random.random_range(0..MEMBERS.len())].to_string()),
        };
        for _ in 0..clicks {
            self.client.execute(
                "INSERT INTO coupon.click (session, at, kind, category, customer) \
                 VALUES ($1, coupon.clock(), 'view', 'c1', $2)",
                &[&session, &customer],
            )?;
            let rows = self.client.query(
                "SELECT d.campaign, d.outcome, d.reason, d.issue_draw, c.code FROM coupon.decision d LEFT JOIN \
                 coupon.coupon c ON c.session = d.session AND c.campaign = d.campaign WHERE d.session = $1",
                &[&session],
            )?;
            self.foretell(&session, customer.as_deref(), &rows)?;
        }
        Ok(())
    }

    /// Compares a session's decisions with what the model makes of the click.
    fn foretell(&mut self, session: &str, customer: Option<&str>, rows: &[Row]) -> Outcome {
        let mut wanted = Vec::new();
        for (i, campaign) in self.model.campaigns.iter().enumerate() {
            let row = rows.iter().find(|r| r.get::<_, &str>(0) == campaign.name);
            wanted.extend(row.map(|r| (i, r.get::<_, f64>(3), 0.9)));
        }
        let before = self.model.sessions.get(session).map(|s| s.decisions.clone()).unwrap_or_default();
        let issued = self.model.click(session, customer, &wanted);
        let after = &self.model.sessions[session].decisions;
        let said: BTreeMap<&str, (String, String)> = rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2)))).collect();
        let foretold: BTreeMap<&str, (String, String)> =
            after.iter().map(|(&i, d)| (self.model.campaigns[i].name, d.clone())).collect();
        if said != foretold {
            return Err(format!("click in {session}: wanted {foretold:?}, found {said:?}").into());
        }
        let new = after.iter().filter(|(i, d)| before.get(i) != Some(d));
        let notes: Vec<String> = new.map(|(_, d)| format!("decision {} {}", d.0, d.1)).collect();
        notes.into_iter().for_each(|n| self.note(n));
        if let Some(campaign) = issued {
            let name = self.model.campaigns[campaign].name;
            let row = rows.iter().find(|r| r.get::<_, &str>(0) == name).expect("it was compared");
            let code = row.get::<_, Option<String>>(4).ok_or_else(|| format!("{session}: issued, and no coupon"))?;
            self.model.add_coupon(campaign, session, &code);
        }
        Ok(())
    }

    fn sweep(&mut self) -> Outcome {
        let batch = self.random.random_range(1..20);
        let wanted = self.model.expire(None, batch as usize) as i64;
        let found: i64 = self.client.query_one("SELECT expired FROM coupon.maintain($1)", &[&batch])?.get(0);
        self.note("sweep".into());
        if wanted != found {
            return Err(format!("sweep({batch}): wanted {wanted}, found {found}").into());
        }
        Ok(())
    }

    fn change_limit(&mut self) -> Outcome {
        let (campaign, limit) = (self.random.random_range(0..2), [0, 1, 2, 2, 3][self.random.random_range(0..5)]);
        let (held, spent) = self.model.used(campaign, limit);
        let committed = held + spent;
        let value = match self.random.random_range(0..10) {
            0..4 => None,
            4 => Some(self.random.random_range(0..committed + 1)),
            _ if limit < 2 => Some(committed + self.random.random_range(0..6000)),
            _ => Some(committed + self.random.random_range(0..3)),
        };
        let text = value.map_or("NULL".into(), |v| if limit < 2 { money(v) } else { v.to_string() });
        let wanted = self.model.set_limit(campaign, limit, value);
        let name = self.model.campaigns[campaign].name;
        let sql = format!("UPDATE coupon.campaign SET {} = {text} WHERE campaign = '{name}'", LIMITS[limit]);
        let found = match self.client.batch_execute(&sql) {
            Ok(()) => true,
            Err(e) if e.code().is_some_and(|c| c.code() == "23514") => false,
            Err(e) => return Err(e.into()),
        };
        self.note(if found { "limit changed".into() } else { "limit refused".into() });
        if wanted != found {
            return Err(format!("{sql}: wanted {wanted}, found {found}").into());
        }
        Ok(())
    }

    fn change_terms(&mut self) -> Outcome {
        let i = self.random.random_range(0..2);
        let most = 100 * self.random.random_range(3..9);
        let exclusive = self.one_in(3);
        let per_customer = (!self.one_in(2)).then(|| self.random.random_range(1..20));
        let cool_down = (!self.one_in(2)).then(|| self.random.random_range(MINUTE..3 * HOUR));
        let discount = self.random.random_range(1..30);
        let campaign = &mut self.model.campaigns[i];
        campaign.terms.discount = match campaign.terms.discount {
            Discount::Percent(_) => Discount::Percent(discount),
            Discount::Money(_) => Discount::Money(discount * 100),
        };
        (campaign.terms.max_discount, campaign.terms.exclusive) = (most, exclusive);
        (campaign.per_customer, campaign.cool_down) = (per_customer, cool_down);
        let sql = format!(
            "UPDATE coupon.campaign SET discount = {discount}, max_discount = {}, exclusive = {exclusive}, \
             per_customer = {}, cool_down = {} WHERE campaign = '{}'",
            money(most),
            per_customer.map_or("NULL".into(), |n| n.to_string()),
            cool_down.map_or("NULL".into(), |t| format!("interval '{t} microseconds'")),
            campaign.name
        );
        self.note("terms changed".into());
        Ok(self.client.batch_execute(&sql)?)
    }

    /// Somebody offers a code, mostly one of the newest, mostly the holder, or cancels an order.
    fn offer(&mut self) -> Outcome {
        let n = self.model.coupons.len();
        let back = if self.one_in(10) { n } else { n.min(8) };
        let coupon = self.model.coupons[n - 1 - self.random.random_range(0..back)].clone();
        let order = match &coupon.order {
            Some(order) if !self.one_in(3) => order.clone(),
            _ => format!("order-{}", self.random.random_range(0..n / 8 + 8)),
        };
        if self.one_in(4) {
            let wanted = self.model.release(&coupon.code, &order);
            let sql = "SELECT status, reason, (discount * 100)::bigint FROM release_coupon($1, $2)";
            let row = self.client.query_one(sql, &[&coupon.code, &order])?;
            return self.compare(&format!("release {} {order}", coupon.session), "release", wanted, &row);
        }
        let code = if self.one_in(40) { "0410-6105-0R3G-G28A-Z".to_string() } else { coupon.code.clone() };
        let (session, customer) = match self.random.random_range(0..12) {
            0 => (None, None),
            1 => (Some(format!("stranger-{}", self.random.random_range(0..2))), None),
            2 => (None, coupon.customer.clone()),
            3 => (Some(coupon.session.clone()), Some(MEMBERS[self.random.random_range(0..2)].to_string())),
            _ => (Some(coupon.session.clone()), None),
        };
        let amount = self.random.random_range(0..9000);
        let action = match self.random.random_range(0..10) {
            0 => Action::Show,
            1 => Action::Dismiss,
            2..5 => Action::Reserve,
            _ => Action::Redeem,
        };
        let with_order = matches!(action, Action::Reserve | Action::Redeem);
        let with_amount = action == Action::Redeem || action == Action::Reserve && !self.one_in(3);
        let ttl = self.random.random_range(SECOND..40 * MINUTE);
        let presented = Presented {
            action,
            code: &code,
            order: with_order.then_some(order.as_str()),
            amount: with_amount.then_some(amount),
            ttl,
            session: session.as_deref(),
            customer: customer.as_deref(),
        };
        let wanted = self.model.present(&presented);
        let amount = if with_amount { money(amount) } else { "NULL".into() };
        let call = match action {
            Action::Show => "show_coupon($1, $2, $3)".into(),
            Action::Dismiss => "dismiss_coupon($1, $2, $3)".into(),
            Action::Reserve => {
                format!("reserve_coupon($1, '{order}', interval '{ttl} microseconds', {amount}, $2, $3)")
            }
            Action::Redeem => format!("redeem_coupon($1, '{order}', {amount}, $2, $3)"),
        };
        let sql = format!("SELECT status, reason, (discount * 100)::bigint FROM {call}");
        let row = self.client.query_one(&sql, &[&code, &session, &customer])?;
        self.compare(
            &format!("{call} of {} by {session:?} {customer:?}", coupon.session),
            &format!("{action:?}"),
            wanted,
            &row,
        )
    }

    fn compare(&mut self, call: &str, what: &str, wanted: Answer, row: &Row) -> Outcome {
        let found = Answer(row.get(0), row.get(1), row.get(2));
        self.note(format!("{what} {} {}", found.0, found.1));
        if wanted != found {
            return Err(format!("{call}: wanted {wanted:?}, found {found:?}").into());
        }
        Ok(())
    }
}

mod compare;
