//! The trigger of watched tables: rows of the shop → clicks, by the mapping in the trigger's argument.

use crate::error::{report, throw};
use crate::guard::{self, Caught, Patience};
use crate::sessions::{self, Refused, Skipped};
use crate::transition::{self, Column, Role, Row};
use crate::{clicks, fault, firing, settings};
use coupon_model::events::{Kind, MAX_ATTRIBUTES};
use coupon_model::live::Click;
use pgrx::prelude::*;
use pgrx::{PgBox, PgRelation, PgTrigger};
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

/// Longest session and customer id, in bytes.
pub const LONGEST_ID: usize = 256;

#[derive(Deserialize)]
struct Mapping {
    columns: HashMap<String, Names>,
    kind: Option<String>,
    #[serde(default)]
    kinds: HashMap<String, String>,
}

/// A column, or for attributes a list of columns.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

/// The mapping's columns as they are in the relation now.
struct Columns {
    session: Option<Column>,
    customer: Option<Column>,
    at: Column,
    kind: Option<Column>,
    page: Option<Column>,
    category: Option<Column>,
    product: Option<Column>,
    quantity: Option<Column>,
    price: Option<Column>,
    order_id: Option<Column>,
    zone: Option<Column>,
    attributes: Vec<Column>,
}

impl Columns {
    fn styled(&self) -> bool {
        let texts =
            [self.session, self.customer, self.kind, self.page, self.category, self.product, self.order_id, self.zone];
        texts.into_iter().flatten().chain(self.attributes.iter().copied()).any(Column::styled)
    }
}

// A plain V1 function: a statement trigger returns a null pointer that is not SQL NULL, which pg_trigger cannot say.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_on_click_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// # Safety
/// Called by PostgreSQL as a trigger function only.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn on_click_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL passes a valid call frame; from_fcinfo checks that it is a trigger's.
    match unsafe { fcinfo.as_ref() }.map(|f| unsafe { PgTrigger::from_fcinfo(f) }) {
        Some(Ok(trigger)) => match firing::refuse(&trigger) {
            Some(answer) => return answer,
            None => on_click(&trigger),
        },
        _ => error!("coupon.on_click() is a trigger function"),
    }
    pg_sys::Datum::from(0)
}

fn on_click(trigger: &PgTrigger) {
    // SAFETY: the trigger data outlives the call; the box does not own it.
    let data = unsafe { PgBox::from_pg(std::ptr::from_ref(trigger.trigger_data()).cast_mut()) };
    if !settings::enabled() || transition::is_empty(&data) {
        return;
    }
    let Ok(relation) = trigger.relation() else { return };
    let arguments = trigger.extra_args().unwrap_or_default();
    let statement = Statement { data, relation, mapping: arguments.first().map_or("", String::as_str) };
    let patience = Patience::new(settings::max_wait());
    let mut attempts = 0;
    let skipped = loop {
        let began = Instant::now();
        match guard::attempt(patience.left(), || statement.advance(&patience, attempts > 0)) {
            Ok(skipped) => break skipped,
            // Another transaction is about to store one of the sessions, or holds a whole table. The second attempt stores
            // each on its own.
            Err(failure)
                if failure.caught.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
                    && (attempts == 0 || patience.wait(attempts)) =>
            {
                patience.spend(began.elapsed());
                attempts += 1;
            }
            Err(failure) => {
                let caught = failure.settle();
                let (session, customer) = statement.mark(&caught);
                break Skipped { first: Some(Refused { session, customer, caught }), count: 1 };
            }
        }
    };
    if let Some(first) = skipped.first {
        guard::warn(&first.caught);
        let Refused { session, customer, caught } = &first;
        fault::record(statement.relation.name(), session.as_deref(), customer.as_deref(), caught, skipped.count);
    }
}

/// A statement of the shop's and how its rows are to be read.
struct Statement<'a> {
    data: PgBox<pg_sys::TriggerData>,
    relation: PgRelation,
    mapping: &'a str,
}

/// Sessions that are marked at a time.
const MARKED: usize = 1000;

impl Statement<'_> {
    /// Advances the sessions of all rows that are clicks; what had to be left out is returned.
    fn advance(&self, patience: &Patience, careful: bool) -> Skipped {
        let mapping = mapping(self.mapping);
        let columns = resolve(&mapping, &self.relation).unwrap_or_else(|why| {
            throw(report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("the mapping of \"{}\" no longer fits: {why}", self.relation.name()),
                "SELECT coupon.unwatch() it, then watch it with the columns it has.",
            ))
        });
        if columns.styled() {
            // A date or a float that is an id must not depend on who inserts it.
            guard::set_local(c"datestyle", c"ISO, YMD");
            guard::set_local(c"extra_float_digits", c"1");
        }
        let (mut unfit, mut skipped) = (Skipped::default(), Skipped::default());
        clicks::by_session(
            |found| {
                transition::for_each(&self.data, &self.relation, |row| match click(row, &mapping, &columns) {
                    Ok(Some(click)) => found(&click),
                    Ok(None) => {}
                    Err(why) => unfit.add(*why),
                })
            },
            |groups| sessions::advance(groups, patience, careful, &mut skipped),
        );
        unfit.join(skipped)
    }

    /// Marks the sessions of a statement that could not be advanced, so that they are rebuilt before they go on; the first
    /// of them is returned.
    fn mark(&self, caught: &Caught) -> (Option<String>, Option<String>) {
        let mut first = (None, None);
        let marked = guard::quiet_subtransaction(|| {
            let mapping = mapping(self.mapping);
            let column = |ours: &str| match mapping.columns.get(ours) {
                Some(Names::One(name)) => transition::column(&self.relation, name, Role::Text).ok(),
                _ => None,
            };
            let (session, customer) = (column("session"), column("customer"));
            let mut missed: Vec<(String, Option<String>)> = Vec::new();
            let mut mark = |missed: &mut Vec<(String, Option<String>)>| {
                missed.sort_unstable();
                missed.dedup();
                let (sessions, customers): (Vec<String>, Vec<Option<String>>) = missed.drain(..).unzip();
                if let (None, Some(session)) = (&first.0, sessions.first()) {
                    first = (Some(session.clone()), customers[0].clone());
                }
                fault::missed(&sessions, &customers, caught);
            };
            transition::for_each(&self.data, &self.relation, |row| {
                let text =
                    |column: Option<Column>| column.and_then(|c| row.text(c)).filter(|id| id.len() <= LONGEST_ID);
                missed.extend(text(session).map(|session| (session.to_string(), text(customer).map(str::to_string))));
                if missed.len() == MARKED {
                    mark(&mut missed);
                }
            });
            mark(&mut missed);
        });
        if let Err(second) = marked {
            guard::warn(&second);
        }
        first
    }
}

thread_local! {
    /// Parsed mappings by their text: one a watched table in practice, so the bound is never felt.
    static MAPPINGS: RefCell<HashMap<String, Rc<Mapping>>> = RefCell::default();
}

fn mapping(text: &str) -> Rc<Mapping> {
    MAPPINGS.with(|kept| {
        let mut kept = kept.borrow_mut();
        if let Some(found) = kept.get(text) {
            return found.clone();
        }
        let parsed: Rc<Mapping> = match serde_json::from_str(text) {
            Ok(mapping) => Rc::new(mapping),
            Err(e) => throw(report(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the trigger's mapping cannot be read: {e}"),
                "SELECT coupon.watch(...) makes such triggers.",
            )),
        };
        if kept.len() >= 256 {
            kept.clear();
        }
        kept.insert(text.to_string(), parsed.clone());
        parsed
    })
}

/// The columns as they stand, or the first that does not fit.
fn resolve(mapping: &Mapping, relation: &PgRelation) -> Result<Columns, String> {
    let one = |ours: &str, role: Role| match mapping.columns.get(ours) {
        Some(Names::One(name)) => transition::column(relation, name, role).map(Some),
        _ => Ok(None),
    };
    let text = |ours: &str| one(ours, Role::Text);
    let attributes = match mapping.columns.get("attributes") {
        Some(Names::One(name)) => vec![transition::column(relation, name, Role::Texts)?],
        Some(Names::Many(names)) => {
            names.iter().map(|n| transition::column(relation, n, Role::Text)).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    Ok(Columns {
        session: text("session")?,
        customer: text("customer")?,
        at: one("at", Role::Time)?.ok_or("it names no time")?,
        kind: text("kind")?,
        page: text("page")?,
        category: text("category")?,
        product: text("product")?,
        quantity: one("quantity", Role::Number)?,
        price: one("price", Role::Number)?,
        order_id: text("order_id")?,
        zone: text("zone")?,
        attributes,
    })
}

/// A row as a click: `None` for a row whose kind is not an event's, an error for one that cannot be one. Mirrors
/// coupon.event_query.
fn click<'a>(row: &'a Row, mapping: &Mapping, c: &Columns) -> Result<Option<Click<&'a str>>, Box<Refused>> {
    let text = |column: Option<Column>| column.and_then(|c| row.text(c));
    let number = |column: Option<Column>| column.and_then(|c| row.number(c));
    let kind = match c.kind {
        Some(column) => row.text(column).map(|k| mapping.kinds.get(k).map_or(k, String::as_str)),
        None => Some(mapping.kind.as_deref().unwrap_or("view")),
    };
    let Some(kind) = kind.and_then(Kind::parse) else { return Ok(None) };
    let (session, customer) = (text(c.session), text(c.customer));
    let refuse = |what: &str, hint: &str| {
        Err(Box::new(Refused {
            session: None,
            customer: customer.map(str::to_string),
            caught: Caught {
                code: PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                message: what.to_string(),
                detail: None,
                hint: Some(hint.to_string()),
            },
        }))
    };
    if session.is_none() && customer.is_none() {
        return refuse("a click without a session", "The row was kept; it belongs to no session and was left out.");
    }
    if session.as_ref().into_iter().chain(&customer).any(|id| id.len() > LONGEST_ID) {
        return refuse("an id of more than 256 bytes", "The row was kept and left out; map a shorter column.");
    }
    let Some(at) = row.time(c.at) else {
        return refuse("a click without a finite time", "The row was kept and left out.");
    };
    let attributes = c.attributes.iter().flat_map(|a| row.elements(*a, MAX_ATTRIBUTES)).take(MAX_ATTRIBUTES);
    Ok(Some(Click {
        at,
        session,
        customer,
        kind,
        page: text(c.page),
        category: text(c.category),
        product: text(c.product),
        quantity: number(c.quantity),
        price: number(c.price),
        order_id: text(c.order_id),
        zone: text(c.zone),
        attributes: attributes.collect(),
    }))
}
