use super::*;
use crate::training::tests::{World, shop_clicks, small};
use serde_json::json;

/// An artefact as an earlier build wrote it: two segments, the first with a network of its own.
const FIXTURE: &[u8] = include_bytes!("../../../../models/fixtures/version.artefact");

fn fixture() -> Artefact {
    Artefact::decode(FIXTURE).unwrap()
}

/// `cargo test -p coupon_model write_the_fixture -- --ignored`, when a specification gets another key: released formats
/// must go on being read.
#[test]
#[ignore = "writes models/fixtures/version.artefact"]
fn write_the_fixture() {
    let spec = small(json!({
        "churn": {"hidden_size": 4, "dense_units": 4, "max_pages": 4, "max_categories": 4, "max_attributes": 2, "refit": false},
        "rank": {"candidates": 6},
        "issue": {"target_shares": [0.05, 0.3], "max_views": 8},
    }));
    let world = World::new(shop_clicks(1200, 45), spec);
    let mut stages = world.train().stages;
    stages.sort_by(|a, b| (&a.stage, a.segment).cmp(&(&b.stage, b.segment)));
    // Cards are the larger part, and nothing of them serves.
    stages.iter_mut().filter(|s| s.stage != "issue").for_each(|s| s.card = json!({"seen": [1, 0.5, "é"]}));
    let artefact =
        Artefact { since: Micros::MIN, until: 0, seed: 7, threads: 2, build: "0.1.0 fixture".into(), stages };
    artefact.check().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fixtures/version.artefact");
    std::fs::write(path, artefact.encode().unwrap()).unwrap();
}

#[test]
fn an_artefact_of_an_earlier_build_is_read_and_written_again_to_the_byte() {
    let artefact = fixture();
    assert_eq!((artefact.since, artefact.until, artefact.seed, artefact.threads), (Micros::MIN, 0, 7, 2));
    assert_eq!(artefact.build, "0.1.0 fixture");
    let rows: Vec<_> = artefact.stages.iter().map(|s| (&*s.stage, s.segment)).collect();
    assert_eq!(rows[0], ("churn", 0));
    assert!(rows.len() > 5, "a segment has a row of its own: {rows:?}");
    assert!(artefact.encode().unwrap() == FIXTURE);
    let version = artefact.check().unwrap();
    assert!(version.segment.groups() >= 2);
    assert!(version.churn.unwrap().segments().any(|(_, own)| own));
}

/// What safetensors' own reader sees: anybody can look into an artefact.
#[test]
fn the_file_is_plain_safetensors() {
    let (_, header) = safetensors::SafeTensors::read_metadata(FIXTURE).unwrap();
    let seal: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["coupon_ext"]).unwrap();
    assert_eq!(seal["format"], 1);
    let file = safetensors::SafeTensors::deserialize(FIXTURE).unwrap();
    let manifest = file.tensor("manifest").unwrap().data();
    assert_eq!(seal["manifest"], sha256(manifest));
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    for entry in manifest["stages"].as_array().unwrap() {
        let weights = file.tensor(&format!("{}.{}", entry["stage"].as_str().unwrap(), entry["segment"]));
        assert_eq!(weights.is_ok(), !["sessions", "issue"].contains(&entry["stage"].as_str().unwrap()));
    }
}

fn fault(read: Result<Artefact>) -> (Fault, String) {
    match read {
        Err(Error::Artefact { fault, why }) => (fault, why),
        other => panic!("not refused as an artefact: {other:?}"),
    }
}

/// Changes a version, and seals it as a forger would.
fn forged(change: impl FnOnce(&mut Artefact)) -> String {
    let mut artefact = fixture();
    change(&mut artefact);
    let (fault, why) = fault(Artefact::decode(&artefact.encode().unwrap()));
    assert_eq!(fault, Fault::Unfit, "{why}");
    why
}

fn row<'a>(artefact: &'a mut Artefact, stage: &str, segment: u32) -> &'a mut Stage {
    artefact.stages.iter_mut().find(|s| s.stage == stage && s.segment == segment).unwrap()
}

fn own_segment() -> u32 {
    fixture().stages.iter().filter(|s| s.stage == "churn").map(|s| s.segment).max().unwrap()
}

#[test]
fn what_is_no_artefact_is_told_from_what_is_damaged() {
    for other in [&b""[..], b"hello", &[0; 64], &[255; 64], &FIXTURE[..FIXTURE.len() - 1], &FIXTURE[..9]] {
        assert_eq!(fault(Artefact::decode(other)).0, Fault::Foreign);
    }
    // Another file of ours.
    assert_eq!(fault(Artefact::decode(&fixture().stages[0].weights)).0, Fault::Foreign);
    let mut long = FIXTURE.to_vec();
    long.push(0);
    assert_eq!(fault(Artefact::decode(&long)).0, Fault::Foreign);
}

/// One bit anywhere behind the header, which is the container's own to check.
#[test]
fn a_flipped_bit_is_found() {
    let header = 8 + u64::from_le_bytes(FIXTURE[..8].try_into().unwrap()) as usize;
    for at in (header..FIXTURE.len()).step_by(97) {
        let mut flipped = FIXTURE.to_vec();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(fault(Artefact::decode(&flipped)).0, Fault::Damaged, "byte {at}");
    }
}

fn sealed(format: Value, manifest: &Value, weights: &[(&str, &[u8])]) -> Vec<u8> {
    let manifest = manifest.to_string().into_bytes();
    let seal = json!({"format": format, "manifest": sha256(&manifest)});
    let mut writer = Writer::default().bytes(MANIFEST, manifest);
    for (name, bytes) in weights {
        writer = writer.bytes(name, bytes.to_vec());
    }
    writer.finish(&seal).unwrap()
}

#[test]
fn formats_and_manifests_are_checked_before_what_they_say() {
    let (newer, why) = fault(Artefact::decode(&sealed(json!(2), &json!({"anything": true}), &[])));
    assert_eq!((newer, why.as_str()), (Fault::Newer, "it is of format 2, this coupon_ext reads up to 1"));
    for (format, expected) in [(json!(0), Fault::Damaged), (json!(-1), Fault::Foreign), (json!("1"), Fault::Foreign)] {
        assert_eq!(fault(Artefact::decode(&sealed(format, &json!({}), &[]))).0, expected);
    }
    let none =
        json!({"digest": digest(&[]), "since": 0, "until": 1, "seed": 0, "threads": 1, "build": "", "stages": []});
    let (fault_of_none, why) = fault(Artefact::decode(&sealed(json!(1), &none, &[])));
    assert_eq!((fault_of_none, why.as_str()), (Fault::Unfit, "stage sessions is missing"));
    let read =
        |manifest: &Value, weights: &[(&str, &[u8])]| fault(Artefact::decode(&sealed(json!(1), manifest, weights)));
    assert_eq!(read(&none, &[("churn.0", b"x")]), (Fault::Damaged, "there are weights of no stage".into()));
    let mut unknown = none.clone();
    unknown["by"] = json!("me");
    assert!(read(&unknown, &[]).1.contains("unknown field `by`"));
    let mut wrong = none.clone();
    wrong["digest"] = json!("0");
    assert_eq!(read(&wrong, &[]).1, "the digest of the version does not match");
    let mut deep = none.clone();
    deep["build"] = (0..200).fold(json!(0), |inner, _| json!([inner]));
    assert_eq!(read(&deep, &[]).0, Fault::Damaged);
}

/// Counts and lengths are looked at before anything is made of them.
#[test]
fn what_is_too_large_is_refused_unread() {
    let with = |key: &str, value: Value| {
        let mut manifest =
            json!({"digest": "", "since": 0, "until": 1, "seed": 0, "threads": 1, "build": "", "stages": []});
        manifest[key] = value;
        fault(Artefact::decode(&sealed(json!(1), &manifest, &[])))
    };
    assert_eq!(with("stages", json!(vec![json!({}); MOST_OBJECTS])).0, Fault::Large);
    assert_eq!(with("stages", json!(vec![0; MOST_VALUES])).0, Fault::Large);
    let entry = json!({"stage": "x", "segment": 0, "digest": "", "spec": {}, "card": {}});
    assert_eq!(with("stages", json!(vec![entry; 257])), (Fault::Large, "257 stages, at most 256".into()));
    assert_eq!(with("build", json!("x".repeat(MOST_MANIFEST))).0, Fault::Large);
    assert_eq!(fault(Artefact::decode(&vec![0; MOST_BYTES + 1])).0, Fault::Large);
    let mut large = fixture();
    large.stages[0].card = json!({"all": vec![0; MOST_VALUES]});
    assert!(matches!(large.encode(), Err(Error::Artefact { fault: Fault::Large, .. })));
}

#[test]
fn rows_that_training_does_not_make_are_refused() {
    let own = own_segment();
    assert!(forged(|a| a.stages.swap(0, 1)).ends_with("stands twice or out of order"));
    let twice = Artefact { stages: [fixture().stages, fixture().stages].concat(), ..fixture() };
    assert!(twice.encode().is_err());
    assert!(fault(twice.check().map(|_| fixture())).1.ends_with("stands twice or out of order"));
    for missing in ["sessions", "segment", "issue", "rank"] {
        let why = forged(|a| a.stages.retain(|s| s.stage != missing));
        assert_eq!(why, format!("stage {missing} is missing"));
    }
    assert_eq!(forged(|a| a.stages.retain(|s| s.stage != "churn")), "stage churn is missing");
    assert_eq!(forged(|a| a.stages.retain(|s| s.stage != "churn" || s.segment > 0)), "segment 0 is missing");
    let renamed = forged(|a| row(a, "churn", 0).stage = "a".into());
    assert_eq!(renamed, "segment 0 is missing");
    assert!(
        forged(|a| a.stages.insert(0, Stage { stage: "a".into(), ..a.stages[0].clone() })).contains("no such stage")
    );
    // A model of a segment that there is not, and a segment whose model is another's.
    let why = forged(|a| row(a, "churn", own).segment = 99);
    assert_eq!(why, "the part of segment 99 holds another");
    let pooled = fixture().stages[0].weights.clone();
    assert_eq!(forged(|a| row(a, "churn", own).weights = pooled), format!("the part of segment {own} holds another"));
    assert!(forged(|a| row(a, "rank", 0).segment = 1).contains("only churn has models of segments"));
    assert!(forged(|a| row(a, "issue", 0).weights = vec![1]).contains("weights where there are none"));
    assert!(forged(|a| row(a, "rank", 0).weights.clear()).contains("no weights"));
    let whole = fixture().check().unwrap().churn.unwrap().to_safetensors();
    let why = forged(|a| {
        a.stages.retain(|s| s.stage != "churn" || s.segment == 0);
        row(a, "churn", 0).weights = whole;
    });
    assert_eq!(why, "a row of stage churn holds models of several segments");
}

#[test]
fn specifications_and_cards_are_held_to_their_stages() {
    for stage in ["sessions", "segment", "churn", "rank", "issue"] {
        let why = forged(|a| row(a, stage, 0).spec["hiden"] = json!(7));
        assert!(why.contains("unknown field `hiden`"), "{why}");
        assert!(forged(|a| row(a, stage, 0).spec = json!([])).contains("JSON objects"));
        assert!(forged(|a| row(a, stage, 0).card = json!("")).contains("JSON objects"));
    }
    let other = "the specification is not the one of the weights";
    assert!(forged(|a| row(a, "churn", 0).spec["hidden_size"] = json!(5)).ends_with(other));
    assert!(forged(|a| row(a, "churn", own_segment()).spec["dropout"] = json!(0.5)).ends_with(other));
    assert!(forged(|a| row(a, "segment", 0).spec["method"] = json!("rfm")).ends_with(other));
    assert!(forged(|a| row(a, "rank", 0).spec["view_decay"] = json!(0.25)).ends_with(other));
    assert!(forged(|a| row(a, "rank", 0).spec["candidates"] = json!(2)).ends_with(other));
    assert!(forged(|a| row(a, "issue", 0).spec["min_views"] = json!(2)).ends_with(other));
    assert!(forged(|a| row(a, "rank", 0).spec["view_decay"] = json!(2)).contains("view_decay must be from 0 to 1"));
    // What jsonb refuses, or gives back as another number.
    for value in [json!("a\0b"), json!(-0.0), json!(1e17), json!([{"x\0": 1}])] {
        assert!(forged(|a| row(a, "rank", 0).card["x"] = value.clone()).contains("unchanged"), "{value}");
    }
    let mut kept = fixture();
    row(&mut kept, "rank", 0).card["x"] = json!([1e15, 0.1, 1e20, -7, u64::MAX, 5e-324, null, true, "é"]);
    assert_eq!(Artefact::decode(&kept.encode().unwrap()), Ok(kept));
}

#[test]
fn thresholds_are_held_to_what_a_replay_finds() {
    for (path, value) in [
        ("/segments/rows/0/at_risk/eta", json!(1.5)),
        ("/segments/rows/0/risk/tau", json!(-0.1)),
        ("/segments/rows/1/random/random_share", json!(2)),
        ("/pooled/rows/0/at_risk/target", json!(0.9)),
        ("/pooled/rows/0/at_risk/policy", json!("risk")),
        ("/pooled/min_views", json!(0)),
        ("/segments/rows/0/at_risk/views", json!([[4, 0.5]])),
        ("/segments/rows/0/at_risk/views", json!([[5, 0.5], [4, 0.5]])),
        ("/segments/reaching", json!([1, 2])),
        ("/segments/reaching", json!([u64::MAX])),
    ] {
        let why = forged(|a| *row(a, "issue", 0).card.pointer_mut(path).unwrap() = value.clone());
        assert_eq!(why, "thresholds that no replay can have found", "{path} = {value}");
    }
    assert!(forged(|a| row(a, "issue", 0).card["segments"]["row"] = json!([])).contains("unknown field `row`"));
}

#[test]
fn where_it_comes_from_is_held_to_what_can_be_stored() {
    assert!(forged(|a| a.since = 1).contains("no span of time"));
    assert!(forged(|a| a.until = Micros::MAX - 1).contains("no span of time"));
    assert!(forged(|a| a.threads = 0).contains("threads"));
    assert!(forged(|a| a.build = "0\0".into()).contains("build"));
    assert!(forged(|a| a.build = "0".repeat(201)).contains("build"));
}

/// Weights that are not numbers, or not as many as the specification says.
#[test]
fn weights_are_read_by_what_serves() {
    let own = own_segment();
    for (stage, segment) in [("churn", 0), ("churn", own), ("segment", 0), ("rank", 0)] {
        let why = forged(|a| {
            let weights = &mut row(a, stage, segment).weights;
            let end = weights.len();
            weights[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
        });
        assert!(!why.is_empty());
        let why = forged(|a| {
            let weights = &mut row(a, stage, segment).weights;
            weights.truncate(weights.len() - 4);
        });
        assert!(why.contains("metadata"), "{why}");
    }
}

/// A file of ours with other words.
fn reworded(weights: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (_, header) = safetensors::SafeTensors::read_metadata(weights).unwrap();
    let mut meta: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["coupon_ext"]).unwrap();
    change(&mut meta);
    let file = safetensors::SafeTensors::deserialize(weights).unwrap();
    safetensors::serialize(file.tensors(), Some([("coupon_ext".to_string(), meta.to_string())].into())).unwrap()
}

#[test]
fn segments_are_held_to_what_training_makes() {
    let refused = |change: &dyn Fn(&mut Value)| {
        forged(|a| {
            let stage = row(a, "segment", 0);
            stage.weights = reworded(&stage.weights, change);
        })
    };
    let cells = "the groups do not number the cells";
    assert_eq!(refused(&|m| m["groups"] = json!([])), cells);
    assert_eq!(refused(&|m| m["groups"][0] = json!(u32::MAX)), cells);
    assert_eq!(refused(&|m| m["groups"][0] = json!(0)), cells);
    assert_eq!(refused(&|m| m["groups"].as_array_mut().unwrap().push(json!(1))), cells);
    assert!(refused(&|m| m["dimensions"][1]["name"] = m["dimensions"][0]["name"].clone()).contains("two of one name"));
    assert!(refused(&|m| m["dimensions"][0]["columns"] = json!([99])).contains("variables that there are not"));
    assert!(refused(&|m| m["definition"]["lookback_days"] = json!(0)).contains("lookback_days must be from 1 to 366"));
    assert!(
        refused(&|m| m["definition"]["own"] = json!([{"name": "n", "expression": "pg_sleep(9)"}])).contains("pg_sleep")
    );
    assert!(
        refused(&|m| m["definition"]["own"] = json!([{"name": "N'", "expression": "count(*)"}])).contains("no name")
    );
    assert!(refused(&|m| m["sql"] = json!("DROP TABLE click")).contains("unknown field `sql`"));
}

/// The specification of a network says how much memory it takes; what the file holds says how much it gets.
#[test]
fn a_small_file_does_not_ask_for_a_large_network() {
    let why = forged(|a| {
        let stage = row(a, "churn", 0);
        stage.weights = reworded(&stage.weights, |m| m["shared"][0]["hidden_size"] = json!(256));
    });
    assert_eq!(why, "the network of segment 0 is smaller than its specification");
    let why = forged(|a| {
        let stage = row(a, "churn", 0);
        stage.weights = reworded(&stage.weights, |m| m["format"] = json!(2));
    });
    assert_eq!(why, "format 2, this version reads 1");
}
