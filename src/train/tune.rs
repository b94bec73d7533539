//! Tuning from SQL: read the log, go on with the stored trials of the same study, store each new one.

use crate::models::registry;
use crate::pg::error::{self, ok, report, spi, throw};
use crate::pg::{settings, threads};
use crate::train::log::{read_log, treatments};
use crate::train::progress::{describe, report_progress};
use crate::train::run::{end, need_storage, specification};
use coupon_model::training::{Job, Observer, Report, Spec, Stages, Study, Trial};
use coupon_model::{Error, Result, tune};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgrx::{JsonB, Spi, name};
use serde_json::Value;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// Trials a call: a night's work, and a typo's bound.
const MOST: i32 = 1000;

type Row = (String, i32, JsonB, Option<f64>, Option<f64>, i32, f64, bool, Option<String>);

/// Behind coupon.tune_churn.
#[pg_extern(sql = false)]
fn run_tuning(
    trials: i32,
    since: TimestampWithTimeZone,
    until: TimestampWithTimeZone,
    spec: JsonB,
    seed: i64,
) -> TableIterator<
    'static,
    (
        name!(study, String),
        name!(trial, i32),
        name!(spec, JsonB),
        name!(loss, Option<f64>),
        name!(auroc, Option<f64>),
        name!(epochs, i32),
        name!(seconds, f64),
        name!(best, bool),
        name!(note, Option<String>),
    ),
> {
    if !(1..=MOST).contains(&trials) {
        throw(report(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("trials must be from 1 to {MOST}"),
            "Another call with the same arguments goes on after the trials of this one.",
        ));
    }
    // egobox would install a logger of its own, which writes to the server's standard output.
    let _ = log::set_logger(&Silent);
    TableIterator::new(run(trials as usize, since, until, spec.0, seed))
}

struct Silent;

impl log::Log for Silent {
    fn enabled(&self, _: &log::Metadata) -> bool {
        false
    }

    fn log(&self, _: &log::Record) {}

    fn flush(&self) {}
}

enum Message {
    Line(Report),
    /// With its seconds.
    Trial(Trial, f64),
}

struct ProgressReporter<'a> {
    stop: &'a AtomicBool,
    sender: Sender<Message>,
}

impl Observer for ProgressReporter<'_> {
    fn check(&mut self) -> Result<()> {
        threads::go_on(self.stop)
    }

    fn report(&mut self, report: Report) {
        // The main thread may be gone already; then check() stops us next.
        let _ = self.sender.send(Message::Line(report));
    }
}

fn run(
    trials: usize,
    since: TimestampWithTimeZone,
    until: TimestampWithTimeZone,
    mut given: Value,
    seed: i64,
) -> Vec<Row> {
    let tune = given.as_object_mut().and_then(|g| g.remove("tune")).unwrap_or(Value::Null);
    let within = |e| if let Error::Spec(m) = e { Error::Spec(format!("tune: {m}")) } else { e };
    let tune = ok(tune::Spec::read(&tune).map_err(within));
    let spec = specification(&given);
    // Asked again by the study, after the log was read.
    ok(tune::Space::new(&tune, &spec.churn).map_err(within));
    let (since, until): (i64, i64) = (since.into(), until.into());
    let threads = settings::threads();
    Spi::connect_mut(|client| {
        need_storage();
        let mut last_report = None;
        report_progress("reading the log", &mut None);
        let study = study(client, &spec, &tune, (since, until), seed, threads);
        let key = study.key();
        let earlier = earlier(client, &key);
        if !earlier.is_empty() {
            report_progress(&format!("tune: going on after {} trials of study {key}", earlier.len()), &mut None);
        }
        let mut search = ok(study.search(&earlier));
        let mut rows = Vec::new();
        let work = |stop: &AtomicBool, sender: Sender<Message>| {
            let mut watcher = ProgressReporter { stop, sender };
            for _ in 0..trials {
                let begin = Instant::now();
                let Some(trial) = study.next(&mut search, &mut watcher)? else { return Ok(false) };
                let seconds = (begin.elapsed().as_secs_f64() * 1e3).round() / 1e3;
                let _ = watcher.sender.send(Message::Trial(trial, seconds));
            }
            Ok(true)
        };
        let on_progress = |message: Message| match message {
            Message::Line(line) => report_progress(&describe(&line), &mut last_report),
            Message::Trial(trial, seconds) => {
                let row = row(&key, &given, trial, seconds);
                save(client, &row, since, until, seed);
                rows.push(row);
            }
        };
        if !ok(threads::run(threads, work, on_progress)) {
            let message = "every point of the space has been tried";
            error::send_message(PgLogLevel::NOTICE, report(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, ""));
        }
        rows
    })
}

/// What the trials share; the log itself is let go.
fn study(
    client: &mut SpiClient,
    spec: &Spec,
    tune: &tune::Spec,
    (since, until): (i64, i64),
    seed: i64,
    threads: usize,
) -> Study {
    let budget = settings::training_memory();
    let read = read_log(client, since, until, |_| {});
    let treatments = treatments(client, &read.log);
    let job = Job {
        log: &read.log,
        columns: read.columns,
        until: end(until, &read.log),
        treatments: &treatments,
        spec,
        seed: seed as u64,
        stages: Stages::Churn,
        base: None,
        budget,
    };
    let work = |stop: &AtomicBool, sender| Study::new(&job, tune, &mut ProgressReporter { stop, sender });
    ok(threads::run(threads, work, |_| {}))
}

/// The stored trials of a study, which is this transaction's until it ends.
fn earlier(client: &mut SpiClient, key: &str) -> Vec<(Value, Option<f64>)> {
    let sql = "SELECT coupon_internal.try_lock_name('tuning ' || $1)";
    let ours: Option<bool> = spi(spi(client.update(sql, None, &[key.into()])).first().get_one());
    if ours != Some(true) {
        throw(report(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            "another session is tuning with the same log, specification and seed",
            "Wait for it: this call would go on after its trials. Or pass another seed.",
        ));
    }
    let sql = "SELECT trial, spec -> 'churn', loss FROM coupon.tuning WHERE study = $1 ORDER BY trial";
    let stored = spi(client.update(sql, None, &[key.into()]));
    let trial = |(number, row): (i32, pgrx::spi::SpiHeapTupleData)| {
        if spi(row.get::<i32>(1)) != Some(number) {
            throw(
                report(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("trial {number} of the study is missing"),
                    "DELETE all rows of the study from coupon.tuning to begin it anew.",
                )
                .set_detail(format!("Study {key}.")),
            );
        }
        let parameters = spi(row.get::<JsonB>(2)).map_or(Value::Null, |j| j.0);
        (parameters, spi(row.get::<f64>(3)))
    };
    (1..).zip(stored).map(trial).collect()
}

fn row(key: &str, given: &Value, trial: Trial, seconds: f64) -> Row {
    // As given, with the values tried: what coupon.train takes as it is.
    let mut spec = given.as_object().cloned().unwrap_or_default();
    let mut churn = spec.remove("churn").and_then(|c| c.as_object().cloned()).unwrap_or_default();
    if let Value::Object(tried) = trial.parameters {
        churn.extend(tried);
    }
    spec.insert("churn".into(), Value::Object(churn));
    let (number, epochs) = (trial.number as i32, trial.epochs as i32);
    let spec = JsonB(Value::Object(spec));
    (key.to_string(), number, spec, trial.loss, trial.auroc, epochs, seconds, trial.best, trial.note)
}

fn save(client: &mut SpiClient, row: &Row, since: i64, until: i64, seed: i64) {
    let sql = "INSERT INTO coupon.tuning (study, trial, since, until, seed, spec, loss, auroc, epochs, seconds, note) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let (study, trial, spec, loss, auroc, epochs, seconds, _, note) = row;
    let args = [
        study.as_str().into(),
        (*trial).into(),
        registry::time(since).into(),
        registry::time(until).into(),
        seed.into(),
        JsonB(spec.0.clone()).into(),
        (*loss).into(),
        (*auroc).into(),
        (*epochs).into(),
        (*seconds).into(),
        note.as_deref().into(),
    ];
    spi(client.update(sql, None, &args));
}
