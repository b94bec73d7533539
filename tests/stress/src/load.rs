//! A shop at work until its server dies: every click that was acknowledged is counted.

use crate::shop::{Outcome, connect};
use postgres::Client;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::thread;

/// Clicks and orders on every connection until it breaks. Prints `ROUND CLIENT N`: the client's clicks 1…N were
/// acknowledged. A click's page is `ROUND-CLIENT-N`.
pub fn load(connections: u64, round: u64, seed: u64) -> Outcome {
    let clients: Vec<_> = (0..connections)
        .map(|n| thread::spawn(move || -> Outcome<(u64, u64)> { Ok((n, at_work(connect()?, n, round, seed))) }))
        .collect();
    for client in clients {
        let (n, acknowledged) = client.join().expect("no thread panics")?;
        println!("{round}\t{n}\t{acknowledged}");
    }
    Ok(())
}

fn at_work(mut client: Client, n: u64, round: u64, seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(round * 1000 + n));
    let mut acknowledged = 0;
    while visit(&mut client, &mut random, &format!("{round}-{n}"), acknowledged).is_ok() {
        acknowledged += 8;
    }
    acknowledged
}

/// A visit of eight clicks, and what becomes of its coupon, if it got one. An error means that the server is gone: the
/// clicks and the order before it are committed one by one, so that a kill can fall between any two of them.
fn visit(client: &mut Client, random: &mut StdRng, name: &str, before: u64) -> Outcome {
    let session = format!("load-{name}-{before}");
    let prepared = random.random_range(0..20) == 0;
    let click = format!(
        "INSERT INTO click SELECT '{session}', now(), 'view', '{name}-' || {before} + v, 'c' || v % 5, 20 \
         FROM generate_series(1, 8) v"
    );
    if prepared {
        client.batch_execute(&format!("BEGIN; {click}; PREPARE TRANSACTION '{session}'"))?;
        client.batch_execute(&format!("COMMIT PREPARED '{session}'"))?;
    } else {
        client.batch_execute(&click)?;
    }
    // From here on the clicks are acknowledged: what fails now is met again at the next visit.
    let _ = order(client, random, &session);
    Ok(())
}

fn order(client: &mut Client, random: &mut StdRng, session: &str) -> Outcome {
    let code: Option<String> = client.query_one("SELECT (issue_coupon($1)).code", &[&session])?.get(0);
    let Some(code) = code else { return Ok(()) };
    let redeem = format!("SELECT redeem_coupon('{code}', '{session}', {}, '{session}')", random.random_range(1..200));
    let release = format!("SELECT release_coupon('{code}', '{session}')");
    let reserve = format!("SELECT reserve_coupon('{code}', '{session}', session => '{session}')");
    client.batch_execute(&match random.random_range(0..7) {
        0 => redeem,
        1 => format!("{reserve}; {redeem}"),
        2 => format!("BEGIN; {reserve}; COMMIT; BEGIN; {release}; COMMIT"),
        3 => format!("BEGIN; {redeem}; COMMIT; BEGIN; {release}; COMMIT"),
        4 => format!("BEGIN; {redeem}; ROLLBACK"),
        5 => format!("BEGIN; {redeem}; INSERT INTO click VALUES ('{session}', now(), 'purchase', 'order'); COMMIT"),
        _ => "SELECT coupon.maintain(10)".into(),
    })?;
    Ok(())
}
