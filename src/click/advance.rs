//! Live sessions: a statement's clicks grouped by session, each session read once, advanced and written once. Two
//! prepared statements for one session: lock and read, then write.

use crate::click::decide::{self, Due};
use crate::click::grouped::Group;
use crate::click::session::{Live, Scene, begin, note};
use crate::click::session_store::{self, Found, Stored};
use crate::click::{marks, rebuild};
use crate::pg::error::ok;
use crate::pg::settings;
use crate::pg::statement::with_snapshot;
use crate::pg::subtransaction::{self, Caught, Patience};
use crate::shop::mapping::Refused;
use coupon_model::churn::BESIDE;
use coupon_model::events::Kind;
use coupon_model::live::{Click, Visit};
use coupon_model::memory;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cmp::Reverse;

/// What is free beside the clicks before sessions are advanced; the allocator can refuse more only by ending the process.
const HEADROOM: usize = 4 << 20;

/// What a statement had to leave out: how often, and the first; coupon.fault is no second log.
#[derive(Default)]
pub struct Skipped {
    pub first: Option<Refused>,
    pub count: i64,
}

impl Skipped {
    pub fn add(&mut self, refused: Refused) {
        self.count += 1;
        self.first.get_or_insert(refused);
    }

    pub fn join(self, other: Skipped) -> Skipped {
        Skipped { first: self.first.or(other.first), count: self.count + other.count }
    }
}

/// A session and the clicks of a statement that are its.
type Clicks<'a> = (&'a str, &'a [Click<&'a str>]);

/// Why a session was not advanced.
enum Missed {
    /// Another transaction holds its row, or is about to store it.
    Held,
    /// Another transaction has stored it since it was looked for.
    Stored,
}

/// Advances some sessions of a statement, in their order, in which everybody locks. `careful`: another transaction was found
/// storing one of them, so each is stored on its own.
pub fn advance(groups: &mut [Group], patience: &Patience, careful: bool, skipped: &mut Skipped) {
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
            let (mut again, mut held) = (Vec::new(), Vec::new());
            for (clicks, missed) in advance_once(client, &left, careful) {
                if matches!(missed, Missed::Stored) && attempt < 3 { again.push(clicks) } else { held.push(clicks) }
            }
            if alone && !held.is_empty() && patience.wait(attempt) {
                again.append(&mut held);
            }
            held.iter().for_each(|(session, clicks)| skip(client, session, clicks[0].customer, skipped));
            left = again;
        }
        for (_, purchases) in groups.iter().filter(|group| !named(group)) {
            purchases.iter().filter(|p| p.kind.ends()).for_each(|purchase| freeze(client, purchase, patience, skipped));
        }
    });
}

/// Reads, advances and writes sessions; those that others have are returned.
fn advance_once<'a>(client: &mut SpiClient, left: &[Clicks<'a>], careful: bool) -> Vec<(Clicks<'a>, Missed)> {
    let names: Vec<&str> = left.iter().map(|l| l.0).collect();
    let customers: Vec<Option<&str>> = left.iter().map(|l| l.1.first().and_then(|click| click.customer)).collect();
    let (scene, found) = session_store::lock(&names, &customers);
    let mut missed = Vec::new();
    let mut turns = Vec::with_capacity(left.len());
    for (&(session, clicks), found) in left.iter().zip(found) {
        let live = match found.row {
            Stored::Held => {
                missed.push(((session, clicks), Missed::Held));
                continue;
            }
            _ if found.gap => {
                marks::mark(client, session, clicks[0].customer, "missed an earlier click");
                continue;
            }
            // No fault: it has come back after a day, and is rebuilt when somebody asks for it.
            Stored::Known(live) if live.swept => {
                marks::mark(client, session, clicks[0].customer, "swept");
                continue;
            }
            Stored::Known(live) => *live,
            Stored::New(segment) => begin(session, clicks[0].at, segment, &scene),
        };
        turns.push(Turn { live, session, clicks, due: None });
    }
    take_turns(&mut turns, &scene);
    let (mut known, mut new, mut of_new, mut due) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in turns {
        due.extend(turn.due);
        if turn.live.known {
            known.push(turn.live);
        } else {
            of_new.push((turn.session, turn.clicks));
            new.push(turn.live);
        }
    }
    session_store::update(&known);
    let mut taken = insert(&new, careful);
    due.retain(|due| !taken.iter().any(|(n, _)| new[*n].session == due.session));
    missed.extend(taken.drain(..).map(|(n, missed)| (of_new[n], missed)));
    match &due[..] {
        [] => {}
        due => decide::decide_all(client, due, scene.clock),
    }
    missed
}

/// Stores new sessions; the numbers of those that another transaction has stored, or is about to. Who is about to is found
/// by an ERROR; so, where that is known to happen, by halves, each in a subtransaction of its own.
fn insert(rows: &[Live], careful: bool) -> Vec<(usize, Missed)> {
    let stored = |taken: Vec<usize>| taken.into_iter().map(|n| (n, Missed::Stored)).collect();
    if !careful || rows.is_empty() {
        return stored(session_store::insert(rows));
    }
    match subtransaction::attempt(1, || session_store::insert(rows)) {
        Ok(taken) => stored(taken),
        Err(failure) if failure.caught.code != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => failure.raise(),
        Err(_) if rows.len() == 1 => vec![(0, Missed::Held)],
        Err(_) => {
            let (first, second) = rows.split_at(rows.len() / 2);
            let mut taken = insert(first, careful);
            taken.extend(insert(second, careful).into_iter().map(|(n, missed)| (first.len() + n, missed)));
            taken
        }
    }
}

/// A purchase that knows only its customer freezes that customer's latest session.
fn freeze(client: &mut SpiClient, purchase: &Click<&str>, patience: &Patience, skipped: &mut Skipped) {
    let Some(session) = session_store::latest_of(purchase) else { return };
    match locked(&session, patience).1.row {
        Stored::Held => skip(client, &session, purchase.customer, skipped),
        Stored::New(_) => {}
        Stored::Known(mut live) => {
            live.visit.frozen = true;
            live.visit.purchased |= purchase.kind == Kind::Purchase;
            session_store::update(&[*live]);
        }
    }
}

/// One session locked, with patience for who holds it.
fn locked(session: &str, patience: &Patience) -> (Scene, Found) {
    for attempt in 0.. {
        let (scene, mut found) = session_store::lock(&[session], &[None]);
        let found = found.pop().expect("a row a session");
        if !matches!(found.row, Stored::Held) || !patience.wait(attempt) {
            return (scene, found);
        }
    }
    unreachable!("patience ends")
}

/// Marks a session that another transaction holds.
fn skip(client: &mut SpiClient, session: &str, customer: Option<&str>, skipped: &mut Skipped) {
    let caught = Caught {
        code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        message: "another transaction holds the session".into(),
        detail: None,
        hint: Some("The click was kept; the session is rebuilt by issue_coupon or coupon.sweep.".into()),
    };
    marks::mark(client, session, customer, &caught.message);
    skipped.add(Refused { session: Some(session.to_string()), customer: customer.map(str::to_string), caught });
}

/// A session and the clicks of a statement that are its.
struct Turn<'a> {
    live: Live,
    session: &'a str,
    clicks: &'a [Click<&'a str>],
    due: Option<Due>,
}

impl Turn<'_> {
    fn take(&mut self, n: usize, scene: &Scene) {
        self.live.visit.click(self.live.version.as_ref().map(|v| &v.version), &self.clicks[n]);
        self.taken(n, scene);
    }

    fn taken(&mut self, n: usize, scene: &Scene) {
        if n % 1024 == 1023 {
            pgrx::check_for_interrupts!();
        }
        let click = &self.clicks[n];
        note(&mut self.live, click);
        if self.due.is_none() && decide::fresh(click.at, scene.clock) {
            self.due = decide::due(&scene.world.campaigns, &self.live, click.at, click.zone);
        }
    }
}

/// Takes in all clicks. Sessions of one model and of about as many clicks go side by side: with a large COPY the weights of
/// the network took their way from memory for each, a seventh of its time.
fn take_turns(turns: &mut [Turn], scene: &Scene) {
    let mut order: Vec<&mut Turn> = turns.iter_mut().collect();
    let version = |turn: &Turn| turn.live.version.as_ref().map(|v| v.number);
    order.sort_by_key(|turn| (version(turn), turn.live.visit.scoring(), Reverse(turn.clicks.len())));
    let (groups, rest) = order.as_chunks_mut::<BESIDE>();
    for group in groups {
        let of_one = group.iter().all(|turn| version(turn) == version(group[0]));
        let shortest = group.iter().map(|turn| turn.clicks.len()).min().unwrap_or(0);
        let beside = if of_one { shortest } else { 0 };
        let decoded = group[0].live.version.clone();
        for n in 0..beside {
            let clicks = group.each_mut().map(|turn| (&mut turn.live.visit, &turn.clicks[n]));
            Visit::click_beside(decoded.as_ref().map(|v| &v.version), clicks);
            group.iter_mut().for_each(|turn| turn.taken(n, scene));
        }
        group.iter_mut().for_each(|turn| (beside..turn.clicks.len()).for_each(|n| turn.take(n, scene)));
    }
    rest.iter_mut().for_each(|turn| (0..turn.clicks.len()).for_each(|n| turn.take(n, scene)));
}

/// Decides about one session as its last click would have, rebuilding it from the log if it missed one. Whether there may be
/// a coupon now: of this decision, or of a click that held the row until a moment ago.
pub fn consider(session: &str) -> bool {
    Spi::connect_mut(|client| {
        let patience = Patience::new(settings::max_wait());
        let (scene, found) = locked(session, &patience);
        if scene.active.is_none() {
            subtransaction::warn(&Caught {
                code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                message: "no model is active, so no coupon is issued".into(),
                detail: None,
                hint: Some("SELECT * FROM coupon.train() trains one on the watched tables.".into()),
            });
        }
        let live = match found.row {
            Stored::Held => return false,
            Stored::Known(live) if !found.gap && !live.swept => *live,
            Stored::New(_) if !found.gap => return false,
            stored => match rebuild::rebuild(client, session, &scene, stored) {
                Some(live) => live,
                None => return false,
            },
        };
        let last_at = live.last_at;
        if !decide::fresh(last_at, scene.clock) {
            return false;
        }
        let zone = with_snapshot(|| decide::last_zone(client, session, &scene.world.campaigns));
        if let Some(due) = decide::due(&scene.world.campaigns, &live, last_at, zone.as_deref()) {
            decide::decide(client, &due, scene.clock);
        }
        true
    })
}

/// Whether a session has no coupon that is not closed, and nothing is to be decided or rebuilt: seen in one statement,
/// without a lock. Most who ask write nothing then, and need no transaction id.
pub fn settled(session: &str) -> bool {
    let (scene, live, seen) = Spi::connect(|_| session_store::peek(session));
    if scene.active.is_none() || seen.gap || seen.coupon {
        return false;
    }
    live.is_none_or(|live| {
        let due = || decide::due(&scene.world.campaigns, &live, live.last_at, None);
        !live.swept && (!decide::fresh(live.last_at, scene.clock) || due().is_none())
    })
}
