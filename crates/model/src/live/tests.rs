use super::*;
use crate::training::tests::{click, shop};
use coupon_events::events::{MAX_ATTRIBUTES, SECOND};
use proptest::prelude::*;

fn text(known: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        1 => Just(None),
        6 => prop::sample::select(known).prop_map(|t| Some(t.to_string())),
        1 => any::<String>().prop_map(Some),
    ]
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        prop::sample::select(vec![None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(f64::INFINITY), Some(-2.0)]),
        (0.0..1e4f64).prop_map(Some),
        prop::num::f64::ANY.prop_map(Some),
    ]
}

/// Any click of one session: words that no vocabulary has, prices that are none, times that run backwards.
fn any_click(kinds: &'static [Kind]) -> impl Strategy<Value = Click> {
    let at = prop_oneof![8 => 0..3600 * SECOND, 1 => prop::sample::select(vec![i64::MIN, i64::MAX, 0])];
    let attributes = prop::collection::vec(text(&["mobile", "desktop", "search"]), 0..MAX_ATTRIBUTES + 2);
    let texts = (
        text(&["home", "product", "category", "cart"]),
        text(&["dresses", "shoes", "bags"]),
        text(&["dresses-017", "shoes-001"]),
        text(&["o1", "o2"]),
        text(&["north"]),
        text(&["c-00001", "c-00002"]),
    );
    (at, prop::sample::select(kinds), texts, number(), number(), attributes).prop_map(
        |(at, kind, (page, category, product, order_id, zone, customer), quantity, price, attributes)| Click {
            page,
            category,
            product,
            order_id,
            zone,
            customer,
            quantity,
            price,
            attributes,
            ..click("s", None, at, kind)
        },
    )
}

const PAGES: &[Kind] = &[Kind::View, Kind::Search, Kind::Cart, Kind::Uncart];

type Bits = (u32, [bool; 2], [Option<u64>; 2], Option<Vec<u8>>);

/// All of a visit to the bit.
fn bits(visit: &LiveSession) -> Bits {
    let scores = [visit.churn, visit.interest].map(|x| x.map(f64::to_bits));
    (visit.views, [visit.frozen, visit.purchased], scores, visit.to_bytes())
}

fn stored(visit: &LiveSession, version: &Version) -> LiveSession {
    let mut stored = LiveSession::stored(visit.views, visit.frozen, visit.purchased, visit.churn, visit.interest);
    stored.restore(version, &visit.to_bytes().unwrap()).unwrap();
    stored
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_stored_visit_is_the_one_kept_in_memory(
        clicks in prop::collection::vec(any_click(&Kind::ALL), 0..40),
        scoring in 0u32..4,
        churn in any::<bool>(),
    ) {
        let mut version = shop().version.clone();
        if !churn {
            version.churn = None;
        }
        let mut kept = LiveSession::begin(Some(&version), scoring);
        let mut passed = kept.clone();
        let mut views = 0;
        for click in &clicks {
            passed = stored(&passed, &version);
            kept.click(Some(&version), click);
            passed.click(Some(&version), click);
            prop_assert_eq!(bits(&kept), bits(&passed));
            views += u32::from(!kept.frozen);
            prop_assert_eq!(kept.views, views);
            prop_assert_eq!(kept.churn.is_some(), churn && views > 0);
            prop_assert!(kept.churn.is_none_or(|p| p > 0.0 && p < 1.0));
            prop_assert!(kept.interest.is_none_or(|i| i >= 1.0 - kept.churn.unwrap()));
            prop_assert_eq!(passed.scoring(), scoring);
        }
    }

    /// The running session is scored as the whole array is.
    #[test]
    fn click_by_click_is_all_at_once(clicks in prop::collection::vec(any_click(PAGES), 1..60), scoring in 0u32..4) {
        let version = &shop().version;
        let model = version.churn.as_ref().unwrap();
        let view = |c: &Click| {
            let attributes: Vec<_> = c.attributes.iter().map(Option::as_deref).collect();
            model.vocabulary().view(c.at, c.kind, c.page.as_deref(), c.category.as_deref(), c.price, &attributes)
        };
        let all = model.score(scoring, &clicks.iter().map(view).collect::<Vec<_>>());
        let mut visit = LiveSession::begin(Some(version), scoring);
        for (click, churn) in clicks.iter().zip(&all) {
            visit.click(Some(version), click);
            prop_assert_eq!(visit.churn, Some(*churn));
        }
        let highest = all.iter().map(|churn| 1.0 - churn).fold(0.0, f64::max);
        prop_assert_eq!(visit.interest, Some(highest));
    }

    /// Sessions that go on side by side, of one segment or several, are each as if alone.
    #[test]
    fn side_by_side_is_one_by_one(
        clicks in prop::array::uniform4(prop::collection::vec(any_click(&Kind::ALL), 0..12)),
        scoring in prop_oneof![Just([1; 4]), prop::array::uniform4(0u32..4)],
        churn in prop_oneof![1 => Just(false), 5 => Just(true)],
    ) {
        let mut version = shop().version.clone();
        if !churn {
            version.churn = None;
        }
        let version = Some(&version);
        let mut alone = scoring.map(|segment| LiveSession::begin(version, segment));
        let mut beside = alone.clone();
        for t in 0..clicks.iter().map(Vec::len).min().unwrap() {
            let [a, b, c, d] = &mut beside;
            let [w, x, y, z] = clicks.each_ref().map(|clicks| &clicks[t]);
            LiveSession::apply_lanes(version, [(a, w), (b, x), (c, y), (d, z)]);
            alone.iter_mut().zip(&clicks).for_each(|(visit, clicks)| visit.click(version, &clicks[t]));
            prop_assert_eq!(alone.each_ref().map(bits), beside.each_ref().map(bits));
        }
    }

    #[test]
    fn after_the_checkout_nothing_changes(
        before in prop::collection::vec(any_click(PAGES), 0..10),
        end in any_click(&[Kind::Checkout, Kind::Purchase]),
        after in prop::collection::vec(any_click(&Kind::ALL), 0..10),
    ) {
        let version = Some(&shop().version);
        let mut visit = LiveSession::begin(version, 1);
        before.iter().for_each(|c| visit.click(version, c));
        let open = bits(&visit);
        visit.click(version, &end);
        let paid = end.kind == Kind::Purchase;
        prop_assert_eq!(bits(&visit), (open.0, [true, paid], open.2, open.3.clone()));
        after.iter().for_each(|c| visit.click(version, c));
        let paid = paid || after.iter().any(|c| c.kind == Kind::Purchase);
        prop_assert_eq!(bits(&visit), (open.0, [true, paid], open.2, open.3));
    }

    #[test]
    fn any_bytes_at_all_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(matches!(LiveSession::default().restore(&shop().version, &bytes), Err(Error::Corrupt(_))));
    }

    /// A state with some bits wrong is refused, or still gives probabilities.
    #[test]
    fn wrong_bits_never_panic(
        clicks in prop::collection::vec(any_click(PAGES), 1..6),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let version = &shop().version;
        let mut visit = LiveSession::begin(Some(version), 0);
        visit.click(Some(version), &clicks[0]);
        let mut bytes = visit.to_bytes().unwrap();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match visit.restore(version, &bytes) {
            Ok(()) => for click in &clicks {
                visit.click(Some(version), click);
                prop_assert!(visit.churn.is_some_and(|p| p > 0.0 && p < 1.0));
            },
            Err(e) => prop_assert!(matches!(e, Error::Corrupt(_))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_order_is_total(clicks in prop::array::uniform3(near())) {
        let [a, b, c] = &clicks;
        prop_assert_eq!(a.order(a), Ordering::Equal);
        prop_assert_eq!(a.order(b), b.order(a).reverse());
        prop_assert_eq!(a.order(b), plain(a, b));
        if a.order(b).is_le() && b.order(c).is_le() {
            prop_assert!(a.order(c).is_le());
        }
        if a.order(b).is_eq() {
            prop_assert_eq!(a.order(c), b.order(c));
        }
    }
}

/// Clicks that often agree, so that every column gets to decide.
fn near() -> impl Strategy<Value = Click> {
    fn few() -> impl Strategy<Value = Option<String>> {
        prop_oneof![20 => Just(Some("a")), 1 => prop::sample::select(vec![None, Some("ä"), Some("")])]
            .prop_map(|t| t.map(Into::into))
    }
    fn some() -> impl Strategy<Value = Option<f64>> {
        prop::sample::select(vec![None, Some(1.0), Some(1.0), Some(2.0), Some(f64::NAN), Some(-0.0), Some(0.0)])
    }
    let kind = prop_oneof![9 => Just(Kind::View), 1 => Just(Kind::Cart)];
    let texts = (few(), few(), few(), few(), few(), few(), few());
    let at = prop_oneof![9 => Just(0i64), 1 => Just(1)];
    let attributes = prop_oneof![3 => Just(vec![Some("a".to_string())]), 1 => prop::collection::vec(few(), 0..3)];
    (at, kind, texts, some(), some(), attributes).prop_map(
        |(at, kind, (session, customer, page, category, product, order_id, zone), quantity, price, attributes)| Click {
            at,
            session,
            customer,
            kind,
            page,
            category,
            product,
            quantity,
            price,
            order_id,
            zone,
            attributes,
        },
    )
}

/// `ORDER BY at, session, customer, kind, page, category, product, order_id, zone, attributes, quantity, price`, texts
/// COLLATE "C", as a key: a value before NULL, NaN after the numbers.
fn plain(a: &Click, b: &Click) -> Ordering {
    type Text = (bool, Vec<u8>);
    let text = |t: &Option<String>| (t.is_none(), t.clone().unwrap_or_default().into_bytes());
    let number =
        |n: Option<f64>| (n.is_none(), n.is_some_and(f64::is_nan), n.filter(|n| !n.is_nan()).unwrap_or(0.0) + 0.0);
    let key = |c: &Click| {
        let before = [&c.session, &c.customer].map(text);
        let after = [&c.page, &c.category, &c.product, &c.order_id, &c.zone].map(text);
        let attributes: (bool, Vec<Text>) = (c.attributes.is_empty(), c.attributes.iter().map(text).collect());
        ((c.at, before, c.kind.name(), after, attributes), [number(c.quantity), number(c.price)])
    };
    let (a, b) = (key(a), key(b));
    a.0.cmp(&b.0).then(a.1.partial_cmp(&b.1).unwrap())
}
