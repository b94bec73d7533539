//! The draws: uniform numbers that are a value of who is drawn for what, so that nothing is drawn twice.

use sha2::{Digest, Sha256};

/// The draw of the arm, at a unit's first view.
pub const SALT_ARM: &str = "arm";
/// The draw of issue or hold-out, at first eligibility.
pub const SALT_ISSUE: &str = "issue";
/// The draw of the view at which policy `random` issues, if it does.
pub const SALT_VIEW: &str = "view";

/// A uniform number in [0, 1): the first 53 bits (big-endian) of SHA-256 of the three texts joined by zero bytes,
/// divided by 2⁵³. PostgreSQL's text holds no zero byte, so different triples are different inputs. Draws with
/// different salts are independent; the experiment's own text (a campaign and its salt) makes experiments so.
pub fn draw(salt: &str, experiment: &str, unit: &str) -> f64 {
    let mut hash = Sha256::new();
    for (i, text) in [salt, experiment, unit].into_iter().enumerate() {
        if i > 0 {
            hash.update([0]);
        }
        hash.update(text);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    let bits = bytes[..8].iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// Which arm a draw falls into: arms lie one after the other in [0, 1), each as wide as its part of the sum of
/// `shares`. A share that is not positive and finite is never chosen; without any other, arm 0.
pub fn arm(draw: f64, shares: &[f64]) -> usize {
    let width = |share: f64| if share.is_finite() { share.max(0.0) } else { 0.0 };
    let total: f64 = shares.iter().map(|&s| width(s)).sum();
    let (mut chosen, mut end) = (0, 0.0);
    for (i, share) in shares.iter().enumerate().filter(|(_, s)| width(**s) > 0.0) {
        chosen = i;
        end += share / total;
        if draw < end {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Expected values from Python, which knows nothing of this code:
    /// `int.from_bytes(hashlib.sha256("\0".join(t).encode()).digest()[:8], "big") >> 11) / 2**53`.
    #[test]
    fn golden() {
        assert_eq!(draw("arm", "default", "s-42"), 0.08602841669777228);
        assert_eq!(draw("issue", "default", "s-42"), 0.9469522170508721);
        assert_eq!(draw("view", "summer ☀", "é"), 0.127342115210759);
    }

    /// 100,000 draws in 100 bins: χ² with 99 degrees of freedom stays below 149 with probability .999; two salts are
    /// uncorrelated.
    #[test]
    fn uniform_and_independent() {
        let n = 100_000;
        let (mut bins, mut product) = ([0.0; 100], 0.0);
        for i in 0..n {
            let unit = format!("session {i}");
            let (a, b) = (draw(SALT_ARM, "x", &unit), draw(SALT_ISSUE, "x", &unit));
            bins[(a * 100.0) as usize] += 1.0;
            product += (a - 0.5) * (b - 0.5) * 12.0;
        }
        let expected = f64::from(n) / 100.0;
        let chi: f64 = bins.iter().map(|b| (b - expected) * (b - expected) / expected).sum();
        assert!(chi < 149.0, "{chi}");
        assert!((product / f64::from(n)).abs() < 4.0 / f64::from(n).sqrt(), "{product}");
    }

    #[test]
    fn arms() {
        assert_eq!([0.0, 0.49, 0.5, 0.999].map(|d| arm(d, &[1.0, 1.0])), [0, 0, 1, 1]);
        assert_eq!([0.0, 0.24, 0.25, 0.9999].map(|d| arm(d, &[0.0, 0.2, f64::NAN, 0.6, 0.0])), [1, 1, 3, 3]);
        assert_eq!(arm(0.5, &[]), 0);
        assert_eq!(arm(0.5, &[0.0, -1.0]), 0);
    }

    proptest! {
        #[test]
        fn an_arm_is_one_with_a_share(d in 0.0..1.0f64, shares in prop::collection::vec(0u8..4, 1..8)) {
            let shares: Vec<f64> = shares.into_iter().map(f64::from).collect();
            let chosen = arm(d, &shares);
            prop_assert!(shares[chosen] > 0.0 || shares.iter().all(|s| *s == 0.0));
        }
    }
}
