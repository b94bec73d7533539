//! The same network for candle: a batch of sessions → the loss, and its gradient by backpropagation.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::inputs::{Layout, Tracker};
use super::net::Net;
use super::ops::{Lstm, Sparse, SparseProduct};
use super::{Example, Loss, Spec};

/// Sessions side by side, time-major, shorter ones padded at their end. Padding has no inputs and no weight, and comes
/// after everything that counts, so it changes nothing.
#[derive(Debug, Default)]
pub struct Batch {
    pub sessions: usize,
    pub inputs: Arc<Sparse>,
    /// The rows whose logits count, with their targets (1 = churn) and weights.
    pub rows: Vec<u32>,
    pub targets: Vec<f32>,
    pub weights: Vec<f32>,
}

impl Batch {
    /// The sessions' inputs, through the same [`Tracker`] that serves; none longer than `spec.max_length`.
    pub fn new(examples: &[&Example], layout: &Layout, spec: &Spec) -> Batch {
        let sessions = examples.len();
        let lengths: Vec<_> = examples.iter().map(|e| length(e, spec)).collect();
        let steps = lengths.iter().copied().max().unwrap_or(0);
        let mut trackers: Vec<_> = examples.iter().map(|_| Tracker::new(layout)).collect();
        let mut sparse = Sparse { starts: vec![0], entries: Vec::new() };
        let mut batch = Batch { sessions, ..Batch::default() };
        let mut entries = Vec::with_capacity(layout.entries());
        for t in 0..steps {
            for (b, (example, tracker)) in examples.iter().zip(&mut trackers).enumerate() {
                if let Some(view) = example.views[..lengths[b]].get(t) {
                    tracker.advance(layout, view, &mut entries);
                    sparse.entries.extend_from_slice(&entries);
                    if counts(example, t, spec) {
                        batch.rows.push((t * sessions + b) as u32);
                        batch.targets.push(if example.purchased { 0.0 } else { 1.0 });
                        batch.weights.push(example.weight);
                    }
                }
                sparse.starts.push(sparse.entries.len() as u32);
            }
        }
        batch.inputs = Arc::new(sparse);
        batch
    }
}

/// How many views of a session training looks at: up to the last one that the loss counts, 0 where it counts none.
pub fn length(example: &Example, spec: &Spec) -> usize {
    let views = match spec.loss {
        Loss::EveryView => example.views,
        Loss::Last => example.cut().unwrap_or_default(),
    };
    views.len().min(spec.max_length)
}

/// Whether the loss counts the view at position `t`.
pub fn counts(example: &Example, t: usize, spec: &Spec) -> bool {
    let length = length(example, spec);
    match spec.loss {
        Loss::EveryView => t < length,
        Loss::Last => t + 1 == length,
    }
}

/// The network's weights as candle variables, in the order of [`Net::tensors`].
pub struct Graph {
    net: Net,
    pub vars: Vec<Var>,
}

impl Graph {
    pub fn new(net: Net) -> Result<Graph> {
        let vars = net
            .tensors()
            .into_iter()
            .map(|(_, shape, data)| Var::from_slice(data, shape, &Device::Cpu))
            .collect::<Result<_>>()?;
        Ok(Graph { net, vars })
    }

    /// The weights as they are now, for the step that serves.
    pub fn net(&mut self) -> Result<&Net> {
        for (to, var) in self.net.tensors_mut().into_iter().zip(&self.vars) {
            super::ops::read(var.as_tensor(), |from| to.copy_from_slice(from))?;
        }
        Ok(&self.net)
    }

    /// Logits of churn of the rows that count. `dropout` is the share of outputs zeroed, and the generator to draw them.
    pub fn logits(&self, batch: &Batch, dropout: Option<(f32, &mut Xoshiro256PlusPlus)>) -> Result<Tensor> {
        let v = |i: usize| self.vars[i].as_tensor();
        let b = batch.sessions;
        let mut y = v(0).apply_op2(v(2), SparseProduct(batch.inputs.clone()))?.apply_op2(v(1), Lstm::new(b))?;
        for l in 1..self.net.layers.len() {
            y = y.matmul(v(3 * l))?.broadcast_add(v(3 * l + 2))?.apply_op2(v(3 * l + 1), Lstm::new(b))?;
        }
        if let Some((share, rng)) = dropout.filter(|(share, _)| *share > 0.0) {
            let keep = 1.0 / (1.0 - share);
            let mask = (0..y.elem_count()).map(|_| if rng.r#gen::<f32>() < share { 0.0 } else { keep }).collect();
            y = (&y * Tensor::from_vec::<_, f32>(mask, y.shape(), &Device::Cpu)?)?;
        }
        let rows = y.dim(0)?;
        let mut pooled = y.clone();
        for back in 1..self.net.kernel {
            // Where no step lies so far back, a step's own output stands in: the maximum over the steps there are.
            let back = (back * b).min(rows);
            let earlier = Tensor::cat(&[y.narrow(0, 0, back)?, y.narrow(0, 0, rows - back)?], 0)?;
            pooled = pooled.maximum(&earlier)?;
        }
        let index = Tensor::from_slice(&batch.rows, batch.rows.len(), &Device::Cpu)?;
        let f = 3 * self.net.layers.len();
        let wide = pooled.index_select(&index, 0)?.matmul(v(f))?.broadcast_add(v(f + 1))?.relu()?;
        wide.matmul(v(f + 2))?.broadcast_add(v(f + 3))?.squeeze(1)
    }

    /// Weighted sum of the log losses over `scale`, a constant of the training: longer sessions weigh more, on purpose.
    pub fn loss(&self, batch: &Batch, scale: f64, dropout: Option<(f32, &mut Xoshiro256PlusPlus)>) -> Result<Tensor> {
        let z = self.logits(batch, dropout)?;
        let n = batch.rows.len();
        let targets = Tensor::from_slice(&batch.targets, n, &Device::Cpu)?;
        let weights = Tensor::from_slice(&batch.weights, n, &Device::Cpu)?;
        // ln(1 + e^z) - y·z, without overflow.
        let softplus = (z.relu()? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        ((softplus - z.mul(&targets)?)?.mul(&weights)?.sum_all()? / scale)?.contiguous()
    }
}
