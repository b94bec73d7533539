//! Text → expression: `sqlparser`'s tree, of which only what can be evaluated over events is let through.

use super::{
    Aggregate, Argument, Comparison, Expression, Fold, Function, Node, NumberColumn, Operator, Test, TextColumn,
};
use crate::events::Kind;
use sqlparser::ast::{
    self, BinaryOperator, DuplicateTreatment, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator,
    Value,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

/// What an expression may name.
pub const COLUMNS: &str = "kind, page, category, product, order_id, session, quantity, price, hour, weekday, days_ago";
/// What an expression may call.
pub const FUNCTIONS: &str = "sum, avg, min, max, count, ln, sqrt, abs, greatest, least, coalesce, nullif";

/// Longest expression in bytes: bounds the depth of what is evaluated.
const LONGEST: usize = 2000;
/// Deepest nesting of parentheses and operators.
const DEEPEST: usize = 50;

type Parsed<T> = Result<T, String>;

pub(super) fn parse(text: &str) -> Parsed<Expression> {
    if text.len() > LONGEST {
        return Err(format!("{} bytes are too long, at most {LONGEST}", text.len()));
    }
    let read = |e: sqlparser::parser::ParserError| e.to_string().replace("sql parser error: ", "");
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(DEEPEST);
    let mut parser = parser.try_with_sql(text).map_err(read)?;
    let tree = parser.parse_expr().map_err(read)?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        return Err(format!("\"{rest}\" follows the end of the expression"));
    }
    let mut builder = Builder { aggregates: Vec::new(), literals: Vec::new(), within: false };
    let result = builder.number(&tree)?;
    if builder.aggregates.is_empty() {
        return Err("it holds no aggregate, such as count(*)".into());
    }
    Ok(Expression { result, aggregates: builder.aggregates, literals: builder.literals })
}

struct Builder {
    aggregates: Vec<Aggregate>,
    literals: Vec<String>,
    /// Inside an aggregate, where events are looked at one by one.
    within: bool,
}

enum Column {
    Number(NumberColumn),
    Text(TextColumn),
    Kind,
}

fn bare(tree: &Expr) -> &Expr {
    match tree {
        Expr::Nested(inner) => bare(inner),
        tree => tree,
    }
}

fn literal(tree: &Expr) -> Option<&str> {
    match bare(tree) {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The column a tree names; `None` for what is no name.
fn column(tree: &Expr) -> Parsed<Option<Column>> {
    let Expr::Identifier(name) = bare(tree) else { return Ok(None) };
    let lower = name.value.to_lowercase();
    Ok(Some(match lower.as_str() {
        "quantity" => Column::Number(NumberColumn::Quantity),
        "price" => Column::Number(NumberColumn::Price),
        "hour" => Column::Number(NumberColumn::Hour),
        "weekday" => Column::Number(NumberColumn::Weekday),
        "days_ago" => Column::Number(NumberColumn::DaysAgo),
        "page" => Column::Text(TextColumn::Page),
        "category" => Column::Text(TextColumn::Category),
        "product" => Column::Text(TextColumn::Product),
        "order_id" => Column::Text(TextColumn::Order),
        "session" => Column::Text(TextColumn::Session),
        "kind" => Column::Kind,
        _ => return Err(format!("there is no column \"{}\"", name.value)),
    }))
}

fn kind(text: &str) -> Parsed<Kind> {
    let all = || Kind::ALL.map(Kind::name).join(", ");
    Kind::parse(text).ok_or_else(|| format!("there is no kind '{text}' of event; they are {}", all()))
}

impl Builder {
    fn number(&mut self, tree: &Expr) -> Parsed<Node> {
        match bare(tree) {
            Expr::Value(v) => match &v.value {
                Value::Number(text, _) => {
                    let number = text.parse::<f64>().ok().filter(|v| v.is_finite());
                    number.map(Node::Number).ok_or_else(|| format!("{text} is no finite number"))
                }
                Value::Null => Ok(Node::Null),
                other => Err(format!("{other} stands where a number should")),
            },
            Expr::Identifier(name) => match column(tree)? {
                Some(Column::Number(_)) if !self.within => {
                    Err(format!("column \"{}\" must stand within an aggregate, such as sum({0})", name.value))
                }
                Some(Column::Number(column)) => Ok(Node::Column(column)),
                _ => Err(format!("column \"{}\" holds no number", name.value)),
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Ok(Node::Negative(self.number(expr)?.into())),
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => self.number(expr),
            Expr::BinaryOp { left, op, right } => {
                let operator = match op {
                    BinaryOperator::Plus => Operator::Add,
                    BinaryOperator::Minus => Operator::Subtract,
                    BinaryOperator::Multiply => Operator::Multiply,
                    BinaryOperator::Divide => Operator::Divide,
                    BinaryOperator::Modulo => Operator::Remainder,
                    other => return Err(format!("operator {other} gives no number")),
                };
                Ok(Node::Arithmetic(operator, self.number(left)?.into(), self.number(right)?.into()))
            }
            Expr::Case { operand: None, conditions, else_result, .. } => {
                let mut cases = Vec::new();
                for when in conditions {
                    cases.push((self.test(&when.condition)?, self.number(&when.result)?));
                }
                let otherwise = else_result.as_ref().map_or(Ok(Node::Null), |tree| self.number(tree))?;
                Ok(Node::Case(cases, otherwise.into()))
            }
            Expr::Function(function) => self.function(function),
            other => Err(format!("{other} is not among what a variable can be computed by")),
        }
    }

    fn function(&mut self, call: &ast::Function) -> Parsed<Node> {
        let name = call.name.to_string().to_lowercase();
        let FunctionArguments::List(list) = &call.args else { return Err(format!("{name} has no argument list")) };
        let mut arguments = Vec::new();
        for argument in &list.args {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(tree)) => arguments.push(Some(tree)),
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => arguments.push(None),
                other => return Err(format!("{name} cannot be given {other}")),
            }
        }
        let plain = call.over.is_none()
            && call.null_treatment.is_none()
            && call.within_group.is_empty()
            && matches!(call.parameters, FunctionArguments::None)
            && list.clauses.is_empty();
        let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        let fold = match name.as_str() {
            "count" if distinct => Some(Fold::CountDistinct),
            "count" => Some(Fold::Count),
            "sum" => Some(Fold::Sum),
            "avg" => Some(Fold::Average),
            "min" => Some(Fold::Minimum),
            "max" => Some(Fold::Maximum),
            _ => None,
        };
        if let Some(fold) = fold {
            let &[argument] = arguments.as_slice() else { return Err(format!("{name} takes one argument")) };
            if !plain || (distinct && fold != Fold::CountDistinct) {
                return Err(format!("{call} is more than {name}(…) FILTER (WHERE …) can do here"));
            }
            return self.aggregate(fold, &name, argument, call.filter.as_deref());
        }
        let (function, least, most) = match name.as_str() {
            "ln" => (Function::Ln, 1, 1),
            "sqrt" => (Function::Sqrt, 1, 1),
            "abs" => (Function::Abs, 1, 1),
            "greatest" => (Function::Greatest, 1, usize::MAX),
            "least" => (Function::Least, 1, usize::MAX),
            "coalesce" => (Function::Coalesce, 1, usize::MAX),
            "nullif" => (Function::NullIf, 2, 2),
            _ => return Err(format!("there is no function \"{name}\"")),
        };
        if !plain || distinct || call.filter.is_some() || !(least..=most).contains(&arguments.len()) {
            return Err(format!("{call} is not how {name} is called"));
        }
        let mut nodes = Vec::new();
        for argument in arguments {
            nodes.push(self.number(argument.ok_or_else(|| format!("{name} cannot be given *"))?)?);
        }
        Ok(Node::Call(function, nodes))
    }

    fn aggregate(&mut self, fold: Fold, name: &str, argument: Option<&Expr>, filter: Option<&Expr>) -> Parsed<Node> {
        if self.within {
            return Err(format!("{name} stands within another aggregate"));
        }
        self.within = true;
        let counts = matches!(fold, Fold::Count | Fold::CountDistinct);
        let argument = match argument {
            None if fold == Fold::Count => Argument::Event,
            None => return Err(format!("{name} cannot be given *")),
            Some(tree) => match column(tree)? {
                Some(Column::Text(column)) if counts => Argument::Text(column),
                Some(Column::Kind) if counts => Argument::Kind,
                _ => Argument::Number(self.number(tree)?),
            },
        };
        let filter = filter.map(|tree| self.test(tree)).transpose()?;
        self.within = false;
        self.aggregates.push(Aggregate { fold, argument, filter });
        Ok(Node::Aggregate(self.aggregates.len() - 1))
    }

    fn test(&mut self, tree: &Expr) -> Parsed<Test> {
        let not = |test: Test, negated: bool| if negated { Test::Not(test.into()) } else { test };
        match bare(tree) {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                Ok(Test::And(self.test(left)?.into(), self.test(right)?.into()))
            }
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                Ok(Test::Or(self.test(left)?.into(), self.test(right)?.into()))
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(Test::Not(self.test(expr)?.into())),
            Expr::BinaryOp { left, op, right } => self.comparison(left, op, right),
            Expr::InList { expr, list, negated } => Ok(not(self.one_of(expr, list)?, *negated)),
            Expr::Between { expr, negated, low, high } => {
                let value = self.number(expr)?;
                let above = Test::Compare(Comparison::LessOrEqual, self.number(low)?, value.clone());
                let below = Test::Compare(Comparison::LessOrEqual, value, self.number(high)?);
                Ok(not(Test::And(above.into(), below.into()), *negated))
            }
            Expr::IsNull(tree) => self.is_null(tree),
            Expr::IsNotNull(tree) => Ok(not(self.is_null(tree)?, true)),
            other => Err(format!("{other} is neither true nor false")),
        }
    }

    fn is_null(&mut self, tree: &Expr) -> Parsed<Test> {
        match column(tree)? {
            Some(Column::Text(column)) => self.needs_event(tree).map(|()| Test::IsNullText(column)),
            Some(Column::Kind) => Err("kind is never NULL".into()),
            _ => Ok(Test::IsNull(self.number(tree)?)),
        }
    }

    fn needs_event(&self, tree: &Expr) -> Parsed<()> {
        if self.within { Ok(()) } else { Err(format!("column \"{tree}\" must stand within an aggregate")) }
    }

    /// `tree IN (list)`; an equality is a list of one.
    fn one_of<'a>(&mut self, tree: &Expr, list: impl IntoIterator<Item = &'a Expr>) -> Parsed<Test> {
        let text = |tree: &Expr| {
            literal(tree).map(str::to_string).ok_or_else(|| format!("{tree} stands where a quoted text should"))
        };
        match column(tree)? {
            Some(Column::Kind) => {
                self.needs_event(tree)?;
                let kinds: Parsed<Vec<Kind>> = list.into_iter().map(|t| kind(&text(t)?)).collect();
                Ok(Test::Kind(kinds?))
            }
            Some(Column::Text(column)) => {
                self.needs_event(tree)?;
                let mut places = Vec::new();
                for tree in list {
                    places.push(self.literals.len());
                    self.literals.push(text(tree)?);
                }
                Ok(Test::Text(column, places))
            }
            _ => {
                let value = self.number(tree)?;
                let list: Parsed<Vec<Node>> = list.into_iter().map(|t| self.number(t)).collect();
                Ok(Test::In(value, list?))
            }
        }
    }

    fn comparison(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr) -> Parsed<Test> {
        let texts = (column(left)?, column(right)?);
        let is_text = |c: &Option<Column>| matches!(c, Some(Column::Text(_) | Column::Kind));
        if is_text(&texts.0) || is_text(&texts.1) {
            let test = match texts {
                (Some(Column::Text(a)), Some(Column::Text(b))) => {
                    self.needs_event(left)?;
                    Test::SameText(a, b)
                }
                (Some(_), None) => self.one_of(left, [right])?,
                (None, Some(_)) => self.one_of(right, [left])?,
                _ => return Err(format!("{left} and {right} cannot be compared")),
            };
            return match op {
                BinaryOperator::Eq => Ok(test),
                BinaryOperator::NotEq => Ok(Test::Not(test.into())),
                other => Err(format!("texts are compared by = and <>, not by {other}")),
            };
        }
        let (a, b) = (self.number(left)?, self.number(right)?);
        Ok(match op {
            BinaryOperator::Eq => Test::Compare(Comparison::Equal, a, b),
            BinaryOperator::NotEq => Test::Not(Test::Compare(Comparison::Equal, a, b).into()),
            BinaryOperator::Lt => Test::Compare(Comparison::Less, a, b),
            BinaryOperator::Gt => Test::Compare(Comparison::Less, b, a),
            BinaryOperator::LtEq => Test::Compare(Comparison::LessOrEqual, a, b),
            BinaryOperator::GtEq => Test::Compare(Comparison::LessOrEqual, b, a),
            other => return Err(format!("operator {other} compares nothing")),
        })
    }
}
