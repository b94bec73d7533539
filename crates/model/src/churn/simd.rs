//! The inner loops, compiled three times: for AVX-512, for AVX2 with FMA, and for any CPU. Which one runs is decided at
//! run time. The only `unsafe` is the call of a version whose CPU features were found to be there.
//!
//! Matrices are row-major. A version may round differently from another, never from run to run.
#![allow(unsafe_code)]

use std::ops::Range;

use super::alone::*;
use super::kernels::*;
use super::sums::*;
pub use super::sums::{Changes, FRESH, LANES, PACKED, TILE};

/// What the CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Level {
    Portable,
    Avx2,
    Avx512,
}

/// The widest version that this CPU can run; std remembers what it has found out.
pub fn level() -> Level {
    #[cfg(test)]
    if let Some(level) = tests::FORCED.get() {
        return level;
    }
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let fused = has!("avx2") && has!("fma");
        if fused && has!("avx512f") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw") {
            return Level::Avx512;
        }
        if fused {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// The three numbers of a version: whether it has FMA, and the rows and columns of C that the matrix product keeps in
/// registers.
macro_rules! versions {
    ($($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($arg: $type),*) {
                    $body::<true, 8, 32>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) {
                    $body::<true, 4, 16>($($arg),*)
                }
                match level() {
                    // SAFETY: level() has found all the features that this version was compiled for.
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Portable => {}
                }
            }
            $body::<false, 4, 8>($($arg),*)
        }
    )*};
}

versions! {
    /// out (N) += Σ a_j · rows_j, rows of N.
    pub fn add_rows(out: &mut [f32], a: &[f32], rows: &[f32]) = add_rows_body;
    /// [`add_rows`] of several, to the bit.
    pub fn add_rows_lanes(out: [&mut [f32]; LANES], a: [&[f32]; LANES], rows: &[f32]) = add_rows_beside_body;
    /// out (N) += Σ x · rows_i over the entries (i, x), rows of N.
    pub fn add_sparse(out: &mut [f32], entries: &[(u32, f32)], rows: &[f32]) = add_sparse_body;
    /// Row r of out = bias + Σ x · w_i over the entries (i, x) of its range; `packed` (rows of w × [`PACKED`]) is room for
    /// a stretch of columns of w, or empty where packing does not pay.
    pub fn sparse_product(
        out: &mut [f32],
        bias: &[f32],
        entries: (&[(u32, f32)], &[Range<u32>]),
        w: &[f32],
        packed: &mut [f32],
    ) = sparse_product_body;
    /// Row t of out is the bias, a sum that stays, one that falls by `fade` a row, and what is of row t alone, of the rows
    /// of w that the changes name. `packed` is room for [`Changes::rows`] × [`TILE`].
    pub fn running_product(out: &mut [f32], bias: &[f32], changes: &Changes, w: &[f32], packed: &mut [f32], fade: f32) = running_product_body;
    /// rows_i += x · gradient over the entries (i, x): the transpose of [`add_sparse`].
    pub fn scatter(rows: &mut [f32], entries: &[(u32, f32)], gradient: &[f32]) = scatter_body;
    /// C (m × n) += A · B (k × n) with dims m, n, k; A is m × k, or k × m where `transposed`.
    pub fn product(c: &mut [f32], a: &[f32], transposed: bool, b: &[f32], dims: [usize; 3]) = product_body;
    /// out (N) += the sum of rows of N.
    pub fn add_columns(out: &mut [f32], rows: &[f32]) = add_columns_body;
    /// LSTM cells of any number of rows. `gates` (rows × 4H) holds the sums of i, f, g, o and leaves with their
    /// activations; c ← f·c + i·g, h ← o·tanh(c) (rows × H).
    pub fn lstm(gates: &mut [f32], c: &mut [f32], h: &mut [f32], units: usize) = lstm_body;
    /// One LSTM cell as [`lstm`] has it, to rounding, where nobody asks for the activations: two divisions instead of five,
    /// which are a part of a cell's time. `gates` leaves as rubble.
    pub fn lstm_step(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) = lstm_step_body;
    /// All steps of one session's LSTM. `gates` (rows × 4H) holds the sums from below and leaves as rubble, c (H) enters as
    /// zeros, h is rows × H.
    pub fn lstm_alone(gates: &mut [f32], u: &[f32], c: &mut [f32], h: &mut [f32]) = lstm_alone_body;
    /// From dh and dc (of this step) to the gradients of the gates' sums; dc leaves as that of the step before. `cells`
    /// are those before and after the step.
    pub fn lstm_back(gates: &[f32], cells: [&[f32]; 2], dh: &[f32], dc: &mut [f32], sums: &mut [f32], units: usize) = lstm_back_body;
    /// GRU cells. `gates` (rows × 3H) holds the sums of r, z, n from below and leaves with their activations; `back`
    /// (rows × 3H) those from the step before; h ← n + z·(before − n), as PyTorch has it.
    pub fn gru(gates: &mut [f32], back: &[f32], before: &[f32], h: &mut [f32], units: usize) = gru_body;
    /// From dh to the gradients of the sums from below (`sums`) and from the step before (`back`, which enters with what
    /// those sums were); dh leaves with the part that reaches the step before past the gates.
    pub fn gru_back(gates: &[f32], before: &[f32], dh: &mut [f32], back: &mut [f32], sums: &mut [f32], units: usize) = gru_back_body;
    /// out = ln(1 + x) · scale, of x ≥ 0.
    pub fn logs(out: &mut [f32], x: &[f32], scale: f32) = logs_body;
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    thread_local! {
        /// On this thread only.
        pub static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
    }

    /// Every version that this CPU can run.
    pub fn with_each_level(mut test: impl FnMut(Level)) {
        let widest = level();
        for level in [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter(|l| *l <= widest) {
            FORCED.set(Some(level));
            test(level);
        }
        FORCED.set(None);
    }

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) % 2000) as f32 * 1e-3 - 1.0)
            .collect()
    }

    fn close(ours: &[f32], wanted: &[f64]) {
        assert_eq!(ours.len(), wanted.len());
        for (a, b) in ours.iter().zip(wanted) {
            assert!((f64::from(*a) - b).abs() < 1e-4 * b.abs().max(1.0), "{a} against {b}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A session's steps in one call are the steps one by one, forwards and backwards through U.
        #[test]
        fn steps_alone_are_steps(units in prop_oneof![1usize..80, Just(32), Just(64), Just(128)], views in 1usize..12, seed in 0u32..99) {
            let (sums, u) = (numbers(views * 4 * units, seed), numbers(units * 4 * units, seed + 1));
            with_each_level(|_| {
                let (mut c, mut h) = (vec![0.0; units], vec![0.0; units]);
                let mut one_by_one = Vec::new();
                for sums in sums.chunks_exact(4 * units) {
                    let mut gates = sums.to_vec();
                    add_rows(&mut gates, &h, &u);
                    lstm_step(&mut gates, &mut c, &mut h);
                    one_by_one.extend(h.iter().map(|x| f64::from(*x)));
                }
                let (mut c, mut h) = (vec![0.0; units], vec![f32::NAN; views * units]);
                lstm_alone(&mut sums.clone(), &u, &mut c, &mut h);
                close(&h, &one_by_one);
            });
        }

        /// Every version of every product is the sum it says, whatever the sizes.
        #[test]
        fn products_are_sums(m in 0usize..20, n in 1usize..140, k in 0usize..300, transposed in any::<bool>(), seed in 0u32..99) {
            let (a, b, c) = (numbers(m * k, seed), numbers(k * n, seed + 1), numbers(m * n, seed + 2));
            let at = |i: usize, p: usize| f64::from(if transposed { a[p * m + i] } else { a[i * k + p] });
            let wanted: Vec<f64> = (0..m * n).map(|x| {
                let (i, j) = (x / n, x % n);
                f64::from(c[x]) + (0..k).map(|p| at(i, p) * f64::from(b[p * n + j])).sum::<f64>()
            }).collect();
            with_each_level(|_| {
                let mut ours = c.clone();
                product(&mut ours, &a, transposed, &b, [m, n, k]);
                close(&ours, &wanted);
                if m > 0 && !transposed {
                    let mut row = c[..n].to_vec();
                    add_rows(&mut row, &a[..k], &b);
                    close(&row, &wanted[..n]);
                    let mut beside: [Vec<f32>; LANES] = std::array::from_fn(|_| c[..n].to_vec());
                    let [first, second, third, fourth] = &mut beside;
                    let other: Vec<f32> = a[..k].iter().map(|x| x * 0.5).collect();
                    add_rows_lanes([first, second, third, fourth], [&a[..k], &other, &a[..k], &other], &b);
                    let mut halved = c[..n].to_vec();
                    add_rows(&mut halved, &other, &b);
                    assert_eq!(beside, [row.clone(), halved.clone(), row.clone(), halved]);
                    let entries: Vec<(u32, f32)> = a[..k].iter().enumerate().map(|(p, x)| (p as u32, *x)).collect();
                    let mut row = c[..n].to_vec();
                    add_sparse(&mut row, &entries, &b);
                    close(&row, &wanted[..n]);
                    // Row after row of entries onto a bias, with and without packing; a view without entries keeps the bias.
                    let ranges = [0..k as u32, 0..0, 0..k as u32];
                    let bias: Vec<f64> = c[..n].iter().map(|x| f64::from(*x)).collect();
                    let rows = [&wanted[..n], &bias, &wanted[..n]].concat();
                    for room in [0, k * PACKED] {
                        let mut ours = vec![f32::NAN; 3 * n];
                        sparse_product(&mut ours, &c[..n], (&entries, &ranges), &b, &mut vec![f32::NAN; room]);
                        close(&ours, &rows);
                    }
                    // The transpose of a sum of rows is a gradient to each of them.
                    let mut back = b.clone();
                    scatter(&mut back, &entries, &c[..n]);
                    let outer: Vec<f64> = (0..k * n)
                        .map(|x| f64::from(b[x]) + f64::from(a[x / n]) * f64::from(c[x % n])).collect();
                    close(&back, &outer);
                }
            });
        }
    }
}
