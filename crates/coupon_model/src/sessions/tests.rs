use super::*;
use crate::events::{DAY, Kind};

/// A log from lines `(session, customer, seconds, kind)`; empty text is NULL.
fn log(rows: &[(&str, &str, i64, Kind)]) -> Log {
    let mut log = Log::default();
    for &(session, customer, seconds, kind) in rows {
        let text = |t: &str, log: &mut Log| log.texts.intern((!t.is_empty()).then_some(t)).unwrap();
        let (session, customer) = (text(session, &mut log), text(customer, &mut log));
        log.events.push(Event { customer, ..Event::new(seconds * SECOND, session, kind) });
    }
    log.events.sort_by_key(|e| e.at);
    log
}

fn views(session: &'static str, n: i64, from: i64) -> Vec<(&'static str, &'static str, i64, Kind)> {
    (0..n).map(|i| (session, "", from + i, Kind::View)).collect()
}

const LATE: Micros = 10 * DAY;

#[test]
fn rules_remove_what_they_say_in_order() {
    let mut rows = views("bot", 101, 0);
    rows.extend(views("edge", 100, 200));
    rows.extend(views("short", 3, 0));
    rows.extend(views("four", 4, 0));
    rows.extend(views("buyer", 5, 0));
    rows.extend([("buyer", "", 5, Kind::Checkout), ("buyer", "", 6, Kind::View), ("buyer", "", 7, Kind::Purchase)]);
    rows.extend([("paid", "", 1, Kind::Purchase), ("paid", "", 2, Kind::View)]);
    rows.extend(views("open", 6, LATE / SECOND - 10));
    let log = log(&rows);
    let s = Sessions::build(&log, LATE, &Spec::default(), &mut || Ok(())).unwrap();
    let row = |i: usize| (s.rules[i].sessions_removed, s.rules[i].views_removed, s.rules[i].sessions_left);
    assert_eq!(row(OPEN), (1, 6, 6));
    assert_eq!(row(BOT), (1, 101, 5));
    // The view after the buyer's checkout, and the session that starts with its purchase.
    assert_eq!(row(CHECKOUT), (1, 2, 4));
    assert_eq!(row(SHORT), (1, 3, 3));
    assert_eq!(row(LAST), (0, 9, 3));
    assert_eq!(s.rules[LAST].views_left, 100 + 4 + 5 - 9);
    let lengths: Vec<_> = s.sessions.iter().map(|x| (log.text(x.id).unwrap(), x.len(), x.purchased)).collect();
    assert_eq!(lengths, [("buyer", 5, true), ("four", 4, false), ("short", 3, false), ("edge", 100, false)]);
}

#[test]
fn a_session_is_open_until_it_was_silent_for_the_timeout() {
    let log = log(&views("s", 4, 0));
    let at = |seconds: i64| {
        Sessions::build(&log, seconds * SECOND, &Spec::default(), &mut || Ok(())).unwrap().sessions.len()
    };
    assert_eq!((at(3 + 1799), at(3 + 1800)), (0, 1));
}

#[test]
fn a_purchase_without_a_session_goes_to_the_latest_view_of_its_customer() {
    let rows = [
        ("a", "u", 0, Kind::View),
        ("b", "u", 100, Kind::View),
        ("", "u", 200, Kind::Purchase),
        ("", "u", 100 + 1801, Kind::Purchase),
        ("", "stranger", 300, Kind::Purchase),
    ];
    let log = log(&rows);
    let s = Sessions::build(&log, LATE, &Spec::default(), &mut || Ok(())).unwrap();
    let bought: Vec<_> = s.sessions.iter().map(|x| (log.text(x.id).unwrap(), x.purchased)).collect();
    assert_eq!(bought, [("a", false), ("b", true)]);
    assert_eq!(s.unattributed, 2);
}

#[test]
fn windows_follow_time_and_lose_nothing() {
    let rows: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
        .iter()
        .zip(0..)
        .map(|(s, i)| (*s, "", i, Kind::View))
        .collect();
    let s = Sessions::build(&log(&rows), LATE, &Spec::default(), &mut || Ok(())).unwrap();
    assert_eq!(s.windows(&Spec::default()), [0..8, 8..9, 9..10]);
}

#[test]
fn loyalty_sees_thirty_days_strictly_before_the_day() {
    let day = |d: i64| d * 86_400;
    let mut log = log(&[
        ("old", "u", day(1), Kind::Purchase),
        ("v", "u", day(20) + 10, Kind::View),
        ("v", "u", day(20) + 70, Kind::Search),
        ("v", "", day(20) + 110, Kind::Purchase),
        ("w", "u", day(39), Kind::View),
        ("today", "u", day(40), Kind::View),
        ("today", "u", day(40) + 5, Kind::Purchase),
    ]);
    for e in log.events.iter_mut().filter(|e| e.kind == Kind::Purchase) {
        (e.price, e.quantity) = (10.0, 3.0);
    }
    let definition = Definition { window_days: Spec::default().window_days, own: Vec::new() };
    let loyalty = Loyalty::new(&log, &definition).unwrap();
    let u = log.texts.find("u").unwrap();
    let v = loyalty.variables(u, day(40) * SECOND).unwrap();
    assert_eq!(v, [30.0, 30.0, 3.0, 1.0, 50.0, 2.0]);
    assert!(loyalty.variables(u, day(1) * SECOND).is_none(), "nothing happened before the first day");
    // The session of day 40 sees the same whatever it goes on to do.
    let sessions = Sessions::build(&log, 60 * DAY, &Spec::default(), &mut || Ok(())).unwrap();
    let as_of = loyalty.as_of(&sessions, &mut || Ok(())).unwrap();
    let today = sessions.sessions.iter().position(|s| log.text(s.id) == Some("today")).unwrap();
    assert_eq!(as_of.get(today), Some(v.as_slice()));
}

#[test]
fn moments_forecast_the_next_cart_but_not_the_same_gesture() {
    let mut log = log(&[
        ("s", "", 0, Kind::View),
        ("s", "", 10, Kind::View),
        ("s", "", 12, Kind::Cart),
        ("s", "", 60, Kind::View),
        ("s", "", 90, Kind::Purchase),
    ]);
    let shoe = log.texts.intern(Some("shoe")).unwrap();
    let shoes = log.texts.intern(Some("shoes")).unwrap();
    for i in [1, 2, 4] {
        (log.events[i].product, log.events[i].category) = (shoe, if i == 4 { NONE } else { shoes });
    }
    let s = Sessions::build(&log, LATE, &Spec::default(), &mut || Ok(())).unwrap();
    let purchases = Purchases::new(&log);
    // View 1 is the carted product two seconds before; the purchase's category comes from its product.
    assert_eq!(moments(&log, &s, &purchases, 0), [(0, shoes), (2, shoes), (3, shoes)]);
}
