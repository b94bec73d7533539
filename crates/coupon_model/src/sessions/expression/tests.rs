use super::*;
use crate::events::{Event, Kind, Log};
use crate::sessions::Loyalty;
use crate::sessions::{Definition, Own, SIX};
use crate::training::tests::shop;

const DAY_OF: Micros = 9_500 * DAY;

/// A customer's ten days: two orders, one without a number, and some looking around.
fn log() -> Log {
    let mut log = Log::default();
    let mut add = |days_ago: f64, kind: Kind, session: &str, page: Option<&str>, category: Option<&str>| {
        let at = DAY_OF - (days_ago * DAY as f64) as Micros;
        let mut event = Event::new(at, log.texts.intern(Some(session)).unwrap(), kind);
        event.page = log.texts.intern(page).unwrap();
        event.category = log.texts.intern(category).unwrap();
        log.events.push(event);
    };
    add(9.5, Kind::View, "a", Some("home"), None);
    add(9.4, Kind::Search, "a", Some("search"), None);
    add(9.3, Kind::Purchase, "a", None, Some("shoes"));
    add(9.3, Kind::Purchase, "a", None, Some("hats"));
    add(2.25, Kind::View, "b", Some("shoes"), Some("shoes"));
    add(2.0, Kind::Purchase, "b", None, Some("shoes"));
    add(0.5, Kind::View, "c", Some("home"), Some("hats"));
    let order = log.texts.intern(Some("o1")).unwrap();
    for (i, price, quantity) in [(2, 10.0, 2.0), (3, 5.0, f64::NAN), (5, f64::NAN, 3.0)] {
        (log.events[i].price, log.events[i].quantity) = (price, quantity);
    }
    (log.events[2].order, log.events[3].order) = (order, order);
    log
}

fn value(expression: &str) -> f64 {
    let log = log();
    let bound = Expression::parse(expression).unwrap_or_else(|e| panic!("{expression}: {e}")).bind(&log);
    bound.value(log.events.iter(), DAY_OF)
}

/// The expected values are PostgreSQL's own: the expression over a table of these seven events, a NULL counted as 0.
#[test]
fn expressions_mean_what_they_mean_in_sql() {
    for (expression, expected) in [
        ("count(*)", 7.0),
        ("COUNT(*) FILTER (WHERE kind = 'purchase')", 3.0),
        ("count(price)", 2.0),
        ("count(category)", 5.0),
        ("count(DISTINCT category)", 2.0),
        ("count(DISTINCT session)", 3.0),
        ("count(DISTINCT kind)", 3.0),
        ("count(DISTINCT quantity)", 3.0),
        ("sum(quantity * price)", 25.0),
        ("avg(price)", 7.5),
        ("min(price) + max(price) * 2", 25.0),
        ("-sum(price)", -15.0),
        ("sum(price) % 4", 3.0),
        ("max(quantity) - (1 + 2) / 4", 2.25),
        ("min(days_ago)", 0.5),
        ("min(days_ago) FILTER (WHERE kind IN ('purchase', 'cart'))", 2.0),
        ("count(*) FILTER (WHERE days_ago <= 7)", 3.0),
        ("count(*) FILTER (WHERE days_ago BETWEEN 2 AND 2.25)", 2.0),
        ("count(*) FILTER (WHERE hour >= 18 OR hour < 6)", 2.0),
        ("count(*) FILTER (WHERE NOT category = 'shoes')", 2.0),
        ("count(*) FILTER (WHERE category <> 'shoes')", 2.0),
        ("count(*) FILTER (WHERE category IS NULL AND page IS NOT NULL)", 2.0),
        ("count(*) FILTER (WHERE category IN ('hats', 'gloves'))", 2.0),
        ("count(*) FILTER (WHERE category NOT IN ('hats', 'gloves'))", 3.0),
        ("count(*) FILTER (WHERE page = category)", 1.0),
        ("count(*) FILTER (WHERE 'home' = page)", 2.0),
        ("count(*) FILTER (WHERE price > 7 OR category = 'hats')", 3.0),
        ("count(*) FILTER (WHERE NOT (price > 7 AND category = 'hats'))", 4.0),
        ("count(*) FILTER (WHERE quantity IN (2, 3))", 2.0),
        ("count(*) FILTER (WHERE price NOT IN (5, NULL))", 0.0),
        ("sum(CASE WHEN kind = 'purchase' THEN quantity WHEN kind = 'search' THEN 10 ELSE 0 END)", 16.0),
        ("CASE WHEN count(*) > 5 THEN 1 END", 1.0),
        ("coalesce(sum(price) FILTER (WHERE kind = 'cart'), 42)", 42.0),
        ("sum(price) FILTER (WHERE kind = 'cart')", 0.0),
        ("nullif(count(*), 7)", 0.0),
        ("coalesce(nullif(count(*), 7), 1)", 1.0),
        ("greatest(count(*), NULL, 3)", 7.0),
        ("least(count(*), NULL, 3)", 3.0),
        ("abs(-count(*))", 7.0),
        ("sqrt(count(*) + 2)", 3.0),
        ("ln(count(*) + 1) / ln(2)", 3.0),
        // 2026-01-03, a Saturday.
        ("avg(weekday) FILTER (WHERE days_ago < 1)", 6.0),
        // Where SQL raises an error.
        ("sum(price) / 0", 0.0),
        ("coalesce(sum(price) / 0, 9)", 9.0),
        ("ln(0 * count(*))", 0.0),
        ("sqrt(-count(*))", 0.0),
        ("sum(1e308 * quantity)", 0.0),
        ("sum(price / (quantity - 2))", -5.0),
    ] {
        let found = value(expression);
        assert!((found - expected).abs() < 1e-9, "{expression}: {found}, expected {expected}");
    }
    // A purchase without a number is known by its session.
    assert_eq!(value("count(DISTINCT order_id)"), 2.0);
    assert_eq!(value("count(order_id)"), 2.0);
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    for (expression, why) in [
        ("sum(prize)", "no column \"prize\""),
        ("median(price)", "no function \"median\""),
        ("pg_sleep(10)", "no function \"pg_sleep\""),
        ("count(*) FILTER (WHERE kind = 'purchas')", "no kind 'purchas'"),
        ("price", "within an aggregate"),
        ("sum(price) FILTER (WHERE sum(price) > 1)", "within another aggregate"),
        ("sum(page)", "holds no number"),
        ("sum(*)", "cannot be given *"),
        ("count(DISTINCT *)", "cannot be given *"),
        ("sum(DISTINCT price)", "more than sum"),
        ("sum(price) OVER ()", "more than sum"),
        ("sum(price, 2)", "one argument"),
        ("sqrt(1, 2)", "not how sqrt is called"),
        ("1 + 1", "no aggregate"),
        ("count(*) > 1", "gives no number"),
        ("count(*) FILTER (WHERE price)", "neither true nor false"),
        ("count(*) FILTER (WHERE page > 'a')", "compared by = and <>"),
        ("count(*) FILTER (WHERE page = 3)", "quoted text"),
        ("count(*) FILTER (WHERE kind IS NULL)", "never NULL"),
        ("count(*) FILTER (WHERE page = kind)", "cannot be compared"),
        ("CASE WHEN page = 'a' THEN count(*) END", "within an aggregate"),
        ("(SELECT 1)", "not among"),
        ("count(*) FILTER (WHERE price IN (SELECT 1))", "neither"),
        ("count(*); DROP TABLE x", "follows the end"),
        ("count(*)::text", "not among"),
        ("'a' || 'b'", "gives no number"),
        ("1e999 + count(*)", "no finite number"),
        ("sum(", "Expected"),
        ("", "Expected"),
    ] {
        let error = Expression::parse(expression).expect_err(expression);
        assert!(error.contains(why), "{expression}: {error}");
    }
    assert!(Expression::parse(&"(".repeat(1999)).unwrap_err().contains("recursion"));
    assert!(Expression::parse(&format!("count(*){}", " + 1".repeat(600))).unwrap_err().contains("too long"));
    assert!(Expression::parse(&format!("count(*){}", "+1".repeat(900))).is_ok());
}

/// Five of the six variables of the method can be written as expressions: both ways must agree for every customer of a
/// simulated shop, on days within and at the end of the log.
#[test]
fn the_method_s_variables_as_expressions() {
    let expressions = [
        "sum(quantity * price) FILTER (WHERE kind = 'purchase')",
        "sum(quantity * price) FILTER (WHERE kind = 'purchase') / count(DISTINCT order_id) FILTER (WHERE kind = 'purchase')",
        "sum(quantity) FILTER (WHERE kind = 'purchase') / count(DISTINCT order_id) FILTER (WHERE kind = 'purchase')",
        "count(*) FILTER (WHERE kind = 'search')",
        "count(DISTINCT session)",
    ];
    let own = expressions.map(|e| Own { name: "x".into(), expression: e.into() }).to_vec();
    let definition = Definition { window_days: 10, own };
    let (world, log) = (&shop().world, shop().world.log());
    let loyalty = Loyalty::new(log, &definition).unwrap();
    let last = world.clicks.iter().map(|c| c.at).max().unwrap();
    let mut spent = 0.0;
    for day in [last.div_euclid(DAY) * DAY, (last.div_euclid(DAY) - 15) * DAY] {
        for customer in loyalty.customers(day) {
            let row = loyalty.variables(customer, day).unwrap();
            for (i, place) in [0, 1, 2, 3, 5].into_iter().enumerate() {
                assert!((row[place] - row[6 + i]).abs() < 1e-9, "{}: {row:?}", SIX[place]);
            }
            spent += row[0];
        }
    }
    assert!(spent > 0.0);
}
