//! Live sessions: a statement's clicks grouped by session, each session read once, advanced and written once. Two
//! prepared statements for a click of a known session: lock and read, then write.

use crate::cache::{Decoded, statement};
use crate::error::{ok, report, spi, throw};
use crate::guard::{Caught, with_lock_timeout, with_setting};
use crate::issue::{self, Due};
use crate::settings::{self, micros};
use crate::world::{self, World};
use coupon_model::live::{Click, Visit};
use coupon_model::segment::Variables;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use std::collections::BTreeMap;
use std::rc::Rc;
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

/// A session as it is stored.
pub struct Live {
    pub session: String,
    pub customer: Option<String>,
    pub started_at: i64,
    pub last_at: i64,
    pub segment: u32,
    pub version: Option<Rc<Decoded>>,
    pub decided: Vec<String>,
    pub visit: Visit,
    /// It is stored already, and its row is locked.
    known: bool,
}

/// What one statement sees beside its sessions.
struct Scene {
    world: Rc<World>,
    active: Option<Rc<Decoded>>,
    clock: i64,
}

enum Found {
    Known(Box<Live>),
    /// Not stored yet, with the segment its customer has.
    New(u32),
    /// It missed a click earlier: left as it is until it was rebuilt.
    Gap,
    /// Somebody else holds its row, and it is not worth waiting in a statement of many sessions.
    Held,
}

/// Advances all sessions of a statement; what had to be left out is returned.
pub fn advance(mut work: Advance) -> Vec<Refused> {
    let mut refused = std::mem::take(&mut work.refused);
    with_generic_plans(|client| {
        let mut sessions: Vec<_> = work.sessions.into_iter().collect();
        for chunk in sessions.chunks_mut(CHUNK) {
            pgrx::check_for_interrupts!();
            advance_chunk(client, chunk, &mut refused, true);
        }
        for purchase in &work.purchases {
            freeze(client, purchase);
        }
    });
    refused
}

/// An array parameter of known length makes PostgreSQL plan our statements anew each time; one plan serves all lengths.
fn with_generic_plans<T>(body: impl FnOnce(&mut SpiClient) -> T) -> T {
    with_setting(c"plan_cache_mode", c"force_generic_plan", || Spi::connect_mut(body))
}

fn advance_chunk(client: &mut SpiClient, chunk: &mut [(String, Vec<Click>)], refused: &mut Vec<Refused>, first: bool) {
    for (_, clicks) in chunk.iter_mut() {
        clicks.sort_by(|a, b| a.order(b));
    }
    let names: Vec<&str> = chunk.iter().map(|c| c.0.as_str()).collect();
    let customers: Vec<Option<&str>> = chunk.iter().map(|c| c.1.first().and_then(|k| k.customer.as_deref())).collect();
    let began = Instant::now();
    let wait = settings::max_wait();
    let (scene, found) = load(client, &names, &customers, if names.len() == 1 { wait } else { 0 });
    let (mut known, mut new, mut due) = (Vec::new(), Vec::new(), Vec::new());
    for ((session, clicks), found) in chunk.iter().zip(found) {
        let mut live = match found {
            Found::Gap => continue,
            Found::Held => {
                refused.push(held(session));
                continue;
            }
            Found::Known(live) => *live,
            Found::New(segment) => begin(session, clicks, segment, &scene),
        };
        let mut decision = None;
        for click in clicks {
            step(&mut live, click, &scene, &mut decision);
        }
        due.extend(decision);
        if live.known { known.push(live) } else { new.push(live) }
    }
    let left = wait - began.elapsed().as_millis() as i32;
    let raced = with_lock_timeout(left.max(1), || {
        update(client, &known);
        insert(client, &new)
    });
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
    let scoring = if issue::pooled(&scene.world.campaigns, session) { 0 } else { segment };
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
    }
}

fn step(live: &mut Live, click: &Click, scene: &Scene, decision: &mut Option<Due>) {
    let version = live.version.clone();
    live.visit.click(version.as_ref().map(|v| &v.version), click);
    live.last_at = live.last_at.max(click.at);
    if live.customer.is_none() {
        live.customer.clone_from(&click.customer);
    }
    if decision.is_none() && issue::fresh(click.at, scene.clock) {
        *decision = issue::due(&scene.world.campaigns, live, click.at);
    }
}

/// What is read of a session and of the world. The rows are locked in the order of the array: a nested loop over it is
/// the only plan that a lateral FOR UPDATE allows. No EXISTS: PostgreSQL may hash the whole table to answer one.
macro_rules! load_sql {
    ($lock:literal, $exists:literal) => {
        concat!(
            "SELECT t.version, t.revision::text, (SELECT true FROM coupon.gap g WHERE g.session = u.session LIMIT 1), \
             s.session IS NOT NULL, ",
            $exists,
            ", s.customer, s.started_at, s.last_at, s.views, s.segment, s.version, s.frozen, s.purchased, s.churn, \
             s.interest, s.decided, s.state, k.spending_last_month, k.average_payment, k.items_per_purchase, \
             k.searches_last_month, k.stay_per_session, k.visits_last_month \
             FROM coupon.storage t, unnest($1::text[], $2::text[]) WITH ORDINALITY u(session, customer, n) \
             LEFT JOIN LATERAL (SELECT * FROM coupon.session x WHERE x.session = u.session ",
            $lock,
            ") s ON true \
             LEFT JOIN LATERAL (SELECT * FROM coupon.customer z WHERE z.customer = u.customer LIMIT 1) k ON true \
             ORDER BY u.n"
        )
    };
}
const LOAD_WAIT: &str = load_sql!("FOR UPDATE", "s.session IS NOT NULL");
const LOAD_SKIP: &str =
    load_sql!("FOR UPDATE SKIP LOCKED", "(SELECT true FROM coupon.session y WHERE y.session = u.session)");
const LOAD_READ: &str = load_sql!("", "s.session IS NOT NULL");

/// Reads and locks; waits up to `wait` milliseconds, or not at all where it is 0.
fn load(client: &mut SpiClient, sessions: &[&str], customers: &[Option<&str>], wait: i32) -> (Scene, Vec<Found>) {
    let sql = if wait > 0 { LOAD_WAIT } else { LOAD_SKIP };
    let types = [PgBuiltInOids::TEXTARRAYOID.into(), PgBuiltInOids::TEXTARRAYOID.into()];
    let prepared = statement(client, sql, &types);
    let args = [sessions.to_vec().into(), customers.to_vec().into()];
    let rows = spi(with_lock_timeout(wait.max(1), || client.update(prepared, None, &args)));
    read(client, rows, sessions, customers)
}

fn read(
    client: &SpiClient,
    rows: pgrx::spi::SpiTupleTable,
    sessions: &[&str],
    customers: &[Option<&str>],
) -> (Scene, Vec<Found>) {
    let mut scene = None;
    let mut found = Vec::with_capacity(sessions.len());
    for (i, row) in rows.enumerate() {
        let scene = scene.get_or_insert_with(|| {
            let storage = spi(row.get::<i32>(1)).unwrap_or(0);
            let world = world::at(client, storage, spi(row.get::<&str>(2)).unwrap_or_default());
            Scene { active: world.active(client), world, clock: settings::clock() }
        });
        let has = |n: usize| spi(row.get::<bool>(n)).unwrap_or(false);
        found.push(if has(3) {
            Found::Gap
        } else if has(4) {
            Found::Known(Box::new(live(client, &row, sessions[i], &scene.world)))
        } else if has(5) {
            Found::Held
        } else {
            let variables = customers[i].and_then(|_| variables(&row));
            Found::New(match (&scene.active, variables) {
                (Some(active), Some(v)) => active.version.segment.assign(&v),
                _ => 0,
            })
        });
    }
    (scene.expect("a row a session"), found)
}

fn live(client: &SpiClient, row: &SpiHeapTupleData, session: &str, world: &World) -> Live {
    let time = |n: usize| spi(row.get::<TimestampWithTimeZone>(n)).map_or(0, i64::from);
    let flag = |n: usize| spi(row.get::<bool>(n)).unwrap_or(false);
    let views = spi(row.get::<i32>(9)).unwrap_or(0) as u32;
    let mut visit = Visit::stored(views, flag(12), flag(13), spi(row.get(14)), spi(row.get(15)));
    let mut version = spi(row.get::<i64>(11)).and_then(|number| world.version(client, number));
    match (&version, spi(row.get::<&[u8]>(17))) {
        (Some(version), Some(state)) => ok(visit.remember(&version.version, state)),
        // A session whose state was swept is over: it is counted on and never scored again.
        _ => version = None,
    }
    Live {
        session: session.to_string(),
        customer: spi(row.get(6)),
        started_at: time(7),
        last_at: time(8),
        segment: spi(row.get::<i32>(10)).unwrap_or(0) as u32,
        version,
        decided: spi(row.get(16)).unwrap_or_default(),
        visit,
        known: true,
    }
}

fn variables(row: &SpiHeapTupleData) -> Option<Variables> {
    let number = |n: usize| spi(row.get::<f64>(n));
    Some(Variables {
        spending_last_month: number(18)?,
        average_payment: number(19)?,
        items_per_purchase: number(20)?,
        searches_last_month: number(21)?,
        stay_per_session: number(22)?,
        visits_last_month: number(23)?,
    })
}

fn update(client: &mut SpiClient, rows: &[Live]) {
    if rows.is_empty() {
        return;
    }
    let sql = "UPDATE coupon.session s SET customer = u.customer, last_at = u.last_at, views = u.views, \
               frozen = u.frozen, purchased = u.purchased, churn = u.churn, interest = u.interest, state = u.state \
               FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::bool[], $6::bool[], $7::float8[], \
               $8::float8[], $9::bytea[]) u(session, customer, last_at, views, frozen, purchased, churn, interest, state) \
               WHERE s.session = u.session";
    use pg_sys::BuiltinOid::*;
    let types = [
        TEXTARRAYOID,
        TEXTARRAYOID,
        TIMESTAMPTZARRAYOID,
        INT4ARRAYOID,
        BOOLARRAYOID,
        BOOLARRAYOID,
        FLOAT8ARRAYOID,
        FLOAT8ARRAYOID,
        BYTEAARRAYOID,
    ];
    let prepared = statement(client, sql, &types.map(Into::into));
    let args = [
        rows.iter().map(|r| r.session.as_str()).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.customer.as_deref()).collect::<Vec<_>>().into(),
        rows.iter().map(|r| micros(r.last_at)).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.views as i32).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.frozen).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.purchased).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.churn).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.interest).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.to_bytes()).collect::<Vec<_>>().into(),
    ];
    spi(client.update(prepared, None, &args));
}

/// Stores new sessions; those that another connection has stored meanwhile are returned.
fn insert(client: &mut SpiClient, rows: &[Live]) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let sql = "INSERT INTO coupon.session (session, customer, started_at, last_at, views, segment, version, frozen, \
               purchased, churn, interest, state) \
               SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::int[], $6::int[], \
               $7::bigint[], $8::bool[], $9::bool[], $10::float8[], $11::float8[], $12::bytea[]) \
               ON CONFLICT (session) DO NOTHING RETURNING session";
    use pg_sys::BuiltinOid::*;
    let types = [
        TEXTARRAYOID,
        TEXTARRAYOID,
        TIMESTAMPTZARRAYOID,
        TIMESTAMPTZARRAYOID,
        INT4ARRAYOID,
        INT4ARRAYOID,
        INT8ARRAYOID,
        BOOLARRAYOID,
        BOOLARRAYOID,
        FLOAT8ARRAYOID,
        FLOAT8ARRAYOID,
        BYTEAARRAYOID,
    ];
    let prepared = statement(client, sql, &types.map(Into::into));
    let args = [
        rows.iter().map(|r| r.session.as_str()).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.customer.as_deref()).collect::<Vec<_>>().into(),
        rows.iter().map(|r| micros(r.started_at)).collect::<Vec<_>>().into(),
        rows.iter().map(|r| micros(r.last_at)).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.views as i32).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.segment as i32).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.version.as_ref().map(|v| v.number)).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.frozen).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.purchased).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.churn).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.interest).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.visit.to_bytes()).collect::<Vec<_>>().into(),
    ];
    let stored = spi(client.update(prepared, None, &args));
    if stored.len() == rows.len() {
        return Vec::new();
    }
    let stored: Vec<String> = stored.filter_map(|row| spi(row.get(1))).collect();
    rows.iter().map(|r| r.session.clone()).filter(|s| !stored.contains(s)).collect()
}

/// A purchase that knows only its customer freezes that customer's latest session, if it was seen within the timeout.
fn freeze(client: &mut SpiClient, purchase: &Click) {
    let sql = "UPDATE coupon.session SET frozen = true, purchased = purchased OR $4 WHERE session = (\
               SELECT s.session FROM coupon.session s WHERE s.customer = $1 AND s.started_at <= $2 AND s.last_at >= $3 \
               ORDER BY s.last_at DESC LIMIT 1)";
    use pg_sys::BuiltinOid::*;
    let types = [TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID];
    let prepared = statement(client, sql, &types.map(Into::into));
    let timeout = (settings::session_timeout() * 1e6) as i64;
    let args = [
        purchase.customer.clone().into(),
        micros(purchase.at).into(),
        micros(purchase.at.saturating_sub(timeout)).into(),
        (purchase.kind == coupon_model::events::Kind::Purchase).into(),
    ];
    if purchase.kind.ends() {
        spi(with_lock_timeout(settings::max_wait().max(1), || client.update(prepared, None, &args)));
    }
}

/// Decides about one session as its last click would have, rebuilding it from the log if it missed one.
pub fn consider(session: &str) {
    with_generic_plans(|client| {
        let (scene, mut found) = load(client, &[session], &[None], settings::max_wait());
        let mut live = match found.pop() {
            Some(Found::Known(live)) => *live,
            Some(Found::Gap) => match rebuild(client, session, &scene) {
                Some(live) => live,
                None => return,
            },
            _ => return,
        };
        let last_at = live.last_at;
        if issue::fresh(last_at, scene.clock)
            && let Some(due) = issue::due(&scene.world.campaigns, &mut live, last_at)
        {
            issue::decide(client, &due, scene.clock);
        }
    });
}

/// Runs a session through its stored clicks from the start; `None` where the log holds none. The caller has locked the
/// session's row before the log is read: whoever advances it waits, or has committed what the log now shows.
fn rebuild(client: &mut SpiClient, session: &str, scene: &Scene) -> Option<Live> {
    spi(client.update("DELETE FROM coupon.gap WHERE session = $1", None, &[session.into()]));
    let clicks = stored_clicks(client, session);
    let customer = clicks.first()?.customer.as_deref();
    let (_, mut found) = load(client, &[session], &[customer], settings::max_wait());
    // Kept, because a purchase that knew only its customer is not among the session's own events.
    let mut kept = (false, false);
    let mut live = match found.pop() {
        Some(Found::Known(stored)) => {
            kept = (stored.visit.frozen, stored.visit.purchased);
            let again = Visit::begin(stored.version.as_ref().map(|v| &v.version), stored.visit.scoring());
            Live { visit: again, ..*stored }
        }
        Some(Found::New(segment)) => begin(session, &clicks, segment, scene),
        _ => return None,
    };
    for click in &clicks {
        let version = live.version.clone();
        live.visit.click(version.as_ref().map(|v| &v.version), click);
        live.last_at = live.last_at.max(click.at);
        live.customer = live.customer.or_else(|| click.customer.clone());
    }
    live.visit.frozen |= kept.0;
    live.visit.purchased |= kept.1;
    let rows = [live];
    if rows[0].known {
        update(client, &rows);
    } else if !insert(client, &rows).is_empty() {
        // Somebody stored it meanwhile, without the click it missed: the rollback leaves the mark for the next try.
        throw(report(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "another transaction began the session", ""));
    }
    rows.into_iter().next()
}

fn stored_clicks(client: &SpiClient, session: &str) -> Vec<Click> {
    let sql = "SELECT at, customer, kind, page, category, product, quantity, price, order_id, zone, attributes \
               FROM coupon.session_events($1)";
    let rows = spi(client.select(sql, None, &[session.into()]));
    let click = |row: SpiHeapTupleData| {
        Some(Click {
            at: spi(row.get::<TimestampWithTimeZone>(1))?.into(),
            session: Some(session.to_string()),
            customer: spi(row.get(2)),
            kind: coupon_model::events::Kind::parse(spi(row.get::<&str>(3))?)?,
            page: spi(row.get(4)),
            category: spi(row.get(5)),
            product: spi(row.get(6)),
            quantity: spi(row.get(7)),
            price: spi(row.get(8)),
            order_id: spi(row.get(9)),
            zone: spi(row.get(10)),
            attributes: spi(row.get(11)).unwrap_or_default(),
        })
    };
    rows.filter_map(click).collect()
}

/// A session as it is stored, unlocked, and whether it missed a click: what coupon.explain looks at.
pub fn peek(client: &SpiClient, session: &str) -> (Option<Live>, Rc<World>, bool) {
    let types = [PgBuiltInOids::TEXTARRAYOID.into(), PgBuiltInOids::TEXTARRAYOID.into()];
    let args = [vec![session].into(), vec![None::<&str>].into()];
    let rows = spi(client.select(statement(client, LOAD_READ, &types), None, &args));
    let (scene, mut found) = read(client, rows, &[session], &[None]);
    match found.pop() {
        Some(Found::Known(live)) => (Some(*live), scene.world, false),
        found => (None, scene.world, matches!(found, Some(Found::Gap))),
    }
}
