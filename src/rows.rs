//! The rows of coupon.session: read and locked together with what a statement needs to know, and written back.

use crate::cache::{Decoded, statement};
use crate::direct;
use crate::error::{ok, spi};
use crate::guard::{Patience, with_lock_timeout, with_setting};
use crate::settings::{self, micros};
use crate::table::{self, Place};
use crate::world::{self, World};
use coupon_model::live::{Click, Visit};
use coupon_model::segment::Model;
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use std::collections::HashSet;
use std::rc::Rc;

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
    /// It is stored already.
    pub known: bool,
    /// It was over for long, and its state was freed: to be rebuilt before it goes on.
    pub swept: bool,
    /// Where its row lies, if it was read directly.
    pub place: Option<Place>,
}

/// What one statement sees beside its sessions.
pub struct Scene {
    pub world: Rc<World>,
    pub active: Option<Rc<Decoded>>,
    pub clock: i64,
}

impl Scene {
    pub fn new(world: Rc<World>) -> Scene {
        Scene { active: world.active(), world, clock: settings::clock() }
    }

    /// The segment under the active version of the customer whose variables begin in column `first`.
    pub fn segment(&self, row: &impl Fields, first: usize) -> u32 {
        self.active.as_ref().map_or(0, |active| segment(row, first, &active.version.segment))
    }
}

/// The sessions a statement is about, and the customer of each one's first click.
pub struct Wanted<'a> {
    pub sessions: &'a [&'a str],
    pub customers: &'a [Option<&'a str>],
    /// Another connection was storing them a moment ago.
    pub raced: bool,
    /// Rows are not locked: [`direct::update`] says whether one has changed since.
    pub look: bool,
}

/// A session of a statement, and whether it missed a click earlier: then it is left as it is until it was rebuilt.
pub struct Found {
    pub row: Stored,
    pub gap: bool,
}

pub enum Stored {
    Known(Box<Live>),
    /// Not stored yet, with the segment its customer has.
    New(u32),
    /// Somebody else holds its row, and patience is at its end.
    Held,
}

/// What is read of a session and of the world. The rows are locked in the order of the array: a nested loop over it is
/// the only plan that a lateral FOR UPDATE allows. No EXISTS: PostgreSQL may hash the whole table to answer one.
/// LIMIT 1: a table that was never analysed is taken for a large one, and its plan then compiled by JIT at each call.
macro_rules! load_sql {
    ($lock:literal, $exists:literal) => {
        concat!(
            "SELECT t.version, t.revision, (SELECT true FROM coupon.gap g WHERE g.session = u.session LIMIT 1), \
             s.session IS NOT NULL, ",
            $exists,
            ", s.customer, s.started_at, s.last_at, s.views, s.segment, s.version, s.frozen, s.purchased, s.churn, \
             s.interest, s.decided, s.state, k.spending_last_month, k.average_payment, k.items_per_purchase, \
             k.searches_last_month, k.stay_per_session, k.visits_last_month, k.definition, k.variables \
             FROM (SELECT version, revision FROM coupon.storage LIMIT 1) t, \
             unnest($1::text[], $2::text[]) WITH ORDINALITY u(session, customer, n) \
             LEFT JOIN LATERAL (SELECT * FROM coupon.session x WHERE x.session = u.session ",
            $lock,
            ") s ON true \
             LEFT JOIN LATERAL (SELECT * FROM coupon.customer z WHERE z.customer = u.customer LIMIT 1) k ON true \
             ORDER BY u.n"
        )
    };
}
const LOAD_LOCK: &str =
    load_sql!("FOR UPDATE SKIP LOCKED", "(SELECT true FROM coupon.session y WHERE y.session = u.session)");
const LOAD_READ: &str = load_sql!("", "s.session IS NOT NULL");

/// A row's columns by number, however it was read.
pub trait Fields {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T>;
}

impl Fields for SpiHeapTupleData<'_> {
    fn field<T: FromDatum + IntoDatum>(&self, n: usize) -> Option<T> {
        spi(self.get(n))
    }
}

/// Runs statements that take arrays. An array parameter of known length makes PostgreSQL plan them anew each time (6.4
/// times a click's cost); one plan serves all lengths. They wait for no row but in [`insert`]; lock_timeout bounds what
/// waiting there is for tables that are locked as a whole.
fn with_arrays<T>(patience: &Patience, body: impl FnOnce() -> T) -> T {
    with_setting(c"plan_cache_mode", c"force_generic_plan", || with_lock_timeout(patience.left().max(1), body))
}

/// Reads and locks in the order of the sessions, with patience for those that others hold.
pub fn load(client: &mut SpiClient, wanted: &Wanted, patience: &Patience) -> (Scene, Vec<Found>) {
    if let Some(done) = direct::load(wanted, patience) {
        return done;
    }
    let types = [PgBuiltInOids::TEXTARRAYOID.into(), PgBuiltInOids::TEXTARRAYOID.into()];
    let prepared = statement(client, LOAD_LOCK, &types);
    for attempt in 0.. {
        let args = [wanted.sessions.to_vec().into(), wanted.customers.to_vec().into()];
        let rows = with_arrays(patience, || spi(client.update(prepared, None, &args)));
        let done = read(rows, wanted.sessions, wanted.customers);
        if !done.1.iter().any(|found| matches!(found.row, Stored::Held)) || !patience.wait(attempt) {
            return done;
        }
    }
    unreachable!("patience ends")
}

fn read(rows: pgrx::spi::SpiTupleTable, sessions: &[&str], customers: &[Option<&str>]) -> (Scene, Vec<Found>) {
    let mut scene = None;
    let mut found = Vec::with_capacity(sessions.len());
    for (i, row) in rows.enumerate() {
        let scene = scene.get_or_insert_with(|| {
            let revision = row.field(2).expect("coupon.storage holds a revision");
            // In a snapshot no older than the statement's: what is kept under this revision must be of it.
            let at = || world::at(row.field(1).unwrap_or(0), revision);
            Scene::new(if table::allowed() { table::with_snapshot(at) } else { at() })
        });
        let has = |n: usize| row.field(n).unwrap_or(false);
        let stored = if has(4) {
            Stored::Known(Box::new(live(&row, 6, sessions[i], &scene.world)))
        } else if has(5) {
            Stored::Held
        } else {
            Stored::New(customers[i].map_or(0, |_| scene.segment(&row, 18)))
        };
        found.push(Found { row: stored, gap: has(3) });
    }
    (scene.expect("a row a session"), found)
}

/// A stored session, its columns from customer on beginning at `first`.
pub fn live(row: &impl Fields, first: usize, session: &str, world: &World) -> Live {
    let time = |n: usize| row.field::<TimestampWithTimeZone>(first + n).map_or(0, i64::from);
    let flag = |n: usize| row.field::<bool>(first + n).unwrap_or(false);
    let views = row.field::<i32>(first + 3).unwrap_or(0) as u32;
    let mut visit = Visit::stored(views, flag(6), flag(7), row.field(first + 8), row.field(first + 9));
    let version = row.field::<i64>(first + 5).and_then(|number| world.version(number));
    let state = row.field::<&[u8]>(first + 11);
    if let (Some(version), Some(state)) = (&version, state) {
        ok(visit.remember(&version.version, state));
    }
    Live {
        session: session.to_string(),
        customer: row.field(first),
        started_at: time(1),
        last_at: time(2),
        segment: row.field::<i32>(first + 4).unwrap_or(0) as u32,
        decided: row.field(first + 10).unwrap_or_default(),
        visit,
        known: true,
        swept: version.is_some() && state.is_none(),
        version,
        place: None,
    }
}

/// The segment of the customer whose variables begin in column `first`: the six, the key of their definition, the rest;
/// 0 for one who is not known.
pub fn segment(row: &impl Fields, first: usize, model: &Model) -> u32 {
    let number = |n: usize| row.field::<f64>(first + n);
    let six = || Some([number(0)?, number(1)?, number(2)?, number(3)?, number(4)?, number(5)?]);
    let (Some(six), Some(key)) = (six(), row.field::<i64>(first + 6)) else { return 0 };
    model.assign_stored(six, key, || Some(row.field::<JsonB>(first + 7)?.0))
}

/// Writes known sessions back; their rows are locked.
pub fn update(client: &mut SpiClient, rows: &[Live], patience: &Patience) {
    if rows.is_empty() {
        return;
    }
    match direct::update(rows, true) {
        Some(true) => return,
        Some(false) => error!("a locked session has changed"),
        None => {}
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
    with_arrays(patience, || spi(client.update(prepared, None, &args)));
}

/// Stores new sessions; the numbers of those that another connection has stored meanwhile, or is about to, are returned.
pub fn insert(client: &mut SpiClient, rows: &[Live], patience: &Patience) -> Vec<usize> {
    if rows.is_empty() {
        return Vec::new();
    }
    if let Some(taken) = direct::insert(rows) {
        return taken;
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
    let stored = with_arrays(patience, || spi(client.update(prepared, None, &args)));
    if stored.len() == rows.len() {
        return Vec::new();
    }
    let stored: HashSet<String> = stored.filter_map(|row| spi(row.get(1))).collect();
    (0..rows.len()).filter(|&n| !stored.contains(&rows[n].session)).collect()
}

/// The marks of a session that missed clicks.
pub fn marks(client: &SpiClient, session: &str) -> Vec<i64> {
    let sql = "SELECT array_agg(id) FROM coupon.gap WHERE session = $1";
    let ids: Option<Vec<i64>> = spi(spi(client.select(sql, Some(1), &[session.into()])).first().get_one());
    ids.unwrap_or_default()
}

/// Marks a session that missed a click.
pub fn mark(client: &mut SpiClient, session: &str, reason: &str) {
    let sql = "INSERT INTO coupon.gap (session, reason) VALUES ($1, $2)";
    spi(client.update(sql, None, &[session.into(), reason.into()]));
}

/// The session that a purchase which knows only its customer belongs to: the customer's latest, if it was seen within the
/// timeout.
pub fn latest_of(client: &mut SpiClient, purchase: &Click<&str>) -> Option<String> {
    let sql = "SELECT s.session FROM coupon.session s WHERE s.customer = $1 AND s.started_at <= $2 AND s.last_at >= $3 \
               ORDER BY s.last_at DESC LIMIT 1";
    use pg_sys::BuiltinOid::*;
    let prepared = statement(client, sql, &[TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID].map(Into::into));
    let timeout = (settings::session_timeout() * 1e6) as i64;
    let args =
        [purchase.customer.into(), micros(purchase.at).into(), micros(purchase.at.saturating_sub(timeout)).into()];
    spi(client.update(prepared, Some(1), &args)).next().and_then(|row| spi(row.get(1)))
}

/// A session as it is stored, unlocked, and whether it missed a click: what coupon.explain looks at.
pub fn peek(client: &SpiClient, session: &str) -> (Option<Live>, Rc<World>, bool) {
    let types = [PgBuiltInOids::TEXTARRAYOID.into(), PgBuiltInOids::TEXTARRAYOID.into()];
    let args = [vec![session].into(), vec![None::<&str>].into()];
    let rows = spi(client.select(statement(client, LOAD_READ, &types), None, &args));
    let (scene, mut found) = read(rows, &[session], &[None]);
    let gap = found.iter().any(|f| f.gap);
    match found.pop().map(|f| f.row) {
        Some(Stored::Known(live)) => (Some(*live), scene.world, gap),
        _ => (None, scene.world, gap),
    }
}
