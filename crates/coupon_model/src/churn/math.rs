//! The few functions of the inner loops, written so that the compiler vectorises them, with FMA where the CPU has it.

pub use crate::math::softplus;

#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// 1 + e^x, of x kept within ±`limit`, at most 87. (libm's is a call for each number.) What rounding x · log₂ e to one
/// number costs a sigmoid or tanh is below 1e-7, and a third of the instructions of an exponential are spared.
#[inline(always)]
pub fn one_plus_exp<const FMA: bool>(x: f32, limit: f32) -> f32 {
    // Adding and taking away 1.5 · 2^23 rounds to the nearest integer; 127 more makes it a float's exponent.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let limit = limit * std::f32::consts::LOG2_E;
    let y = (x * std::f32::consts::LOG2_E).clamp(-limit, limit);
    let n = y + ROUND;
    let scale = f32::from_bits(n.to_bits() << 23);
    let r = y - (n - ROUND);
    // 2^r by Remez' exchange for r within ±½, within 2e-7 relative.
    let p = mul_add::<FMA>(1.327_647_2e-3, r, 9.675_541e-3);
    let p = mul_add::<FMA>(p, r, 5.550_713e-2);
    let p = mul_add::<FMA>(p, r, 2.402_212e-1);
    let p = mul_add::<FMA>(p, r, 6.931_469_4e-1);
    let p = mul_add::<FMA>(p, r, 1.0);
    mul_add::<FMA>(p, scale, 1.0)
}

#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / one_plus_exp::<FMA>(-x, 87.0)
}

/// tanh within 3e-7 absolute.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    2.0 / one_plus_exp::<FMA>(-2.0 * x, 87.0) - 1.0
}

/// ln(1 + x) for x ≥ 0, within 2e-7 absolute (Cephes' polynomial); a session has dozens of them a view, and libm's is a
/// call for each. Finite for every x.
#[inline(always)]
pub fn ln_1p(x: f32) -> f32 {
    let y = 1.0 + x;
    let bits = y.to_bits();
    // y = 2^e · (1 + f), with f from √½ − 1 to √2 − 1.
    let high = (bits & 0x7f_ffff) > 0x35_04f3;
    let e = (bits >> 23) as i32 - 127 + i32::from(high);
    let f = f32::from_bits((bits & 0x7f_ffff) | if high { 0x3f00_0000 } else { 0x3f80_0000 }) - 1.0;
    let e = e as f32;
    let p = 7.037_683_6e-2;
    let p = p * f - 1.151_461e-1;
    let p = p * f + 1.167_699_9e-1;
    let p = p * f - 1.242_014_1e-1;
    let p = p * f + 1.424_932_3e-1;
    let p = p * f - 1.666_805_8e-1;
    let p = p * f + 2.000_071_5e-1;
    let p = p * f - 2.499_999_4e-1;
    let p = p * f + 3.333_333e-1;
    let z = f * f;
    let r = f * z * p - 2.121_944_4e-4 * e - 0.5 * z;
    f + r + 0.693_359_4 * e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_rounding_of_libm() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            for ours in [sigmoid::<false>(x), sigmoid::<true>(x)] {
                assert!((f64::from(ours) - 1.0 / (1.0 + (-f64::from(x)).exp())).abs() < 2e-7, "sigmoid({x})");
            }
            for ours in [tanh::<false>(x), tanh::<true>(x)] {
                assert!((f64::from(ours) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
            }
        }
        for i in 0..20_000 {
            let x = (i as f32 * 0.003).exp_m1();
            assert!(
                (f64::from(ln_1p(x)) - f64::from(x).ln_1p()).abs() < 2e-7 * f64::from(x).ln_1p().max(1.0),
                "ln_1p({x})"
            );
        }
        assert_eq!(ln_1p(0.0), 0.0);
        assert!([f32::MAX, f32::INFINITY].iter().all(|x| ln_1p(*x).is_finite()));
        assert!(sigmoid::<false>(-1e30) >= 0.0 && sigmoid::<false>(-1e30) < 1e-30);
        assert_eq!((sigmoid::<true>(1e30), tanh::<true>(1e30), tanh::<true>(-1e30)), (1.0, 1.0, -1.0));
    }
}
