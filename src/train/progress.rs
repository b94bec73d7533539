//! What a running training tells its client.

use crate::pg::error::{self, report};
use coupon_model::training::{Estimate, Report};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

pub fn describe(r: &Report) -> String {
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

pub fn announce(e: &Estimate, budget: usize) -> String {
    let mb = |bytes: usize| bytes.div_ceil(1 << 20);
    format!(
        "{} events in {} sessions of {} customers; training will hold at most {} MB, {} are allowed",
        e.events,
        e.sessions,
        e.customers,
        mb(e.peak_bytes),
        mb(budget)
    )
}

/// INFO at most once a second, what comes between as DEBUG1.
pub fn report_progress(text: &str, last_report: &mut Option<Instant>) {
    let level = if last_report.is_none_or(|t| t.elapsed() >= Duration::from_secs(1)) {
        *last_report = Some(Instant::now());
        PgLogLevel::INFO
    } else {
        PgLogLevel::DEBUG1
    };
    // INFO always reaches the client: who asks for no notices does not want it either.
    let threshold = if level == PgLogLevel::INFO { pg_sys::NOTICE } else { pg_sys::DEBUG1 };
    // SAFETY: plain look at the message settings.
    if unsafe { pg_sys::message_level_is_interesting(threshold as i32) } {
        let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
        error::send_message(level, report(code, format!("coupon_ext: {text}"), ""));
    }
}
