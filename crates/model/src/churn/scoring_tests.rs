//! Many sessions at once, and why: the batch against one session at a time, occlusion against its definition and a
//! planted truth.

use super::tests::{examples, planted, random_model, small, train, view, vocabulary};
use super::*;
use coupon_base::Error;
use coupon_events::events::SECOND;
use proptest::prelude::*;

/// P(churn) without the view at `i`, by running the shortened session from its start.
fn without(model: &Model, segment: u32, views: &[View], i: usize) -> Option<f64> {
    let mut rest = views.to_vec();
    rest.remove(i);
    model.score(segment, &rest).last().copied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Scored together or alone, and wherever the batches are cut, sessions are what they are.
    #[test]
    fn a_batch_says_what_each_session_says(
        seed in any::<u64>(),
        sessions in prop::collection::vec(prop::collection::vec(view(), 1..12), 1..8),
        cut in 1usize..20,
    ) {
        let model = random_model(small(), seed);
        let mut stream = Stream::new(i64::MIN..i64::MAX);
        let (mut batches, mut room) = (Vec::new(), Buffers::default());
        for (i, views) in sessions.iter().enumerate() {
            for view in views {
                let at = view.at.min(i64::MAX - 1);
                let wanted = stream.row(&format!("s{i}"), None, at, Kind::View);
                prop_assert!(wanted);
                stream.view(*view);
                if stream.ready() >= cut {
                    batches.push(stream.take());
                }
            }
        }
        stream.close();
        batches.push(stream.take());
        for segment in [0, 2] {
            let mut scored = Vec::new();
            for batch in &mut batches {
                batch.sessions.iter_mut().for_each(|s| s.segment = segment);
                scored.extend(batch.score(&model, &mut room, &mut || Ok(())).unwrap());
            }
            prop_assert_eq!(scored.len(), sessions.len());
            for (scored, views) in scored.iter().zip(&sessions) {
                let alone = model.score(segment, views);
                let interest = alone.iter().fold(0.0f64, |m, p| m.max(1.0 - p));
                prop_assert_eq!(scored.views, views.len());
                prop_assert!((scored.churn - alone[views.len() - 1]).abs() < 1e-6);
                prop_assert!((scored.interest - interest).abs() < 1e-6);
            }
        }
    }

    /// Whatever the network is made of, sessions that step side by side are each as if alone, to the bit.
    #[test]
    fn side_by_side_is_one_by_one(
        seed in any::<u64>(),
        sessions in prop::array::uniform4(prop::collection::vec(view(), 5)),
        (cell, layers, hidden) in (prop::sample::select(vec![RnnType::Lstm, RnnType::Gru]), 1usize..3, prop::sample::select(vec![5, 32, 64])),
        (convolution, kernel, stride) in (prop::sample::select(vec![0, 6]), 1usize..4, 1usize..3),
    ) {
        let spec = Spec { rnn_type: cell, num_layers: layers, hidden_size: hidden, conv_channels: convolution, conv_kernel: 3, pool_size: kernel, pool_stride: stride, ..small() };
        let model = random_model(spec, seed);
        let mut beside = [(); LANES].map(|()| model.begin());
        let mut alone = beside.clone();
        for t in 0..5 {
            let [a, b, c, d] = &mut beside;
            let [w, x, y, z] = sessions.each_ref().map(|views| &views[t]);
            let together = model.step_lanes(2, [(a, w), (b, x), (c, y), (d, z)]);
            for ((alone, views), churn) in alone.iter_mut().zip(&sessions).zip(together) {
                prop_assert_eq!(model.step(2, alone, &views[t]), churn);
            }
            prop_assert_eq!(beside.each_ref().map(State::to_bytes), alone.each_ref().map(State::to_bytes));
        }
    }

    /// Sharing prefixes changes nothing, to the bit; and of a long session only the last views are looked at.
    #[test]
    fn occlusion_is_what_it_says(seed in any::<u64>(), views in prop::collection::vec(view(), 0..25), most in 1usize..30) {
        let model = random_model(small(), seed);
        let after = model.score(2, &views);
        let found = contributions(&model, 2, &views, most, &mut || Ok(())).unwrap();
        prop_assert_eq!(found.len(), views.len().min(most));
        for c in &found {
            prop_assert!(c.view >= views.len() - found.len());
            prop_assert_eq!(c.churn_after, after[c.view]);
            prop_assert_eq!(c.contribution, without(&model, 2, &views, c.view).map(|p| after[views.len() - 1] - p));
        }
        prop_assert!(found.windows(2).all(|w| w[0].contribution.unwrap_or(0.0).abs() >= w[1].contribution.unwrap_or(0.0).abs()));
    }
}

#[test]
fn a_stream_knows_where_a_session_starts_and_ends() {
    let mut stream = Stream::new(100..200);
    let v = vocabulary().view(0, Kind::View, Some("home"), None, None, &[]);
    let rows = [
        ("before", None, 99, Kind::View),
        ("before", None, 150, Kind::View),
        ("bought first", None, 100, Kind::Purchase),
        ("bought first", None, 101, Kind::View),
        ("in", Some("joe"), 100, Kind::View),
        ("in", Some("ann"), 500, Kind::Cart),
        ("in", None, 501, Kind::Checkout),
        ("in", None, 502, Kind::View),
        ("late", None, 200, Kind::View),
        ("other", None, 199, Kind::Search),
    ];
    let wanted: Vec<bool> = rows
        .into_iter()
        .map(|(session, customer, at, kind)| {
            let wanted = stream.row(session, customer, at, kind);
            if wanted {
                stream.view(v);
            }
            wanted
        })
        .collect();
    assert_eq!(wanted, [false, false, false, false, true, true, false, false, false, true]);
    assert_eq!(stream.take().sessions.len(), 1, "the last one may go on");
    stream.close();
    let batch = stream.take();
    let queued = &batch.sessions[0];
    assert_eq!((queued.session.as_str(), queued.customer.as_deref(), queued.first), ("other", None, 199));
    assert_eq!(batch.views(), 1);
}

#[test]
fn the_customer_is_the_one_of_the_first_view() {
    let mut stream = Stream::new(i64::MIN..i64::MAX);
    for customer in [Some("joe"), Some("ann"), None] {
        assert!(stream.row("s", customer, 0, Kind::View));
        stream.view(vocabulary().view(0, Kind::View, None, None, None, &[]));
    }
    stream.close();
    assert_eq!(stream.take().sessions[0].customer.as_deref(), Some("joe"));
}

#[test]
fn a_cancel_ends_the_work() {
    let model = random_model(small(), 1);
    let views = vec![vocabulary().view(0, Kind::View, None, None, None, &[]); 5000];
    let cancelled = &mut || Err(Error::Cancelled);
    assert_eq!(contributions(&model, 0, &views, 200, cancelled), Err(Error::Cancelled));
    let mut calls = 0;
    contributions(&model, 0, &views, 200, &mut || {
        calls += 1;
        Ok(())
    })
    .unwrap();
    // n + k²/2 steps and not n·k: a look every 1024 of them.
    assert!((25..30).contains(&calls), "{calls} looks");
    let mut stream = Stream::new(i64::MIN..i64::MAX);
    assert!(stream.row("s", None, 0, Kind::View));
    stream.view(views[0]);
    stream.close();
    assert_eq!(stream.take().score(&model, &mut Buffers::default(), cancelled), Err(Error::Cancelled));
}

/// Who looks at the basket buys, and nothing else matters: that view explains the session, and speaks for staying.
#[test]
fn the_view_that_decides_explains() {
    let sessions = planted(1500, 7, |_, basket, u| u < if basket { 0.8 } else { 0.1 });
    let all = examples(&sessions);
    let (fit, tune) = all.split_at(1200);
    let spec = Spec { hidden_size: 8, epochs: 8, one_cycle_epochs: 8, learning_rate: 0.03, ..small() };
    let (model, _, _) = train(fit, tune, spec, 4);
    let fresh = planted(200, 8, |_, basket, _| basket);
    let buyers: Vec<_> = fresh.iter().filter(|s| s.1).collect();
    assert!(buyers.len() > 50);
    let decided = buyers.iter().filter(|(views, ..)| {
        let first = contributions(&model, 0, views, 200, &mut || Ok(())).unwrap()[0];
        first.view == 0 && first.contribution.is_some_and(|c| c < -0.2)
    });
    let share = decided.count() as f64 / buyers.len() as f64;
    assert!(share > 0.95, "the basket explains {share:.2} of the buyers");
}

#[test]
fn nothing_is_left_without_the_only_view() {
    let model = random_model(small(), 5);
    let only = vocabulary().view(7 * SECOND, Kind::View, Some("home"), None, None, &[]);
    let found = contributions(&model, 0, &[only], 200, &mut || Ok(())).unwrap();
    assert_eq!((found.len(), found[0].contribution), (1, None));
    assert_eq!(found[0].churn_after, model.score(0, &[only])[0]);
}
