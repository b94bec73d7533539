//! Many connections on one code, one budget, one customer's limit and one session at once, while another watches the
//! budget all along.

use crate::shop::{Outcome, connect, expect, money, number};
use postgres::Client;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// How many codes are offered at a time: few, so that all offer the same.
const OFFERED: usize = 6;

/// What all connections share.
struct Shared {
    left: AtomicU64,
    /// The newest coupons: session and code.
    offered: RwLock<Vec<(String, String)>>,
    /// How often each answer was given, by action, status and reason.
    answers: Mutex<BTreeMap<String, i64>>,
    /// Clicks in the one session, and decisions asked about the one customer.
    clicks: AtomicU64,
    done: AtomicBool,
}

impl Shared {
    fn new(attempts: u64) -> Shared {
        Shared {
            left: AtomicU64::new(attempts),
            offered: RwLock::default(),
            answers: Mutex::default(),
            clicks: AtomicU64::new(0),
            done: AtomicBool::new(false),
        }
    }

    fn next(&self) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok()
    }

    fn count(&self, what: String) {
        *self.answers.lock().expect("no thread panics").entry(what).or_default() += 1;
    }

    fn counted(&self, what: &str) -> i64 {
        self.answers.lock().expect("no thread panics").get(what).copied().unwrap_or(0)
    }
}

/// Hammers with `connections` connections, `attempts` attempts in all.
pub fn hammer(connections: u64, attempts: u64, seed: u64) -> Outcome {
    println!("-- {connections} connections, {attempts} attempts, seed {seed}");
    let mut admin = connect()?;
    admin.batch_execute(
        "UPDATE coupon.campaign SET state = 'paused' WHERE state = 'live'; \
         INSERT INTO coupon.campaign (campaign, target, holdout, discount, max_discount, budget, coupons_day, per_customer) \
             VALUES ('hammer', 0.5, 0.05, 10, 5, 1000, 1000000, 3); \
         INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('hammer', 'all', 'random', 1); \
         SELECT coupon.go_live('hammer')",
    )?;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let before = number(&mut admin, deadlocks)?;
    one_code(&mut admin, connections, attempts / 10)?;
    let shared = Shared::new(attempts - attempts / 10);
    let begin = Instant::now();
    let seen = together(&shared, connections, seed, mixed)?;
    let took = begin.elapsed().as_secs_f64();
    for (what, count) in shared.answers.lock().expect("no thread panics").iter() {
        println!("{count:>7}  {what}");
    }
    println!(
        "= hammer: {:.0} attempts a second, the budget added up in {seen} snapshots",
        attempts as f64 * 0.9 / took
    );
    if seen < 10 {
        return Err(format!("the budget was looked at {seen} times only").into());
    }
    judge(&mut admin, &shared)?;
    expect("PostgreSQL saw no deadlock", before, number(&mut admin, deadlocks)?)?;
    no_click_lost(&mut admin, &shared)
}

/// Runs `attempt` on every connection until all attempts are made; how often the watcher saw the budget add up.
fn together(
    shared: &Shared,
    connections: u64,
    seed: u64,
    attempt: fn(&mut Client, &mut StdRng, &Shared) -> Outcome,
) -> Outcome<u64> {
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(shared));
        let clients: Vec<_> = (0..connections)
            .map(|n| {
                scope.spawn(move || -> Outcome {
                    let mut client = connect()?;
                    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) + n);
                    while shared.next() {
                        attempt(&mut client, &mut random, shared)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let ended = clients.into_iter().try_for_each(|c| c.join().expect("no thread panics"));
        shared.done.store(true, Relaxed);
        let seen = watcher.join().expect("no thread panics");
        ended.and(seen)
    })
}

/// Looks at the budget as long as the others are at it.
fn watch(shared: &Shared) -> Outcome<u64> {
    let mut client = connect()?;
    let mut seen = 0;
    while !shared.done.load(Relaxed) {
        let bad = client.query_opt(
            "SELECT format('%s: granted %s, available %s, held %s, spent %s', unit, granted, available, reserved_amount, spent) \
             FROM coupon.budget WHERE NOT (granted = available + reserved_amount + spent AND available >= 0 AND reserved_amount >= 0) LIMIT 1",
            &[],
        )?;
        if let Some(row) = bad {
            // Whoever still has attempts left may stop.
            shared.left.store(0, Relaxed);
            return Err(format!("the budget does not add up: {}", row.get::<_, String>(0)).into());
        }
        seen += 1;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(seen)
}

/// Sessions in one statement of eight views each, until one has a coupon: it is offered to all.
fn issue(client: &mut Client, random: &mut StdRng, shared: &Shared) -> Outcome {
    let session = format!("h-{:016x}", random.random::<u64>());
    client.execute(
        "INSERT INTO click SELECT $1, now(), 'view', 'p' || v, 'c' || v % 5, 20 FROM generate_series(1, 8) v",
        &[&session],
    )?;
    let code: Option<String> = client.query_one("SELECT (issue_coupon($1)).code", &[&session])?.get(0);
    if let Some(code) = code {
        let mut offered = shared.offered.write().expect("no thread panics");
        if offered.len() >= OFFERED {
            offered.remove(0);
        }
        offered.push((session, code));
        shared.count("coupon issued".into());
    }
    Ok(())
}

fn one_code(admin: &mut Client, connections: u64, attempts: u64) -> Outcome {
    let shared = Shared::new(attempts);
    let mut random = StdRng::seed_from_u64(0);
    while shared.offered.read().expect("no thread panics").is_empty() {
        issue(admin, &mut random, &shared)?;
    }
    together(&shared, connections, 0, |client, random, shared| {
        let offered = shared.offered.read().expect("no thread panics")[0].clone();
        let order = format!("one-{}", random.random::<u32>());
        redeem(client, shared, &offered, &order, 5000)
    })?;
    expect("one code: one redemption", 1, shared.counted("redeem redeemed ok"))?;
    expect(
        "one code: everybody else is refused",
        attempts as i64 - 1,
        shared.counted("redeem refused already redeemed"),
    )
}

fn redeem(
    client: &mut Client,
    shared: &Shared,
    (session, code): &(String, String),
    order: &str,
    amount: i64,
) -> Outcome {
    let sql = "SELECT status || ' ' || reason FROM redeem_coupon($1, $2, $3::text::numeric, $4)";
    let row = client.query_one(sql, &[code, &order, &money(amount), session])?;
    shared.count(format!("redeem {}", row.get::<_, String>(0)));
    Ok(())
}

/// One attempt of the mixture.
fn mixed(client: &mut Client, random: &mut StdRng, shared: &Shared) -> Outcome {
    let offered = shared.offered.read().expect("no thread panics");
    let coupon = (!offered.is_empty()).then(|| offered[random.random_range(0..offered.len())].clone());
    drop(offered);
    let order = format!("order-{}", random.random_range(0..40));
    let amount = random.random_range(0..20_000);
    let (what, sql) = match (random.random_range(0..1000), &coupon) {
        (_, None) | (0..150, _) => return issue(client, random, shared),
        (150..200, _) => {
            client.execute("INSERT INTO click VALUES ('the-one', now(), 'view', 'p1', 'c1', 20)", &[])?;
            shared.clicks.fetch_add(1, Relaxed);
            return Ok(());
        }
        (200..250, _) => {
            client.execute(
                "INSERT INTO coupon.click (session, at, kind, customer) \
                 SELECT $1, now(), 'view', 'the-customer' FROM generate_series(1, 8)",
                &[&format!("c-{:016x}", random.random::<u64>())],
            )?;
            return Ok(());
        }
        (250..255, _) => {
            client.execute("SELECT coupon.maintain(100)", &[])?;
            return Ok(());
        }
        (255..260, _) => {
            // Near what is committed, so that it runs out and is filled up all the time.
            let sql = format!(
                "UPDATE coupon.campaign SET budget = {} + coupon_internal.sum_committed('hammer', 'money', '-infinity') \
                 WHERE campaign = 'hammer'",
                random.random_range(0..300)
            );
            return match client.batch_execute(&sql) {
                Err(e) if e.code().is_none_or(|c| c.code() != "23514") => Err(e.into()),
                _ => Ok(()),
            };
        }
        (260..600, Some(coupon)) => return redeem(client, shared, coupon, &order, amount),
        (600..750, _) => ("reserve", "reserve_coupon($1, $2, '200 ms', session => $3)"),
        (750..900, _) => ("release", "release_coupon($1, $2 || left($3, 0))"),
        (900..950, _) => ("show", "show_coupon($1, left($2, 0) || $3)"),
        _ => ("dismiss", "dismiss_coupon($1, left($2, 0) || $3)"),
    };
    let (session, code) = coupon.as_ref().expect("looked at above");
    let sql = format!("SELECT status || ' ' || reason FROM {sql}");
    let row = client.query_one(&sql, &[code, &order, session])?;
    shared.count(format!("{what} {}", row.get::<_, String>(0)));
    Ok(())
}

/// What must hold when all is over: the answers given are the changes made, in an order that the rules allow.
fn judge(admin: &mut Client, shared: &Shared) -> Outcome {
    let events = |admin: &mut Client, event: &str| {
        number(admin, &format!("SELECT count(*) FROM coupon.audit WHERE subject = 'coupon' AND event = '{event}'"))
    };
    let released = shared.counted("release released valid again") + shared.counted("release released no longer valid");
    expect(
        "every redemption answered was made, and no other",
        shared.counted("redeem redeemed ok") + 1,
        events(admin, "redeemed")?,
    )?;
    expect("every release answered was made, and no other", released, events(admin, "released")?)?;
    expect(
        "nobody redeemed what was redeemed",
        0,
        number(
            admin,
            "SELECT count(*) FROM (SELECT event, lag(event) OVER (PARTITION BY name ORDER BY id) AS before \
             FROM coupon.audit WHERE subject = 'coupon') a WHERE before = 'redeemed' AND event <> 'released'",
        )?,
    )?;
    expect(
        "a coupon is what its last entry says",
        0,
        number(
            admin,
            "SELECT count(*) FROM coupon.coupon c LEFT JOIN LATERAL (SELECT event FROM coupon.audit a \
             WHERE a.name = c.id::text ORDER BY a.id DESC LIMIT 1) a ON true WHERE a.event IS DISTINCT FROM c.state",
        )?,
    )?;
    expect(
        "one live coupon a session",
        0,
        number(
            admin,
            "SELECT count(*) FROM (SELECT FROM coupon.coupon WHERE closed_at IS NULL GROUP BY session HAVING count(*) > 1) x",
        )?,
    )?;
    expect(
        "the one customer was decided about as often as allowed",
        3,
        number(admin, "SELECT count(*) FROM coupon.decision WHERE customer = 'the-customer' AND outcome <> 'stopped'")?,
    )?;
    expect(
        "decisions and coupons are of each other",
        0,
        number(
            admin,
            "SELECT count(*) FROM (SELECT * FROM coupon.decision WHERE outcome = 'issued' AND campaign = 'hammer') d \
             FULL JOIN (SELECT * FROM coupon.coupon WHERE campaign = 'hammer') c USING (session, campaign) \
             WHERE d.arm IS NULL OR c.id IS NULL",
        )?,
    )?;
    // A session that was held by another for longer than lock_wait; nothing else may fail.
    expect("no other fault", 0, number(admin, "SELECT count(*) FROM coupon.error_log WHERE sqlstate <> '55P03'")?)
}

/// Every click of the one session is stored, and after a sweep counted, whoever held the session when it came.
fn no_click_lost(admin: &mut Client, shared: &Shared) -> Outcome {
    let clicks = shared.clicks.load(Relaxed) as i64;
    expect("every click is stored", clicks, number(admin, "SELECT count(*) FROM click WHERE session = 'the-one'")?)?;
    admin.execute("SELECT coupon.maintain(1000000)", &[])?;
    expect("and counted", clicks, number(admin, "SELECT views::bigint FROM coupon.session WHERE session = 'the-one'")?)
}
