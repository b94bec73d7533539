//! The elbow curves of the two dimensions on a CSV of invoices
//! (`InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country`), read from a path (`.gz` through
//! zcat) or from standard input, with the variables that `segments.py` of the peers computes from it:
//!
//!     cargo run --release -p coupon_model --example segments -- online_retail.csv.gz [overrides of models/segment.json]
//!
//! Prints the peer's line for each dimension: customers, seconds, the inertia of 1 … 10 clusters (the BIC of mixtures). `COPIES=12` fits that
//! many copies of every customer, each value moved by up to five per cent: a shop of another size.

use coupon_model::segment::{Elbow, Fit, Method, Spec};
use coupon_model::sessions::Rows;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A customer's order: its amount and its items.
type Order = (f64, f64);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let source: Box<dyn Read> = match arguments.next() {
        None => Box::new(std::io::stdin()),
        Some(path) if path.ends_with(".gz") => {
            let zcat = Command::new("zcat").arg(path).stdout(Stdio::piped()).spawn()?;
            Box::new(zcat.stdout.ok_or("zcat tells nothing")?)
        }
        Some(path) => Box::new(std::fs::File::open(path)?),
    };
    let mut spec = serde_json::json!({
        "spending": ["spending_last_month", "average_payment"],
        "behaviour": ["items_per_purchase", "visits_last_month"],
    });
    let overrides: serde_json::Value = serde_json::from_str(&arguments.next().unwrap_or_else(|| "{}".into()))?;
    for (key, value) in overrides.as_object().ok_or("the overrides are no JSON object")? {
        spec[key] = value.clone();
    }
    let spec = Spec::read(&spec)?;
    let copies = std::env::var("COPIES").map_or(Ok(1), |n| n.parse())?;
    let rows = copied(customers(BufReader::new(source))?, copies);
    for dimension in ["spending", "behaviour"] {
        // One dimension at a time, as the peer measures: the other has a variable that does not vary.
        let other = if dimension == "spending" { "behaviour" } else { "spending" };
        let mut alone = serde_json::to_value(&spec)?;
        alone[other] = serde_json::json!(["searches_last_month"]);
        let alone = Spec::read(&alone)?;
        let start = Instant::now();
        let (_, card) = Fit::new(&rows, &alone.definition(30), &alone, 0)?.finish();
        let seconds = start.elapsed().as_secs_f64();
        let mine = card.elbow.iter().filter(|e| e.dimension == dimension);
        // Numbers of components that no mixture was found for are missing, so each is told with its number.
        let figure = |e: &Elbow| e.bic.map_or(format!("{:.1}", e.inertia), |bic| format!("{}:{bic:.1}", e.k));
        let figures: Vec<String> = mine.map(figure).collect();
        let (n, figures) = (card.sample, figures.join(" "));
        let what = if spec.method == Method::GaussianMixture { "bic" } else { "inertia" };
        println!("coupon_model {dimension}: customers {n} seconds {seconds:.3} {what} {figures}");
    }
    Ok(())
}

/// Rows of the six variables; searches and the stay are not in the data.
fn customers(mut lines: impl BufRead) -> Result<Rows, Box<dyn std::error::Error>> {
    let mut header = String::new();
    lines.read_line(&mut header)?;
    let mut sales = Vec::new();
    for line in lines.lines() {
        let fields = fields(&line?);
        let [invoice, _, _, quantity, at, price, customer, ..] = fields.as_slice() else {
            return Err("a short line".into());
        };
        let quantity: f64 = quantity.parse()?;
        if quantity > 0.0 && !customer.is_empty() {
            sales.push((customer.clone(), invoice.clone(), seconds(at)?, quantity, quantity * price.parse::<f64>()?));
        }
    }
    let last = sales.iter().map(|s| s.2).max().ok_or("no sale")?;
    let mut orders: BTreeMap<String, BTreeMap<String, Order>> = BTreeMap::new();
    let mut recent: BTreeMap<String, (f64, BTreeSet<String>)> = BTreeMap::new();
    for (customer, invoice, at, quantity, amount) in sales {
        if at > last - 30 * 86_400 {
            let recent = recent.entry(customer.clone()).or_default();
            recent.0 += amount;
            recent.1.insert(invoice.clone());
        }
        let order = orders.entry(customer).or_default().entry(invoice).or_default();
        *order = (order.0 + amount, order.1 + quantity);
    }
    let mut rows = Rows::new(6);
    for (customer, orders) in orders {
        let mean = |of: fn(&Order) -> f64| orders.values().map(of).sum::<f64>() / orders.len() as f64;
        let (spent, visits) = recent.get(&customer).map_or((0.0, 0), |r| (r.0, r.1.len()));
        rows.push(&[spent, mean(|o| o.0), mean(|o| o.1), 0.0, 0.0, visits as f64]);
    }
    Ok(rows)
}

fn copied(rows: Rows, copies: usize) -> Rows {
    let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(0);
    let mut all = Rows::new(6);
    for copy in 0..copies {
        for row in rows.iter() {
            let moved: Vec<f64> =
                row.iter().map(|v| if copy == 0 { *v } else { v * rng.gen_range(0.95..1.05) }).collect();
            all.push(&moved);
        }
    }
    all
}

/// A line of CSV; quotes may hold commas, and double to stand for themselves.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("there is one").push(c),
        }
    }
    fields
}

/// Seconds since the first of January 1970 of `2010-12-01 08:26:00`.
fn seconds(at: &str) -> Result<i64, Box<dyn std::error::Error>> {
    let numbers: Result<Vec<i64>, _> = at.split(['-', ' ', ':']).map(str::parse).collect();
    let &[year, month, day, hour, minute, second] = numbers?.as_slice() else {
        return Err(format!("no time: {at}").into());
    };
    // Days from the civil calendar, the year beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469;
    Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
}
