//! All steps of one session's LSTM, for [`simd`](super::simd) as the other [`kernels`](super::kernels).

use super::kernels::lstm_step_body;
use super::math::mul_add;
use super::sums::{Dense, add_terms};

/// Every other step walks U backwards: of its 64 KB (at 64 units) the first cache then still holds what the step before
/// walked last.
#[inline(always)]
pub fn lstm_alone_body<const FMA: bool, const MR: usize, const NR: usize>(
    gates: &mut [f32],
    u: &[f32],
    c: &mut [f32],
    h: &mut [f32],
) {
    let (n, width) = (c.len(), 4 * c.len());
    // Widths known to the compiler, where there are registers for a strip's four gates.
    match (NR, n) {
        (32, 32) => return lstm_strips::<FMA, MR, NR, 32, 128>(gates, u, c, h),
        (32, 64) => return lstm_strips::<FMA, MR, NR, 64, 256>(gates, u, c, h),
        (32, 128) => return lstm_strips::<FMA, MR, NR, 128, 512>(gates, u, c, h),
        _ => {}
    }
    for (t, gates) in gates.chunks_exact_mut(width).enumerate() {
        let (done, h) = h.split_at_mut(t * n);
        if t > 0 {
            let a = &done[(t - 1) * n..];
            match t % 2 {
                0 => add_terms::<FMA, NR>(gates, &Dense::<false> { a, rows: u, width }, 0),
                _ => add_terms::<FMA, NR>(gates, &Dense::<true> { a, rows: u, width }, 0),
            }
        }
        lstm_step_body::<FMA, MR, NR>(gates, c, &mut h[..n]);
    }
}

/// Units whose four gates are summed in registers at a time.
const UNITS: usize = 32;

/// N units, G gates. A strip's cells follow its sums, so that they run beside the next strip's products. Strips and rows
/// of U go to and fro; the units that the step before finished last come last.
#[inline(always)]
fn lstm_strips<const FMA: bool, const MR: usize, const NR: usize, const N: usize, const G: usize>(
    gates: &[f32],
    u: &[f32],
    c: &mut [f32],
    h: &mut [f32],
) {
    let u: &[[f32; G]; N] = u.as_chunks::<G>().0.first_chunk().expect("a row of U a unit");
    let c = c.as_chunks_mut::<UNITS>().0;
    let zeros = [0.0; N];
    for (t, gates) in gates.as_chunks::<G>().0.iter().enumerate() {
        let (done, h) = h.split_at_mut(t * N);
        let before = done.last_chunk::<N>().unwrap_or(&zeros);
        for k in 0..N / UNITS {
            let k = if t % 2 == 0 { k } else { N / UNITS - 1 - k };
            let mut sums = match t % 2 {
                0 => strip_sums::<FMA, N, G, true>(gates, before, u, k * UNITS),
                _ => strip_sums::<FMA, N, G, false>(gates, before, u, k * UNITS),
            };
            lstm_step_body::<FMA, MR, NR>(sums.as_flattened_mut(), &mut c[k], &mut h[k * UNITS..][..UNITS]);
        }
    }
}

/// The four gates' sums of the units from `from` on.
#[inline(always)]
fn strip_sums<const FMA: bool, const N: usize, const G: usize, const BACK: bool>(
    gates: &[f32; G],
    h: &[f32; N],
    u: &[[f32; G]; N],
    from: usize,
) -> [[f32; UNITS]; 4] {
    assert!(from + UNITS <= N && 4 * N == G);
    let mut sums = [[0.0; UNITS]; 4];
    for g in 0..4 {
        sums[g].copy_from_slice(&gates[g * N + from..][..UNITS]);
    }
    for p in 0..N {
        let p = if BACK { N - 1 - p } else { p };
        let (x, row) = (h[p], &u[p]);
        for g in 0..4 {
            for k in 0..UNITS {
                sums[g][k] = mul_add::<FMA>(x, row[g * N + from + k], sums[g][k]);
            }
        }
    }
    sums
}
