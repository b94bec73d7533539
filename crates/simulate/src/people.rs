//! Who comes: three kinds of customers, each customer with lasting habits and tastes.

use super::catalogue::{CATEGORIES, RANGE};
use super::dice::Dice;

/// The hidden truth about a customer, in the proportions of the papers' three groups (33,863 / 4,812 / 12,699).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shopper {
    /// Looks often and hardly ever buys.
    Looker,
    /// Spends much, buys several products at a time.
    Vip,
    /// In between.
    Regular,
}

impl Shopper {
    pub const ALL: [Shopper; 3] = [Shopper::Looker, Shopper::Vip, Shopper::Regular];

    pub fn name(self) -> &'static str {
        match self {
            Shopper::Looker => "looker",
            Shopper::Vip => "vip",
            Shopper::Regular => "regular",
        }
    }
}

/// What a kind of customer does on average.
pub(super) struct Habits {
    /// Visits in 30 days (papers: 3.49, 8.53, 5.41), and how unequal people are in it (σ of its logarithm).
    pub visits: f64,
    pub unequal: f64,
    /// Chance that a visit is over after the first page or two.
    pub bounce: f64,
    /// Where the interest of a visit starts and returns to.
    pub interest: f64,
    /// How much more than one product is wanted, in lines and in units (papers: products at one time .06, 4.10, 2.20).
    pub more: f64,
    /// Chance that a visit is an errand.
    pub errand: f64,
    /// Chance to search instead of browsing on, at each page.
    pub search: f64,
    /// How long a page is looked at, against the average.
    pub pace: f64,
    /// Chance to prefer the dearer of two products.
    pub dear: f64,
}

const LOOKER: Habits = Habits {
    visits: 3.5,
    unequal: 1.0,
    bounce: 0.50,
    interest: -1.25,
    more: 0.25,
    errand: 0.02,
    search: 0.04,
    pace: 1.05,
    dear: 0.40,
};
const VIP: Habits = Habits {
    visits: 10.0,
    unequal: 0.8,
    bounce: 0.30,
    interest: 0.6,
    more: 3.2,
    errand: 0.21,
    search: 0.09,
    pace: 1.5,
    dear: 0.65,
};
const REGULAR: Habits = Habits {
    visits: 6.0,
    unequal: 0.8,
    bounce: 0.36,
    interest: -0.05,
    more: 1.1,
    errand: 0.10,
    search: 0.07,
    pace: 1.35,
    dear: 0.50,
};

impl Shopper {
    pub(super) fn habits(self) -> &'static Habits {
        match self {
            Shopper::Looker => &LOOKER,
            Shopper::Vip => &VIP,
            Shopper::Regular => &REGULAR,
        }
    }

    /// Draws a kind with the shares of lookers and VIPs.
    fn draw(lookers: f64, vips: f64, dice: &mut Dice) -> Shopper {
        let u = dice.unit();
        if u < lookers {
            Shopper::Looker
        } else if u < lookers + vips {
            Shopper::Vip
        } else {
            Shopper::Regular
        }
    }
}

/// One person as the shop never sees them.
pub(super) struct Person {
    pub shopper: Shopper,
    /// Visits a day, before rhythm.
    pub rate: f64,
    /// This person's own interest and pace, around those of the kind.
    pub interest: f64,
    pub pace: f64,
    pub search: f64,
    /// Share of attention by category; sums to 1.
    pub tastes: [f64; CATEGORIES],
    /// Chance to come with a phone.
    pub mobile: f64,
}

impl Person {
    pub fn customer(dice: &mut Dice) -> Person {
        let shopper = Shopper::draw(0.66, 0.09, dice);
        Person::of(shopper, dice)
    }

    /// Somebody who has no account: mostly lookers.
    pub fn stranger(dice: &mut Dice) -> Person {
        let shopper = Shopper::draw(0.80, 0.03, dice);
        Person::of(shopper, dice)
    }

    fn of(shopper: Shopper, dice: &mut Dice) -> Person {
        let habits = shopper.habits();
        // A log-normal with mean 1, cut where one person would be a crowd.
        let activity = dice.spread(habits.unequal) * (-habits.unequal * habits.unequal / 2.0).exp();
        Person {
            shopper,
            rate: (habits.visits / 30.0 * activity).min(4.0),
            interest: habits.interest + 0.35 * dice.normal(),
            pace: habits.pace * dice.spread(0.25),
            search: (habits.search * dice.spread(0.7)).min(0.4),
            tastes: tastes(dice),
            mobile: if dice.chance(0.65) { 0.9 } else { 0.12 },
        }
    }
}

/// Three favourite categories and what goes with them, on a thin floor of what everybody likes.
fn tastes(dice: &mut Dice) -> [f64; CATEGORIES] {
    let popularity = RANGE.each_ref().map(|c| c.popularity);
    let mut taste = popularity.map(|p| 0.012 * p);
    for weight in [0.45, 0.22, 0.12] {
        let favourite = dice.weighted(&popularity);
        taste[favourite] += weight;
        for &goes_with in RANGE[favourite].complements {
            taste[goes_with] += 0.15 * weight;
        }
    }
    let sum: f64 = taste.iter().sum();
    taste.map(|t| t / sum)
}
