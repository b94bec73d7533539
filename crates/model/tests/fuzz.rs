//! Whatever bytes come from outside, reading them ends in an answer: no panic, no more memory than a small multiple of
//! the input, and nothing accepted that does not serve as well as it was read.
//!
//! A few thousand inputs in `cargo test`; a million by `make fuzz`. Inputs are changed versions of a real artefact and
//! of real sessions, most of them sealed again as a forger would, so that they come past the digests.

use coupon_base::Error;
use coupon_events::events::Kind;
use coupon_model::artefact::Artefact;
use coupon_model::churn::Model;
use coupon_model::live::{Click, LiveSession};
use coupon_model::version::Version;
use coupon_policy::{Moment, Policy, eligible};
use coupon_rank::SessionCategories;
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const FIXTURE: &[u8] = include_bytes!("../../../models/fixtures/version.artefact");
static ORIGINAL: LazyLock<Artefact> = LazyLock::new(|| Artefact::decode(FIXTURE).unwrap());
static VERSION: LazyLock<Version> = LazyLock::new(|| ORIGINAL.check().unwrap());

/// Memory is counted for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Runs a reader and holds it to so many bytes of memory a byte of input.
fn within<T>(times: usize, input: usize, read: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let read = read();
    let took = MEMORY.peak_usage().saturating_sub(before);
    assert!(took <= times * input + SLACK, "{took} bytes of memory for {input} bytes of input");
    read
}

/// What an answer takes whatever was asked: a message, the defaults of a specification.
const SLACK: usize = 64 << 10;

/// One change: what, where, and by what.
type Edit = (u8, u32, u32);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(any::<Edit>(), 1..4)
}

/// Numbers that are read as lengths, counts, floats or halves of them.
const WORDS: [u64; 12] = [
    0,
    1,
    8,
    0xff,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
    0x7ff8_0000_7fc0_0000, // NaN, as f64 and as f32
    0x7ff0_0000_7f80_0000, // NaN and ∞
    0xfff0_0000_0000_0000, // −∞
    0x7fef_ffff_7f7f_ffff, // the largest
];

fn edit_bytes(bytes: &mut Vec<u8>, (what, at, by): Edit) {
    if bytes.is_empty() {
        return bytes.extend(by.to_le_bytes());
    }
    let place = at as usize % bytes.len();
    match what % 8 {
        0 => bytes[place] ^= 1 << (by % 8),
        1 => bytes.truncate(place),
        // Most formats here begin with a length.
        2 => write(bytes, (at % 3) as usize * 4, WORDS[by as usize % WORDS.len()]),
        3 => write(bytes, place, WORDS[by as usize % WORDS.len()]),
        4 => drop(bytes.splice(place..place, vec![by as u8; by as usize % 64])),
        5 => drop(bytes.drain(place..(place + by as usize % 64).min(bytes.len()))),
        6 => {
            let other = by as usize % bytes.len();
            let n = 8.min(bytes.len() - place.max(other));
            (0..n).for_each(|i| bytes.swap(place + i, other + i));
        }
        // A digit of a header: counts, shapes and offsets are written so.
        _ => {
            let digits = bytes.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|d| d.0);
            let digits: Vec<usize> = digits.take(2000).collect();
            if let Some(&digit) = digits.get(at as usize % digits.len().max(1)) {
                bytes[digit] = b'0' + (by % 10) as u8;
            }
        }
    }
}

fn write(bytes: &mut [u8], at: usize, word: u64) {
    bytes.iter_mut().skip(at).zip(word.to_le_bytes()).for_each(|(to, from)| *to = from);
}

fn edit_json(root: &mut Value, at: u32, by: u32) {
    fn count(v: &Value) -> usize {
        1 + match v {
            Value::Array(all) => all.iter().map(count).sum(),
            Value::Object(all) => all.values().map(count).sum::<usize>(),
            _ => 0,
        }
    }
    fn find(v: &mut Value, mut n: usize) -> &mut Value {
        if n == 0 {
            return v;
        }
        n -= 1;
        let children: Box<dyn Iterator<Item = &mut Value>> = match v {
            Value::Array(all) => Box::new(all.iter_mut()),
            Value::Object(all) => Box::new(all.values_mut()),
            _ => unreachable!("counted"),
        };
        for child in children {
            let size = count(child);
            if n < size {
                return find(child, n);
            }
            n -= size;
        }
        unreachable!("counted")
    }
    let node = find(root, at as usize % count(root));
    match (node, by % 24) {
        (Value::Array(all), 0) => drop(all.pop()),
        (Value::Array(all), 1) => all.extend(all.clone()),
        (Value::Array(all), 2) => all.reverse(),
        (Value::Object(all), 0) => all.retain(|key, _| key.len() as u32 % 4 != at % 4),
        (Value::Object(all), 1) => drop(all.insert("unknown".into(), json!(1))),
        (Value::Number(n), 0..4) => {
            let old = n.as_f64().unwrap_or(0.0);
            let new = [old * 2.0, -old, old / 3.0, old + 1.0][by as usize % 4];
            *n = serde_json::Number::from_f64(new).unwrap_or(n.clone());
        }
        (node, by) => {
            *node = match by {
                4 => Value::Null,
                5 => json!(true),
                6 => json!(0),
                7 => json!(-1),
                8 => json!(2),
                9 => json!(0.5),
                10 => json!(-0.0),
                11 => json!(1e17),
                12 => json!(1e308),
                13 => json!(u32::MAX),
                14 => json!(u64::MAX),
                15 => json!(i64::MIN),
                16 => json!(""),
                17 => json!("count(*) FILTER (WHERE hour > 22)"),
                18 => json!("a\0b"),
                19 => json!([]),
                20 => json!({}),
                21 => json!("x".repeat(3000)),
                22 => json!(vec![vec![0]; 1000]),
                _ => json!([1, 2, 3]),
            }
        }
    }
}

/// A safetensors file of which the JSON, a tensor's name or a tensor's shape is changed, and which is whole again.
fn edit_weights(bytes: &mut Vec<u8>, (what, at, by): Edit) {
    let Ok((_, header)) = SafeTensors::read_metadata(&*bytes) else { return };
    let Ok(file) = SafeTensors::deserialize(bytes) else { return };
    let Some(meta) = header.metadata().as_ref().and_then(|m| m.get("coupon_ext")) else { return };
    let Ok(mut meta) = serde_json::from_str(meta) else { return };
    let mut tensors: Vec<_> =
        file.iter().map(|(name, t)| (name.to_string(), t.dtype(), t.shape().to_vec(), t.data())).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let n = tensors.len().max(1);
    match what % 8 {
        0..5 => edit_json(&mut meta, at, by),
        5 if !tensors.is_empty() => drop(tensors.remove(at as usize % n)),
        6 if !tensors.is_empty() => {
            let name = tensors[by as usize % n].0.clone();
            tensors[at as usize % n].0 = if by & 1 << 20 == 0 { format!("{name}.") } else { name };
        }
        _ => tensors.iter_mut().skip(at as usize % n).take(1).for_each(|t| t.2.reverse()),
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors.dedup_by(|a, b| a.0 == b.0);
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    *bytes = safetensors::serialize(views, Some(HashMap::from([("coupon_ext".into(), meta.to_string())]))).unwrap();
}

fn edit_artefact(artefact: &mut Artefact, (what, at, by): Edit) {
    let n = artefact.stages.len();
    if n == 0 {
        return;
    }
    let (one, other) = (at as usize % n, by as usize % n);
    let (at, stage) = (at / n as u32, &mut artefact.stages[one]);
    match what % 20 {
        0..4 => edit_bytes(&mut stage.weights, (what / 20, at, by)),
        4..10 => edit_weights(&mut stage.weights, (what / 20, at, by)),
        10 | 11 => edit_json(&mut stage.spec, at, by),
        12 => edit_json(&mut stage.card, at, by),
        // The one card that serves.
        13 | 14 => {
            artefact.stages.iter_mut().filter(|s| s.stage == "issue").for_each(|s| edit_json(&mut s.card, at, by))
        }
        15 => {
            let stage = artefact.stages.remove(one);
            if what > 128 {
                artefact.stages.push(stage);
            }
        }
        16 => {
            let weights = std::mem::take(&mut artefact.stages[one].weights);
            artefact.stages[one].weights = std::mem::replace(&mut artefact.stages[other].weights, weights);
        }
        17 => {
            let spec = artefact.stages[other].spec.clone();
            artefact.stages[one].spec = spec;
        }
        18 => stage.segment = [0, 1, 2, 3, i32::MAX as u32 + 1, u32::MAX][by as usize % 6],
        _ => match by % 5 {
            0 => artefact.since = WORDS[at as usize % WORDS.len()] as i64,
            1 => artefact.until = WORDS[at as usize % WORDS.len()] as i64,
            2 => artefact.threads = WORDS[at as usize % WORDS.len()] as i32,
            3 => artefact.seed = WORDS[at as usize % WORDS.len()] as i64,
            _ => artefact.build = ["", "\0", "é"][at as usize % 3].into(),
        },
    }
}

fn click(n: i64) -> Click {
    let text = |t: &str| Some(t.to_string());
    Click {
        at: [n * 20_000_000, i64::MAX, i64::MIN][if n % 5 == 4 { 1 + (n / 5 % 2) as usize } else { 0 }],
        session: text("s"),
        customer: None,
        kind: [Kind::View, Kind::Search, Kind::Cart][n as usize % 3],
        page: [text("product"), text("home"), None][n as usize % 3].clone(),
        category: [text("dresses"), text("shoes"), text("never seen")][n as usize / 2 % 3].clone(),
        product: None,
        quantity: None,
        price: [Some(30.0), None, Some(f64::INFINITY)][n as usize % 3],
        order_id: None,
        zone: None,
        attributes: vec![text("mobile"), None],
    }
}

/// A session goes on from here as probabilities should.
fn go_on(version: &Version, visit: &mut LiveSession) {
    for n in 0..6 {
        visit.click(Some(version), &click(n));
        if version.churn.is_some() && !visit.frozen {
            assert!(visit.churn.is_some_and(|p| p > 0.0 && p < 1.0), "P(churn) is {:?}", visit.churn);
            assert!(visit.interest.is_some_and(|p| p > 0.0 && p < 1.0), "interest is {:?}", visit.interest);
        }
        let mut again = LiveSession::stored(visit.views, false, false, visit.churn, visit.interest);
        again.restore(version, &visit.to_bytes().unwrap()).expect("what serves stores what it can read");
    }
}

/// All that an imported version is ever asked.
fn serve(version: &Version) {
    let groups = version.segment.groups();
    for row in [[0.0; 6], [f64::NAN; 6], [f64::MAX; 6], [12.0, 3.0, 1.0, 0.0, 90.0, 2.0]] {
        assert!((1..=groups).contains(&version.segment.assign(&row)));
    }
    for segment in [0, 1, groups, groups + 1] {
        let mut visit = LiveSession::begin(Some(version), segment);
        go_on(version, &mut visit);
        for (profile, session) in [(&[][..], SessionCategories::default()), (&[(0, 2.0), (3, 1.0)], visit.categories())]
        {
            let ranked = version.rank.rank(segment, profile, &session, 1000);
            assert!(ranked.iter().all(|r| (0.0..=1.001).contains(&r.score)), "{ranked:?}");
        }
    }
    for replay in [&version.plan.segments, &version.plan.pooled] {
        for policy in Policy::ALL {
            for target in [1e-9, 0.05, 0.1, 0.3, 1.0] {
                let Ok(found) = replay.thresholds(policy, target) else { continue };
                let shares = [found.eta, found.tau, found.realised, found.random_share];
                assert!(shares.iter().all(|x| (0.0..=1.001).contains(x)), "{found:?}");
                eligible(&found, &Moment { view: 5, max_purchase: 0.5, churn: 0.5, unit: 0.01 });
            }
        }
    }
}

/// Reads an artefact; whatever is accepted serves, and is written again as itself.
fn read(bytes: &[u8]) -> Option<Artefact> {
    match within(MULTIPLE, bytes.len(), || Artefact::decode(bytes)) {
        Err(Error::Artefact { why, .. }) => {
            assert!(!why.is_empty());
            None
        }
        Err(other) => panic!("another error: {other:?}"),
        Ok(artefact) => {
            serve(&artefact.check().expect("decode has checked"));
            assert_eq!(Artefact::decode(&artefact.encode().unwrap()).as_ref(), Ok(&artefact));
            Some(artefact)
        }
    }
}

/// Bytes of memory a byte of artefact: JSON takes most, weights are held three times.
const MULTIPLE: usize = 60;

proptest! {
    #![proptest_config(config())]

    /// Without a new seal nothing is accepted but the version that was exported.
    #[test]
    fn changed_artefacts(edits in edits(), noise in prop::collection::vec(any::<u8>(), 0..200), raw in 0u8..8) {
        let _alone = alone();
        let mut bytes = if raw == 0 { noise } else { FIXTURE.to_vec() };
        edits.into_iter().for_each(|edit| edit_bytes(&mut bytes, edit));
        if let Some(accepted) = read(&bytes) {
            prop_assert!(accepted == *ORIGINAL);
        }
    }

    /// With a new seal, whatever is accepted serves.
    #[test]
    fn forged_artefacts(edits in edits()) {
        let _alone = alone();
        let mut artefact = ORIGINAL.clone();
        edits.into_iter().for_each(|edit| edit_artefact(&mut artefact, edit));
        if let Some(accepted) = artefact.encode().ok().and_then(|bytes| read(&bytes)) {
            prop_assert!(accepted == artefact);
        }
    }

    /// The networks alone.
    #[test]
    fn changed_networks(edits in edits(), whole in any::<bool>()) {
        let _alone = alone();
        let stages = ORIGINAL.stages.iter().filter(|s| s.stage == "churn");
        let mut parts: Vec<(u32, Vec<u8>)> = stages.map(|s| (s.segment, s.weights.clone())).collect();
        for edit in edits {
            let part = edit.1 as usize % parts.len();
            let change = if whole { edit_weights } else { edit_bytes };
            change(&mut parts[part].1, edit);
        }
        let size = parts.iter().map(|p| p.1.len()).sum();
        match within(MULTIPLE, size, || Model::from_parts(&parts)) {
            Err(Error::Corrupt(_)) => {}
            Err(other) => prop_assert!(false, "another error: {other:?}"),
            Ok(model) => {
                let mut version = VERSION.clone();
                version.churn = Some(model);
                for segment in [0, 1, 2] {
                    go_on(&version, &mut LiveSession::begin(Some(&version), segment));
                }
            }
        }
    }

    /// The state of a live session, as its row holds it.
    #[test]
    fn changed_sessions(edits in edits(), clicks in 0i64..20, segment in 0u32..4) {
        let _alone = alone();
        let version = &*VERSION;
        let mut visit = LiveSession::begin(Some(version), segment);
        (0..clicks).for_each(|n| visit.click(Some(version), &click(n)));
        let mut bytes = visit.to_bytes().unwrap();
        edits.into_iter().for_each(|edit| edit_bytes(&mut bytes, edit));
        let mut changed = LiveSession::stored(visit.views, false, false, visit.churn, visit.interest);
        match within(MULTIPLE, bytes.len(), || changed.restore(version, &bytes)) {
            Err(Error::Corrupt(_)) => {}
            Err(other) => prop_assert!(false, "another error: {other:?}"),
            Ok(()) => go_on(version, &mut changed),
        }
    }
}

/// The tests above would prove little if nothing they made were accepted.
#[test]
fn some_forgeries_serve() {
    let _alone = alone();
    let mut accepted = 0;
    for by in 0..24 {
        for at in 0..200 {
            let mut artefact = ORIGINAL.clone();
            edit_artefact(&mut artefact, (4, at, by));
            accepted += u32::from(artefact != *ORIGINAL && read(&artefact.encode().unwrap()).is_some());
        }
    }
    assert!(accepted > 20, "{accepted} of 4800");
}
