//! What a row of the shop's table means: the mapping that coupon.watch() stored, and the click it makes of a row.

use crate::pg::error::{report, throw};
use crate::pg::subtransaction::CaughtError;
use crate::pg::tuple::{self, Column, Role, Row};
use coupon_events::events::{Kind, MAX_ATTRIBUTES};
use coupon_model::live::Click;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, PgRelation};
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Longest session and customer id, in bytes.
pub const LONGEST_ID: usize = 256;

#[derive(Deserialize)]
pub struct Mapping {
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

/// A row that could not be a click, or a session that could not be advanced.
pub struct SkippedClick {
    pub session: Option<String>,
    pub customer: Option<String>,
    pub caught: CaughtError,
}

thread_local! {
    /// Parsed mappings by their text: one a watched table in practice, so the bound is never felt.
    static MAPPINGS: RefCell<HashMap<String, Rc<Mapping>>> = RefCell::default();
}

/// The mapping in a trigger's argument.
pub fn parse(text: &str) -> Rc<Mapping> {
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

impl Mapping {
    /// With the columns as they stand in the relation now; refused where one does not fit.
    pub fn bind(self: &Rc<Self>, relation: &PgRelation) -> BoundMapping {
        let columns = self.columns(|name, role| tuple::column(relation, name, role)).unwrap_or_else(|why| {
            throw(report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("the mapping of \"{}\" no longer fits: {why}", relation.name()),
                "SELECT coupon.unwatch() it, then watch it with the columns it has.",
            ))
        });
        BoundMapping { mapping: self.clone(), columns }
    }

    /// The columns of session and customer, as far as they can be read.
    pub fn bind_ids(&self, relation: &PgRelation) -> BoundIds {
        let column = |ours: &str| match self.columns.get(ours) {
            Some(Names::One(name)) => tuple::column(relation, name, Role::Text).ok(),
            _ => None,
        };
        BoundIds { session: column("session"), customer: column("customer") }
    }

    /// All columns, each found by its name and role in the order of coupon.event, attributes last; or the first that does
    /// not fit.
    fn columns(&self, mut find: impl FnMut(&str, Role) -> Result<Column, String>) -> Result<Columns, String> {
        let mut one = |ours: &str, role: Role| match self.columns.get(ours) {
            Some(Names::One(name)) => find(name, role).map(Some),
            _ => Ok(None),
        };
        let mut columns = Columns {
            at: one("at", Role::Time)?.ok_or("it names no time")?,
            session: one("session", Role::Text)?,
            customer: one("customer", Role::Text)?,
            kind: one("kind", Role::Text)?,
            page: one("page", Role::Text)?,
            category: one("category", Role::Text)?,
            product: one("product", Role::Text)?,
            quantity: one("quantity", Role::Number)?,
            price: one("price", Role::Number)?,
            order_id: one("order_id", Role::Text)?,
            zone: one("zone", Role::Text)?,
            attributes: Vec::new(),
        };
        columns.attributes = match self.columns.get("attributes") {
            Some(Names::One(name)) => vec![find(name, Role::Texts)?],
            Some(Names::Many(names)) => names.iter().map(|name| find(name, Role::Text)).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        Ok(columns)
    }
}

/// A mapping with the columns that it reads.
pub struct BoundMapping {
    mapping: Rc<Mapping>,
    columns: Columns,
}

/// The columns of a relation that say whose a row is.
pub struct BoundIds {
    session: Option<Column>,
    customer: Option<Column>,
}

impl BoundIds {
    /// Session and customer of a row; `None` for a row without a session.
    pub fn of(&self, row: &Row) -> Option<(String, Option<String>)> {
        let text = |column: Option<Column>| column.and_then(|c| row.text(c)).filter(|id| id.len() <= LONGEST_ID);
        Some((text(self.session)?.to_string(), text(self.customer).map(str::to_string)))
    }
}

impl BoundMapping {
    /// Whether a text of a row may depend on a setting of who inserts it.
    pub fn styled(&self) -> bool {
        self.columns.styled()
    }

    /// A row as a click: `None` for a row whose kind is not an event's, an error for one that cannot be one.
    pub fn click<'a>(&'a self, row: &'a Row) -> Result<Option<Click<&'a str>>, Box<SkippedClick>> {
        let (mapping, c) = (&self.mapping, &self.columns);
        let text = |column: Option<Column>| column.and_then(|c| row.text(c));
        let number = |column: Option<Column>| column.and_then(|c| row.number(c));
        let kind = match c.kind {
            Some(column) => row.text(column).map(|k| mapping.kinds.get(k).map_or(k, String::as_str)),
            None => Some(mapping.kind.as_deref().unwrap_or("view")),
        };
        let Some(kind) = kind.and_then(Kind::of_shop) else { return Ok(None) };
        let (session, customer) = (text(c.session), text(c.customer));
        let refuse = |what: &str, hint: &str| {
            Err(Box::new(SkippedClick {
                session: None,
                customer: customer.map(str::to_string),
                caught: CaughtError {
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
}

// A plain V1 function: its arguments are of any number and type.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_map_event_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// What a call site keeps from row to row.
struct Site {
    bound: BoundMapping,
    event: pg_sys::TupleDesc,
}

/// A row of a watched table as coupon.event, by the code that the trigger reads it with; NULL for a row that is no event.
///
/// # Safety
/// Called by PostgreSQL as coupon_internal.map_event(mapping text, VARIADIC "any"), the mapping a constant and the other
/// arguments the mapped columns in the order of [`Mapping::columns`].
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn map_event_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL passes a frame with as many arguments as it says; what is kept lives as long as the call site,
    // and the values as long as the row.
    unsafe {
        if (*(*call).flinfo).fn_extra.is_null() {
            let kept = PgMemoryContexts::For((*(*call).flinfo).fn_mcxt).leak_and_drop_on_delete(site(call));
            (*(*call).flinfo).fn_extra = kept.cast();
        }
        let site = &*(*(*call).flinfo).fn_extra.cast::<Site>();
        let arguments = (*call).args.as_slice((*call).nargs as usize);
        let mut values = [pg_sys::Datum::null(); pg_sys::FUNC_MAX_ARGS as usize];
        let mut nulls = [true; pg_sys::FUNC_MAX_ARGS as usize];
        for (n, argument) in arguments.iter().enumerate() {
            (values[n], nulls[n]) = (argument.value, argument.isnull);
        }
        match site.bound.click(&Row::of(&values, &nulls)) {
            Ok(Some(click)) => event(site.event, click),
            // A row that cannot be a click is none.
            Ok(None) | Err(_) => {
                (*call).isnull = true;
                pg_sys::Datum::null()
            }
        }
    }
}

/// # Safety
/// As of [`map_event_wrapper`].
unsafe fn site(call: pg_sys::FunctionCallInfo) -> Site {
    // SAFETY: by contract.
    unsafe {
        let text = <&str>::from_datum((*call).args.as_slice(1)[0].value, (*call).args.as_slice(1)[0].isnull);
        let mapping = parse(text.unwrap_or_default());
        let mut next = 0;
        let columns = mapping.columns(|name, role| {
            next += 1;
            let typ = if next < (*call).nargs {
                pg_sys::get_fn_expr_argtype((*call).flinfo, next.into())
            } else {
                pg_sys::Oid::INVALID
            };
            tuple::column_of_type(next as usize, typ, role)
                .ok_or_else(|| format!("column \"{name}\" is not of a type for it"))
        });
        let columns = columns.unwrap_or_else(|why| throw(report(PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH, why, "")));
        let mut event = std::ptr::null_mut();
        pg_sys::get_call_result_type(call, std::ptr::null_mut(), &mut event);
        let event = PgMemoryContexts::For((*(*call).flinfo).fn_mcxt).switch_to(|_| pg_sys::CreateTupleDescCopy(event));
        Site { bound: BoundMapping { mapping, columns }, event }
    }
}

/// A click as coupon.event.
///
/// # Safety
/// The descriptor is of that type.
unsafe fn event(descriptor: pg_sys::TupleDesc, c: Click<&str>) -> pg_sys::Datum {
    let attributes = if c.attributes.is_empty() { None } else { c.attributes.into_datum() };
    let columns = [
        c.at.into_datum(),
        c.session.into_datum(),
        c.customer.into_datum(),
        c.kind.name().into_datum(),
        c.page.into_datum(),
        c.category.into_datum(),
        c.product.into_datum(),
        c.quantity.into_datum(),
        c.price.into_datum(),
        c.order_id.into_datum(),
        c.zone.into_datum(),
        attributes,
    ];
    let mut values = columns.map(|column| column.unwrap_or(pg_sys::Datum::null()));
    let mut nulls = columns.map(|column| column.is_none());
    // SAFETY: as many columns as the type has, each of its type; a timestamptz is its count of microseconds.
    unsafe {
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}
