//! What [`simd`](super::simd) compiles for each kind of CPU: plain Rust that the compiler vectorises. The three numbers
//! are those of a version: whether it has FMA, and the rows and columns of C that the matrix product keeps in registers.

use super::math::{ln_1p, mul_add, one_plus_exp, sigmoid, tanh};

#[inline(always)]
pub fn scatter_body<const FMA: bool, const MR: usize, const NR: usize>(
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
pub fn product_body<const FMA: bool, const MR: usize, const NR: usize>(
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
pub fn add_columns_body<const FMA: bool, const MR: usize, const NR: usize>(out: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(o, x)| *o += x);
    }
}

// One loop an array: with all in one the compiler doubts that they are apart, and is ten times slower.
#[inline(always)]
pub fn lstm_body<const FMA: bool, const MR: usize, const NR: usize>(
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
        i.iter_mut().for_each(|x| *x = sigmoid::<FMA>(*x));
        f.iter_mut().for_each(|x| *x = sigmoid::<FMA>(*x));
        g.iter_mut().for_each(|x| *x = tanh::<FMA>(*x));
        o.iter_mut().for_each(|x| *x = sigmoid::<FMA>(*x));
        for (((c, i), f), g) in c.iter_mut().zip(&*i).zip(&*f).zip(&*g) {
            *c = f * *c + i * g;
        }
        for ((h, c), o) in h.iter_mut().zip(&*c).zip(&*o) {
            *h = o * tanh::<FMA>(*c);
        }
    }
}

#[inline(always)]
fn one_plus<const FMA: bool>(x: f32) -> f32 {
    one_plus_exp::<FMA>(x, 28.0)
}

/// With I = 1 + e⁻ⁱ and so on, c ← (c·I·G + (2 − G)·F) / (F·I·G) and h ← (2 − C) / (O·C), where G = 1 + e^(−2g). The
/// exponents are kept within 28, so that no product leaves the finite numbers; what that changes is below 1e-12.
#[inline(always)]
pub fn lstm_step_body<const FMA: bool, const MR: usize, const NR: usize>(
    gates: &mut [f32],
    c: &mut [f32],
    h: &mut [f32],
) {
    let n = c.len();
    let (i, rest) = gates.split_at_mut(n);
    let (f, rest) = rest.split_at_mut(n);
    let (g, o) = rest.split_at_mut(n);
    i.iter_mut().for_each(|x| *x = one_plus::<FMA>(-*x));
    f.iter_mut().for_each(|x| *x = one_plus::<FMA>(-*x));
    g.iter_mut().for_each(|x| *x = one_plus::<FMA>(-2.0 * *x));
    o.iter_mut().for_each(|x| *x = one_plus::<FMA>(-*x));
    for (((c, i), f), g) in c.iter_mut().zip(&*i).zip(&*f).zip(&*g) {
        let below = i * g;
        *c = (*c * below + (2.0 - g) * f) / (f * below);
    }
    for ((h, c), o) in h.iter_mut().zip(&*c).zip(&*o) {
        let c = one_plus::<FMA>(-2.0 * c);
        *h = (2.0 - c) / (o * c);
    }
}

#[inline(always)]
pub fn lstm_back_body<const FMA: bool, const MR: usize, const NR: usize>(
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
            let tanh = tanh::<FMA>(*after);
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
pub fn gru_body<const FMA: bool, const MR: usize, const NR: usize>(
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
        rz.iter_mut().zip(back).for_each(|(x, b)| *x = sigmoid::<FMA>(*x + b));
        for ((m, b), r) in m.iter_mut().zip(&back[2 * n..]).zip(&*rz) {
            *m = tanh::<FMA>(*m + r * b);
        }
        for (((h, m), before), z) in h.iter_mut().zip(&*m).zip(before).zip(&rz[n..]) {
            *h = m + z * (before - m);
        }
    }
}

#[inline(always)]
pub fn gru_back_body<const FMA: bool, const MR: usize, const NR: usize>(
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
pub fn logs_body<const FMA: bool, const MR: usize, const NR: usize>(out: &mut [f32], x: &[f32], scale: f32) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = ln_1p(*x) * scale);
}
