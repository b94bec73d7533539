//! The few distributions a shop needs, from one seeded generator.

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Mixes 64 bits so that neighbouring inputs give unrelated outputs; a bijection (the finaliser of SplitMix64).
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// One stream of random numbers. Every thing that is random (a customer, a product, a visit) has its own,
/// keyed by what it is, so that no draw depends on what was drawn before.
pub(super) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub fn new(seed: u64, what: u64, which: u64) -> Dice {
        Dice(Xoshiro256PlusPlus::seed_from_u64(mix(mix(seed ^ mix(what)) ^ which)))
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0.r#gen()
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Uniform in 0 … n − 1; 0 where n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Standard normal (Box–Muller; the second value is thrown away to keep one draw one draw).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// exp(spread · normal): median 1.
    pub fn spread(&mut self, spread: f64) -> f64 {
        (spread * self.normal()).exp()
    }

    /// Knuth's product of uniforms, for the small means used here.
    pub fn poisson(&mut self, mean: f64) -> usize {
        let floor = (-mean).exp();
        let mut product = self.unit();
        let mut n = 0;
        while product > floor {
            product *= self.unit();
            n += 1;
        }
        n
    }

    /// An index drawn in proportion to its weight; the last where the weights are all zero.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (i, w) in weights.iter().enumerate() {
            if left < *w {
                return i;
            }
            left -= w;
        }
        weights.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dice_are_fair() {
        let mut dice = Dice::new(1, 2, 3);
        let n = 100_000;
        let mut mean =
            |draw: &mut dyn FnMut(&mut Dice) -> f64| (0..n).map(|_| draw(&mut dice)).sum::<f64>() / f64::from(n);
        assert!(mean(&mut |d| d.normal()).abs() < 0.013);
        assert!((mean(&mut |d| d.normal().powi(2)) - 1.0).abs() < 0.018);
        assert!((mean(&mut |d| d.poisson(1.7) as f64) - 1.7).abs() < 0.017);
        assert!((mean(&mut |d| d.weighted(&[1.0, 0.0, 3.0]) as f64) - 1.5).abs() < 0.011);
        assert!((mean(&mut |d| d.below(5) as f64) - 2.0).abs() < 0.018);
        assert_eq!((dice.below(0), dice.weighted(&[]), dice.weighted(&[0.0, 0.0]), dice.poisson(0.0)), (0, 0, 1, 0));
    }
}
