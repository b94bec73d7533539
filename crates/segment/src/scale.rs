//! Values → what distances are measured in: clipped, on a logarithmic scale if asked for, in standard deviations.

use serde::{Deserialize, Serialize};

/// Beyond any money or count; keeps squares finite.
const HUGE: f64 = 1e100;

/// How one variable is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// ln(1 + |x|) with the sign of x, instead of x.
    pub log: bool,
    /// Values below count as this …
    pub low: f64,
    /// … and values above as this.
    pub high: f64,
    /// Mean of the known values, clipped and on their scale.
    pub mean: f64,
    /// Their standard deviation; 1 where they do not vary.
    pub std: f64,
}

impl Scale {
    /// The scale of a variable with these values; those that are not finite are unknown and say nothing.
    pub(super) fn fit(values: impl Iterator<Item = f64>, log: bool, clip: Option<f64>) -> Scale {
        let mut known: Vec<f64> = values.filter(|v| v.is_finite()).map(|v| v.clamp(-HUGE, HUGE)).collect();
        let mut scale = Scale { log, low: -HUGE, high: HUGE, mean: 0.0, std: 1.0 };
        if let Some(q) = clip
            && !known.is_empty()
        {
            let mut sorted = known.clone();
            sorted.sort_by(f64::total_cmp);
            let (low, high) = (quantile(&sorted, 1.0 - q), quantile(&sorted, q));
            // Where nearly everybody has the same value, the rest is all there is to tell them apart by.
            if low < high {
                (scale.low, scale.high) = (low, high);
            }
        }
        known.iter_mut().for_each(|v| *v = scale.curve(*v));
        // Welford: one pass, no cancellation.
        let (mut n, mut mean, mut m2) = (0.0, 0.0, 0.0);
        for v in known {
            n += 1.0;
            let delta = v - mean;
            mean += delta / n;
            m2 += delta * (v - mean);
        }
        let std = (m2 / f64::max(n, 1.0)).sqrt();
        scale.mean = mean;
        // Rounding leaves a variable that does not vary a tiny deviation, which must not be blown up.
        if std > 1e-9 * mean.abs() && std.is_normal() {
            scale.std = std;
        }
        scale
    }

    /// What values are clipped to; none where they are not.
    pub fn limits(&self) -> Option<(f64, f64)> {
        (self.low > -HUGE || self.high < HUGE).then_some((self.low, self.high))
    }

    fn curve(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        if self.log { value.abs().ln_1p().copysign(value) } else { value }
    }

    /// Deviations from the mean; 0 where unknown, bounded so that no distance overflows.
    pub fn apply(&self, value: f64) -> f64 {
        if value.is_finite() { ((self.curve(value) - self.mean) / self.std).clamp(-1e6, 1e6) } else { 0.0 }
    }
}

/// The q quantile of sorted values, interpolated between neighbours.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}
