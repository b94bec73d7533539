//! Live sessions: a statement's clicks grouped by session, each session read once, advanced and written once. Two
//! prepared statements for a click of a known session: lock and read, then write.

use crate::campaigns::Campaigns;
use crate::error::{report, spi, throw};
use crate::guard::{self, Caught};
use crate::issue::{self, Due};
use crate::rows::{self, Live, Scene, Stored};
use crate::{campaigns, settings};
use coupon_model::live::{Click, Visit};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::collections::BTreeMap;
use std::time::Instant;

/// Sessions a statement: bounds the arrays that are passed to and fro.
const CHUNK: usize = 1000;

/// A row that could not be a click, or a session that could not be advanced.
pub struct Refused {
    pub session: Option<String>,
    pub caught: Caught,
}

/// A statement's clicks.
#[derive(Default)]
pub struct Advance {
    /// In session order: everybody locks in this order, so that nobody waits for somebody who waits for him.
    sessions: BTreeMap<String, Vec<Click>>,
    /// Purchases that know only their customer.
    purchases: Vec<Click>,
    refused: Vec<Refused>,
}

impl Advance {
    pub fn push(&mut self, click: Click) {
        match &click.session {
            Some(session) => match self.sessions.get_mut(session) {
                Some(clicks) => clicks.push(click),
                None => drop(self.sessions.insert(session.clone(), vec![click])),
            },
            None => self.purchases.push(click),
        }
    }

    pub fn refuse(&mut self, refused: Refused) {
        // One stands for all of a statement; coupon.fault is no second log.
        if self.refused.is_empty() {
            self.refused.push(refused);
        }
    }

    pub fn sessions(&self) -> Vec<String> {
        self.sessions.keys().cloned().collect()
    }
}

/// Advances all sessions of a statement; what had to be left out is returned.
pub fn advance(mut work: Advance) -> Vec<Refused> {
    let mut refused = std::mem::take(&mut work.refused);
    let mut sessions: Vec<_> = work.sessions.into_iter().collect();
    // A connection a chunk: what SPI has allocated is gone with it.
    for chunk in sessions.chunks_mut(CHUNK) {
        pgrx::check_for_interrupts!();
        Spi::connect_mut(|client| advance_chunk(client, chunk, &mut refused, true));
    }
    if !work.purchases.is_empty() {
        Spi::connect_mut(|client| work.purchases.iter().for_each(|purchase| rows::freeze(client, purchase)));
    }
    refused
}

fn advance_chunk(client: &mut SpiClient, chunk: &mut [(String, Vec<Click>)], refused: &mut Vec<Refused>, first: bool) {
    for (_, clicks) in chunk.iter_mut() {
        clicks.sort_by(|a, b| a.order(b));
    }
    let names: Vec<&str> = chunk.iter().map(|c| c.0.as_str()).collect();
    let customers: Vec<Option<&str>> = chunk.iter().map(|c| c.1.first().and_then(|k| k.customer.as_deref())).collect();
    let began = Instant::now();
    let wait = settings::max_wait();
    let (scene, found) = rows::load(client, &names, &customers, if names.len() == 1 { wait } else { 0 });
    let (mut known, mut new, mut due) = (Vec::new(), Vec::new(), Vec::new());
    for ((session, clicks), found) in chunk.iter().zip(found) {
        let mut live = match found.row {
            Stored::Held => {
                refused.push(held(session));
                continue;
            }
            // A mark of its own: whoever is rebuilding the session may not see this click, and takes only the marks away
            // that he saw.
            _ if found.gap => {
                rows::mark(client, session, "missed an earlier click");
                continue;
            }
            // No fault: it has come back after a day, and is rebuilt when somebody asks for it.
            Stored::Known(live) if live.swept => {
                rows::mark(client, session, "swept");
                continue;
            }
            Stored::Known(live) => *live,
            Stored::New(segment) => begin(session, clicks, segment, &scene),
        };
        let mut decision = None;
        for click in clicks {
            step(&mut live, click, &scene, &mut decision);
        }
        due.extend(decision);
        if live.known { known.push(live) } else { new.push(live) }
    }
    let left = wait - began.elapsed().as_millis() as i32;
    rows::update(client, &known, left);
    let raced = rows::insert(client, &new, left);
    for decision in due.iter().filter(|d| !raced.contains(&d.session)) {
        issue::decide(client, decision, scene.clock);
    }
    if !raced.is_empty() {
        // Another connection stored them between our reading and our writing: now they are known.
        let mut again: Vec<_> = chunk.iter().filter(|c| raced.contains(&c.0)).cloned().collect();
        if first {
            advance_chunk(client, &mut again, refused, false);
        } else {
            refused.extend(again.iter().map(|c| held(&c.0)));
        }
    }
}

fn held(session: &str) -> Refused {
    let caught = Caught {
        code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        message: "another transaction holds the session".into(),
        detail: None,
        hint: Some("The click was kept; the session is rebuilt by issue_coupon or coupon.sweep.".into()),
    };
    Refused { session: Some(session.to_string()), caught }
}

fn begin(session: &str, clicks: &[Click], segment: u32, scene: &Scene) -> Live {
    let scoring = if campaigns::pooled(&scene.world.campaigns, session) { 0 } else { segment };
    Live {
        session: session.to_string(),
        customer: None,
        started_at: clicks[0].at,
        last_at: clicks[0].at,
        segment,
        visit: Visit::begin(scene.active.as_ref().map(|v| &v.version), scoring),
        version: scene.active.clone(),
        decided: Vec::new(),
        known: false,
        swept: false,
        place: None,
    }
}

/// Live and when rebuilding alike.
fn take_in(live: &mut Live, click: &Click) {
    live.visit.click(live.version.as_ref().map(|v| &v.version), click);
    live.last_at = live.last_at.max(click.at);
    if live.customer.is_none() {
        live.customer.clone_from(&click.customer);
    }
}

fn step(live: &mut Live, click: &Click, scene: &Scene, decision: &mut Option<Due>) {
    take_in(live, click);
    if decision.is_none() && issue::fresh(click.at, scene.clock) {
        *decision = issue::due(&scene.world.campaigns, live, click.at, click.zone.as_deref());
    }
}

/// Decides about one session as its last click would have, rebuilding it from the log if it missed one.
pub fn consider(session: &str) {
    Spi::connect_mut(|client| {
        let (scene, mut found) = rows::load(client, &[session], &[None], settings::max_wait());
        if scene.active.is_none() {
            guard::warn(&Caught {
                code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                message: "no model is active, so no coupon is issued".into(),
                detail: None,
                hint: Some("SELECT * FROM coupon.train() trains one on the watched tables.".into()),
            });
        }
        let Some(found) = found.pop() else { return };
        let live = match found.row {
            Stored::Held => return,
            Stored::Known(live) if !found.gap && !live.swept => *live,
            Stored::New(_) if !found.gap => return,
            stored => match rebuild(client, session, &scene, stored) {
                Some(live) => live,
                None => return,
            },
        };
        let last_at = live.last_at;
        if !issue::fresh(last_at, scene.clock) {
            return;
        }
        let zone = rows::last_zone(client, session, &scene.world.campaigns);
        if let Some(due) = issue::due(&scene.world.campaigns, &live, last_at, zone.as_deref()) {
            issue::decide(client, &due, scene.clock);
        }
    });
}

/// Whose churn model scores a stored session: what its state says, or where that was freed, what it began with.
pub fn scoring(live: &Live, campaigns: &Campaigns) -> u32 {
    match live.swept {
        false => live.visit.scoring(),
        true if campaigns::pooled(campaigns, &live.session) => 0,
        true => live.segment,
    }
}

/// Runs a session through its stored clicks from the start; `None`, with the mark left, where the log holds none. The
/// caller has locked the session's row before the log is read: whoever advances it waits, or has committed what the log
/// now shows.
fn rebuild(client: &mut SpiClient, session: &str, scene: &Scene, stored: Stored) -> Option<Live> {
    // Before the log: a mark that is seen now is of a click that the log shows; one that comes later stays.
    let marks = rows::marks(client, session);
    let clicks = rows::stored_clicks(client, session);
    let customer = clicks.first()?.customer.as_deref();
    // Kept, because a purchase that knew only its customer is not among the session's own events.
    let mut kept = (false, false);
    let mut live = if let Stored::Known(stored) = stored {
        kept = (stored.visit.frozen, stored.visit.purchased);
        let scoring = scoring(&stored, &scene.world.campaigns);
        let again = Visit::begin(stored.version.as_ref().map(|v| &v.version), scoring);
        Live { visit: again, ..*stored }
    } else {
        let (_, mut found) = rows::load(client, &[session], &[customer], settings::max_wait());
        let Some(Stored::New(segment)) = found.pop().map(|f| f.row) else { return None };
        begin(session, &clicks, segment, scene)
    };
    for click in &clicks {
        take_in(&mut live, click);
    }
    live.visit.frozen |= kept.0;
    live.visit.purchased |= kept.1;
    live.swept = false;
    let live = [live];
    if live[0].known {
        rows::update(client, &live, settings::max_wait());
    } else if !rows::insert(client, &live, settings::max_wait()).is_empty() {
        // Somebody stored it meanwhile, without the click it missed: the rollback leaves the mark for the next try.
        throw(report(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "another transaction began the session", ""));
    }
    spi(client.update("DELETE FROM coupon.gap WHERE id = ANY ($1)", None, &[marks.into()]));
    live.into_iter().next()
}
