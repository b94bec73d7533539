//! One visit, page by page, driven by an interest that is never seen itself.

use super::catalogue::{Product, RANGE};
use super::dice::{Dice, mix};
use super::interest::{Interest, sigmoid};
use super::people::{Habits, Person};
use super::{Click, ORDER_ID, SESSION_ID, Shop, VISIT};
use coupon_events::events::{Kind, Micros, SECOND};

/// Visits by hour of the day (UTC): lunch and evening.
const HOURS: [f64; 24] = [
    2.6, 1.5, 0.9, 0.6, 0.5, 0.7, 1.3, 2.4, 3.6, 4.4, 4.9, 5.3, 6.0, 5.6, 4.9, 4.8, 4.9, 5.2, 5.8, 6.6, 7.6, 7.9, 6.6,
    4.4,
];

/// Where visits come from: share, how often more or less they bounce, what they add to the interest.
const REFERRERS: [(&str, f64, f64, f64); 6] = [
    ("direct", 0.34, 0.85, 0.10),
    ("search", 0.27, 0.95, 0.05),
    ("social", 0.15, 1.25, -0.25),
    ("ad", 0.12, 1.20, -0.15),
    ("email", 0.08, 0.75, 0.20),
    ("affiliate", 0.04, 1.05, 0.0),
];

/// One visit in this many is a crawler.
const BOTS: f64 = 0.0011;
/// Nobody looks at more pages than this; the leaving chance rises from half of it on.
const LONGEST: usize = 140;
/// No pause within a visit is longer, so that a timeout of 30 minutes does not cut it.
const LONGEST_PAUSE: f64 = 25.0 * 60.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Home,
    Sale,
    Category,
    Search,
    Product,
    Cart,
}

struct Visit<'a> {
    shop: &'a Shop,
    person: &'a Person,
    habits: &'static Habits,
    dice: Dice,
    clicks: &'a mut Vec<Click>,
    interest: Interest,
    /// Likes to look and to collect, and will not buy today whatever it looks like.
    dreams: bool,
    /// Knows what to get: straight to it, into the cart and out.
    errand: bool,
    at: Micros,
    id: u64,
    session: String,
    customer: Option<String>,
    /// The id to sign in with, while not signed in.
    account: Option<String>,
    device: &'static str,
    referrer: &'static str,
    category: usize,
    seen: Vec<Product>,
    cart: Vec<(Product, f64)>,
    /// Products wanted in this visit.
    wanted: usize,
}

/// Appends the clicks of visit `number` of a day: of customer `who`, or of a stranger.
pub(super) fn visit(shop: &Shop, day: i64, number: u32, start: Micros, who: Option<usize>, clicks: &mut Vec<Click>) {
    // A bijection of (day, number) for a seed: no two sessions of a shop share an id.
    let key = ((day as u64) << 32) | u64::from(number);
    let id = mix(key.wrapping_add(mix(shop.seed ^ mix(SESSION_ID))));
    let mut dice = Dice::new(shop.seed, VISIT, id);
    let stranger;
    let person = match who {
        Some(i) => &shop.people[i],
        None => {
            stranger = Person::stranger(&mut dice);
            &stranger
        }
    };
    let habits = person.shopper.habits();
    let hour = dice.weighted(&HOURS) as f64;
    let seconds = (hour + dice.unit()) * 3600.0;
    let device = match dice.unit() {
        u if u < 0.05 => "tablet",
        _ if dice.chance(person.mobile) => "mobile",
        _ => "desktop",
    };
    let (referrer, _, bounces, adds) = REFERRERS[dice.weighted(&REFERRERS.map(|r| r.1))];
    let account = who.map(|i| format!("c-{i:05}"));
    // One member in eight comes without being recognised.
    let (customer, account) = if dice.chance(0.125) { (None, account) } else { (account, None) };
    let home = person.interest + adds + if device == "mobile" { -0.12 } else { 0.1 };
    let errand = dice.chance(habits.errand);
    let interest = Interest::new(if errand { home + 1.0 } else { home }, &mut dice);
    let mut visit = Visit {
        shop,
        person,
        habits,
        interest,
        dreams: !errand && dice.chance(0.35),
        errand,
        at: start.saturating_add((seconds * SECOND as f64) as Micros),
        id,
        session: format!("{id:016x}"),
        customer,
        account,
        device,
        referrer,
        category: dice.weighted(&person.tastes),
        seen: Vec::new(),
        cart: Vec::new(),
        wanted: 1 + if errand { 0 } else { dice.poisson(0.4 * habits.more) },
        clicks,
        dice,
    };
    if who.is_none() && visit.dice.chance(BOTS * 2.0) {
        visit.crawl();
    } else if visit.dice.chance(habits.bounce * bounces * if who.is_none() { 1.25 } else { 1.0 }) {
        visit.bounce();
    } else {
        visit.shop();
    }
}

impl Visit<'_> {
    /// In and out again, after a page or two.
    fn bounce(&mut self) {
        let page = self.land();
        self.show(page);
        if self.dice.chance(0.15) {
            let page = self.next(page);
            self.show(page);
        }
    }

    /// A crawler: product after product, fast and even.
    fn crawl(&mut self) {
        (self.customer, self.account) = (None, None);
        let from = self.dice.below(1_000_000);
        let pages = 101 + (60.0 * self.dice.spread(0.9)).min(900.0) as usize;
        for i in 0..pages {
            let product = self.shop.catalogue.crawl(from + i);
            self.click(Kind::View, "product", Some(&product), None);
            let pause = 1.0 + self.dice.unit();
            self.pass(pause);
        }
    }

    fn shop(&mut self) {
        let mut page = self.land();
        self.show(page);
        for step in 1..LONGEST {
            self.interest.step(&mut self.dice);
            if self.leaves(step) {
                return;
            }
            if self.account.is_some() && self.dice.chance(0.03) {
                self.sign_in();
            }
            page = self.next(page);
            self.show(page);
            match page {
                Page::Product => self.consider(),
                Page::Cart if self.settle() => return,
                _ => {}
            }
        }
    }

    fn leaves(&mut self, step: usize) -> bool {
        let base = 0.095 * (-0.5 * self.interest.level).exp();
        let carted = if self.cart.is_empty() && !self.dreams { 1.0 } else { 0.7 };
        let tired = 1.0 + (step as f64 / (LONGEST / 2) as f64 - 1.0).max(0.0) * 4.0;
        self.dice.chance((base * carted * tired).clamp(0.02, 0.6))
    }

    /// The first page.
    fn land(&mut self) -> Page {
        let [home, sale, category, product] = match self.referrer {
            "direct" => [0.62, 0.08, 0.2, 0.1],
            "email" => [0.2, 0.4, 0.25, 0.15],
            "search" => [0.15, 0.02, 0.38, 0.45],
            _ => [0.15, 0.15, 0.25, 0.45],
        };
        let pages = [Page::Home, Page::Sale, Page::Category, Page::Product];
        pages[self.dice.weighted(&[home, sale, category, product])]
    }

    /// Where the next click goes: the keener, the deeper.
    fn next(&mut self, page: Page) -> Page {
        let keen = sigmoid(self.interest.level);
        let to_cart = match () {
            _ if self.cart.is_empty() || page == Page::Cart => 0.0,
            _ if self.errand => 0.7,
            _ if self.wants_more() => 0.02 + 0.07 * keen,
            _ => 0.05 + 0.17 * keen,
        };
        if self.dice.chance(to_cart) {
            return Page::Cart;
        }
        if self.dice.chance(self.person.search) {
            return Page::Search;
        }
        let pages = [Page::Home, Page::Sale, Page::Category, Page::Product];
        let weights = match page {
            Page::Home | Page::Sale => [0.06, 0.12, 0.52, 0.24 + 0.2 * keen],
            Page::Category => [0.10 - 0.05 * keen, 0.05, 0.38 - 0.16 * keen, 0.45 + 0.3 * keen],
            Page::Search => [0.05, 0.02, 0.25 - 0.1 * keen, 0.55 + 0.3 * keen],
            Page::Product => [0.14 - 0.07 * keen, 0.06, 0.42 - 0.12 * keen, 0.38 + 0.2 * keen],
            Page::Cart => [0.15, 0.08, 0.4, 0.3 + 0.1 * keen],
        };
        pages[self.dice.weighted(&weights)]
    }

    /// Looks at a page for a while.
    fn show(&mut self, page: Page) {
        let keen = sigmoid(self.interest.level);
        match page {
            Page::Home => self.view("home", 8.0),
            Page::Sale => self.view("sale", 11.0),
            Page::Cart => self.view("cart", 12.0),
            Page::Category => {
                if self.dice.chance(0.55 - 0.25 * keen) {
                    self.category = self.dice.weighted(&self.person.tastes);
                }
                self.in_category(Kind::View, "category", 14.0);
            }
            Page::Search => {
                if self.dice.chance(0.6) {
                    self.category = self.dice.weighted(&self.person.tastes);
                }
                self.in_category(Kind::Search, "search", 11.0);
            }
            Page::Product => {
                let product = self.choose(keen);
                self.category = product.category;
                self.click(Kind::View, "product", Some(&product), None);
                self.seen.push(product);
                self.look(21.0);
            }
        }
    }

    /// The product to look at next: one seen before, the more so the keener, or another of the category.
    fn choose(&mut self, keen: f64) -> Product {
        if !self.seen.is_empty() && self.dice.chance(0.04 + 0.2 * keen) {
            // Rather a recent one.
            let back = (self.dice.unit().powi(2) * self.seen.len() as f64) as usize;
            return self.seen[self.seen.len() - 1 - back.min(self.seen.len() - 1)];
        }
        self.shop.catalogue.pick(self.category, self.habits.dear, &mut self.dice)
    }

    /// On a product page: into the cart with it, or not.
    fn consider(&mut self) {
        let Some(&product) = self.seen.last() else { return };
        if self.cart.iter().any(|(p, _)| *p == product) {
            return;
        }
        let again = self.seen.iter().filter(|p| **p == product).count() > 1;
        let likes = 0.010 + 0.18 * sigmoid(1.5 * (self.interest.level - 1.2));
        let sure = again || self.errand || (!self.cart.is_empty() && self.wants_more());
        if !self.dice.chance(likes * if sure { 2.0 } else { 1.0 }) {
            return;
        }
        let several = RANGE[product.category].multiple + 0.25 * self.habits.more;
        let quantity = 1 + self.dice.poisson(several);
        self.cart.push((product, quantity as f64));
        self.click(Kind::Cart, "product", Some(&product), Some(quantity as f64));
        self.look(7.0);
        // Having got what one came for, one looks for what goes with it.
        if self.dice.chance(0.6) {
            let complements = RANGE[product.category].complements;
            self.category = complements[self.dice.below(complements.len())];
        }
    }

    fn wants_more(&self) -> bool {
        self.cart.len() < self.wanted
    }

    /// On the cart page: take something out, go on, or pay. True where the visit is over.
    fn settle(&mut self) -> bool {
        let level = self.interest.level;
        if self.dice.chance(0.04 + 0.2 * sigmoid(-1.2 * level)) {
            let (product, quantity) = self.cart.swap_remove(self.dice.below(self.cart.len()));
            self.click(Kind::Uncart, "cart", Some(&product), Some(quantity));
            self.look(8.0);
        }
        if self.cart.is_empty() || (self.wants_more() && self.dice.chance(0.6)) {
            return false;
        }
        let pays = sigmoid(0.9 * level - if self.errand { 0.95 } else { 1.65 }) * if self.dreams { 0.1 } else { 1.0 };
        if !self.dice.chance(pays) {
            return false;
        }
        if self.account.is_some() && self.dice.chance(0.6) {
            self.sign_in();
        }
        self.click(Kind::Checkout, "checkout", None, None);
        self.look(45.0);
        if self.dice.chance(sigmoid(0.1 + 0.3 * level)) {
            self.buy();
            return true;
        }
        // Shipping costs, a missing card: half of them are gone, the others cool down.
        self.interest.level -= 1.0;
        self.dice.chance(0.5)
    }

    /// One event an order line.
    fn buy(&mut self) {
        let order = format!("o-{:016x}", mix(self.id ^ mix(ORDER_ID)));
        for (product, quantity) in std::mem::take(&mut self.cart) {
            self.click(Kind::Purchase, "order", Some(&product), Some(quantity));
            if let Some(click) = self.clicks.last_mut() {
                click.order_id = Some(order.clone());
            }
            self.pass(0.001);
        }
        if self.customer.is_some() && self.dice.chance(0.25) {
            self.look(30.0);
            self.view("account", 15.0);
        }
    }

    fn sign_in(&mut self) {
        self.view("login", 15.0);
        self.customer = self.account.take();
    }

    fn view(&mut self, page: &'static str, seconds: f64) {
        self.click(Kind::View, page, None, None);
        self.look(seconds);
    }

    fn in_category(&mut self, kind: Kind, page: &'static str, seconds: f64) {
        self.click(kind, page, None, None);
        if let Some(click) = self.clicks.last_mut() {
            click.category = Some(RANGE[self.category].name);
        }
        self.look(seconds);
    }

    fn click(&mut self, kind: Kind, page: &'static str, product: Option<&Product>, quantity: Option<f64>) {
        self.clicks.push(Click {
            at: self.at,
            session: self.session.clone(),
            customer: self.customer.clone(),
            kind,
            page,
            category: product.map(Product::category_name),
            product: product.map(Product::id),
            quantity,
            price: product.map(|p| p.price),
            order_id: None,
            device: self.device,
            referrer: self.referrer,
        });
    }

    /// Time on a page, `seconds` in the median: longer where interested, shorter once decided, now and then very long.
    fn look(&mut self, seconds: f64) {
        let level = self.interest.level.clamp(-2.0, 2.5);
        let decided = if !self.cart.is_empty() && level > 1.0 { 0.6 } else { 1.0 };
        let distracted = if self.dice.chance(0.01) { 10.0 } else { 1.0 };
        let dwell = seconds * self.person.pace * (0.2 * level).exp() * decided * distracted * self.dice.spread(0.8);
        self.pass(dwell.clamp(0.3, LONGEST_PAUSE));
    }

    fn pass(&mut self, seconds: f64) {
        self.at = self.at.saturating_add((seconds * SECOND as f64) as Micros);
    }
}
