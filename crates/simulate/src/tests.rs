use super::*;
use coupon_events::events::SECOND;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Thursday, 2026-01-01.
const START: Micros = 9_497 * DAY;

type Visits<'a> = BTreeMap<&'a str, Vec<&'a Click>>;

fn log(shop: &Shop, days: i64) -> Vec<Click> {
    (0..days).flat_map(|d| shop.day(START + d * DAY)).collect()
}

fn visits(clicks: &[Click]) -> Visits<'_> {
    let mut visits = Visits::new();
    for click in clicks {
        visits.entry(&click.session).or_default().push(click);
    }
    visits
}

fn has(visit: &[&Click], kind: Kind) -> bool {
    visit.iter().any(|c| c.kind == kind)
}

fn share<T>(of: impl IntoIterator<Item = T>, which: impl Fn(&T) -> bool) -> f64 {
    let (mut n, mut yes) = (0, 0);
    for x in of {
        n += 1;
        yes += usize::from(which(&x));
    }
    yes as f64 / n as f64
}

/// Area under the ROC curve by mid-ranks.
fn auroc(scored: &[(f64, bool)]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut before, mut ranks, mut yes) = (0.0, 0.0, 0.0);
    for tie in sorted.chunk_by(|a, b| a.0 == b.0) {
        let buyers = tie.iter().filter(|s| s.1).count() as f64;
        ranks += buyers * (before + (tie.len() as f64 + 1.0) / 2.0);
        before += tie.len() as f64;
        yes += buyers;
    }
    (ranks - yes * (yes + 1.0) / 2.0) / (yes * (sorted.len() as f64 - yes))
}

/// What must hold in every visit of every shop.
fn check_visit(visit: &[&Click]) -> std::result::Result<(), TestCaseError> {
    let mut cart: Vec<(&str, f64)> = Vec::new();
    let mut orders = BTreeSet::new();
    let mut bought: Vec<(&str, f64)> = Vec::new();
    for pair in visit.windows(2) {
        prop_assert!(pair[0].at < pair[1].at, "two clicks of a visit at one time");
        prop_assert!(pair[1].at - pair[0].at < 30 * 60 * SECOND, "a pause that would close the session");
        prop_assert!(pair[0].customer.is_none() || pair[0].customer == pair[1].customer, "the customer changes");
        prop_assert_eq!((pair[0].device, pair[0].referrer), (pair[1].device, pair[1].referrer));
        prop_assert!(pair[0].kind != Kind::Purchase || pair[1].kind != Kind::Checkout, "paid twice");
    }
    let mut checked_out = false;
    for click in visit {
        for id in [Some(&click.session), click.customer.as_ref(), click.product.as_ref(), click.order_id.as_ref()] {
            prop_assert!(id.is_none_or(|id| (1..=256).contains(&id.len())));
        }
        prop_assert_eq!(click.product.is_some(), click.price.is_some());
        prop_assert!(click.product.is_none() || click.category.is_some());
        prop_assert!(click.price.is_none_or(|p| p.is_finite() && p > 0.0));
        prop_assert_eq!(click.order_id.is_some(), click.kind == Kind::Purchase);
        let moves = matches!(click.kind, Kind::Cart | Kind::Uncart | Kind::Purchase);
        prop_assert_eq!(click.quantity.is_some(), moves);
        let Some(quantity) = click.quantity else {
            if click.kind == Kind::Checkout {
                prop_assert!(!cart.is_empty(), "checkout with an empty cart");
                checked_out = true;
            }
            continue;
        };
        prop_assert!(quantity >= 1.0 && quantity.fract() == 0.0);
        let line = (click.product.as_deref().unwrap_or_default(), quantity);
        match click.kind {
            Kind::Cart => cart.push(line),
            Kind::Uncart => {
                let there = cart.iter().position(|l| *l == line);
                prop_assert!(there.is_some(), "took out what was not in the cart");
                cart.remove(there.unwrap_or_default());
            }
            _ => {
                prop_assert!(checked_out, "a purchase without a checkout");
                bought.push(line);
                orders.insert(click.order_id.clone());
            }
        }
    }
    prop_assert!(orders.len() <= 1, "two orders in one visit");
    if !bought.is_empty() {
        cart.sort_by(|a, b| a.0.cmp(b.0));
        bought.sort_by(|a, b| a.0.cmp(b.0));
        prop_assert_eq!(cart, bought, "the order is not the cart");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_visit_makes_sense(customers in 1u32..120, seed: u64, day in -200_000i64..200_000) {
        let shop = Shop::new(customers, seed).unwrap();
        let clicks = shop.day(day * DAY);
        prop_assert!(clicks.is_sorted_by(|a, b| (a.at, &a.session) <= (b.at, &b.session)));
        for visit in visits(&clicks).values() {
            prop_assert_eq!(visit[0].at.div_euclid(DAY), day, "a visit that starts on another day");
            check_visit(visit)?;
        }
    }
}

#[test]
fn a_day_needs_no_other_day() {
    let whole = Shop::new(300, 7).unwrap();
    let first = log(&whole, 9);
    assert!(first.len() > 1_000);
    assert_eq!(first, log(&Shop::new(300, 7).unwrap(), 9));
    // A shop that starts a week later goes on as if it had been there all along.
    assert_eq!(whole.day(START + 8 * DAY), Shop::new(300, 7).unwrap().day(START + 8 * DAY));
    // Any time of a day stands for the day.
    assert_eq!(whole.day(START), whole.day(START + DAY - 1));
    assert_ne!(whole.day(START), whole.day(START + DAY));
    assert_ne!(whole.day(START), Shop::new(300, 8).unwrap().day(START));
}

#[test]
fn sizes_and_days_at_the_ends() {
    for customers in [0, MAX_CUSTOMERS + 1, u32::MAX] {
        assert!(matches!(Shop::new(customers, 0), Err(Error::Spec(_))));
    }
    let one = Shop::new(1, 3).unwrap();
    assert!(visits(&log(&one, 200)).len() > 5);
    assert!(one.shopper("c-00000").is_some());
    for nobody in ["c-00001", "c-", "x", "", "c--1", "c-99999999999999999999"] {
        assert_eq!(one.shopper(nobody), None);
    }
    let shop = Shop::new(50, 3).unwrap();
    for at in [Micros::MIN, Micros::MIN + DAY, -1, 0, Micros::MAX - DAY, Micros::MAX] {
        assert!(shop.day(at).is_sorted_by(|a, b| a.at <= b.at));
    }
}

/// The proportions at the default size, for several shops; bounds are about four standard errors wide.
#[test]
fn looks_like_a_fashion_shop() {
    for seed in [0, 1, 2] {
        let shop = Shop::new(DEFAULT_CUSTOMERS, seed).unwrap();
        let clicks = log(&shop, DEFAULT_DAYS.into());
        let visits = visits(&clicks);
        let inside = |what: &str, x: f64, low: f64, high: f64| {
            assert!((low..=high).contains(&x), "seed {seed}: {what} is {x}, not in {low} … {high}");
        };
        inside("clicks", clicks.len() as f64, 95e3, 125e3);
        inside("visits", visits.len() as f64, 16e3, 20.5e3);
        inside("bounces", share(visits.values(), |v| v.len() == 1), 0.42, 0.55);
        inside("more than three views", share(visits.values(), |v| v.len() > 3), 0.31, 0.41);
        inside("bots", share(visits.values(), |v| v.len() > 100), 0.0004, 0.0025);
        inside("anonymous", share(visits.values(), |v| v.iter().all(|c| c.customer.is_none())), 0.40, 0.55);

        let bought = |v: &&Vec<&Click>| has(v, Kind::Purchase);
        inside("buyers", visits.values().filter(bought).count() as f64, 480.0, 700.0);
        inside("conversion", share(visits.values(), bought), 0.025, 0.035);
        inside("abandoned carts", share(visits.values().filter(|v| has(v, Kind::Cart)), |v| !bought(v)), 0.65, 0.76);

        let sales: f64 =
            clicks.iter().filter(|c| c.kind == Kind::Purchase).filter_map(|c| Some(c.price? * c.quantity?)).sum();
        inside("daily sales", sales / f64::from(DEFAULT_DAYS), 1_500.0, 3_000.0);

        // Three kinds of customers, in the papers' shares, far enough apart in what they do.
        let kinds: Vec<Shopper> = shop.people.iter().map(|p| p.shopper).collect();
        for (kind, part, conversion) in [
            (Shopper::Looker, 0.66, (0.004, 0.013)),
            (Shopper::Vip, 0.09, (0.09, 0.155)),
            (Shopper::Regular, 0.25, (0.04, 0.07)),
        ] {
            inside(kind.name(), share(&kinds, |k| **k == kind), part - 0.045, part + 0.045);
            let of_kind = |v: &&Vec<&Click>| v[0].customer.as_deref().and_then(|c| shop.shopper(c)) == Some(kind);
            inside(kind.name(), share(visits.values().filter(of_kind), bought), conversion.0, conversion.1);
        }

        // More than ten categories, each of them alive.
        let mut categories = BTreeMap::new();
        for name in clicks.iter().filter_map(|c| c.category) {
            *categories.entry(name).or_insert(0) += 1;
        }
        assert_eq!(categories.len(), 14);
        let all: i32 = categories.values().sum();
        assert!(
            categories.values().all(|n| (0.015..0.2).contains(&(f64::from(*n) / f64::from(all)))),
            "{categories:?}"
        );
    }
}

/// What each column holds of a session cut three views before its end.
const COLUMNS: [&str; 10] =
    ["length", "carts", "cart pages", "products", "seconds", "log in", "searches", "again", "looked at last", "kind"];

/// The columns and the label of every session of more than three views, the last three dropped, in time order.
fn at_the_cut(shop: &Shop, clicks: &[Click]) -> Vec<([f64; COLUMNS.len()], bool)> {
    let mut rows = Vec::new();
    for visit in visits(clicks).values() {
        let views: Vec<&Click> = visit.iter().copied().take_while(|c| !c.kind.ends()).collect();
        if !(4..=100).contains(&views.len()) {
            continue;
        }
        let seen = &views[..views.len() - 3];
        let count = |which: fn(&Click) -> bool| seen.iter().filter(|c| which(c)).count() as f64;
        let products = count(|c| c.page == "product" && c.kind == Kind::View);
        let different = seen.iter().filter_map(|c| c.product.as_deref()).collect::<BTreeSet<_>>().len() as f64;
        let since = |back: usize| (seen[seen.len() - 1].at - seen[seen.len().saturating_sub(back)].at) as f64 / 1e6;
        let kind = match visit[0].customer.as_deref().and_then(|c| shop.shopper(c)) {
            Some(Shopper::Vip) => 3.0,
            Some(Shopper::Regular) => 2.0,
            None => 1.0,
            Some(Shopper::Looker) => 0.0,
        };
        let row = [
            seen.len() as f64,
            count(|c| c.kind == Kind::Cart),
            count(|c| c.page == "cart"),
            products,
            since(seen.len()),
            count(|c| c.page == "login"),
            count(|c| c.kind == Kind::Search),
            products - different,
            since(2),
            kind,
        ];
        rows.push((visit[0].at, row, has(visit, Kind::Purchase)));
    }
    rows.sort_by_key(|r| r.0);
    rows.into_iter().map(|(_, row, bought)| (row, bought)).collect()
}

#[test]
fn no_column_gives_it_away() {
    let shop = Shop::new(4_000, 5).unwrap();
    let rows = at_the_cut(&shop, &log(&shop, 35));
    for (i, what) in COLUMNS.into_iter().enumerate() {
        let area = auroc(&rows.iter().map(|(row, bought)| (row[i], *bought)).collect::<Vec<_>>());
        let (low, high) = match what {
            "carts" => (0.68, 0.79),
            "kind" => (0.62, 0.76),
            "log in" => (0.45, 0.60),
            _ => (0.52, 0.76),
        };
        assert!((low..=high).contains(&area), "{what} alone: {area}");
    }
}

/// A logistic regression on all columns but the hidden kind, fitted on the first 70 %, judged on the rest. Gradient
/// boosting (scikit-learn, thirty columns) reaches .80 … .83 on the same question.
#[test]
fn a_model_can_learn_and_cannot_know() {
    const N: usize = COLUMNS.len();
    let shop = Shop::new(4_000, 5).unwrap();
    let mut rows = at_the_cut(&shop, &log(&shop, 35));
    for (row, _) in &mut rows {
        *row = row.map(f64::ln_1p);
        row[N - 1] = 1.0; // the constant in place of the kind
    }
    let fit = rows.len() * 7 / 10;
    for i in 0..N - 1 {
        let mean = rows[..fit].iter().map(|r| r.0[i]).sum::<f64>() / fit as f64;
        let deviation = (rows[..fit].iter().map(|r| (r.0[i] - mean).powi(2)).sum::<f64>() / fit as f64).sqrt();
        rows.iter_mut().for_each(|r| r.0[i] = (r.0[i] - mean) / deviation);
    }
    let mut weights = [0.0; N];
    let logit = |w: &[f64; N], row: &[f64; N]| w.iter().zip(row).map(|(w, x)| w * x).sum::<f64>();
    for _ in 0..300 {
        let mut gradient = [0.0; N];
        for (row, bought) in &rows[..fit] {
            let error = interest::sigmoid(logit(&weights, row)) - f64::from(u8::from(*bought));
            gradient.iter_mut().zip(row).for_each(|(g, x)| *g += error * x);
        }
        weights.iter_mut().zip(gradient).for_each(|(w, g)| *w -= g / fit as f64);
    }
    let area = auroc(&rows[fit..].iter().map(|(row, bought)| (logit(&weights, row), *bought)).collect::<Vec<_>>());
    assert!((0.76..0.85).contains(&area), "{area}");
}

#[test]
fn customers_keep_their_tastes() {
    let shop = Shop::new(400, 11).unwrap();
    let clicks = log(&shop, 84);
    let mut halves: HashMap<&str, [BTreeMap<&str, usize>; 2]> = HashMap::new();
    for click in &clicks {
        if let (Some(customer), Some(category)) = (&click.customer, click.category) {
            let half = usize::from(click.at >= START + 42 * DAY);
            *halves.entry(customer).or_default()[half].entry(category).or_default() += 1;
        }
    }
    let favourite = |m: &BTreeMap<&str, usize>| m.iter().max_by_key(|(_, n)| **n).map(|(c, _)| c.to_string());
    let known: Vec<_> = halves.values().filter(|h| h.iter().all(|m| m.values().sum::<usize>() >= 30)).collect();
    assert!(known.len() > 50);
    // By chance about one in ten.
    let same = share(&known, |h| favourite(&h[0]) == favourite(&h[1]));
    assert!(same > 0.45, "{same} have the same favourite category in both halves");
}

#[test]
fn prices_last_and_complements_sell() {
    let clicks = log(&Shop::new(10_000, 2).unwrap(), 35);
    let mut prices = HashMap::new();
    for click in &clicks {
        if let (Some(product), Some(price)) = (&click.product, click.price) {
            assert_eq!(*prices.entry(product).or_insert(price), price, "{product}");
        }
    }
    assert!((1_100..=1_317).contains(&prices.len()), "{} products", prices.len());

    // Who buys dresses buys shoes: more of the orders with a dress have shoes than of the other orders of two lines or more.
    let mut orders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for click in &clicks {
        if let (Some(order), Some(category)) = (&click.order_id, click.category) {
            orders.entry(order).or_default().insert(category);
        }
    }
    let several: Vec<_> = orders.values().filter(|o| o.len() > 1).collect();
    let shoes = |dress: bool| share(several.iter().filter(|o| o.contains("dresses") == dress), |o| o.contains("shoes"));
    assert!(shoes(true) > 1.1 * shoes(false), "{} against {}", shoes(true), shoes(false));
}

#[test]
fn weeks_and_days_have_a_rhythm() {
    let clicks = log(&Shop::new(2_000, 4).unwrap(), 28);
    let (mut days, mut hours) = ([0.0; 7], [0.0; 24]);
    for visit in visits(&clicks).values() {
        let at = visit[0].at;
        // 2000-01-01 was a Saturday; 0 is Sunday.
        days[((at.div_euclid(DAY) + 6) % 7) as usize] += 1.0;
        hours[(at.rem_euclid(DAY) / (3_600 * SECOND)) as usize] += 1.0;
    }
    let ratio = days[0] / days[6];
    assert!((1.2..1.45).contains(&ratio), "Sunday over Saturday: {ratio}");
    assert!(hours[21] > 1.4 * hours[9] && hours[9] > 4.0 * hours[4], "{hours:?}");
}
