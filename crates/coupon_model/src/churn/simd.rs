//! The inner loops, compiled three times: for AVX-512, for AVX2 with FMA, and for any CPU. Which one runs is decided at
//! run time. The bodies are plain Rust that the compiler vectorises; the only `unsafe` is the call of a version whose
//! CPU features were found to be there.
//!
//! Matrices are row-major. A version may round differently from another, never from run to run.
#![allow(unsafe_code)]

use super::math::{exp, ln_1p, sigmoid, tanh};
use std::ops::{Deref, DerefMut};

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

/// Numbers that begin at a cache line: the widest loads then touch one line each (.38 against .83 µs for the recurrent
/// product of a step at 64 units).
#[derive(Debug, Default)]
pub struct Aligned {
    data: Vec<f32>,
    from: usize,
    length: usize,
}

impl Aligned {
    /// Numbers of a cache line.
    pub const LINE: usize = 16;

    /// Of that length; what it held is lost, and what it holds is any number.
    pub fn sized(&mut self, n: usize) -> &mut [f32] {
        // Never shortened: growing again would write zeros over all that was cut off.
        if self.data.len() < n + Aligned::LINE {
            self.data.resize(n + Aligned::LINE, 0.0);
        }
        self.from = self.data.as_ptr().align_offset(64).min(Aligned::LINE);
        self.length = n;
        self
    }

    pub fn zeros(n: usize) -> Aligned {
        let mut made = Aligned::default();
        made.sized(n).fill(0.0);
        made
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.from..self.from + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.from..self.from + self.length]
    }
}

impl Clone for Aligned {
    fn clone(&self) -> Aligned {
        let mut made = Aligned::default();
        made.sized(self.length).copy_from_slice(self);
        made
    }

    fn clone_from(&mut self, from: &Aligned) {
        self.sized(from.length).copy_from_slice(from);
    }
}

impl PartialEq for Aligned {
    fn eq(&self, other: &Aligned) -> bool {
        **self == **other
    }
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
    /// out (N) += Σ x · rows_i over the entries (i, x), rows of N.
    pub fn add_sparse(out: &mut [f32], entries: &[(u32, f32)], rows: &[f32]) = add_sparse_body;
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
    /// which are half of a cell's time (.09 against .16 µs at 64 units). `gates` leaves as rubble.
    pub fn lstm_step(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) = lstm_step_body;
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
    /// One step of Adam (Kingma & Ba 2015): `rates` are the learning rate, and the corrections 1/(1 − β₁ᵗ), 1/(1 − β₂ᵗ).
    pub fn adam(values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32], rates: [f32; 3]) = adam_body;
}

#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Columns that a sum of rows keeps in registers.
const WIDE: usize = 64;

#[inline(always)]
fn add_rows_body<const FMA: bool, const MR: usize, const NR: usize>(out: &mut [f32], a: &[f32], rows: &[f32]) {
    let n = out.len();
    let (tiles, rest) = out.as_chunks_mut::<WIDE>();
    for (t, tile) in tiles.iter_mut().enumerate() {
        let mut sums = *tile;
        for (&a, row) in a.iter().zip(rows.chunks_exact(n)) {
            add::<FMA>(&mut sums, a, row[t * WIDE..].first_chunk().expect("a tile's width"));
        }
        *tile = sums;
    }
    if !rest.is_empty() {
        let from = n - rest.len();
        for (&a, row) in a.iter().zip(rows.chunks_exact(n)) {
            rest.iter_mut().zip(&row[from..]).for_each(|(o, x)| *o = mul_add::<FMA>(a, *x, *o));
        }
    }
}

#[inline(always)]
fn add_sparse_body<const FMA: bool, const MR: usize, const NR: usize>(
    out: &mut [f32],
    entries: &[(u32, f32)],
    rows: &[f32],
) {
    let n = out.len();
    let (tiles, rest) = out.as_chunks_mut::<WIDE>();
    for (t, tile) in tiles.iter_mut().enumerate() {
        let mut sums = *tile;
        for &(i, x) in entries {
            add::<FMA>(&mut sums, x, rows[i as usize * n + t * WIDE..].first_chunk().expect("a tile's width"));
        }
        *tile = sums;
    }
    if !rest.is_empty() {
        for &(i, x) in entries {
            let row = &rows[(i as usize + 1) * n - rest.len()..(i as usize + 1) * n];
            rest.iter_mut().zip(row).for_each(|(o, w)| *o = mul_add::<FMA>(x, *w, *o));
        }
    }
}

#[inline(always)]
fn add<const FMA: bool>(sums: &mut [f32; WIDE], a: f32, row: &[f32; WIDE]) {
    for k in 0..WIDE {
        sums[k] = mul_add::<FMA>(a, row[k], sums[k]);
    }
}

#[inline(always)]
fn scatter_body<const FMA: bool, const MR: usize, const NR: usize>(
    rows: &mut [f32],
    entries: &[(u32, f32)],
    gradient: &[f32],
) {
    let n = gradient.len();
    for &(i, x) in entries {
        let row = &mut rows[i as usize * n..(i as usize + 1) * n];
        row.iter_mut().zip(gradient).for_each(|(r, g)| *r = mul_add::<FMA>(x, *g, *r));
    }
}

/// Rows of B a pass looks at: a packed stretch of A then stays in the first cache.
const DEPTH: usize = 256;

#[inline(always)]
fn product_body<const FMA: bool, const MR: usize, const NR: usize>(
    c: &mut [f32],
    a: &[f32],
    transposed: bool,
    b: &[f32],
    [m, n, k]: [usize; 3],
) {
    for from in (0..k).step_by(DEPTH) {
        let b = &b[from * n..DEPTH.min(k - from) * n + from * n];
        let mut i = 0;
        while i < m {
            let (a, strides) = if transposed { (&a[from * m + i..], [1, m]) } else { (&a[i * k + from..], [k, 1]) };
            let c = &mut c[i * n..];
            i += match m - i {
                left if left >= MR => band::<FMA, MR, NR>(c, a, strides, b, n),
                4.. => band::<FMA, 4, NR>(c, a, strides, b, n),
                2.. => band::<FMA, 2, NR>(c, a, strides, b, n),
                _ => band::<FMA, 1, NR>(c, a, strides, b, n),
            };
        }
    }
}

/// M rows of C. Returns M.
#[inline(always)]
fn band<const FMA: bool, const M: usize, const NR: usize>(
    c: &mut [f32],
    a: &[f32],
    [row, column]: [usize; 2],
    b: &[f32],
    n: usize,
) -> usize {
    let depth = b.len() / n;
    let mut packed = [[0.0f32; M]; DEPTH];
    for (p, packed) in packed[..depth].iter_mut().enumerate() {
        for (i, x) in packed.iter_mut().enumerate() {
            *x = a[i * row + p * column];
        }
    }
    let packed = &packed[..depth];
    let mut j = 0;
    while j + NR <= n {
        let sums = tile::<FMA, M, NR>(packed, b, n, j);
        for (i, sums) in sums.iter().enumerate() {
            c[i * n + j..i * n + j + NR].iter_mut().zip(sums).for_each(|(c, s)| *c += s);
        }
        j += NR;
    }
    if j < n {
        for (a, b) in packed.iter().zip(b.chunks_exact(n)) {
            for (a, c) in a.iter().zip(c.chunks_mut(n)) {
                c[j..n].iter_mut().zip(&b[j..]).for_each(|(c, b)| *c = mul_add::<FMA>(*a, *b, *c));
            }
        }
    }
    M
}

/// M × NR sums in registers. The rows are written out because the compiler gives up on a loop over eight of them:
/// 120 against 2 GFLOP/s with AVX-512.
#[inline(always)]
fn tile<const FMA: bool, const M: usize, const NR: usize>(
    packed: &[[f32; M]],
    b: &[f32],
    n: usize,
    j: usize,
) -> [[f32; NR]; M] {
    let mut sums = [[0.0f32; NR]; M];
    macro_rules! rows {
        ($a:ident, $b:ident, $($i:literal)*) => {$(
            if $i < M {
                let (sums, a) = (&mut sums[$i % M], $a[$i % M]);
                for k in 0..NR {
                    sums[k] = mul_add::<FMA>(a, $b[k], sums[k]);
                }
            }
        )*};
    }
    for (a, b) in packed.iter().zip(b.chunks_exact(n)) {
        let b: &[f32; NR] = b[j..].first_chunk().expect("a tile's width");
        rows!(a, b, 0 1 2 3 4 5 6 7);
    }
    sums
}

#[inline(always)]
fn add_columns_body<const FMA: bool, const MR: usize, const NR: usize>(out: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(o, x)| *o += x);
    }
}

// One loop an array: with all in one the compiler doubts that they are apart, and is ten times slower.
#[inline(always)]
fn lstm_body<const FMA: bool, const MR: usize, const NR: usize>(
    gates: &mut [f32],
    c: &mut [f32],
    h: &mut [f32],
    units: usize,
) {
    for ((gates, c), h) in
        gates.chunks_exact_mut(4 * units).zip(c.chunks_exact_mut(units)).zip(h.chunks_exact_mut(units))
    {
        let (i, rest) = gates.split_at_mut(units);
        let (f, rest) = rest.split_at_mut(units);
        let (g, o) = rest.split_at_mut(units);
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
}

/// With I = 1 + e⁻ⁱ and so on, c ← (c·I·G + (2 − G)·F) / (F·I·G) and h ← (2 − C) / (O·C), where G = 1 + e^(−2g). The
/// exponents are kept within 28, so that no product leaves the finite numbers; what that changes is below 1e-12.
#[inline(always)]
fn lstm_step_body<const FMA: bool, const MR: usize, const NR: usize>(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) {
    let one_plus = |x: f32| 1.0 + exp(x.clamp(-28.0, 28.0));
    let n = c.len();
    let (i, rest) = gates.split_at_mut(n);
    let (f, rest) = rest.split_at_mut(n);
    let (g, o) = rest.split_at_mut(n);
    i.iter_mut().for_each(|x| *x = one_plus(-*x));
    f.iter_mut().for_each(|x| *x = one_plus(-*x));
    g.iter_mut().for_each(|x| *x = one_plus(-2.0 * *x));
    o.iter_mut().for_each(|x| *x = one_plus(-*x));
    for (((c, i), f), g) in c.iter_mut().zip(&*i).zip(&*f).zip(&*g) {
        let below = i * g;
        *c = (*c * below + (2.0 - g) * f) / (f * below);
    }
    for ((h, c), o) in h.iter_mut().zip(&*c).zip(&*o) {
        let c = one_plus(-2.0 * c);
        *h = (2.0 - c) / (o * c);
    }
}

#[inline(always)]
fn lstm_back_body<const FMA: bool, const MR: usize, const NR: usize>(
    gates: &[f32],
    [before, after]: [&[f32]; 2],
    dh: &[f32],
    dc: &mut [f32],
    sums: &mut [f32],
    units: usize,
) {
    let n = units;
    for (r, (gates, sums)) in gates.chunks_exact(4 * n).zip(sums.chunks_exact_mut(4 * n)).enumerate() {
        let row = r * n..(r + 1) * n;
        let (before, after, dh) = (&before[row.clone()], &after[row.clone()], &dh[row.clone()]);
        let dc = &mut dc[row];
        let (i, rest) = gates.split_at(n);
        let (f, rest) = rest.split_at(n);
        let (g, o) = rest.split_at(n);
        let (di, rest) = sums.split_at_mut(n);
        let (df, rest) = rest.split_at_mut(n);
        let (dg, d_o) = rest.split_at_mut(n);
        for ((((d_o, dc), after), dh), o) in d_o.iter_mut().zip(&mut *dc).zip(after).zip(dh).zip(o) {
            let tanh = tanh(*after);
            *d_o = dh * tanh * o * (1.0 - o);
            *dc += dh * o * (1.0 - tanh * tanh);
        }
        for (((di, dc), g), i) in di.iter_mut().zip(&*dc).zip(g).zip(i) {
            *di = dc * g * i * (1.0 - i);
        }
        for (((df, dc), before), f) in df.iter_mut().zip(&*dc).zip(before).zip(f) {
            *df = dc * before * f * (1.0 - f);
        }
        for (((dg, dc), i), g) in dg.iter_mut().zip(&*dc).zip(i).zip(g) {
            *dg = dc * i * (1.0 - g * g);
        }
        dc.iter_mut().zip(f).for_each(|(dc, f)| *dc *= f);
    }
}

#[inline(always)]
fn gru_body<const FMA: bool, const MR: usize, const NR: usize>(
    gates: &mut [f32],
    back: &[f32],
    before: &[f32],
    h: &mut [f32],
    units: usize,
) {
    let n = units;
    for (k, (gates, h)) in gates.chunks_exact_mut(3 * n).zip(h.chunks_exact_mut(n)).enumerate() {
        let (back, before) = (&back[3 * k * n..3 * (k + 1) * n], &before[k * n..(k + 1) * n]);
        let (rz, m) = gates.split_at_mut(2 * n);
        rz.iter_mut().zip(back).for_each(|(x, b)| *x = sigmoid(*x + b));
        for ((m, b), r) in m.iter_mut().zip(&back[2 * n..]).zip(&*rz) {
            *m = tanh(*m + r * b);
        }
        for (((h, m), before), z) in h.iter_mut().zip(&*m).zip(before).zip(&rz[n..]) {
            *h = m + z * (before - m);
        }
    }
}

#[inline(always)]
fn gru_back_body<const FMA: bool, const MR: usize, const NR: usize>(
    gates: &[f32],
    before: &[f32],
    dh: &mut [f32],
    back: &mut [f32],
    sums: &mut [f32],
    units: usize,
) {
    let n = units;
    for (k, (gates, sums)) in gates.chunks_exact(3 * n).zip(sums.chunks_exact_mut(3 * n)).enumerate() {
        let row = k * n..(k + 1) * n;
        let (before, dh) = (&before[row.clone()], &mut dh[row]);
        let back = &mut back[3 * k * n..3 * (k + 1) * n];
        let (r, rest) = gates.split_at(n);
        let (z, m) = rest.split_at(n);
        let (dr, rest) = sums.split_at_mut(n);
        let (dz, dm) = rest.split_at_mut(n);
        for (((dm, dh), z), m) in dm.iter_mut().zip(&*dh).zip(z).zip(m) {
            *dm = dh * (1.0 - z) * (1.0 - m * m);
        }
        for ((((dz, dh), z), m), before) in dz.iter_mut().zip(&*dh).zip(z).zip(m).zip(before) {
            *dz = dh * (before - m) * z * (1.0 - z);
        }
        for (((dr, dm), r), b) in dr.iter_mut().zip(&*dm).zip(r).zip(&back[2 * n..]) {
            *dr = dm * b * r * (1.0 - r);
        }
        back[..n].copy_from_slice(dr);
        back[n..2 * n].copy_from_slice(dz);
        for ((b, dm), r) in back[2 * n..].iter_mut().zip(&*dm).zip(r) {
            *b = dm * r;
        }
        dh.iter_mut().zip(z).for_each(|(dh, z)| *dh *= z);
    }
}

#[inline(always)]
fn logs_body<const FMA: bool, const MR: usize, const NR: usize>(out: &mut [f32], x: &[f32], scale: f32) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = ln_1p(*x) * scale);
}

#[inline(always)]
fn adam_body<const FMA: bool, const MR: usize, const NR: usize>(
    values: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
    [rate, first, second]: [f32; 3],
) {
    for (((v, g), m), s) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
        *m = 0.9 * *m + 0.1 * g;
        *s = 0.999 * *s + 0.001 * g * g;
        *v -= rate * (*m * first) / ((*s * second).sqrt() + 1e-8);
    }
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
                    let entries: Vec<(u32, f32)> = a[..k].iter().enumerate().map(|(p, x)| (p as u32, *x)).collect();
                    let mut row = c[..n].to_vec();
                    add_sparse(&mut row, &entries, &b);
                    close(&row, &wanted[..n]);
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
