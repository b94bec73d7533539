//! The few functions of the inner loops, written so that the compiler vectorises them without FMA: the same bits
//! whatever the width.

/// e^x for finite x, within 2e-7 relative; below -87 and above 88 it saturates. (libm's is a call for each number.)
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 · 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let n = x * std::f32::consts::LOG2_E + ROUND;
    let bits = n.to_bits() << 23;
    let n = n - ROUND;
    // ln 2 in two parts, so that the remainder keeps its low bits (Cody & Waite).
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_2e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits(bits.wrapping_add(127 << 23))
}

#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh within 3e-7 absolute.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    2.0 / (1.0 + exp(-2.0 * x)) - 1.0
}

/// ln(1 + e^x) without overflow: the log loss of a logit.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_rounding_of_libm() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-f64::from(x)).exp())).abs() < 2e-7, "sigmoid({x})");
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
        }
        assert!(sigmoid(-1e30) >= 0.0 && sigmoid(-1e30) < 1e-30);
        assert_eq!((sigmoid(1e30), tanh(1e30), tanh(-1e30)), (1.0, 1.0, -1.0));
    }
}
