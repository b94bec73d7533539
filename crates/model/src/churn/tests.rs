//! Properties, planted truths and refusals of the churn model.

use std::sync::Arc;

use proptest::prelude::*;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use super::model::{Segment, layout};
use super::net::Net;
use super::network::Network;
use super::scorer::Scorer;
use super::*;
use coupon_base::Error;
use coupon_events::events::{MAX_ATTRIBUTES, SECOND};

pub(super) fn vocabulary() -> Vocabulary {
    let words = |names: &[&str]| names.iter().map(|s| s.to_string()).collect();
    Vocabulary {
        pages: words(&["home", "product", "basket"]),
        categories: words(&["shoes", "hats"]),
        attributes: vec![words(&["phone", "desk"])],
    }
}

pub(super) fn small() -> Spec {
    Spec {
        hidden_size: 6,
        dense_units: 4,
        epochs: 3,
        one_cycle_epochs: 2,
        patience: 1,
        learning_rate: 0.01,
        ..Spec::default()
    }
}

/// An untrained model: what holds for it holds for every trained one.
pub(super) fn random_model(spec: Spec, seed: u64) -> Model {
    let inputs = layout(&spec, &vocabulary()).inputs();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut net = || Net::random(&spec, inputs, &mut rng);
    let own = || Calibrator::line(0.5, 0.1, -1.0);
    let segments =
        [(2, Segment { net: Some(net()), calibrator: own() }), (5, Segment { net: None, calibrator: own() })];
    let pooled = (net(), Calibrator::IDENTITY);
    Model::new(spec, vocabulary(), pooled, segments.into())
}

/// Any view at all: times that run backwards, numbers that the vocabulary does not have, prices that are none.
pub(super) fn view() -> impl Strategy<Value = View> {
    let price = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-3.0f32), 0.0f32..1e6];
    let at = prop_oneof![0..DAY_OF_CLICKS, 0..DAY_OF_CLICKS, Just(i64::MIN), Just(i64::MAX)];
    (at, 0usize..6, 0u16..9, 0u16..9, price, prop::array::uniform8(0u16..5)).prop_map(
        |(at, kind, page, category, price, attributes)| View {
            at,
            kind: Kind::ALL[kind],
            page,
            category,
            price,
            attributes,
        },
    )
}

const DAY_OF_CLICKS: i64 = 86_400 * SECOND;

fn spec() -> impl Strategy<Value = Spec> {
    let network = (0usize..9, 1usize..9, any::<bool>(), 1usize..4, 1usize..20, any::<bool>(), 1usize..9, 1usize..9);
    (network, 1usize..9, any::<bool>()).prop_map(
        |((convolution, taps, gru, layers, hidden, mean, kernel, stride), ff, rich)| Spec {
            conv_channels: convolution,
            conv_kernel: taps,
            rnn_type: if gru { RnnType::Gru } else { RnnType::Lstm },
            num_layers: layers,
            hidden_size: hidden,
            pooling: if mean { Pooling::Mean } else { Pooling::Max },
            pool_size: kernel,
            pool_stride: stride,
            dense_units: ff,
            features: if rich { Features::Rich } else { Features::Plain },
            ..Spec::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One click at a time, saved and read back between any two, is the array from its start, and finite.
    #[test]
    fn live_and_array_agree(spec in spec(), seed in any::<u64>(), views in prop::collection::vec(view(), 1..40)) {
        let model = random_model(spec, seed);
        let mut room = Buffers::default();
        prop_assert_eq!(model.score_last(0, &[], &mut room), None);
        for segment in [0, 2, 5, 99] {
            let array = model.score(segment, &views);
            let last = model.score_last(segment, &views, &mut room).unwrap();
            prop_assert!((last - array[views.len() - 1]).abs() < 1e-6);
            let mut bytes = model.begin().to_bytes();
            for (view, expected) in views.iter().zip(array) {
                prop_assert_eq!(bytes.len(), model.state_bytes());
                let mut state = model.resume(&bytes).unwrap();
                prop_assert_eq!(&state.to_bytes(), &bytes);
                let live = model.step(segment, &mut state, view);
                prop_assert!((live - expected).abs() < 1e-6);
                prop_assert!(live > 0.0 && live < 1.0);
                bytes = state.to_bytes();
            }
        }
    }

    /// What trains is what serves: the graph and the scorer against the step.
    #[test]
    fn graph_and_scorer_agree_with_the_step(
        spec in spec(),
        seed in any::<u64>(),
        sessions in prop::collection::vec(prop::collection::vec(view(), 1..15), 1..6),
        last in any::<bool>(),
    ) {
        let spec = Spec { loss_on: if last { LossOn::LastView } else { LossOn::EveryView }, max_length: 9, ..spec };
        let model = random_model(spec.clone(), seed);
        let examples: Vec<_> =
            sessions.iter().map(|views| Example { views, purchased: false, weight: 1.0, segment: 0 }).collect();
        let mut scorer = Scorer::default();
        let network = Network::new(&model.pooled().0).unwrap();
        prop_assert_eq!(&network.net().unwrap(), &model.pooled().0);
        // Twice, because what an earlier batch left in the buffers must not matter.
        for examples in [&examples[..1], &examples] {
            scorer.batch.fill(examples.iter(), &layout(&spec, &vocabulary()), &spec);
            let counted: usize = examples.iter().map(|e| match spec.loss_on {
                LossOn::EveryView => e.views.len().min(9),
                LossOn::LastView => usize::from(e.views.len() > 3),
            }).sum();
            prop_assert_eq!(scorer.batch.counted.len(), counted);
            scorer.score(&model.pooled().0);
            let mut order: Vec<_> = examples.iter().collect();
            order.sort_by_key(|e| std::cmp::Reverse(super::batch::length(e, &spec)));
            let batch = Arc::new(std::mem::take(&mut scorer.batch));
            let logits = network.forward(&batch, None).unwrap().to_vec1::<f32>().unwrap();
            for ((c, z), scored) in batch.counted.iter().zip(logits).zip(scorer.logits()) {
                let views = order[c.session].views;
                if last {
                    prop_assert_eq!(c.step + 1, (views.len() - 3).min(9));
                }
                let p = model.score(0, views)[c.step];
                prop_assert!((p - Calibrator::IDENTITY.probability(z, 1)).abs() < 1e-5);
                prop_assert!((z - scored).abs() < 1e-5);
            }
        }
    }

    /// No view changes what was said before it.
    #[test]
    fn nothing_looks_ahead(views in prop::collection::vec(view(), 2..20), other in view(), seed in any::<u64>()) {
        let model = random_model(small(), seed);
        let mut changed = views.clone();
        let n = views.len();
        changed[n - 1] = other;
        prop_assert_eq!(&model.score(0, &views)[..n - 1], &model.score(0, &changed)[..n - 1]);
    }

    /// Inputs stay within their layout, in order, without NaN.
    #[test]
    fn inputs_fit_their_layout(spec in spec(), views in prop::collection::vec(view(), 1..60)) {
        let layout = layout(&spec, &vocabulary());
        let mut tracker = inputs::FeatureState::new(&layout);
        let mut out = Vec::with_capacity(layout.entries());
        let capacity = out.capacity();
        for view in &views {
            tracker.advance(&layout, view, &mut out);
            prop_assert!(out.windows(2).all(|w| w[0].0 < w[1].0));
            prop_assert!(out.iter().all(|(i, x)| (*i as usize) < layout.inputs() && x.is_finite()));
        }
        prop_assert_eq!(out.capacity(), capacity);
    }

    /// Whatever bytes are read, the answer is a model or an error.
    #[test]
    fn corrupt_bytes_are_refused(cut in 0usize..4000, flip in 0usize..4000, seed in any::<u64>()) {
        let model = random_model(small(), seed);
        let whole = model.to_safetensors();
        prop_assert!(Model::from_safetensors(&whole[..cut.min(whole.len() - 1)]).is_err());
        let mut flipped = whole.clone();
        let at = flip % whole.len();
        flipped[at] ^= 0x40;
        if let Ok(read) = Model::from_safetensors(&flipped) {
            let view = vocabulary().view(0, Kind::View, Some("home"), None, None, &[]);
            prop_assert!(read.score(2, &[view])[0].is_finite());
        }
    }
}

#[test]
fn saved_whole_and_in_parts_a_model_is_itself() {
    let model = random_model(small(), 3);
    let whole = model.to_safetensors();
    assert_eq!(Model::from_safetensors(&whole).unwrap(), model);
    assert_eq!(Model::from_safetensors(&whole).unwrap().to_safetensors(), whole);
    let mut parts = model.parts();
    assert_eq!(parts.iter().map(|p| p.0).collect::<Vec<_>>(), [0, 2, 5]);
    parts.reverse();
    assert_eq!(Model::from_parts(&parts).unwrap(), model);

    let corrupt = |parts: &[(u32, Vec<u8>)]| assert!(matches!(Model::from_parts(parts), Err(Error::Corrupt(_))));
    corrupt(&parts[..2]); // segment 0 is the last of the reversed parts
    corrupt(&[parts[2].clone(), parts[0].clone(), parts[0].clone()]);
    corrupt(&[(0, parts[0].1.clone())]);
    let mut nan = model.clone();
    let mut net = model.pooled().0.clone();
    net.values[0] = f32::NAN;
    nan = Model::new(nan.spec().clone(), vocabulary(), (net, Calibrator::IDENTITY), Default::default());
    corrupt(&nan.parts());
}

#[test]
fn a_state_of_another_model_is_refused() {
    let model = random_model(small(), 1);
    let bytes = random_model(Spec { hidden_size: 7, ..small() }, 1).begin().to_bytes();
    assert!(matches!(model.resume(&bytes), Err(Error::Corrupt(_))));
    let n = model.state_bytes();
    // A cell that is no number, a count below zero, a kind there is not.
    for (at, bytes) in [(n - 4, f32::NAN.to_le_bytes()), (24, (-2f32).to_le_bytes()), (20, [7, 0, 0, 0])] {
        let mut state = model.begin().to_bytes();
        state[at..at + 4].copy_from_slice(&bytes);
        assert!(matches!(model.resume(&state), Err(Error::Corrupt(_))));
    }
}

#[test]
fn a_specification_is_refused_by_name() {
    let spec = Spec::default();
    assert_eq!((spec.hidden_size, spec.batch_size, spec.epochs, spec.loss_on), (64, 32, 150, LossOn::EveryView));
    spec.validate().unwrap();
    // The largest vocabulary of the defaults leaves the state small.
    let largest =
        inputs::Layout::new(spec.features, spec.max_pages, spec.max_categories, &[spec.max_attributes; MAX_ATTRIBUTES]);
    assert!(spec.state_bytes(&largest) < 2048);
    for (json, named) in [
        (r#"{"hiden": 3}"#, "hiden"),
        (r#"{"hidden_size": 0}"#, "hidden_size"),
        (r#"{"dropout": 1}"#, "dropout"),
        (r#"{"learning_rate": 0}"#, "learning_rate"),
        (r#"{"loss_on": "first"}"#, "first"),
        (r#"{"hidden_size": 256, "num_layers": 2}"#, "state"),
        (r#"{"conv_channels": 256, "conv_kernel": 8}"#, "state"),
        (r#"{"pool_size": 9}"#, "pool_size"),
        (r#"{"rnn_type": "rnn"}"#, "rnn"),
        (r#"{"class_weight_power": 1.5}"#, "class_weight_power"),
        (r#"[1]"#, "object"),
    ] {
        let Err(Error::Spec(message)) = Spec::read(&serde_json::from_str(json).unwrap()) else {
            panic!("{json} was taken")
        };
        assert!(message.contains(named), "{json}: {message}");
    }
    assert!(matches!(spec.enough(499, 60), Err(Error::InsufficientData(_))));
    assert!(matches!(spec.enough(600, 49), Err(Error::InsufficientData(_))));
    spec.enough(500, 50).unwrap();
}

#[test]
fn the_vocabulary_counts_then_sorts_and_numbers_the_rest_unknown() {
    let words = |page| Words { page: Some(page), ..Words::default() };
    let spec = Spec { max_pages: 2, ..Spec::default() };
    let v = Vocabulary::build(&spec, 1, ["b", "a", "c", "c", "d"].map(words));
    assert_eq!(v.pages, ["c", "a"]);
    assert_eq!((v.categories.len(), v.attributes.len()), (0, 1));
    let page = |p| v.view(0, Kind::View, p, Some("x"), Some(f64::NAN), &[None, Some("y")]);
    assert_eq!([None, Some("zz"), Some("c"), Some("a")].map(|p| page(p).page), [0, 1, 2, 3]);
    assert!(page(None).price.is_nan() && v.view(0, Kind::View, None, None, Some(2.5), &[]).price == 2.5);
}

/// A clock that runs backwards counts as standing still.
#[test]
fn a_gap_is_never_negative() {
    let model = random_model(small(), 9);
    let view = |at| vocabulary().view(at * SECOND, Kind::View, Some("home"), None, None, &[]);
    assert_eq!(model.score(0, &[view(50), view(10), view(60)]), model.score(0, &[view(50), view(50), view(60)]));
}

/// Sessions whose visitors buy when they look at the basket, in segment 1; in segment 2 the other way round.
pub(super) fn planted(n: usize, seed: u64, of: impl Fn(u32, bool, f64) -> bool) -> Vec<(Vec<View>, bool, u32)> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let v = vocabulary();
    let session = |i: usize| {
        let segment = 1 + i as u32 % 2;
        let mut at = i as i64 * 60 * SECOND;
        let basket = rng.gen_bool(0.4);
        let length = rng.gen_range(4..9);
        let views: Vec<_> = (0..length)
            .map(|t| {
                at += rng.gen_range(1..60) * SECOND;
                let page = if t == 0 && basket { "basket" } else { ["home", "product"][rng.gen_range(0..2)] };
                v.view(at, Kind::View, Some(page), None, None, &[])
            })
            .collect();
        (views, of(segment, basket, rng.r#gen()), segment)
    };
    (0..n).map(session).collect()
}

pub(super) fn examples(sessions: &[(Vec<View>, bool, u32)]) -> Vec<Example<'_>> {
    let one =
        |(views, purchased, segment): &'_ (Vec<View>, bool, u32)| (views.as_slice().as_ptr(), *purchased, *segment);
    let _ = one;
    sessions
        .iter()
        .map(|(views, purchased, segment)| Example { views, purchased: *purchased, weight: 1.0, segment: *segment })
        .collect()
}

pub(super) fn train(
    fit: &[Example],
    tune: &[Example],
    spec: Spec,
    seed: u64,
) -> (Model, Vec<SegmentReport>, Vec<EpochReport>) {
    let mut trainer = Trainer::new(fit, tune, vocabulary(), spec, seed, usize::MAX).unwrap();
    let (mut segments, mut epochs) = (Vec::new(), Vec::new());
    loop {
        match trainer.step().unwrap() {
            Step::Segment(report) => segments.push(report),
            Step::Epoch(report) => epochs.push(report),
            Step::Batch { .. } => {}
            Step::Done => return (trainer.finish().unwrap(), segments, epochs),
        }
    }
}

/// The basket means the opposite in the two segments: the pooled network cannot know the segment, the own ones can.
#[test]
fn segments_that_differ_get_their_own_network() {
    let sessions = planted(3000, 1, |segment, basket, u| u < if basket == (segment == 1) { 0.7 } else { 0.1 });
    let all = examples(&sessions);
    let (fit, rest) = all.split_at(2000);
    let (tune, judge) = rest.split_at(500);
    let spec =
        Spec { min_sessions: 500, hidden_size: 8, epochs: 8, one_cycle_epochs: 8, learning_rate: 0.03, ..small() };
    let (model, segments, epochs) = train(fit, tune, spec.clone(), 4);
    assert_eq!(segments.iter().map(|s| (s.segment, s.used)).collect::<Vec<_>>(), [(1, true), (2, true)]);
    assert!(epochs.iter().all(|e| e.train_loss.is_finite() && e.validation_loss.is_some_and(f64::is_finite)));
    let card = report(&model, judge, &mut || Ok(())).unwrap().card;
    let cut = |model, segment| card.find("truncated", model, segment).unwrap();
    let (used, pooled) = (cut("final", None), cut("pooled", None));
    assert!(used.auroc.unwrap() > 0.75, "{used:?}");
    assert!(pooled.auroc.unwrap() < 0.6, "{pooled:?}");
    assert!(used.ece < 0.08 && used.log_loss < pooled.log_loss, "{used:?}");
    // Reported both ways: a segment's own network beside the pooled one, and together they are everybody.
    let (first, second) = (cut("own", Some(1)), cut("own", Some(2)));
    assert!(first.log_loss < cut("pooled", Some(1)).log_loss && second.log_loss < cut("pooled", Some(2)).log_loss);
    assert_eq!((first.n + second.n, cut("own", None)), (used.n, used));

    // No session searched: that input has no weight, in the pooled network and in those that began with it.
    let row = Kind::Search as usize * 4 * spec.hidden_size;
    for net in [Some(&model.pooled().0), model.own(1).and_then(|own| own.net.as_ref())].map(Option::unwrap) {
        assert!(net.values[net.places.layers[0].w.clone()][row..row + 4 * spec.hidden_size].iter().all(|w| *w == 0.0));
    }

    // The same log, specification and seed give the same bytes; another seed does not.
    let (again, _, _) = train(fit, tune, spec.clone(), 4);
    assert!(again.to_safetensors() == model.to_safetensors());
    let (other, _, _) = train(fit, tune, spec, 5);
    assert!(other.to_safetensors() != model.to_safetensors());
}

/// How a batch is shared among threads changes the order of its sums, and nothing else: the same number of threads gives
/// the same bits, another one the same model to rounding.
#[test]
fn threads_change_rounding_only() {
    let sessions = planted(1500, 9, |_, basket, u| u < if basket { 0.7 } else { 0.1 });
    let all = examples(&sessions);
    let (fit, tune) = all.split_at(1200);
    let spec = Spec {
        hidden_size: 8,
        epochs: 4,
        one_cycle_epochs: 4,
        learning_rate: 0.01,
        dropout: 0.0,
        min_sessions: 9999,
        ..small()
    };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(fit, tune, spec.clone(), 4))
    };
    let (one, _, epochs) = with(1);
    for threads in [2, 3, 3] {
        let (other, _, others) = with(threads);
        for (a, b) in epochs.iter().zip(&others) {
            assert!((a.validation_loss.unwrap() - b.validation_loss.unwrap()).abs() < 1e-4, "{a:?} {b:?}");
        }
        assert_ne!(one.to_safetensors(), other.to_safetensors(), "batches are shared");
        assert!(other.to_safetensors() == with(threads).0.to_safetensors());
    }
}

/// Yesterday's network, its words in other places today, begins where it ended: better after one epoch than a cold start,
/// and the same to the bit on words that have only moved.
#[test]
fn a_warm_start_keeps_what_was_learnt() {
    let sessions = planted(2400, 7, |_, basket, u| u < if basket { 0.7 } else { 0.1 });
    let all = examples(&sessions);
    let (fit, tune) = all.split_at(2000);
    let spec =
        Spec { hidden_size: 8, epochs: 8, one_cycle_epochs: 8, learning_rate: 0.03, min_sessions: 9999, ..small() };
    let (old, _, _) = train(fit, tune, spec.clone(), 4);

    let mut moved = vocabulary();
    moved.pages = ["basket", "news", "product", "home"].map(String::from).to_vec();
    // home, product and basket were 2, 3 and 4.
    let number = |page: u16| if page < 2 { page } else { [5, 4, 2][page as usize - 2] };
    let renumbered: Vec<Vec<View>> =
        sessions.iter().map(|s| s.0.iter().map(|v| View { page: number(v.page), ..*v }).collect()).collect();
    let today: Vec<Example> = all.iter().zip(&renumbered).map(|(e, views)| Example { views, ..*e }).collect();
    let (fit, tune) = today.split_at(2000);
    let first = |warm: bool| {
        let spec = Spec { epochs: 1, one_cycle_epochs: 1, ..spec.clone() };
        let mut trainer = Trainer::new(fit, tune, moved.clone(), spec, 5, usize::MAX).unwrap();
        assert!(!warm || trainer.start_from(&old).unwrap());
        loop {
            if let Step::Epoch(e) = trainer.step().unwrap() {
                break e.validation_loss.unwrap();
            }
        }
    };
    let (warm, cold) = (first(true), first(false));
    assert!(warm < cold - 0.01, "{warm} against {cold}");

    let new = layout(&spec, &moved);
    let map = inputs::correspond((&new, &moved), (&layout(&spec, &vocabulary()), &vocabulary())).unwrap();
    let net = Net::renewed(&old.pooled().0, new.inputs(), &map);
    let renewed = Model::new(spec.clone(), moved.clone(), (net, Calibrator::IDENTITY), Default::default());
    let before = Model::new(spec, vocabulary(), (old.pooled().0.clone(), Calibrator::IDENTITY), Default::default());
    // The inputs stand in another order, so their sums may round differently.
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(sessions.iter().zip(&renumbered).all(|(s, r)| close(&before.score(0, &s.0), &renewed.score(0, r))));

    let wider = Spec { hidden_size: 9, ..small() };
    assert!(!Trainer::new(fit, tune, moved, wider, 5, usize::MAX).unwrap().start_from(&old).unwrap());
}

/// Outcomes that follow nothing: no ranking on new sessions, and probabilities near the base rate.
#[test]
fn noise_teaches_nothing() {
    let sessions = planted(4000, 2, |_, _, u| u < 0.25);
    let all = examples(&sessions);
    let (fit, rest) = all.split_at(1000);
    let (tune, judge) = rest.split_at(600);
    let (model, segments, _) = train(fit, tune, Spec { loss_on: LossOn::LastView, ..small() }, 1);
    assert!(segments.iter().all(|s| !s.used && s.own_log_loss.is_none()), "too few sessions for their own");
    let card = report(&model, judge, &mut || Ok(())).unwrap().card;
    assert_eq!(card.find("truncated", "own", None), None);
    let cut = card.find("truncated", "final", None).unwrap();
    // 2,400 sessions: the standard error is .013.
    assert!((cut.auroc.unwrap() - 0.5).abs() < 0.045, "{cut:?}");
    assert!(cut.ece < 0.06, "{cut:?}");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let sessions = planted(60, 3, |_, basket, _| basket);
    let all = examples(&sessions);
    let (fit, tune) = all.split_at(40);
    let needed = Trainer::memory(fit, tune, &vocabulary(), &small());
    let new = |fit, spec, budget| Trainer::new(fit, tune, vocabulary(), spec, 0, budget).map(|_| ());
    assert_eq!(new(fit, small(), needed - 1), Err(Error::Memory { needed, budget: needed - 1 }));
    new(fit, small(), needed).unwrap();
    let buyers: Vec<_> = all.iter().map(|e| Example { purchased: true, ..*e }).collect();
    assert!(matches!(new(&buyers, small(), usize::MAX), Err(Error::InsufficientData(_))));
    assert!(matches!(new(&[], small(), usize::MAX), Err(Error::InsufficientData(_))));
    let short: Vec<_> = all.iter().map(|e| Example { views: &e.views[..3], ..*e }).collect();
    assert!(matches!(
        new(&short, Spec { loss_on: LossOn::LastView, ..small() }, usize::MAX),
        Err(Error::InsufficientData(_))
    ));
    let trainer = Trainer::new(fit, tune, vocabulary(), small(), 0, needed).unwrap();
    assert_eq!(trainer.finish().err(), Some(Error::Cancelled));
    // An empty tune window is no error: the last weights are kept, uncalibrated.
    let (model, _, _) = train(fit, &[], small(), 0);
    let mut calls = 0;
    let stopped = report(&model, tune, &mut || {
        calls += 1;
        if calls > 3 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert_eq!(stopped, Err(Error::Cancelled));
}

#[test]
fn the_gate_refuses_only_what_is_clearly_worse() {
    let old: Vec<f64> = (0..100).map(|i| 0.3 + 0.01 * f64::from(i % 7)).collect();
    let worse: Vec<f64> = old.iter().enumerate().map(|(i, x)| x + 0.02 + 0.01 * (i % 3) as f64).collect();
    let noisy: Vec<f64> = old.iter().enumerate().map(|(i, x)| x + if i % 2 == 0 { 0.5 } else { -0.48 }).collect();
    assert!(!gate(&worse, Some(&old), 50).accepted);
    assert!(gate(&old, Some(&worse), 50).accepted);
    let close = gate(&noisy, Some(&old), 50);
    assert!(close.accepted && close.difference.is_some_and(|d| (d - 0.01).abs() < 1e-9));
    let few = gate(&worse, Some(&old), 29);
    assert!(few.accepted && few.reason.is_some());
    assert!(!gate(&[f64::NAN], None, 50).accepted);
    assert!(gate(&worse, None, 50).accepted);
}
