//! The few functions of the inner loops, written so that the compiler vectorises them without FMA:
//! the same bits on every x86-64, in training and in serving.

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

/// out += a · x.
#[inline(always)]
pub fn axpy(out: &mut [f32], a: f32, x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o += a * x;
    }
}

/// out += Σ a_j · rows_j, with rows of out's length; four at a time, so that `out` is read a quarter as often.
#[inline]
pub fn add_rows(out: &mut [f32], a: &[f32], rows: &[f32]) {
    let n = out.len();
    let mut coefficients = a.chunks_exact(4);
    let mut blocks = rows.chunks_exact(4 * n);
    for (a, block) in (&mut coefficients).zip(&mut blocks) {
        let (r0, rest) = block.split_at(n);
        let (r1, rest) = rest.split_at(n);
        let (r2, r3) = rest.split_at(n);
        for ((((o, x0), x1), x2), x3) in out.iter_mut().zip(r0).zip(r1).zip(r2).zip(r3) {
            *o += (a[0] * x0 + a[1] * x1) + (a[2] * x2 + a[3] * x3);
        }
    }
    for (&a, row) in coefficients.remainder().iter().zip(blocks.remainder().chunks_exact(n)) {
        axpy(out, a, row);
    }
}

/// One LSTM cell. `gates` holds the sums of i, f, g, o (a quarter each) and leaves with their activations;
/// c ← f·c + i·g, h ← o·tanh(c).
#[inline]
pub fn cell(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) {
    let n = c.len();
    let (i, rest) = gates.split_at_mut(n);
    let (f, rest) = rest.split_at_mut(n);
    let (g, o) = rest.split_at_mut(n);
    i.iter_mut().for_each(|x| *x = sigmoid(*x));
    f.iter_mut().for_each(|x| *x = sigmoid(*x));
    g.iter_mut().for_each(|x| *x = tanh(*x));
    o.iter_mut().for_each(|x| *x = sigmoid(*x));
    for (((c, i), f), g) in c.iter_mut().zip(&*i).zip(&*f).zip(&*g) {
        *c = f * *c + i * g;
    }
    for ((h, c), o) in h.iter_mut().zip(&*c).zip(&*o) {
        *h = o * tanh(*c);
    }
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

    #[test]
    fn rows_add_up_whatever_their_number() {
        for m in 0..9 {
            let a: Vec<f32> = (0..m).map(|j| j as f32 + 1.0).collect();
            let rows: Vec<f32> = (0..3 * m).map(|k| k as f32).collect();
            let mut out = [1.0; 3];
            add_rows(&mut out, &a, &rows);
            for (k, o) in out.iter().enumerate() {
                let want = 1.0 + (0..m).map(|j| a[j] * rows[3 * j + k]).sum::<f32>();
                assert_eq!(*o, want);
            }
        }
    }
}
