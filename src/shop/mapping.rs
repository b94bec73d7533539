//! What a row of the shop's table means: the mapping that coupon.watch() stored, and the click it makes of a row.

use crate::pg::error::{report, throw};
use crate::pg::subtransaction::CaughtError;
use crate::pg::tuple::{self, Column, Role, Row};
use coupon_model::events::{Kind, MAX_ATTRIBUTES};
use coupon_model::live::Click;
use pgrx::PgRelation;
use pgrx::prelude::*;
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
    /// The columns as they stand in the relation now; refused where one does not fit.
    pub fn bind(&self, relation: &PgRelation) -> BoundMapping<'_> {
        let columns = self.columns(relation).unwrap_or_else(|why| {
            throw(report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("the mapping of \"{}\" no longer fits: {why}", relation.name()),
                "SELECT coupon.unwatch() it, then watch it with the columns it has.",
            ))
        });
        BoundMapping { mapping: self, columns }
    }

    /// The columns of session and customer, as far as they can be read.
    pub fn bind_ids(&self, relation: &PgRelation) -> BoundIds {
        let column = |ours: &str| self.column(relation, ours, Role::Text).ok().flatten();
        BoundIds { session: column("session"), customer: column("customer") }
    }

    fn column(&self, relation: &PgRelation, ours: &str, role: Role) -> Result<Option<Column>, String> {
        match self.columns.get(ours) {
            Some(Names::One(name)) => tuple::column(relation, name, role).map(Some),
            _ => Ok(None),
        }
    }

    /// All columns, or the first that does not fit.
    fn columns(&self, relation: &PgRelation) -> Result<Columns, String> {
        let one = |ours: &str, role: Role| self.column(relation, ours, role);
        let text = |ours: &str| one(ours, Role::Text);
        let attributes = match self.columns.get("attributes") {
            Some(Names::One(name)) => vec![tuple::column(relation, name, Role::Texts)?],
            Some(Names::Many(names)) => {
                names.iter().map(|n| tuple::column(relation, n, Role::Text)).collect::<Result<_, _>>()?
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
}

/// A mapping with the columns of the relation that it reads.
pub struct BoundMapping<'m> {
    mapping: &'m Mapping,
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

impl BoundMapping<'_> {
    /// Whether a text of a row may depend on a setting of who inserts it.
    pub fn styled(&self) -> bool {
        self.columns.styled()
    }

    /// A row as a click: `None` for a row whose kind is not an event's, an error for one that cannot be one. Mirrors
    /// coupon.event_query.
    pub fn click<'a>(&'a self, row: &'a Row) -> Result<Option<Click<&'a str>>, Box<SkippedClick>> {
        let (mapping, c) = (self.mapping, &self.columns);
        let text = |column: Option<Column>| column.and_then(|c| row.text(c));
        let number = |column: Option<Column>| column.and_then(|c| row.number(c));
        let kind = match c.kind {
            Some(column) => row.text(column).map(|k| mapping.kinds.get(k).map_or(k, String::as_str)),
            None => Some(mapping.kind.as_deref().unwrap_or("view")),
        };
        let Some(kind) = kind.and_then(Kind::parse) else { return Ok(None) };
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
