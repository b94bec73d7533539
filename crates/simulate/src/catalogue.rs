//! What the shop sells: 1,317 products in fourteen categories, the size of the papers' shop.

use super::PRICES;
use super::dice::Dice;
use std::ops::Range;

pub(super) const CATEGORIES: usize = 14;

/// One category: its share of interest, its size, and the log-normal its prices come from.
pub(super) struct Category {
    pub name: &'static str,
    pub popularity: f64,
    products: usize,
    median: f64,
    spread: f64,
    /// What people look at next, as indices into [`RANGE`].
    pub complements: &'static [usize],
    /// Mean number of units taken beyond the first.
    pub multiple: f64,
}

const fn category(
    name: &'static str,
    popularity: f64,
    products: usize,
    (median, spread): (f64, f64),
    complements: &'static [usize],
    multiple: f64,
) -> Category {
    Category { name, popularity, products, median, spread, complements, multiple }
}

#[rustfmt::skip]
pub(super) const RANGE: [Category; CATEGORIES] = [
    category("dresses",     1.60, 210, (54.0, 0.42), &[10, 11, 12], 0.02), // 0
    category("tops",        1.50, 190, (23.0, 0.38), &[3, 5, 2],    0.18), // 1
    category("knitwear",    0.90, 105, (46.0, 0.36), &[4, 3, 13],   0.05), // 2
    category("jeans",       1.00,  95, (58.0, 0.32), &[1, 13, 10],  0.05), // 3
    category("trousers",    0.80,  85, (49.0, 0.34), &[1, 2, 7],    0.06), // 4
    category("skirts",      0.60,  70, (37.0, 0.36), &[1, 10],      0.04), // 5
    category("coats",       0.55,  62, (118.0, 0.45), &[13, 2, 11],  0.01), // 6
    category("blazers",     0.40,  45, (86.0, 0.38), &[4, 1, 11],   0.01), // 7
    category("sportswear",  0.75,  90, (39.0, 0.40), &[10, 9],      0.12), // 8
    category("underwear",   0.80, 100, (18.0, 0.45), &[8, 1],       0.45), // 9
    category("shoes",       1.20, 120, (74.0, 0.44), &[11, 3, 0],   0.02), // 10
    category("bags",        0.70,  60, (65.0, 0.55), &[10, 12],     0.01), // 11
    category("jewellery",   0.45,  50, (28.0, 0.60), &[0, 11],      0.10), // 12
    category("accessories", 0.55,  35, (20.0, 0.40), &[6, 2, 12],   0.14), // 13
];

/// One product: its category (an index into [`RANGE`]), its number there from the best seller down, and its price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Product {
    pub category: usize,
    pub number: usize,
    pub price: f64,
}

impl Product {
    pub fn category_name(&self) -> &'static str {
        RANGE[self.category].name
    }

    pub fn id(&self) -> String {
        format!("{}-{:03}", self.category_name(), self.number + 1)
    }
}

/// The price list: one price a product, for good.
pub(super) struct Catalogue {
    products: Vec<Product>,
    /// Where each category's products are.
    shelves: [Range<usize>; CATEGORIES],
}

impl Catalogue {
    pub fn new(seed: u64) -> Catalogue {
        let mut products = Vec::new();
        let shelves = std::array::from_fn(|category| {
            let Category { products: size, median, spread, .. } = RANGE[category];
            let mut dice = Dice::new(seed, PRICES, category as u64);
            let from = products.len();
            products.extend((0..size).map(|number| {
                let price = (median * dice.spread(spread)).floor().max(2.0) + 0.99;
                Product { category, number, price }
            }));
            from..products.len()
        });
        Catalogue { products, shelves }
    }

    /// A product of a category: the low numbers sell best. `dear` is the chance to prefer the dearer of two.
    pub fn pick(&self, category: usize, dear: f64, dice: &mut Dice) -> Product {
        let shelf = &self.products[self.shelves[category].clone()];
        let mut draw = || shelf[(dice.unit().powf(1.8) * shelf.len() as f64) as usize];
        let (one, other) = (draw(), draw());
        if (one.price < other.price) == dice.chance(dear) { other } else { one }
    }

    /// All products one after another, round and round: how a crawler reads a shop.
    pub fn crawl(&self, step: usize) -> Product {
        self.products[step % self.products.len()]
    }
}
