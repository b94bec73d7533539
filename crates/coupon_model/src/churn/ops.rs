//! Two operations that candle differentiates through as one node each, because a graph of single steps costs more in
//! bookkeeping than in arithmetic: the sparse input product, and a whole LSTM layer with its backward pass.
//!
//! Rows are time-major: step t of session b of B is row t·B + b.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, D, DType, Device, Layout, Result, Shape, Storage, Tensor};

use super::math::{axpy, cell};

/// The inputs of a batch: row r holds `entries[starts[r]..starts[r + 1]]`; rows of padding hold none.
#[derive(Debug, Default)]
pub struct Sparse {
    pub starts: Vec<u32>,
    pub entries: Vec<(u32, f32)>,
}

impl Sparse {
    fn rows(&self) -> impl Iterator<Item = &[(u32, f32)]> {
        self.starts.windows(2).map(|s| &self.entries[s[0] as usize..s[1] as usize])
    }
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => candle_core::bail!("a contiguous tensor is needed"),
    }
}

/// Reads a tensor's numbers where they lie.
pub fn read<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match storage.deref() {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => candle_core::bail!("a tensor on the CPU is needed"),
    }
}

/// (w: F × N, b: N) → rows × N: b + Σ x_i · w_i for every row.
pub struct SparseProduct(pub Arc<Sparse>);

impl CustomOp2 for SparseProduct {
    fn name(&self) -> &'static str {
        "sparse-product"
    }

    fn cpu_fwd(&self, w: &CpuStorage, wl: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (w, b) = (slice(w, wl)?, slice(b, bl)?);
        let n = b.len();
        let rows = self.0.starts.len() - 1;
        let mut out = Vec::with_capacity(rows * n);
        for entries in self.0.rows() {
            let start = out.len();
            out.extend_from_slice(b);
            for &(i, x) in entries {
                axpy(&mut out[start..], x, &w[i as usize * n..][..n]);
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((rows, n))))
    }

    fn bwd(&self, w: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = b.elem_count();
        let mut dw = vec![0.0; w.elem_count()];
        read(grad, |grad| {
            for (entries, grad) in self.0.rows().zip(grad.chunks_exact(n)) {
                for &(i, x) in entries {
                    axpy(&mut dw[i as usize * n..][..n], x, grad);
                }
            }
        })?;
        Ok((Some(Tensor::from_vec(dw, w.shape(), &Device::Cpu)?), Some(grad.sum(0)?)))
    }
}

/// What the backward pass needs of the forward one.
struct Saved {
    /// Activations of the gates, rows × 4H.
    gates: Vec<f32>,
    /// Cells after each step, rows × H.
    cells: Vec<f32>,
}

/// (sums of the inputs: T·B × 4H, u: H × 4H) → outputs T·B × H, from a state of zeros.
pub struct Lstm {
    batch: usize,
    saved: OnceLock<Saved>,
}

impl Lstm {
    pub fn new(batch: usize) -> Lstm {
        Lstm { batch, saved: OnceLock::new() }
    }
}

impl CustomOp2 for Lstm {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, u: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, n4) = xl.shape().dims2()?;
        let (n, b) = (n4 / 4, self.batch);
        let u = Tensor::from_slice(slice(u, ul)?, (n, n4), &Device::Cpu)?;
        let mut gates = slice(x, xl)?.to_vec();
        let mut cells = vec![0.0; rows * n];
        let mut outputs = vec![0.0; rows * n];
        for t in 0..rows / b {
            let at = t * b;
            if t > 0 {
                let previous = Tensor::from_slice(&outputs[(at - b) * n..at * n], (b, n), &Device::Cpu)?;
                let sums = &mut gates[at * n4..(at + b) * n4];
                read(&previous.matmul(&u)?, |r| axpy(sums, 1.0, r))?;
                cells.copy_within((at - b) * n..at * n, at * n);
            }
            for r in at..at + b {
                let (h, c) = (&mut outputs[r * n..(r + 1) * n], &mut cells[r * n..(r + 1) * n]);
                cell(&mut gates[r * n4..(r + 1) * n4], c, h);
            }
        }
        let _ = self.saved.set(Saved { gates, cells });
        Ok((CpuStorage::F32(outputs), Shape::from((rows, n))))
    }

    fn bwd(&self, x: &Tensor, u: &Tensor, out: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(Saved { gates, cells }) = self.saved.get() else { candle_core::bail!("backward before forward") };
        let (rows, n4) = x.dims2()?;
        let (n, b) = (n4 / 4, self.batch);
        let back = u.detach().t()?.contiguous()?;
        let mut sums = vec![0.0; rows * n4];
        let mut dc = vec![0.0; b * n];
        let zeros = vec![0.0; n];
        read(grad, |grad| -> Result<()> {
            for t in (0..rows / b).rev() {
                let at = t * b;
                let mut dh = grad[at * n..(at + b) * n].to_vec();
                if at + b < rows {
                    let later = Tensor::from_slice(&sums[(at + b) * n4..(at + 2 * b) * n4], (b, n4), &Device::Cpu)?;
                    read(&later.matmul(&back)?, |r| axpy(&mut dh, 1.0, r))?;
                }
                for r in 0..b {
                    let row = at + r;
                    let before = if t > 0 { &cells[(row - b) * n..(row - b + 1) * n] } else { &zeros };
                    cell_backward(
                        &gates[row * n4..(row + 1) * n4],
                        [before, &cells[row * n..(row + 1) * n], &dh[r * n..(r + 1) * n]],
                        &mut dc[r * n..(r + 1) * n],
                        &mut sums[row * n4..(row + 1) * n4],
                    );
                }
            }
            Ok(())
        })??;
        let sums = Tensor::from_vec(sums, (rows, n4), &Device::Cpu)?;
        // One product for the gradient of u over all steps: outputs one step earlier against the sums.
        let du = if rows > b {
            out.detach().narrow(0, 0, rows - b)?.t()?.matmul(&sums.narrow(0, b, rows - b)?)?
        } else {
            Tensor::zeros((n, n4), DType::F32, &Device::Cpu)?
        };
        debug_assert_eq!(du.dim(D::Minus1)?, n4);
        Ok((Some(sums), Some(du)))
    }
}

/// Gradients of one cell: from dh and dc (of this step) to those of the gates' sums; `dc` leaves as that of the step
/// before. With i, f, g, o activated: c = f·c₋ + i·g, h = o·tanh(c).
fn cell_backward(gates: &[f32], [before, after, dh]: [&[f32]; 3], dc: &mut [f32], sums: &mut [f32]) {
    let n = dc.len();
    let (i, rest) = gates.split_at(n);
    let (f, rest) = rest.split_at(n);
    let (g, o) = rest.split_at(n);
    let (di, rest) = sums.split_at_mut(n);
    let (df, rest) = rest.split_at_mut(n);
    let (dg, d_o) = rest.split_at_mut(n);
    for k in 0..n {
        let tanh = super::math::tanh(after[k]);
        let d = dc[k] + dh[k] * o[k] * (1.0 - tanh * tanh);
        di[k] = d * g[k] * i[k] * (1.0 - i[k]);
        df[k] = d * before[k] * f[k] * (1.0 - f[k]);
        dg[k] = d * i[k] * (1.0 - g[k] * g[k]);
        d_o[k] = dh[k] * tanh * o[k] * (1.0 - o[k]);
        dc[k] = d * f[k];
    }
}
