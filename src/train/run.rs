//! Training from SQL: read the log, compute on threads of its own, store, deploy, tell.

use crate::models::{active, customers, registry};
use crate::pg::error::{self, ok, report, spi, throw};
use crate::pg::{settings, threads};
use crate::train::log::{read_log, treatments};
use crate::train::progress::{announce, describe, report_progress};
use coupon_base::Result;
use coupon_events::events::Log;
use coupon_model::artefact::Artefact;
use coupon_model::training::{self, Estimate, Job, Observer, Report, Spec, Stages, train};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgrx::{JsonB, Spi, name};
use serde_json::Value;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::time::Instant;

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

/// Behind coupon.train, train_churn and train_ranking, which differ in `stages` only.
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
        name!(validation_loss, Option<f64>),
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

/// A line, and the seconds since the last one.
type Line = (Report, f64);

/// What the worker tells the main thread.
enum Progress {
    Line(Line),
    Part(&'static str),
    Estimate(Estimate),
}

struct ProgressReporter<'a> {
    stop: &'a AtomicBool,
    sender: Sender<Progress>,
    last: Instant,
}

impl Observer for ProgressReporter<'_> {
    fn check(&mut self) -> Result<()> {
        threads::go_on(self.stop)
    }

    fn report(&mut self, report: Report) {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        // The main thread may be gone already; then check() stops us next.
        let _ = self.sender.send(Progress::Line((report, seconds)));
    }

    fn enter(&mut self, part: &'static str) {
        let _ = self.sender.send(Progress::Part(part));
    }

    fn estimate(&mut self, estimate: &Estimate) {
        let _ = self.sender.send(Progress::Estimate(*estimate));
    }
}

fn run(since: TimestampWithTimeZone, until: TimestampWithTimeZone, spec: JsonB, seed: i64, stages: Stages) -> Vec<Row> {
    let spec = specification(&spec.0);
    let (since, until): (i64, i64) = (since.into(), until.into());
    Spi::connect_mut(|client| {
        need_storage();
        let budget = settings::training_memory();
        let threads = settings::threads();
        let mut last_report = None;
        report_progress("reading the log", &mut last_report);
        let read = read_log(client, since, until, |n| report_progress(&format!("{n} events read"), &mut last_report));
        let left_out = left_out(client);
        let treatments = treatments(client, &read.log);
        let base = active::active_with_stages(client);
        let end = end(until, &read.log);
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
            budget,
        };
        let mut lines: Vec<Line> = Vec::new();
        let work = |stop: &AtomicBool, sender: Sender<Progress>| {
            let mut watcher = ProgressReporter { stop, sender, last: Instant::now() };
            let outcome = train(&job, &mut watcher)?;
            // The customers are as the version sees them that will serve.
            let serving = match base_ref {
                Some((base, _)) if !outcome.gate.accepted => &base.segment,
                _ => &outcome.segment,
            };
            watcher.enter("customers");
            let customers = training::customers(job.log, job.until, serving, &mut || watcher.check())?;
            Ok((outcome, customers))
        };
        let trained = threads::run(threads, work, |on_progress| match on_progress {
            Progress::Line(line) => {
                report_progress(&describe(&line.0), &mut last_report);
                lines.push(line);
            }
            Progress::Part(part) => report_progress(&format!("begins {part}"), &mut last_report),
            // However little time has passed since the last message.
            Progress::Estimate(e) => report_progress(&announce(&e, budget), &mut None),
        });
        let (mut outcome, customers) = ok(trained);
        if !left_out.is_empty() {
            let of_sessions = outcome.stages.iter_mut().filter(|s| s.stage == "sessions");
            of_sessions.for_each(|s| s.card["relations_left_out"] = left_out.clone().into());
        }
        report_progress("begins saving", &mut last_report);
        registry::one_at_a_time(client);
        let build = registry::BUILD.to_string();
        let trained = Artefact { since, until, seed, threads: threads as i32, build, stages: outcome.stages };
        let version = registry::save(client, &trained);
        let active = registry::deploy(client, version, &outcome.gate);
        let (serving, model) = match &base {
            Some((base, _)) if !active => (base.number, &base.version.segment),
            _ => (version, &outcome.segment),
        };
        customers::save_customers(client, &read.log, &customers, coupon_events::sessions::day_of(end), serving, model);
        let verdict = match (&outcome.gate.reason, active) {
            (None, _) => format!("version {version} is active"),
            (Some(reason), true) => format!("version {version} is active; {reason}"),
            (Some(reason), false) => format!("version {version} is saved and not activated: {reason}"),
        };
        if !active {
            error::send_message(PgLogLevel::WARNING, report(PgSqlErrorCode::ERRCODE_WARNING, verdict.clone(), ""));
        }
        lines.push((Report { stage: "deploy", note: Some(verdict), ..Report::default() }, 0.0));
        lines.into_iter().map(|line| row(version, line)).collect()
    })
}

/// The watched tables that could not be read, and why, as the card tells it.
fn left_out(client: &SpiClient) -> Vec<Value> {
    let sql = "SELECT jsonb_build_object('relation', m.relation::text, 'problem', m.problem) FROM coupon_internal.list_misfits() m";
    spi(client.select(sql, None, &[])).filter_map(|row| spi(row.get::<JsonB>(1))).map(|found| found.0).collect()
}

/// The defaults with what was given; the timeout that sessions have live, unless another is given.
pub fn specification(given: &Value) -> Spec {
    let mut spec = ok(Spec::read(given));
    if given.pointer("/sessions/session_timeout").is_none() {
        spec.sessions.session_timeout = settings::session_timeout();
    }
    spec
}

pub fn need_storage() {
    if !registry::exists() {
        throw(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "no table is watched",
            "SELECT coupon.watch('your_clicks', '{\"session\": …, \"at\": …}') first, or coupon.simulate().",
        ));
    }
    spi(Spi::run("SELECT coupon_internal.require_storage()"));
}

/// Where a log ends. An open end means: up to the last event there is, which then closes the log.
pub fn end(until: i64, log: &Log) -> i64 {
    match until {
        i64::MAX => log.events.last().map_or(0, |e| e.at) + 1,
        until => until,
    }
}

fn row(version: i64, (r, seconds): Line) -> Row {
    (
        Some(version),
        r.stage.to_string(),
        r.segment.map(|s| s as i32),
        r.step.map(|s| s as i32),
        r.loss,
        r.validation_loss,
        r.auroc,
        r.auprc,
        r.accuracy,
        Some((seconds * 1e3).round() / 1e3),
        r.note,
    )
}
