//! One live session in memory, and what a statement sees beside its sessions.

use crate::click::campaigns::{self, Campaigns};
use crate::click::serving_state::World;
use crate::models::cache::Decoded;
use crate::pg::error::ok;
use crate::pg::settings;
use crate::pg::statement::Fields;
use coupon_model::live::{Click, Visit};
use pgrx::prelude::*;
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
}

/// What one statement sees beside its sessions.
pub struct Scene {
    pub world: Rc<World>,
    pub active: Option<Rc<Decoded>>,
    pub clock: i64,
}

impl Scene {
    pub fn new(world: Rc<World>) -> Scene {
        Scene { active: world.versions.active(), world, clock: settings::clock() }
    }
}

/// A stored session, its columns from customer on beginning at `first`.
pub fn stored(row: &impl Fields, first: usize, session: &str, world: &World) -> Live {
    let time = |n: usize| row.field::<TimestampWithTimeZone>(first + n).map_or(0, i64::from);
    let flag = |n: usize| row.field::<bool>(first + n).unwrap_or(false);
    let views = row.field::<i32>(first + 3).unwrap_or(0) as u32;
    let mut visit = Visit::stored(views, flag(6), flag(7), row.field(first + 8), row.field(first + 9));
    let version = row.field::<i64>(first + 5).and_then(|number| world.versions.version(number));
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
    }
}

pub fn begin(session: &str, at: i64, segment: u32, scene: &Scene) -> Live {
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
    }
}

/// Live and when rebuilding alike: what is noted of a click beside its score.
pub fn note(live: &mut Live, click: &Click<impl AsRef<str>>) {
    live.last_at = live.last_at.max(click.at);
    if live.customer.is_none() {
        live.customer = click.customer.as_ref().map(|c| c.as_ref().to_string());
    }
}

/// Whose churn model scores a stored session: what its state says, or where that was freed, what it began with.
pub fn scoring(live: &Live, campaigns: &Campaigns) -> u32 {
    match live.swept {
        false => live.visit.scoring(),
        true if campaigns::pooled(campaigns, &live.session) => 0,
        true => live.segment,
    }
}
