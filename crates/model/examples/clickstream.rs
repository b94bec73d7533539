//! Trains and judges the churn model on a CSV of `session_id,split,seconds,page,static1..4,purchase`, read from a path
//! or from standard input:
//!
//!     zcat clickstream.csv.gz | cargo run -p coupon_model --example clickstream -- [seed] [overrides of models/churn.json]
//!
//! The last tenth of `train` is tune; `val` only judges. Prints one figure a line.

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use coupon_events::events::{Kind, MAX_ATTRIBUTES, SECOND};
use coupon_model::churn::inputs::{FeatureState, Layout};
use coupon_model::churn::{Example, Level, LossOn, Spec, Step, Trainer, View, Vocabulary, Words, report, simd_level};
use coupon_statistics::metrics::Metrics;

struct Session {
    train: bool,
    rows: Vec<(f64, [String; 5])>,
    purchased: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let seed: u64 = arguments.next().map_or(Ok(0), |s| s.parse())?;
    let overrides = arguments.next().unwrap_or_else(|| "{}".into());
    let sessions = read(BufReader::new(std::io::stdin()))?;
    let train: Vec<_> = sessions.iter().filter(|s| s.train).collect();
    let judge: Vec<_> = sessions.iter().filter(|s| !s.train).collect();
    let (fit, tune) = train.split_at(train.len() - train.len() / 10);

    for loss in ["last", "every_view"] {
        let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&overrides)?;
        if *object.entry("loss_on").or_insert(loss.into()) != loss {
            continue;
        }
        let spec = Spec::read(&object.into())?;
        let words = fit.iter().flat_map(|s| &s.rows).map(|(_, texts)| Words {
            page: Some(&texts[0]),
            attributes: std::array::from_fn(|i| texts.get(i + 1).map(String::as_str)),
            ..Words::default()
        });
        let vocabulary = Vocabulary::build(&spec, 4, words);
        let views =
            |sessions: &[&Session]| -> Vec<Vec<View>> { sessions.iter().map(|s| s.views(&vocabulary)).collect() };
        let (fit_views, tune_views, judge_views) = (views(fit), views(tune), views(&judge));
        let (fit_set, tune_set) = (examples(fit, &fit_views), examples(tune, &tune_views));
        let judge_set = examples(&judge, &judge_views);

        println!("{loss}: announced bytes {}", Trainer::memory(&fit_set, &tune_set, &vocabulary, &spec));
        memory("before training", "VmRSS");
        let mut trainer = Trainer::new(&fit_set, &tune_set, vocabulary.clone(), spec, seed, usize::MAX)?;
        let (mut epoch, mut longest, mut seconds) = (Instant::now(), 0f64, Vec::new());
        loop {
            let start = Instant::now();
            let step = trainer.step()?;
            longest = longest.max(start.elapsed().as_secs_f64());
            match step {
                Step::Epoch(e) => {
                    seconds.push(epoch.elapsed().as_secs_f64());
                    epoch = Instant::now();
                    let auroc = e.tune.as_ref().and_then(|m| m.auroc).unwrap_or_default();
                    println!(
                        "{loss}: epoch {} seconds {:.2} fit {:.4} tune {:.4} auroc {auroc:.4}{}",
                        e.epoch,
                        seconds[seconds.len() - 1],
                        e.train_loss,
                        e.validation_loss.unwrap_or_default(),
                        if e.best { " best" } else { "" }
                    );
                }
                Step::Done => break,
                _ => {}
            }
        }
        let model = trainer.finish()?;
        memory("at its peak", "VmHWM");
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        println!("{loss}: median epoch seconds {median:.2}, longest step {longest:.3}");
        let work = multiply_adds(&fit_set, &vocabulary, model.spec()) / median;
        let peak = peak() * rayon::current_num_threads() as f64;
        println!(
            "{loss}: {:.1} of {:.0} thousand million multiply-adds a second, {:.0} % of the peak with {:?}",
            work / 1e9,
            peak / 1e9,
            100.0 * work / peak,
            simd_level()
        );
        let start = Instant::now();
        let card = report(&model, &judge_set, &mut || Ok(()))?.card;
        let scored: usize = judge_views.iter().map(Vec::len).sum();
        println!("{loss}: microseconds a live step {:.2}", start.elapsed().as_secs_f64() * 1e6 / scored as f64);
        println!("{loss}: state bytes {}, {:?}", model.state_bytes(), model.calibrator(0));
        for population in ["truncated", "live", "view_2", "view_5", "view_10"] {
            if let Some(metrics) = card.find(population, "final", None) {
                show(&format!("{loss} {population}"), metrics);
            }
        }
    }
    Ok(())
}

/// Of one epoch, tune's scoring not counted: each view's inputs and state into the gates, forward, and twice that back.
fn multiply_adds(examples: &[Example], vocabulary: &Vocabulary, spec: &Spec) -> f64 {
    let attributes: Vec<usize> = vocabulary.attributes.iter().map(Vec::len).collect();
    let layout = Layout::new(spec.features, vocabulary.pages.len(), vocabulary.categories.len(), &attributes);
    let (mut tracker, mut inputs, mut total) = (FeatureState::new(&layout), Vec::new(), 0);
    for e in examples {
        let (views, counted) = match spec.loss_on {
            LossOn::EveryView => (e.views, e.views.len()),
            LossOn::LastView => (e.cut().unwrap_or_default(), 1),
        };
        tracker.reset();
        for view in &views[..views.len().min(spec.max_length)] {
            tracker.advance(&layout, view, &mut inputs);
            total += (inputs.len() + spec.hidden_size) * 4 * spec.hidden_size;
        }
        total += counted.min(views.len()) * spec.dense_units * (spec.hidden_size + 1);
    }
    3.0 * total as f64
}

/// Multiply-adds a second of one thread that does nothing else: independent sums that stay in registers.
fn peak() -> f64 {
    const SUMS: usize = 256;
    const ROUNDS: usize = 4_000_000;
    #[inline(always)]
    fn run(a: f32, b: f32) -> [f32; SUMS] {
        let mut sums = [1.0f32; SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|s| *s = s.mul_add(a, b));
        }
        sums
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    fn avx512(a: f32, b: f32) -> [f32; SUMS] {
        run(a, b)
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2(a: f32, b: f32) -> [f32; SUMS] {
        run(a, b)
    }
    let (a, b) = (black_box(0.5), black_box(0.25));
    let start = Instant::now();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level says that the CPU has the features.
    match simd_level() {
        Level::Avx512 => drop(black_box(unsafe { avx512(a, b) })),
        Level::Avx2 => drop(black_box(unsafe { avx2(a, b) })),
        Level::Portable => return f64::NAN,
    }
    (SUMS * ROUNDS) as f64 / start.elapsed().as_secs_f64()
}

/// A line of Linux's account of this process; nothing elsewhere.
fn memory(when: &str, field: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|l| l.starts_with(field)).for_each(|l| println!("memory {when}: {l}"));
}

fn show(name: &str, m: &Metrics) {
    println!(
        "{name}: n {} base {:.4} AUROC {:.4} AUPRC {:.4} Brier {:.4} log loss {:.4} ECE {:.4} slope {:.3} intercept {:.3} \
         accuracy {:.4} majority {:.4}",
        m.n,
        m.base_rate,
        m.auroc.unwrap_or_default(),
        m.auprc.unwrap_or_default(),
        m.brier,
        m.log_loss,
        m.ece,
        m.slope.unwrap_or_default(),
        m.intercept.unwrap_or_default(),
        m.accuracy,
        m.majority
    );
}

impl Session {
    fn views(&self, vocabulary: &Vocabulary) -> Vec<View> {
        let view = |(seconds, texts): &(f64, [String; 5])| {
            let attributes: [_; MAX_ATTRIBUTES] = std::array::from_fn(|i| texts.get(i + 1).map(String::as_str));
            let at = (seconds * SECOND as f64) as i64;
            vocabulary.view(at, Kind::View, Some(&texts[0]), None, None, &attributes)
        };
        self.rows.iter().map(view).collect()
    }
}

fn examples<'a>(sessions: &[&Session], views: &'a [Vec<View>]) -> Vec<Example<'a>> {
    let one =
        |(s, views): (&&Session, &'a Vec<View>)| Example { views, purchased: s.purchased, weight: 1.0, segment: 0 };
    sessions.iter().zip(views).map(one).collect()
}

fn read(input: impl BufRead) -> Result<Vec<Session>, Box<dyn std::error::Error>> {
    let mut sessions: Vec<(String, Session)> = Vec::new();
    for line in input.lines().skip(1) {
        let line = line?;
        let columns: Vec<&str> = line.split(',').collect();
        let [id, split, seconds, page, s1, s2, s3, s4, purchase] = columns[..] else {
            return Err(format!("nine columns expected: {line}").into());
        };
        if sessions.last().is_none_or(|(last, _)| last != id) {
            let session = Session { train: split == "train", rows: Vec::new(), purchased: purchase == "1" };
            sessions.push((id.to_owned(), session));
        }
        if let Some((_, session)) = sessions.last_mut() {
            session.rows.push((seconds.parse()?, [page, s1, s2, s3, s4].map(str::to_owned)));
        }
    }
    Ok(sessions.into_iter().map(|(_, session)| session).collect())
}
