//! Sums of rows times numbers, for [`simd`](super::simd) as the other [`kernels`](super::kernels).

use std::ops::Range;

use super::math::mul_add;

/// What a sum of rows is made of. (A trait, because closures are not compiled for the version's CPU.)
pub trait Terms {
    fn count(&self) -> usize;
    /// A row and its number.
    fn term(&self, p: usize) -> (f32, &[f32]);
}

/// Every row of a matrix, forwards or backwards.
pub struct Dense<'a, const BACK: bool> {
    pub a: &'a [f32],
    pub rows: &'a [f32],
    pub width: usize,
}

impl<const BACK: bool> Terms for Dense<'_, BACK> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.a.len()
    }

    #[inline(always)]
    fn term(&self, p: usize) -> (f32, &[f32]) {
        let p = if BACK { self.a.len() - 1 - p } else { p };
        (self.a[p], &self.rows[p * self.width..(p + 1) * self.width])
    }
}

/// The rows that entries name.
struct Sparse<'a> {
    entries: &'a [(u32, f32)],
    rows: &'a [f32],
    width: usize,
}

impl Terms for Sparse<'_> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.entries.len()
    }

    #[inline(always)]
    fn term(&self, p: usize) -> (f32, &[f32]) {
        let (i, x) = self.entries[p];
        (x, &self.rows[i as usize * self.width..(i as usize + 1) * self.width])
    }
}

#[inline(always)]
fn add<const FMA: bool, const N: usize>(sums: &mut [f32; N], (x, row): (f32, &[f32]), from: usize) {
    let row: &[f32; N] = row[from..].first_chunk().expect("a strip's width");
    for k in 0..N {
        sums[k] = mul_add::<FMA>(x, row[k], sums[k]);
    }
}

/// out (N) += the rows' columns from `from` on: N sums in each of CHAINS sets of registers. A multiply-add takes four
/// cycles and two begin in one, so that eight registers of sums must be under way.
#[inline(always)]
fn strip<const FMA: bool, const N: usize, const CHAINS: usize>(out: &mut [f32], terms: &impl Terms, from: usize) {
    let out: &mut [f32; N] = out.first_chunk_mut().expect("a strip's width");
    let (mut first, mut second, mut third, mut fourth) = (*out, [0.0; N], [0.0; N], [0.0; N]);
    let (mut p, count) = (0, terms.count());
    while CHAINS > 1 && p + CHAINS <= count {
        add::<FMA, N>(&mut first, terms.term(p), from);
        add::<FMA, N>(&mut second, terms.term(p + 1), from);
        if CHAINS == 4 {
            add::<FMA, N>(&mut third, terms.term(p + 2), from);
            add::<FMA, N>(&mut fourth, terms.term(p + 3), from);
        }
        p += CHAINS;
    }
    while p < count {
        add::<FMA, N>(&mut first, terms.term(p), from);
        p += 1;
    }
    if CHAINS > 1 {
        first.iter_mut().zip(second).for_each(|(a, b)| *a += b);
    }
    if CHAINS == 4 {
        first.iter_mut().zip(third).zip(fourth).for_each(|((a, b), c)| *a += b + c);
    }
    *out = first;
}

/// out += the rows' columns from `from` on, in strips as wide as the registers allow.
#[inline(always)]
pub fn add_terms<const FMA: bool, const NR: usize>(out: &mut [f32], terms: &impl Terms, from: usize) {
    let n = out.len();
    let mut j = 0;
    macro_rules! strips {
        ($($width:literal $chains:literal)*) => {{$(
            while n - j >= $width {
                strip::<FMA, $width, $chains>(&mut out[j..], terms, from + j);
                j += $width;
            }
        )*}};
    }
    match NR {
        32 => strips!(128 1  64 2  32 4  16 4),
        16 => strips!(64 1  32 2  16 4),
        _ => strips!(32 1  16 2),
    }
    if j < n {
        for p in 0..terms.count() {
            let (x, row) = terms.term(p);
            out[j..].iter_mut().zip(&row[from + j..from + n]).for_each(|(o, w)| *o = mul_add::<FMA>(x, *w, *o));
        }
    }
}

#[inline(always)]
pub fn add_rows_body<const FMA: bool, const MR: usize, const NR: usize>(out: &mut [f32], a: &[f32], rows: &[f32]) {
    let width = out.len();
    add_terms::<FMA, NR>(out, &Dense::<false> { a, rows, width }, 0);
}

/// Sessions that are advanced side by side: what a row of weights costs is to fetch it.
pub const LANES: usize = 4;

/// To the bit what [`add_rows_body`] gives for each.
#[inline(always)]
pub fn add_rows_beside_body<const FMA: bool, const MR: usize, const NR: usize>(
    out: [&mut [f32]; LANES],
    a: [&[f32]; LANES],
    rows: &[f32],
) {
    let width = out[0].len();
    // What add_terms() sums in one chain, in order, is summed in that order here.
    let whole = width / (4 * NR) * (4 * NR);
    let mut out = out;
    let mut j = 0;
    while j < whole {
        match NR {
            32 => strip_beside::<FMA, 64>(&mut out, a, rows, width, j),
            16 => strip_beside::<FMA, 16>(&mut out, a, rows, width, j),
            _ => strip_beside::<FMA, 8>(&mut out, a, rows, width, j),
        }
        j += match NR {
            32 => 64,
            16 => 16,
            _ => 8,
        };
    }
    if whole < width {
        for (out, a) in out.into_iter().zip(a) {
            add_terms::<FMA, NR>(&mut out[whole..], &Dense::<false> { a, rows, width }, whole);
        }
    }
}

/// N columns of each, in registers.
#[inline(always)]
fn strip_beside<const FMA: bool, const N: usize>(
    out: &mut [&mut [f32]; LANES],
    [a, b, c, d]: [&[f32]; LANES],
    rows: &[f32],
    width: usize,
    from: usize,
) {
    let sums = |out: &[f32]| -> [f32; N] { *out[from..].first_chunk().expect("a strip's width") };
    let (mut first, mut second, mut third, mut fourth) = (sums(out[0]), sums(out[1]), sums(out[2]), sums(out[3]));
    for ((((row, a), b), c), d) in rows.chunks_exact(width).zip(a).zip(b).zip(c).zip(d) {
        add::<FMA, N>(&mut first, (*a, row), from);
        add::<FMA, N>(&mut second, (*b, row), from);
        add::<FMA, N>(&mut third, (*c, row), from);
        add::<FMA, N>(&mut fourth, (*d, row), from);
    }
    for (out, sums) in out.iter_mut().zip([first, second, third, fourth]) {
        out[from..from + N].copy_from_slice(&sums);
    }
}

#[inline(always)]
pub fn add_sparse_body<const FMA: bool, const MR: usize, const NR: usize>(
    out: &mut [f32],
    entries: &[(u32, f32)],
    rows: &[f32],
) {
    let width = out.len();
    add_terms::<FMA, NR>(out, &Sparse { entries, rows, width }, 0);
}

/// Columns of W that stand packed in the first cache while every row of entries passes over them.
pub const PACKED: usize = 128;

#[inline(always)]
pub fn sparse_product_body<const FMA: bool, const MR: usize, const NR: usize>(
    out: &mut [f32],
    bias: &[f32],
    (entries, ranges): (&[(u32, f32)], &[Range<u32>]),
    w: &[f32],
    packed: &mut [f32],
) {
    let n = bias.len();
    let whole = if packed.is_empty() { 0 } else { n / PACKED * PACKED };
    for j in (0..whole).step_by(PACKED) {
        for (to, row) in packed.chunks_exact_mut(PACKED).zip(w.chunks_exact(n)) {
            to.copy_from_slice(&row[j..j + PACKED]);
        }
        for (out, r) in out.chunks_exact_mut(n).zip(ranges) {
            let entries = &entries[r.start as usize..r.end as usize];
            let out = &mut out[j..j + PACKED];
            out.copy_from_slice(&bias[j..j + PACKED]);
            add_terms::<FMA, NR>(out, &Sparse { entries, rows: packed, width: PACKED }, 0);
        }
    }
    if whole < n {
        for (out, r) in out.chunks_exact_mut(n).zip(ranges) {
            let entries = &entries[r.start as usize..r.end as usize];
            let out = &mut out[whole..];
            out.copy_from_slice(&bias[whole..]);
            add_terms::<FMA, NR>(out, &Sparse { entries, rows: w, width: n }, whole);
        }
    }
}

/// Views after which running sums begin again.
pub const FRESH: usize = 32;

/// The widest strip of [`running_product_body`].
pub const TILE: usize = 64;

/// The inputs of consecutive rows as changes from row to row.
///
/// An entry (place, x) adds x times what is at that place: the sums of inputs that several rows share come first, then the
/// inputs that are named at all.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    pub entries: &'a [(u32, f32)],
    /// Where each row's three stretches of entries end: changes of the sum that stays, changes of the one that fades, and
    /// what is of this row alone. Every [`FRESH`] rows both sums begin again, so that rounding does not add up.
    pub ends: &'a [[u32; 3]],
    pub used: &'a [u32],
    /// Those that the shared sums are of, among `used`, and where each sum's end.
    pub parts: &'a [u32],
    pub shared: &'a [u32],
}

impl Changes<'_> {
    /// How many places there are.
    pub fn rows(&self) -> usize {
        self.shared.len() + self.used.len()
    }

    /// The places among `used` that a shared sum is of.
    #[inline(always)]
    fn parts(&self, sum: usize) -> &[u32] {
        let from = if sum == 0 { 0 } else { self.shared[sum - 1] };
        &self.parts[from as usize..self.shared[sum] as usize]
    }

    /// The inputs at a place.
    #[cfg(test)]
    pub fn inputs(&self, place: usize) -> impl Iterator<Item = usize> {
        let own = (place as u32).checked_sub(self.shared.len() as u32);
        let parts = if own.is_none() { self.parts(place) } else { &[] };
        own.into_iter().chain(parts.iter().copied()).map(|i| self.used[i as usize] as usize)
    }
}

#[inline(always)]
pub fn running_product_body<const FMA: bool, const MR: usize, const NR: usize>(
    out: &mut [f32],
    bias: &[f32],
    changes: &Changes,
    w: &[f32],
    packed: &mut [f32],
    fade: f32,
) {
    let n = bias.len();
    let mut j = 0;
    macro_rules! strips {
        ($($width:literal)*) => {{$(
            while n - j >= $width {
                running::<FMA, $width>(out, &bias[j..], changes, w, packed, (j, n, fade));
                j += $width;
            }
        )*}};
    }
    match NR {
        32 => strips!(64 16 4 1),
        16 => strips!(32 8 4 1),
        _ => strips!(16 4 1),
    }
}

/// Columns from j on: a sum that stays, one that fades from row to row, and what is of one row alone, in registers.
#[inline(always)]
fn running<const FMA: bool, const N: usize>(
    out: &mut [f32],
    bias: &[f32],
    changes: &Changes,
    w: &[f32],
    packed: &mut [f32],
    (j, n, fade): (usize, usize, f32),
) {
    let packed = &mut packed.as_chunks_mut::<N>().0[..changes.rows()];
    let (shared, used) = packed.split_at_mut(changes.shared.len());
    for (to, &row) in used.iter_mut().zip(changes.used) {
        to.copy_from_slice(&w[row as usize * n + j..][..N]);
    }
    for (i, to) in shared.iter_mut().enumerate() {
        let mut sums = [0.0; N];
        for &part in changes.parts(i) {
            sums.iter_mut().zip(&used[part as usize]).for_each(|(s, x)| *s += x);
        }
        *to = sums;
    }
    let entries = changes.entries;
    let bias: &[f32; N] = bias.first_chunk().expect("a strip's width");
    let (mut stays, mut fades) = (*bias, [0.0; N]);
    let mut from = 0;
    for (t, (out, &[lasting, fading, alone])) in out.chunks_exact_mut(n).zip(changes.ends).enumerate() {
        if t % FRESH == 0 {
            (stays, fades) = (*bias, [0.0; N]);
        } else {
            fades.iter_mut().for_each(|x| *x *= fade);
        }
        for &(i, x) in &entries[from..lasting as usize] {
            add::<FMA, N>(&mut stays, (x, &packed[i as usize]), 0);
        }
        for &(i, x) in &entries[lasting as usize..fading as usize] {
            add::<FMA, N>(&mut fades, (x, &packed[i as usize]), 0);
        }
        let mut sums = stays;
        sums.iter_mut().zip(&fades).for_each(|(s, f)| *s += f);
        for &(i, x) in &entries[fading as usize..alone as usize] {
            add::<FMA, N>(&mut sums, (x, &packed[i as usize]), 0);
        }
        out[j..j + N].copy_from_slice(&sums);
        from = alone as usize;
    }
}
