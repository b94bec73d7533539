//! A plausible fashion shop to try the flow on, without any data.
//!
//! The proportions are those of the papers (three kinds of customers, many products in more than ten categories, two to
//! three visits in a hundred that end with a purchase). Behind every visit is an interest that nobody sees: it drifts,
//! builds and fades, and everything that is seen (dwell, depth, returns, carts, the end) leans on it a little. So a model
//! can learn who is about to leave, and cannot know it.
//!
//! A day is a pure function of (customers, seed, day): the same shop goes on wherever it is asked to.
//! Coupons change nothing here: clicks do not depend on what is issued.

mod catalogue;
mod dice;
mod interest;
mod people;
mod visit;

#[cfg(test)]
mod tests;

pub use people::Shopper;

use catalogue::Catalogue;
use coupon_base::Error;
use coupon_base::Result;
use coupon_events::events::{DAY, Kind, Micros};
use dice::{Dice, mix};
use people::Person;

/// What `coupon.simulate` fills when it is not told otherwise: about 18,000 visits, 110,000 clicks and 550 buyers.
pub const DEFAULT_CUSTOMERS: u32 = 2_000;
pub const DEFAULT_DAYS: u32 = 35;

/// One day of so many is about 1.6 million clicks, half a gigabyte.
pub const MAX_CUSTOMERS: u32 = 1_000_000;

// What a stream of random numbers is for.
const PRICES: u64 = 1;
const PERSON: u64 = 2;
const VISITS: u64 = 3;
const VISIT: u64 = 4;
const SESSION_ID: u64 = 5;
const ORDER_ID: u64 = 6;
const APPETITE: u64 = 7;

/// One row of the shop's click table.
#[derive(Debug, Clone, PartialEq)]
pub struct Click {
    pub at: Micros,
    /// 16 hexadecimal digits, unique in the shop.
    pub session: String,
    /// `c-00042`; none while nobody is signed in.
    pub customer: Option<String>,
    pub kind: Kind,
    /// The type of page: home, sale, category, product, search, login, cart, checkout, order or account.
    pub page: &'static str,
    pub category: Option<&'static str>,
    /// `dresses-017`.
    pub product: Option<String>,
    /// Units, where something is put into or out of the cart or bought.
    pub quantity: Option<f64>,
    /// Price of one unit in dollars, where a product is shown.
    pub price: Option<f64>,
    /// Of purchases only: one event an order line, all with the same order.
    pub order_id: Option<String>,
    /// mobile, desktop or tablet.
    pub device: &'static str,
    /// direct, search, social, email, ad or affiliate.
    pub referrer: &'static str,
}

/// A shop: its catalogue and its customers. About 160 bytes a customer.
pub struct Shop {
    seed: u64,
    catalogue: Catalogue,
    people: Vec<Person>,
}

impl Shop {
    /// A shop of 1 … [`MAX_CUSTOMERS`] customers; the same seed gives the same customers, products and tastes.
    ///
    /// # Errors
    /// [`Error::Spec`] for any other number of customers.
    pub fn new(customers: u32, seed: u64) -> Result<Shop> {
        if !(1..=MAX_CUSTOMERS).contains(&customers) {
            return Err(Error::Spec(format!("customers must be between 1 and {MAX_CUSTOMERS}, not {customers}")));
        }
        let person = |i| Person::customer(&mut Dice::new(seed, PERSON, u64::from(i)));
        Ok(Shop { seed, catalogue: Catalogue::new(seed), people: (0..customers).map(person).collect() })
    }

    /// All clicks of the visits that start on the UTC day of `midnight`, ordered by (at, session); a visit may pass
    /// midnight by a little. Times saturate at the ends of the range.
    pub fn day(&self, midnight: Micros) -> Vec<Click> {
        let day = midnight.div_euclid(DAY);
        let start = midnight.saturating_sub(midnight.rem_euclid(DAY));
        let bustle = WEEK[(day + 6).rem_euclid(7) as usize];
        let mut dice = Dice::new(self.seed, VISITS, day as u64);
        let mut clicks = Vec::new();
        let mut number = 0;
        let mut come = |who: Option<usize>, clicks: &mut Vec<Click>| {
            visit::visit(self, day, number, start, who, clicks);
            number += 1;
        };
        for (i, person) in self.people.iter().enumerate() {
            for _ in 0..dice.poisson(person.rate * bustle * self.appetite(i, day)) {
                come(Some(i), &mut clicks);
            }
            for _ in 0..dice.poisson(STRANGERS * bustle) {
                come(None, &mut clicks);
            }
        }
        clicks.sort_by(|a, b| (a.at, &a.session).cmp(&(b.at, &b.session)));
        clicks
    }

    /// The hidden kind of a customer by id, to hold a segmentation against; none for an id the shop does not have.
    pub fn shopper(&self, customer: &str) -> Option<Shopper> {
        let i: usize = customer.strip_prefix("c-")?.parse().ok()?;
        self.people.get(i).map(|p| p.shopper)
    }

    /// Some weeks a customer feels like shopping, some not; a function of the week, so that no day needs another.
    fn appetite(&self, customer: usize, day: i64) -> f64 {
        let week = day.div_euclid(7) as u64;
        let spread = 0.6;
        let mut dice = Dice::new(self.seed ^ mix(week), APPETITE, customer as u64);
        dice.spread(spread) * (-spread * spread / 2.0_f64).exp()
    }
}

/// Visits of strangers a day, for each customer the shop has.
const STRANGERS: f64 = 0.105;

/// Sunday … Saturday: people shop on Sunday evening and Monday, and are out on Saturday.
const WEEK: [f64; 7] = [1.16, 1.12, 1.02, 0.98, 0.96, 0.88, 0.88];
