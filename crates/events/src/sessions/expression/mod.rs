//! Variables a shop defines itself: one SQL expression over the events of a customer, such as
//! `count(*) FILTER (WHERE hour >= 22 OR hour < 6)`.
//!
//! The text is parsed by `sqlparser` and evaluated here; nothing of it ever reaches PostgreSQL's executor. The rules are
//! those of SQL with NULL, except that what SQL refuses row by row (a division by zero, the logarithm of 0, an overflow)
//! is NULL, and that an expression which is NULL at the end is 0: a variable of a customer always has a value.

mod parse;
#[cfg(test)]
mod tests;

pub use parse::{COLUMNS, FUNCTIONS};

use crate::events::{DAY, Event, Kind, Log, Micros, NONE, SECOND, Text};
use std::collections::HashSet;

/// A parsed expression: arithmetic over the results of its aggregates.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    result: Node,
    aggregates: Vec<Aggregate>,
    /// Texts that the expression compares with.
    literals: Vec<String>,
}

/// An expression whose texts have been looked up in one log.
#[derive(Debug)]
pub struct Bound {
    expression: Expression,
    /// The literals as the log knows them; [`NONE`] for one that it does not hold.
    literals: Vec<Text>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum NumberColumn {
    Quantity,
    Price,
    Hour,
    Weekday,
    DaysAgo,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum TextColumn {
    Page,
    Category,
    Product,
    Order,
    Session,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Ln,
    Sqrt,
    Abs,
    Greatest,
    Least,
    Coalesce,
    NullIf,
}

/// A number, or NULL.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    Number(f64),
    Column(NumberColumn),
    /// The result of an aggregate, by its place.
    Aggregate(usize),
    Negative(Box<Node>),
    Arithmetic(Operator, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
    /// The first value whose test is true.
    Case(Vec<(Test, Node)>, Box<Node>),
}

/// True, false or NULL.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    Compare(Comparison, Node, Node),
    In(Node, Vec<Node>),
    Kind(Vec<Kind>),
    /// Whether a text is one of the literals, by their places.
    Text(TextColumn, Vec<usize>),
    SameText(TextColumn, TextColumn),
    IsNull(Node),
    IsNullText(TextColumn),
    Not(Box<Test>),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fold {
    Count,
    CountDistinct,
    Sum,
    Average,
    Minimum,
    Maximum,
}

#[derive(Debug, Clone, PartialEq)]
enum Argument {
    /// `*`
    Event,
    Number(Node),
    Text(TextColumn),
    Kind,
}

#[derive(Debug, Clone, PartialEq)]
struct Aggregate {
    fold: Fold,
    argument: Argument,
    filter: Option<Test>,
}

/// What an expression is evaluated on: an event within its aggregates, their results outside.
#[derive(Clone, Copy)]
struct Scope<'a> {
    event: Option<&'a Event>,
    day: Micros,
    literals: &'a [Text],
    results: &'a [Option<f64>],
}

impl Expression {
    /// Parses and checks an expression; the error says what was refused.
    pub fn parse(text: &str) -> Result<Expression, String> {
        parse::parse(text)
    }

    /// Looks up the expression's texts in a log.
    pub fn bind(self, log: &Log) -> Bound {
        let literals = self.literals.iter().map(|t| log.texts.find(t).unwrap_or(NONE)).collect();
        Bound { expression: self, literals }
    }
}

impl Bound {
    /// The value over these events of a customer, all before `day` (midnight UTC); finite, 0 for NULL.
    pub fn value<'a>(&self, events: impl Iterator<Item = &'a Event> + Clone, day: Micros) -> f64 {
        let scope = Scope { event: None, day, literals: &self.literals, results: &[] };
        let fold = |a: &Aggregate| a.over(events.clone(), scope);
        let results: Vec<Option<f64>> = self.expression.aggregates.iter().map(fold).collect();
        self.expression.result.value(Scope { results: &results, ..scope }).unwrap_or(0.0)
    }
}

impl Aggregate {
    fn over<'a>(&self, events: impl Iterator<Item = &'a Event>, scope: Scope<'_>) -> Option<f64> {
        let (mut n, mut sum, mut low, mut high) = (0u64, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        let mut distinct: HashSet<(u8, u64)> = HashSet::new();
        for event in events {
            let scope = Scope { event: Some(event), ..scope };
            if self.filter.as_ref().is_some_and(|test| test.holds(scope) != Some(true)) {
                continue;
            }
            let number = match &self.argument {
                Argument::Event => Some(1.0),
                Argument::Kind => Some(f64::from(event.kind as u8)),
                Argument::Number(node) => node.value(scope),
                Argument::Text(column) => (column.of(event) != NONE).then_some(1.0),
            };
            if self.fold == Fold::CountDistinct {
                distinct.extend(match self.argument {
                    Argument::Text(column) => column.key(event),
                    // Adding 0 makes −0 the same as 0.
                    _ => number.map(|v| (0, (v + 0.0).to_bits())),
                });
            } else if let Some(v) = number {
                n += 1;
                sum += v;
                (low, high) = (low.min(v), high.max(v));
            }
        }
        let known = (n > 0).then_some(());
        match self.fold {
            Fold::Count => Some(n as f64),
            Fold::CountDistinct => Some(distinct.len() as f64),
            Fold::Sum => known.and(finite(sum)),
            Fold::Average => known.and(finite(sum / n as f64)),
            Fold::Minimum => known.and(finite(low)),
            Fold::Maximum => known.and(finite(high)),
        }
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl NumberColumn {
    fn of(self, event: &Event, day: Micros) -> Option<f64> {
        match self {
            NumberColumn::Quantity => Some(if event.quantity.is_finite() { event.quantity } else { 1.0 }),
            NumberColumn::Price => finite(event.price),
            NumberColumn::Hour => Some((event.at.rem_euclid(DAY) / (3600 * SECOND)) as f64),
            // 2000-01-01, where our time begins, was a Saturday.
            NumberColumn::Weekday => Some(((event.at.div_euclid(DAY) + 5).rem_euclid(7) + 1) as f64),
            NumberColumn::DaysAgo => Some((day - event.at) as f64 / DAY as f64),
        }
    }
}

impl TextColumn {
    fn of(self, event: &Event) -> Text {
        match self {
            TextColumn::Page => event.page,
            TextColumn::Category => event.category,
            TextColumn::Product => event.product,
            TextColumn::Order => event.order,
            TextColumn::Session => event.session,
        }
    }

    /// What `count(DISTINCT …)` tells apart. A purchase without an order number is known by its session, or else by its
    /// moment, as in the variables of the method.
    fn key(self, event: &Event) -> Option<(u8, u64)> {
        match (self.of(event), event.kind) {
            (NONE, Kind::Purchase) if self == TextColumn::Order => Some(match event.session {
                NONE => (2, event.at as u64),
                session => (1, u64::from(session)),
            }),
            (NONE, _) => None,
            (text, _) => Some((0, u64::from(text))),
        }
    }
}

impl Node {
    fn value(&self, scope: Scope<'_>) -> Option<f64> {
        let of = |node: &Node| node.value(scope);
        match self {
            Node::Null => None,
            Node::Number(v) => Some(*v),
            Node::Column(column) => column.of(scope.event?, scope.day),
            Node::Aggregate(i) => scope.results.get(*i).copied().flatten(),
            Node::Negative(node) => of(node).map(|v| -v),
            Node::Arithmetic(operator, a, b) => {
                let (a, b) = (of(a)?, of(b)?);
                finite(match operator {
                    Operator::Add => a + b,
                    Operator::Subtract => a - b,
                    Operator::Multiply => a * b,
                    Operator::Divide => a / b,
                    Operator::Remainder => a % b,
                })
            }
            Node::Call(function, arguments) => {
                let one = || of(&arguments[0]);
                match function {
                    Function::Ln => one().and_then(|v| finite(v.ln())),
                    Function::Sqrt => one().and_then(|v| finite(v.sqrt())),
                    Function::Abs => one().map(f64::abs),
                    // As in PostgreSQL, the largest of those that are known.
                    Function::Greatest => arguments.iter().filter_map(of).reduce(f64::max),
                    Function::Least => arguments.iter().filter_map(of).reduce(f64::min),
                    Function::Coalesce => arguments.iter().find_map(of),
                    Function::NullIf => one().filter(|v| of(&arguments[1]) != Some(*v)),
                }
            }
            Node::Case(cases, otherwise) => {
                let found = cases.iter().find(|(test, _)| test.holds(scope) == Some(true));
                of(found.map_or(&**otherwise, |(_, node)| node))
            }
        }
    }
}

impl Test {
    fn holds(&self, scope: Scope<'_>) -> Option<bool> {
        let text = |column: &TextColumn| scope.event.map(|e| column.of(e)).filter(|t| *t != NONE);
        match self {
            Test::Compare(comparison, a, b) => {
                let (a, b) = (a.value(scope)?, b.value(scope)?);
                Some(match comparison {
                    Comparison::Equal => a == b,
                    Comparison::Less => a < b,
                    Comparison::LessOrEqual => a <= b,
                })
            }
            Test::In(node, list) => {
                let value = node.value(scope)?;
                let each: Vec<Option<f64>> = list.iter().map(|n| n.value(scope)).collect();
                if each.contains(&Some(value)) {
                    return Some(true);
                }
                // Not among those that are known: unknown if one of them is.
                if each.contains(&None) { None } else { Some(false) }
            }
            Test::Kind(kinds) => scope.event.map(|e| kinds.contains(&e.kind)),
            Test::Text(column, places) => {
                let text = text(column)?;
                Some(places.iter().any(|&p| scope.literals[p] == text))
            }
            Test::SameText(a, b) => Some(text(a)? == text(b)?),
            Test::IsNull(node) => Some(node.value(scope).is_none()),
            Test::IsNullText(column) => Some(text(column).is_none()),
            Test::Not(test) => test.holds(scope).map(|t| !t),
            Test::And(a, b) => match (a.holds(scope), b.holds(scope)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Test::Or(a, b) => match (a.holds(scope), b.holds(scope)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
        }
    }
}
