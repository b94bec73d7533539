//! The interest of a visit, which nobody sees.

use super::dice::Dice;

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A mean-reverting walk whose drift changes now and then (every eight pages or so): interest builds for a while, or fades.
/// It starts around the person's own level (standard deviation .6) and wanders up to 1.8 from it in a long visit.
pub(super) struct Interest {
    pub level: f64,
    home: f64,
    drift: f64,
}

impl Interest {
    pub fn new(home: f64, dice: &mut Dice) -> Interest {
        Interest { level: home + 0.6 * dice.normal(), home, drift: 0.2 * dice.normal() }
    }

    pub fn step(&mut self, dice: &mut Dice) {
        if dice.chance(0.12) {
            self.drift = 0.2 * dice.normal();
        }
        self.level += self.drift + 0.18 * dice.normal() - 0.07 * (self.level - self.home);
    }
}
