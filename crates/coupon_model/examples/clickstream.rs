//! Trains and judges the churn model on a CSV of `session_id,split,seconds,page,static1..4,purchase`, read from a path
//! or from standard input:
//!
//!     zcat clickstream.csv.gz | cargo run -p coupon_model --example clickstream -- [seed] [overrides of models/churn.json]
//!
//! The last tenth of `train` is tune; `val` only judges. Prints one figure a line.

use std::io::{BufRead, BufReader};
use std::time::Instant;

use coupon_model::churn::{Example, Spec, Step, Trainer, View, Vocabulary, Words, report};
use coupon_model::events::{Kind, MAX_ATTRIBUTES, SECOND};
use coupon_model::metrics::Metrics;

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
        if *object.entry("loss").or_insert(loss.into()) != loss {
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
                        e.fit_loss,
                        e.tune_loss.unwrap_or_default(),
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
        println!("{loss}: median epoch seconds {:.2}, longest step {longest:.3}", seconds[seconds.len() / 2]);
        let start = Instant::now();
        let card = report(&model, &judge_set, &mut || Ok(()))?.card;
        let scored: usize = judge_views.iter().map(Vec::len).sum();
        println!("{loss}: microseconds a live step {:.2}", start.elapsed().as_secs_f64() * 1e6 / scored as f64);
        println!("{loss}: state bytes {}, {:?}", model.state_bytes(), model.calibrator(0));
        for population in ["cut", "live", "view_2", "view_5", "view_10"] {
            if let Some(metrics) = card.find(population, "final", None) {
                show(&format!("{loss} {population}"), metrics);
            }
        }
    }
    Ok(())
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
