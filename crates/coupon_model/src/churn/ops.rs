//! The operations of the training graph that are worth a kernel of their own: products with few inputs, dense products
//! and recurrences over the rows of a batch. Everything else is candle's.
//!
//! candle's own matmul would ask the machine for a number of threads; these run on the thread that calls them.

use std::ops::Deref;
use std::sync::{Arc, Mutex, RwLockReadGuard};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Error, Layout, Result, Shape, Storage, Tensor};

use super::aligned::Aligned;
use super::batch::Batch;
use super::recurrent::{Layer, transpose};
use super::simd::{PACKED, add_columns, product, scatter, sparse_product};
use super::spec::Cell;

/// A tensor's numbers, held while they are read.
struct Numbers<'a>(RwLockReadGuard<'a, Storage>, (usize, usize));

impl Numbers<'_> {
    fn of(tensor: &Tensor) -> Result<Numbers<'_>> {
        let (storage, layout) = tensor.storage_and_layout();
        let place = range(layout)?;
        match matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
            true => Ok(Numbers(storage, place)),
            false => Err(Error::Msg("numbers of single precision on the CPU expected".into())),
        }
    }
}

impl Deref for Numbers<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.0 {
            Storage::Cpu(CpuStorage::F32(numbers)) => &numbers[self.1.0..self.1.1],
            _ => &[],
        }
    }
}

fn range(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "coupon_model" })
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (from, to) = range(layout)?;
    Ok(&storage.as_slice::<f32>()?[from..to])
}

fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(numbers, shape.into(), &Device::Cpu)
}

/// Every row the same.
pub fn repeat(row: &[f32], rows: &mut [f32]) {
    rows.chunks_exact_mut(row.len()).for_each(|to| to.copy_from_slice(row));
}

/// A batch's inputs times w (inputs × N) plus b (N): one row a view.
pub struct SparseProduct(pub Arc<Batch>);

impl SparseProduct {
    /// `out` is rows × N.
    pub fn forward(batch: &Batch, w: &[f32], b: &[f32], packed: &mut Aligned, out: &mut [f32]) {
        let (inputs, entries) = (w.len() / b.len(), batch.entries());
        // Packing costs as much as some views' sums.
        let pays = entries.0.len() > 4 * inputs;
        let packed = packed.sized(if pays { inputs * PACKED } else { 0 });
        sparse_product(out, b, entries, w, packed);
    }
}

impl CustomOp2 for SparseProduct {
    fn name(&self) -> &'static str {
        "sparse product"
    }

    fn cpu_fwd(&self, w: &CpuStorage, wl: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (w, b) = (slice(w, wl)?, slice(b, bl)?);
        let mut out = vec![0.0; self.0.rows() * b.len()];
        SparseProduct::forward(&self.0, w, b, &mut Aligned::default(), &mut out);
        Ok((CpuStorage::F32(out), (self.0.rows(), b.len()).into()))
    }

    fn bwd(&self, w: &Tensor, b: &Tensor, _: &Tensor, of_out: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_out = of_out.contiguous()?;
        let (of_out, n) = (Numbers::of(&of_out)?, b.elem_count());
        let (mut of_w, mut of_b) = (vec![0.0; w.elem_count()], vec![0.0; n]);
        self.0.inputs().zip(of_out.chunks_exact(n)).for_each(|(x, row)| scatter(&mut of_w, x, row));
        add_columns(&mut of_b, &of_out);
        Ok((Some(tensor(of_w, w.shape())?), Some(tensor(of_b, n)?)))
    }
}

/// x (rows × M) times w (M × N) plus b (N).
pub struct DenseProduct;

impl CustomOp3 for DenseProduct {
    fn name(&self) -> &'static str {
        "dense product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, m) = xl.shape().dims2()?;
        let (x, w, b) = (slice(x, xl)?, slice(w, wl)?, slice(b, bl)?);
        let mut out = vec![0.0; rows * b.len()];
        repeat(b, &mut out);
        product(&mut out, x, false, w, [rows, b.len(), m]);
        Ok((CpuStorage::F32(out), (rows, b.len()).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
        of_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((rows, m), n) = (x.dims2()?, w.dim(1)?);
        let of_out = of_out.contiguous()?;
        let of_out = Numbers::of(&of_out)?;
        let (mut of_x, mut of_w, mut of_b) = (vec![0.0; rows * m], vec![0.0; m * n], vec![0.0; n]);
        let mut transposed = Aligned::default();
        transpose(transposed.sized(m * n), &Numbers::of(w)?, n);
        product(&mut of_x, &of_out, false, &transposed, [rows, m, n]);
        product(&mut of_w, &Numbers::of(x)?, true, &of_out, [m, n, rows]);
        add_columns(&mut of_b, &of_out);
        Ok((Some(tensor(of_x, (rows, m))?), Some(tensor(of_w, (m, n))?), Some(tensor(of_b, n)?)))
    }
}

/// All steps of a recurrent layer: sums from below (rows × gates·H), u (H × gates·H) and r (H; empty but for a GRU) →
/// outputs (rows × H).
pub struct Recurrence {
    cell: Cell,
    batch: Arc<Batch>,
    /// Activations, and what else the way back needs.
    kept: Mutex<Option<[Vec<f32>; 2]>>,
}

impl Recurrence {
    pub fn new(cell: Cell, batch: &Arc<Batch>) -> Recurrence {
        Recurrence { cell, batch: batch.clone(), kept: Mutex::default() }
    }
}

impl CustomOp3 for Recurrence {
    fn name(&self) -> &'static str {
        "recurrence"
    }

    fn cpu_fwd(
        &self,
        sums: &CpuStorage,
        sl: &Layout,
        u: &CpuStorage,
        ul: &Layout,
        r: &CpuStorage,
        rl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((hidden, _), rows) = (ul.shape().dims2()?, self.batch.rows());
        let mut aligned = Aligned::default();
        aligned.sized(ul.shape().elem_count()).copy_from_slice(slice(u, ul)?);
        let layer = Layer { cell: self.cell, hidden, u: &aligned, r: slice(r, rl)? };
        let mut gates = slice(sums, sl)?.to_vec();
        let (mut kept, mut outputs) = (vec![0.0; rows * layer.kept()], vec![0.0; rows * hidden]);
        layer.forward(&self.batch, &mut gates, &mut kept, &mut outputs);
        if let Ok(mut place) = self.kept.lock() {
            *place = Some([gates, kept]);
        }
        Ok((CpuStorage::F32(outputs), (rows, hidden).into()))
    }

    fn bwd(
        &self,
        sums: &Tensor,
        u: &Tensor,
        r: &Tensor,
        outputs: &Tensor,
        of_outputs: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let kept = self.kept.lock().ok().and_then(|mut kept| kept.take());
        let [gates, mut kept] = kept.ok_or(Error::BackwardNotSupported { op: "recurrence, a second time" })?;
        let of_outputs = of_outputs.contiguous()?;
        let mut of_outputs = Numbers::of(&of_outputs)?.to_vec();
        let [mut of_sums, mut of_u, mut of_r] = [sums, u, r].map(|t| vec![0.0; t.elem_count()]);
        let numbers = (Numbers::of(u)?, Numbers::of(r)?);
        let layer = Layer { cell: self.cell, hidden: u.dim(0)?, u: &numbers.0, r: &numbers.1 };
        let forward = (&*gates, &mut *kept, &*Numbers::of(outputs)?);
        layer.backward(&self.batch, forward, &mut of_outputs, &mut of_sums, [&mut of_u, &mut of_r]);
        let [of_sums, of_u, of_r] = [(of_sums, sums), (of_u, u), (of_r, r)].map(|(g, t)| tensor(g, t.shape()));
        let of_r = if self.cell == Cell::Gru { Some(of_r?) } else { None };
        Ok((Some(of_sums?), Some(of_u?), of_r))
    }
}
