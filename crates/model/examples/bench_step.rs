//! What one live click costs, and one whole session, in the default specification with a full vocabulary:
//!
//!     cargo run --release -p coupon_model --example bench_step
//!
//! Prints medians, one figure a line. A live click reads its session's stored state, counts the view in and writes the
//! state back; the bare step is the middle of it; the array is the last probability of a session of 100 views from its
//! start. A usual session keeps to a few pages; the lines that end in `every_word` are of one that has seen all there
//! is: only inputs that are not zero cost anything.

use std::hint::black_box;
use std::time::Instant;

use coupon_events::events::{Kind, SECOND};
use coupon_model::churn::{Buffers, Example, Model, Spec, Step, Trainer, View, Vocabulary};

/// Views of one session; the longest that is no bot's.
const VIEWS: usize = 100;
const SESSIONS: usize = 64;
/// Calls a timing, so that the clock's own cost vanishes, and timings a median.
const CALLS: u32 = 200;
const ROUNDS: usize = 301;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spec = Spec { epochs: 1, ..Spec::default() };
    let names = |n: usize| (0..n).map(|i| format!("word {i}")).collect();
    let vocabulary = Vocabulary {
        pages: names(spec.max_pages),
        categories: names(spec.max_categories),
        attributes: (0..4).map(|_| names(spec.max_attributes)).collect(),
    };
    let sessions: Vec<Vec<View>> = (0..SESSIONS).map(|s| session(s, usize::MAX, &vocabulary)).collect();
    let usual = session(0, 8, &vocabulary);
    let model = train(&sessions, vocabulary, spec)?;
    measure(&model, &usual, "")?;
    measure(&model, &sessions[0], "_every_word")?;
    println!("state_bytes {}", model.state_bytes());
    Ok(())
}

fn measure(model: &Model, views: &[View], which: &str) -> coupon_base::Result<()> {
    let mut state = model.begin();
    for view in &views[1..] {
        model.step(0, &mut state, view);
    }
    let stored = state.to_bytes();
    let view = views[0];
    let live = median(CALLS, || {
        let mut state = model.resume(black_box(&stored)).expect("a state that was just written");
        black_box(model.step(0, &mut state, black_box(&view)));
        state.to_bytes()
    });
    let mut running = model.resume(&stored)?;
    let step = median(CALLS, || model.step(0, &mut running, black_box(&view)));
    let mut room = Buffers::default();
    let array = median(1, || model.score_last(0, black_box(views), &mut room));
    assert!(
        (model.score_last(0, views, &mut room).unwrap_or(0.0) - model.score(0, views)[views.len() - 1]).abs() < 1e-6
    );
    println!("live_step_microseconds{which} {live:.3}");
    println!("bare_step_microseconds{which} {step:.3}");
    println!("array_100_views_microseconds{which} {array:.2}");
    Ok(())
}

/// Microseconds of one call: the median over many rounds.
fn median<T>(calls: u32, mut call: impl FnMut() -> T) -> f64 {
    let mut round = || {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
    };
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

/// A session that walks through the first words of each list, in steps that differ from session to session.
fn session(number: usize, words: usize, vocabulary: &Vocabulary) -> Vec<View> {
    let view = |n: usize| {
        let word = |of: &Vec<String>| of[(n * (2 * number + 1) + number) % of.len().min(words)].clone();
        let (page, category) = (word(&vocabulary.pages), word(&vocabulary.categories));
        let attributes: Vec<String> = vocabulary.attributes.iter().map(word).collect();
        let attributes: Vec<Option<&str>> = attributes.iter().map(|a| Some(a.as_str())).collect();
        let kind = [Kind::View, Kind::View, Kind::Search, Kind::Cart][n % 4];
        vocabulary.view(n as i64 * 20 * SECOND, kind, Some(&page), Some(&category), Some(19.9), &attributes)
    };
    (0..VIEWS).map(view).collect()
}

/// One epoch is enough: what a step costs is the same for all weights.
fn train(sessions: &[Vec<View>], vocabulary: Vocabulary, spec: Spec) -> coupon_base::Result<Model> {
    let example =
        |(i, views)| Example { views: &Vec::as_slice(views)[..20], purchased: i % 2 == 0, weight: 1.0, segment: 0 };
    let examples: Vec<Example> = sessions.iter().enumerate().map(example).collect();
    let mut trainer = Trainer::new(&examples, &examples, vocabulary, spec, 0, usize::MAX)?;
    while trainer.step()? != Step::Done {}
    trainer.finish()
}
