//! Training from SQL: read the log, compute on threads of its own, store, deploy, tell.

use crate::error::{ok, report, throw};
use crate::{settings, store, threads};
use coupon_model::Result;
use coupon_model::training::{Job, Observer, Report, Spec, Stages, customers, train};
use pgrx::prelude::*;
use pgrx::{JsonB, Spi, name};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

type Row = (
    Option<i64>,
    String,
    Option<i32>,
    Option<i32>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<String>,
);

/// Behind coupon.train, train_segments, train_churn and train_ranking, which differ in `stages` only.
#[pg_extern(sql = false)]
fn run_training(
    stages: &str,
    since: TimestampWithTimeZone,
    until: TimestampWithTimeZone,
    spec: JsonB,
    seed: i64,
) -> TableIterator<
    'static,
    (
        name!(version, Option<i64>),
        name!(stage, String),
        name!(segment, Option<i32>),
        name!(step, Option<i32>),
        name!(loss, Option<f64>),
        name!(tune_loss, Option<f64>),
        name!(auroc, Option<f64>),
        name!(auprc, Option<f64>),
        name!(accuracy, Option<f64>),
        name!(seconds, Option<f64>),
        name!(note, Option<String>),
    ),
> {
    let stages = match stages {
        "all" => Stages::All,
        "churn" => Stages::Churn,
        "ranking" => Stages::Ranking,
        other => error!("no stages are called \"{other}\""),
    };
    TableIterator::new(run(since, until, spec, seed, stages))
}

/// What the worker tells the main thread: a line, and the seconds since the last one.
type Line = (Report, f64);

struct Watcher<'a> {
    stop: &'a AtomicBool,
    sender: Sender<Line>,
    last: Instant,
}

impl Observer for Watcher<'_> {
    fn check(&mut self) -> Result<()> {
        threads::go_on(self.stop)
    }

    fn report(&mut self, report: Report) {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        // The main thread may be gone already; then check() stops us next.
        let _ = self.sender.send((report, seconds));
    }
}

fn run(since: TimestampWithTimeZone, until: TimestampWithTimeZone, spec: JsonB, seed: i64, stages: Stages) -> Vec<Row> {
    let given = spec.0;
    let mut spec = ok(Spec::read(&given));
    if given.pointer("/sessions/session_timeout").is_none() {
        spec.sessions.session_timeout = settings::session_timeout();
    }
    let (since, until): (i64, i64) = (since.into(), until.into());
    Spi::connect_mut(|client| {
        if !store::exists(client) {
            throw(report(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "no table is watched",
                "SELECT coupon.watch('your_clicks', '{\"session\": …, \"at\": …}') first, or coupon.simulate().",
            ));
        }
        let budget = settings::training_memory();
        let threads = settings::threads();
        tell("reading the log", &mut None);
        let read = store::read_log(client, since, until, budget / 2);
        let treatments = store::treatments(client, &read.log);
        let base = store::active_with_stages(client);
        // An open end means: up to the last event there is, which then closes the log.
        let end = match until {
            i64::MAX => read.log.events.last().map_or(0, |e| e.at) + 1,
            until => until,
        };
        let base_ref = base.as_ref().map(|(decoded, stages)| (&decoded.version, stages.as_slice()));
        let job = Job {
            log: &read.log,
            columns: read.columns,
            until: end,
            treatments: &treatments,
            spec: &spec,
            seed: seed as u64,
            stages,
            base: base_ref,
            budget: budget / 2,
        };
        let mut lines: Vec<Line> = Vec::new();
        let mut told = None;
        let work = |stop: &AtomicBool, sender: Sender<Line>| {
            let mut watcher = Watcher { stop, sender, last: Instant::now() };
            let outcome = train(&job, &mut watcher)?;
            // The customers are as the version sees them that will serve.
            let serving = match base_ref {
                Some((base, _)) if !outcome.gate.accepted => &base.segment,
                _ => &outcome.segment,
            };
            let customers = customers(job.log, job.until, serving, &mut || watcher.check())?;
            Ok((outcome, customers))
        };
        let trained = threads::run(threads, work, |line| {
            tell(&describe(&line.0), &mut told);
            lines.push(line);
        });
        let (outcome, customers) = ok(trained);
        store::one_at_a_time(client);
        let version = store::save(client, &outcome.stages, since, until, seed, threads as i32);
        let active = store::deploy(client, version, &outcome.gate);
        let (serving, model) = match &base {
            Some((base, _)) if !active => (base.number, &base.version.segment),
            _ => (version, &outcome.segment),
        };
        store::save_customers(client, &read.log, &customers, coupon_model::sessions::day_of(end), serving, model);
        let verdict = match (&outcome.gate.reason, active) {
            (None, _) => format!("version {version} is active"),
            (Some(reason), true) => format!("version {version} is active; {reason}"),
            (Some(reason), false) => format!("version {version} is saved and not activated: {reason}"),
        };
        if !active {
            ereport!(PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, verdict.clone());
        }
        lines.push((Report { stage: "deploy", note: Some(verdict), ..Report::default() }, 0.0));
        lines.into_iter().map(|line| row(version, line)).collect()
    })
}

fn row(version: i64, (r, seconds): Line) -> Row {
    (
        Some(version),
        r.stage.to_string(),
        r.segment.map(|s| s as i32),
        r.step.map(|s| s as i32),
        r.loss,
        r.tune_loss,
        r.auroc,
        r.auprc,
        r.accuracy,
        Some((seconds * 1e3).round() / 1e3),
        r.note,
    )
}

fn describe(r: &Report) -> String {
    let mut text = r.stage.to_string();
    if let Some(segment) = r.segment {
        text += &format!(", segment {segment}");
    }
    if let (Some(step), Some(loss)) = (r.step, r.loss) {
        text += &format!(", epoch {step}, loss {loss:.4}");
    }
    if let Some(auroc) = r.auroc {
        text += &format!(", AUROC {auroc:.3}");
    }
    if let Some(note) = &r.note {
        text += &format!(": {note}");
    }
    text
}

/// INFO, at most once a second.
fn tell(text: &str, told: &mut Option<Instant>) {
    // INFO always reaches the client: who asks for no notices does not want it either.
    // SAFETY: plain look at the message settings.
    let wanted = unsafe { pg_sys::message_level_is_interesting(pg_sys::NOTICE as i32) };
    if wanted && told.is_none_or(|t| t.elapsed() >= Duration::from_secs(1)) {
        *told = Some(Instant::now());
        ereport!(PgLogLevel::INFO, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, format!("coupon_ext: {text}"));
    }
}
