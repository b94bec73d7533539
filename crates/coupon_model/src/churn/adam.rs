//! Adam (Kingma & Ba 2015) over all numbers of a network, with the papers' defaults.

use super::aligned::Aligned;
use super::simd;

/// The running moments of the gradient.
#[derive(Debug)]
pub struct Adam {
    mean: Aligned,
    square: Aligned,
    steps: u64,
}

impl Adam {
    pub fn new(n: usize) -> Adam {
        Adam { mean: Aligned::zeros(n), square: Aligned::zeros(n), steps: 0 }
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn step(&mut self, values: &mut [f32], gradient: &[f32], rate: f64) {
        self.steps += 1;
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(self.steps as f64))) as f32;
        let rates = [rate as f32, correction(0.9), correction(0.999)];
        simd::adam(values, gradient, &mut self.mean, &mut self.square, rates);
    }
}
