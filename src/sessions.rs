//! Live sessions: a statement's clicks grouped by session, each session read once, advanced and written once. Two
//! prepared statements for a click of a known session: lock and read, then write.

use crate::campaigns::Campaigns;
use crate::error::{report, spi, throw};
use crate::guard::{self, Caught, Patience, pinned};
use crate::issue::{self, Due};
use crate::rows::{self, Found, Live, Scene, Stored, Wanted};
use crate::{campaigns, direct, settings, stored};
use coupon_model::churn::BESIDE;
use coupon_model::events::Kind;
use coupon_model::live::{Click, Visit};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// Sessions that are read, advanced and stored together: so few stay in the cache. (With a thousand, a COPY of 100,000 clicks
/// took 380 ms instead of 322.)
const CHUNK: usize = 100;

/// A row that could not be a click, or a session that could not be advanced.
pub struct Refused {
    pub session: Option<String>,
    pub caught: Caught,
}

/// A session's clicks in a statement. (Numbers into one list of all clicks: 3 % less time for a hundred thousand of them, and
/// half as much again for a million, which no cache holds.)
type Clicks<'a> = (&'a str, Vec<Click<&'a str>>);

/// A statement's clicks.
#[derive(Default)]
pub struct Advance<'a> {
    sessions: Vec<Clicks<'a>>,
    /// Where a session stands there.
    places: HashMap<&'a str, usize>,
    /// Purchases that know only their customer.
    purchases: Vec<Click<&'a str>>,
    refused: Vec<Refused>,
}

impl<'a> Advance<'a> {
    pub fn push(&mut self, click: Click<&'a str>) {
        let Some(session) = click.session else { return self.purchases.push(click) };
        let place = *self.places.entry(session).or_insert_with(|| {
            self.sessions.push((session, Vec::new()));
            self.sessions.len() - 1
        });
        self.sessions[place].1.push(click);
    }

    pub fn refuse(&mut self, refused: Refused) {
        // One stands for all of a statement; coupon.fault is no second log.
        if self.refused.is_empty() {
            self.refused.push(refused);
        }
    }

    pub fn sessions(&self) -> Vec<String> {
        self.sessions.iter().map(|s| s.0.to_string()).collect()
    }
}

/// Advances all sessions of a statement; what had to be left out is returned.
pub fn advance(mut work: Advance) -> Vec<Refused> {
    let mut refused = std::mem::take(&mut work.refused);
    let mut sessions = work.sessions;
    // Everybody locks in this order, so that nobody waits for somebody who waits for him.
    sessions.sort_unstable_by_key(|s| s.0);
    if let ([one], []) = (&mut *sessions, &*work.purchases)
        && quick(in_order(one))
    {
        return refused;
    }
    let patience = Patience::new(settings::max_wait());
    pinned(|| {
        // A connection a chunk: what SPI has allocated is gone with it.
        for chunk in sessions.chunks_mut(CHUNK) {
            pgrx::check_for_interrupts!();
            chunk.iter_mut().for_each(|clicks| _ = in_order(clicks));
            Spi::connect_mut(|client| advance_chunk(client, chunk, &mut refused, &patience, false));
        }
        let ends = work.purchases.iter().filter(|p| p.kind.ends());
        if !work.purchases.is_empty() {
            Spi::connect_mut(|client| refused.extend(ends.filter_map(|purchase| freeze(client, purchase, &patience))));
        }
    });
    refused
}

fn in_order<'a, 'b>(clicks: &'b mut Clicks<'a>) -> &'b Clicks<'a> {
    clicks.1.sort_by(|a, b| a.order(b));
    clicks
}

/// What most clicks are: of one session that nobody else is at, which missed nothing. No SQL but for a decision, and no
/// lock: what was read is written if it is still so. Whether it was done; nothing was, otherwise.
fn quick((session, clicks): &Clicks) -> bool {
    let first = &clicks[0];
    let wanted = Wanted { sessions: &[session], customers: &[first.customer], raced: false, look: true };
    let Some((scene, mut found)) = direct::load(&wanted, &Patience::new(0)) else { return false };
    let live = match found.pop() {
        Some(Found { row: Stored::Known(live), gap: false }) if !live.swept => *live,
        Some(Found { row: Stored::New(segment), gap: false }) => begin(session, first.at, segment, &scene),
        _ => return false,
    };
    let mut turn = Turn { live, clicks, due: None };
    (0..clicks.len()).for_each(|n| turn.take(n, &scene));
    let live = std::slice::from_ref(&turn.live);
    let stored = match turn.live.known {
        true => direct::update(live, false) == Some(true),
        false => direct::insert(live).is_some_and(|taken| taken.is_empty()),
    };
    if let Some(due) = turn.due.filter(|_| stored) {
        pinned(|| Spi::connect_mut(|client| issue::decide(client, &due, scene.clock)));
    }
    stored
}

/// `raced`: once more, after another connection was found storing these sessions.
fn advance_chunk(
    client: &mut SpiClient,
    chunk: &[Clicks],
    refused: &mut Vec<Refused>,
    patience: &Patience,
    raced: bool,
) {
    let names: Vec<&str> = chunk.iter().map(|c| c.0).collect();
    let customers: Vec<Option<&str>> = chunk.iter().map(|c| c.1.first().and_then(|k| k.customer)).collect();
    let wanted = Wanted { sessions: &names, customers: &customers, raced, look: false };
    // A statement of many sessions holds rows itself and does not wait for one more.
    let none = Patience::new(0);
    let (scene, found) = rows::load(client, &wanted, if names.len() == 1 || raced { patience } else { &none });
    let mut turns = Vec::with_capacity(names.len());
    for ((session, clicks), found) in chunk.iter().zip(found) {
        let live = match found.row {
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
            Stored::New(segment) => begin(session, clicks[0].at, segment, &scene),
        };
        turns.push(Turn { live, clicks, due: None });
    }
    take_turns(&mut turns, &scene);
    let (mut known, mut new, mut due) = (Vec::new(), Vec::new(), Vec::new());
    for turn in turns {
        due.extend(turn.due);
        if turn.live.known { known.push(turn.live) } else { new.push(turn.live) }
    }
    rows::update(client, &known, patience);
    let taken: HashSet<&str> =
        rows::insert(client, &new, patience).into_iter().map(|n| new[n].session.as_str()).collect();
    for decision in due.iter().filter(|d| !taken.contains(d.session.as_str())) {
        issue::decide(client, decision, scene.clock);
    }
    if !taken.is_empty() {
        let again: Vec<_> = chunk.iter().filter(|c| taken.contains(c.0)).cloned().collect();
        if raced {
            refused.extend(again.iter().map(|c| held(c.0)));
        } else {
            advance_chunk(client, &again, refused, patience, true);
        }
    }
}

/// A purchase that knows only its customer freezes that customer's latest session.
fn freeze(client: &mut SpiClient, purchase: &Click<&str>, patience: &Patience) -> Option<Refused> {
    let session = rows::latest_of(client, purchase)?;
    let wanted = Wanted { sessions: &[&session], customers: &[None], raced: false, look: false };
    match rows::load(client, &wanted, patience).1.pop()?.row {
        Stored::Held => Some(held(&session)),
        Stored::New(_) => None,
        Stored::Known(mut live) => {
            live.visit.frozen = true;
            live.visit.purchased |= purchase.kind == Kind::Purchase;
            rows::update(client, &[*live], patience);
            None
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

fn begin(session: &str, at: i64, segment: u32, scene: &Scene) -> Live {
    let scoring = if campaigns::pooled(&scene.world.campaigns, session) { 0 } else { segment };
    Live {
        session: session.to_string(),
        customer: None,
        started_at: at,
        last_at: at,
        segment,
        visit: Visit::begin(scene.active.as_ref().map(|v| &v.version), scoring),
        version: scene.active.clone(),
        decided: Vec::new(),
        known: false,
        swept: false,
        place: None,
    }
}

/// Live and when rebuilding alike: what is noted of a click beside its score.
fn note(live: &mut Live, click: &Click<impl AsRef<str>>) {
    live.last_at = live.last_at.max(click.at);
    if live.customer.is_none() {
        live.customer = click.customer.as_ref().map(|c| c.as_ref().to_string());
    }
}

/// A session and the clicks of a statement that are its.
struct Turn<'a> {
    live: Live,
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
        if self.due.is_none() && issue::fresh(click.at, scene.clock) {
            self.due = issue::due(&scene.world.campaigns, &self.live, click.at, click.zone);
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
        let wanted = Wanted { sessions: &[session], customers: &[None], raced: false, look: false };
        let (scene, mut found) = rows::load(client, &wanted, &patience);
        if scene.active.is_none() {
            guard::warn(&Caught {
                code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                message: "no model is active, so no coupon is issued".into(),
                detail: None,
                hint: Some("SELECT * FROM coupon.train() trains one on the watched tables.".into()),
            });
        }
        let Some(found) = found.pop() else { return false };
        let live = match found.row {
            Stored::Held => return false,
            Stored::Known(live) if !found.gap && !live.swept => *live,
            Stored::New(_) if !found.gap => return false,
            stored => match rebuild(client, session, &scene, stored, &patience) {
                Some(live) => live,
                None => return false,
            },
        };
        let last_at = live.last_at;
        if !issue::fresh(last_at, scene.clock) {
            return false;
        }
        let zone = stored::last_zone(client, session, &scene.world.campaigns);
        if let Some(due) = issue::due(&scene.world.campaigns, &live, last_at, zone.as_deref()) {
            issue::decide(client, &due, scene.clock);
        }
        true
    })
}

/// Whether nothing is to be decided or rebuilt, seen without a lock: most who ask write nothing then, and need no
/// transaction id.
pub fn settled(session: &str) -> bool {
    let Some((scene, live, gap)) = direct::peek(session) else { return false };
    if scene.active.is_none() || gap {
        return false;
    }
    live.is_none_or(|live| {
        let due = || issue::due(&scene.world.campaigns, &live, live.last_at, None);
        !live.swept && (!issue::fresh(live.last_at, scene.clock) || due().is_none())
    })
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
fn rebuild(client: &mut SpiClient, session: &str, scene: &Scene, stored: Stored, patience: &Patience) -> Option<Live> {
    // Before the log: a mark that is seen now is of a click that the log shows; one that comes later stays.
    let marks = rows::marks(client, session);
    let clicks = stored::clicks(client, session);
    let customer = clicks.first()?.customer.as_deref();
    // Kept, because a purchase that knew only its customer is not among the session's own events.
    let mut kept = (false, false);
    let mut live = if let Stored::Known(stored) = stored {
        kept = (stored.visit.frozen, stored.visit.purchased);
        let scoring = scoring(&stored, &scene.world.campaigns);
        let again = Visit::begin(stored.version.as_ref().map(|v| &v.version), scoring);
        Live { visit: again, ..*stored }
    } else {
        let wanted = Wanted { sessions: &[session], customers: &[customer], raced: false, look: false };
        let (_, mut found) = rows::load(client, &wanted, patience);
        let Some(Stored::New(segment)) = found.pop().map(|f| f.row) else { return None };
        begin(session, clicks[0].at, segment, scene)
    };
    for click in &clicks {
        live.visit.click(live.version.as_ref().map(|v| &v.version), click);
        note(&mut live, click);
    }
    live.visit.frozen |= kept.0;
    live.visit.purchased |= kept.1;
    live.swept = false;
    let live = [live];
    if live[0].known {
        rows::update(client, &live, patience);
    } else if !rows::insert(client, &live, patience).is_empty() {
        // Somebody stored it meanwhile, without the click it missed: the rollback leaves the mark for the next try.
        throw(report(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "another transaction began the session", ""));
    }
    spi(client.update("DELETE FROM coupon.gap WHERE id = ANY ($1)", None, &[marks.into()]));
    live.into_iter().next()
}
