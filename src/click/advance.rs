//! Live sessions: a statement's clicks grouped by session, each session read once, advanced and written once. Two
//! prepared statements for one session: lock and read, then write.

use crate::click::decide;
use crate::click::eligible::{self, EligibleSession};
use crate::click::grouped::Group;
use crate::click::session::{SessionRow, StatementContext};
use crate::click::session_store::{self, LockOutcome, Lookup};
use crate::click::{marks, rebuild};
use crate::pg::error::ok;
use crate::pg::settings;
use crate::pg::statement::with_snapshot;
use crate::pg::subtransaction::{self, CaughtError, LockWaitBudget};
use crate::shop::mapping::SkippedClick;
use coupon_base::memory;
use coupon_events::events::Kind;
use coupon_model::churn::LANES;
use coupon_model::live::{Click, LiveSession};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cmp::Reverse;

/// Bytes that must be free before sessions are advanced; the allocator can refuse more only by ending the process.
const HEADROOM: usize = 4 << 20;

/// What a statement had to leave out: how often, and the first; coupon.error_log is no second log.
#[derive(Default)]
pub struct SkippedClicks {
    pub first: Option<SkippedClick>,
    pub count: i64,
}

impl SkippedClicks {
    pub fn add(&mut self, refused: SkippedClick) {
        self.count += 1;
        self.first.get_or_insert(refused);
    }

    pub fn join(self, other: SkippedClicks) -> SkippedClicks {
        SkippedClicks { first: self.first.or(other.first), count: self.count + other.count }
    }
}

/// A session and the clicks of a statement that are its.
type Clicks<'a> = (&'a str, &'a [Click<&'a str>]);

/// Why a session was not advanced.
enum Conflict {
    /// Another transaction holds its row, or is about to store it.
    Held,
    /// Another transaction has stored it since it was looked for.
    Stored,
}

/// Advances some sessions of a statement, in their order, in which everybody locks. `careful`: another transaction was found
/// storing one of them, so each is stored on its own.
pub fn advance(groups: &mut [Group], wait_budget: &LockWaitBudget, careful: bool, skipped: &mut SkippedClicks) {
    if groups.len() > 1 {
        pgrx::check_for_interrupts!();
        ok(memory::probe(HEADROOM));
    }
    groups.iter_mut().for_each(|group| group.1.sort_by(|a, b| a.order(b)));
    // A connection a chunk: what SPI has allocated is gone with it.
    Spi::connect_mut(|client| {
        let named = |group: &&Group| group.0.is_some();
        let mut left: Vec<Clicks> =
            groups.iter().filter(named).map(|(session, clicks)| (session.unwrap_or_default(), &clicks[..])).collect();
        // A statement of many sessions holds rows itself and does not wait for one more.
        let alone = left.len() == 1;
        for attempt in 0.. {
            if left.is_empty() {
                break;
            }
            let (mut again, mut locked_rows) = (Vec::new(), Vec::new());
            for (clicks, missed) in advance_once(client, &left, careful) {
                if matches!(missed, Conflict::Stored) && attempt < 3 {
                    again.push(clicks)
                } else {
                    locked_rows.push(clicks)
                }
            }
            if alone && !locked_rows.is_empty() && wait_budget.wait(attempt) {
                again.append(&mut locked_rows);
            }
            locked_rows.iter().for_each(|(session, clicks)| skip(client, session, clicks[0].customer, skipped));
            left = again;
        }
        for (_, purchases) in groups.iter().filter(|group| !named(group)) {
            purchases
                .iter()
                .filter(|p| p.kind.ends())
                .for_each(|purchase| close_session(client, purchase, wait_budget, skipped));
        }
    });
}

/// Reads, advances and writes sessions; those that others have are returned.
fn advance_once<'a>(client: &mut SpiClient, left: &[Clicks<'a>], careful: bool) -> Vec<(Clicks<'a>, Conflict)> {
    let names: Vec<&str> = left.iter().map(|l| l.0).collect();
    let customers: Vec<Option<&str>> = left.iter().map(|l| l.1.first().and_then(|click| click.customer)).collect();
    let (context, found) = session_store::lock(&names, &customers);
    let mut missed = Vec::new();
    let mut batches = Vec::with_capacity(left.len());
    for (&(session, clicks), found) in left.iter().zip(found) {
        let live = match found.row {
            LockOutcome::Held => {
                missed.push(((session, clicks), Conflict::Held));
                continue;
            }
            _ if found.marked => {
                marks::mark(client, session, clicks[0].customer, "missed an earlier click");
                continue;
            }
            // No fault: it has come back after a day, and is rebuilt when somebody asks for it.
            LockOutcome::Known(live) if live.state_purged => {
                marks::mark(client, session, clicks[0].customer, "state purged");
                continue;
            }
            LockOutcome::Known(live) => *live,
            LockOutcome::New(segment) => SessionRow::begin(session, clicks[0].at, segment, &context),
        };
        batches.push(SessionBatch { live, session, clicks, eligible: None });
    }
    apply_clicks(&mut batches, &context);
    let (mut known, mut new, mut of_new, mut eligible) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for batch in batches {
        eligible.extend(batch.eligible);
        if batch.live.known {
            known.push(batch.live);
        } else {
            of_new.push((batch.session, batch.clicks));
            new.push(batch.live);
        }
    }
    session_store::update(&known);
    let mut taken = insert(&new, careful);
    eligible.retain(|eligible| !taken.iter().any(|(n, _)| new[*n].session == eligible.session));
    missed.extend(taken.drain(..).map(|(n, missed)| (of_new[n], missed)));
    match &eligible[..] {
        [] => {}
        eligible => decide::decide_all(client, eligible, context.clock),
    }
    missed
}

/// Stores new sessions; the numbers of those that another transaction has stored, or is about to. Who is about to is found
/// by an ERROR; so, where that is known to happen, by halves, each in a subtransaction of its own.
fn insert(rows: &[SessionRow], careful: bool) -> Vec<(usize, Conflict)> {
    let stored = |taken: Vec<usize>| taken.into_iter().map(|n| (n, Conflict::Stored)).collect();
    if !careful || rows.is_empty() {
        return stored(session_store::insert(rows));
    }
    match subtransaction::attempt(1, || session_store::insert(rows)) {
        Ok(taken) => stored(taken),
        Err(failure) if failure.caught.code != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => failure.raise(),
        Err(_) if rows.len() == 1 => vec![(0, Conflict::Held)],
        Err(_) => {
            let (first, second) = rows.split_at(rows.len() / 2);
            let mut taken = insert(first, careful);
            taken.extend(insert(second, careful).into_iter().map(|(n, missed)| (first.len() + n, missed)));
            taken
        }
    }
}

/// A purchase that knows only its customer freezes that customer's latest session.
fn close_session(
    client: &mut SpiClient,
    purchase: &Click<&str>,
    wait_budget: &LockWaitBudget,
    skipped: &mut SkippedClicks,
) {
    let Some(session) = session_store::latest_of(purchase) else { return };
    match locked(&session, wait_budget).1.row {
        LockOutcome::Held => skip(client, &session, purchase.customer, skipped),
        LockOutcome::New(_) => {}
        LockOutcome::Known(mut live) => {
            live.visit.frozen = true;
            live.visit.purchased |= purchase.kind == Kind::Purchase;
            session_store::update(&[*live]);
        }
    }
}

/// One session locked, waiting for its holder within the budget.
fn locked(session: &str, wait_budget: &LockWaitBudget) -> (StatementContext, Lookup) {
    for attempt in 0.. {
        let (context, mut found) = session_store::lock(&[session], &[None]);
        let found = found.pop().expect("a row a session");
        if !matches!(found.row, LockOutcome::Held) || !wait_budget.wait(attempt) {
            return (context, found);
        }
    }
    unreachable!("the budget ends")
}

/// Marks a session that another transaction holds.
fn skip(client: &mut SpiClient, session: &str, customer: Option<&str>, skipped: &mut SkippedClicks) {
    let caught = CaughtError {
        code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        message: "another transaction holds the session".into(),
        detail: None,
        hint: Some("The click was kept; the session is rebuilt by issue_coupon or coupon.maintain.".into()),
    };
    marks::mark(client, session, customer, &caught.message);
    skipped.add(SkippedClick { session: Some(session.to_string()), customer: customer.map(str::to_string), caught });
}

/// A session and the clicks of a statement that are its.
struct SessionBatch<'a> {
    live: SessionRow,
    session: &'a str,
    clicks: &'a [Click<&'a str>],
    eligible: Option<EligibleSession>,
}

impl SessionBatch<'_> {
    fn apply(&mut self, n: usize, context: &StatementContext) {
        self.live.apply(&self.clicks[n]);
        self.match_campaigns(n, context);
    }

    /// After click `n`: the first click that makes the session eligible is the one that counts.
    fn match_campaigns(&mut self, n: usize, context: &StatementContext) {
        if n % 1024 == 1023 {
            pgrx::check_for_interrupts!();
        }
        let click = &self.clicks[n];
        if self.eligible.is_none() && eligible::fresh(click.at, context.clock) {
            self.eligible = eligible::match_campaigns(&context.serving.campaigns, &self.live, click.at, click.zone);
        }
    }
}

/// Applies all clicks. Sessions of one model and of about as many clicks advance in lanes: with a large COPY, loading the
/// network's weights for each session took a seventh of the time.
fn apply_clicks(batches: &mut [SessionBatch], context: &StatementContext) {
    let mut order: Vec<&mut SessionBatch> = batches.iter_mut().collect();
    let version = |batch: &SessionBatch| batch.live.version.as_ref().map(|v| v.number);
    order.sort_by_key(|batch| (version(batch), batch.live.visit.scoring(), Reverse(batch.clicks.len())));
    let (groups, rest) = order.as_chunks_mut::<LANES>();
    for group in groups {
        let of_one = group.iter().all(|batch| version(batch) == version(group[0]));
        let shortest = group.iter().map(|batch| batch.clicks.len()).min().unwrap_or(0);
        let in_lanes = if of_one { shortest } else { 0 };
        let decoded = group[0].live.version.clone();
        for n in 0..in_lanes {
            let clicks = group.each_mut().map(|batch| (&mut batch.live.visit, &batch.clicks[n]));
            LiveSession::apply_lanes(decoded.as_ref().map(|v| &v.version), clicks);
            group.iter_mut().for_each(|batch| {
                batch.live.record(&batch.clicks[n]);
                batch.match_campaigns(n, context);
            });
        }
        group.iter_mut().for_each(|batch| (in_lanes..batch.clicks.len()).for_each(|n| batch.apply(n, context)));
    }
    rest.iter_mut().for_each(|batch| (0..batch.clicks.len()).for_each(|n| batch.apply(n, context)));
}

/// Decides about one session as its last click would have, rebuilding it from the log if it missed one. Whether there may be
/// a coupon now: of this decision, or of a click that locked_rows the row until a moment ago.
pub fn evaluate(session: &str) -> bool {
    Spi::connect_mut(|client| {
        let wait_budget = LockWaitBudget::new(settings::lock_wait());
        let (context, found) = locked(session, &wait_budget);
        if context.active.is_none() {
            subtransaction::warn(&CaughtError {
                code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                message: "no model is active, so no coupon is issued".into(),
                detail: None,
                hint: Some("SELECT * FROM coupon.train() trains one on the watched tables.".into()),
            });
        }
        let live = match found.row {
            LockOutcome::Held => return false,
            LockOutcome::Known(live) if !found.marked && !live.state_purged => *live,
            LockOutcome::New(_) if !found.marked => return false,
            stored => match rebuild::rebuild(client, session, &context, stored) {
                Some(live) => live,
                None => return false,
            },
        };
        let last_at = live.last_at;
        if !eligible::fresh(last_at, context.clock) {
            return false;
        }
        let zone = with_snapshot(|| decide::last_zone(client, session, &context.serving.campaigns));
        if let Some(eligible) = eligible::match_campaigns(&context.serving.campaigns, &live, last_at, zone.as_deref()) {
            decide::decide(client, &eligible, context.clock);
        }
        true
    })
}

/// Whether a session has no coupon that is not closed, and nothing is to be decided or rebuilt: seen in one statement,
/// without a lock. Most who ask write nothing then, and need no transaction id.
pub fn has_nothing_due(session: &str) -> bool {
    let (context, live, seen) = Spi::connect(|_| session_store::peek(session));
    if context.active.is_none() || seen.marked || seen.coupon {
        return false;
    }
    live.is_none_or(|live| {
        let eligible = || eligible::match_campaigns(&context.serving.campaigns, &live, live.last_at, None);
        !live.state_purged && (!eligible::fresh(live.last_at, context.clock) || eligible().is_none())
    })
}
