//! The network as it is trained: candle's graph over a batch, from inputs to the loss. Gradients are candle's own, but
//! for the three operations of [`ops`](super::ops).
//!
//! Rows are those of a [`Batch`]: one a view. A module has its tensors and `forward`, as candle-nn's have; what else a
//! session's views need of each other goes through [`Batch::earlier`] and `index_select`.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use rand::RngCore;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::batch::Batch;
use super::net::{Net, Shape};
use super::ops::{DenseProduct, Recurrence, SparseProduct};
use super::spec::{Cell, Pooling};

/// All modules, and the variables that they share with the optimiser, in the order of [`Shape::tensors`].
pub struct Network {
    shape: Shape,
    vars: Vec<(String, Var)>,
    convolution: Option<Convolution>,
    layers: Vec<Recurrent>,
    pool: Pool,
    f1: Linear,
    f2: Linear,
}

impl Network {
    pub fn new(net: &Net) -> Result<Network> {
        let shape = net.shape;
        let var = |(name, dims, place): (String, Vec<usize>, std::ops::Range<usize>)| {
            Ok((name, Var::from_slice(&net.values[place], dims, &Device::Cpu)?))
        };
        let vars: Vec<(String, Var)> = shape.tensors().into_iter().map(var).collect::<Result<_>>()?;
        let named: HashMap<String, Tensor> =
            vars.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
        let vb = VarBuilder::from_tensors(named, DType::F32, &Device::Cpu);
        let convolution = (shape.channels > 0).then(|| Convolution::new(&shape, vb.pp("convolution"))).transpose()?;
        let layers = (0..shape.layers).map(|l| Recurrent::new(&shape, l, vb.pp(l))).collect::<Result<_>>()?;
        let pool = Pool { pooling: shape.pooling, kernel: shape.kernel, stride: shape.stride };
        let f1 = Linear::new(shape.hidden, shape.feed_forward, vb.pp("f1"))?;
        let f2 = Linear::new(shape.feed_forward, 1, vb.pp("f2"))?;
        Ok(Network { shape, vars, convolution, layers, pool, f1, f2 })
    }

    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.vars.iter().map(|(_, var)| var)
    }

    /// Its numbers, as they serve.
    pub fn net(&self) -> Result<Net> {
        let mut vars = self.vars();
        Net::build(self.shape, |_, _, to| {
            if let Some(var) = vars.next() {
                to.copy_from_slice(&var.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(())
        })
    }

    /// Logits of churn of the views that count, in their order. `dropout` is the share of outputs zeroed, and the
    /// generator to draw them.
    pub fn forward(&self, batch: &Arc<Batch>, dropout: Option<(f32, &mut Xoshiro256PlusPlus)>) -> Result<Tensor> {
        if batch.counted.is_empty() {
            return Tensor::zeros(0, DType::F32, &Device::Cpu);
        }
        let mut x = self.convolution.as_ref().map(|convolution| convolution.forward(batch)).transpose()?;
        for layer in &self.layers {
            x = Some(layer.forward(x.as_ref(), batch)?);
        }
        let mut x = x.ok_or_else(|| candle_core::Error::Msg("a network has a layer".into()))?;
        if let Some((share, rng)) = dropout.filter(|(share, _)| *share > 0.0) {
            x = x.mul(&draw(x.dims(), share, rng)?)?;
        }
        let x = self.pool.forward(&x, batch)?;
        self.f2.forward(&self.f1.forward(&x)?.relu()?)?.squeeze(1)
    }
}

/// The log loss of the views that count, each with its session's weight and that of its class (`churned`, else
/// purchased), divided by `scale`, a constant of the training: longer sessions weigh more, on purpose.
pub fn loss(logits: &Tensor, batch: &Batch, scale: f64, [churned, purchased]: [f32; 2]) -> Result<Tensor> {
    let weight = |target: f32, weight: f32| f64::from(weight * if target > 0.5 { churned } else { purchased }) / scale;
    let weights: Vec<f64> = batch.counted.iter().map(|c| weight(c.target, c.weight)).collect();
    // ln(1 + e^s): s is the logit of what did not happen.
    let signs: Vec<f64> = batch.counted.iter().map(|c| if c.target > 0.5 { -1.0 } else { 1.0 }).collect();
    let s = logits.to_dtype(DType::F64)?.mul(&Tensor::new(signs, &Device::Cpu)?)?;
    let losses = (s.relu()? + (s.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    losses.mul(&Tensor::new(weights, &Device::Cpu)?)?.sum_all()
}

/// x · w + b.
struct Linear {
    w: Tensor,
    b: Tensor,
}

impl Linear {
    fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Linear> {
        Ok(Linear { w: vb.get((inputs, outputs), "w")?, b: vb.get(outputs, "b")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op3(&self.w, &self.b, DenseProduct)
    }
}

/// Causal, over a view and the `taps` − 1 before it, and a ReLU: each view's share in this and the next steps is a
/// product of its own.
struct Convolution {
    w: Tensor,
    b: Tensor,
    taps: usize,
    channels: usize,
}

impl Convolution {
    fn new(shape: &Shape, vb: VarBuilder) -> Result<Convolution> {
        let Shape { taps, channels, inputs, .. } = *shape;
        Ok(Convolution { w: vb.get((inputs, taps * channels), "w")?, b: vb.get(channels, "b")?, taps, channels })
    }

    fn forward(&self, batch: &Arc<Batch>) -> Result<Tensor> {
        let now = self.b.pad_with_zeros(0, 0, (self.taps - 1) * self.channels)?;
        let shares = self.w.apply_op2(&now, SparseProduct(batch.clone()))?;
        let share = |j: usize| shares.narrow(1, j * self.channels, self.channels)?.contiguous();
        let mut sum = share(0)?;
        for j in 1..self.taps {
            sum = (sum + share(j)?.index_select(&rows(batch.earlier(j))?, 0)?)?;
        }
        sum.relu()
    }
}

/// A layer of cells. The first has the views' inputs below it where there is no convolution.
struct Recurrent {
    below: Linear,
    u: Tensor,
    r: Tensor,
    cell: Cell,
}

impl Recurrent {
    fn new(shape: &Shape, l: usize, vb: VarBuilder) -> Result<Recurrent> {
        let (h, g) = (shape.hidden, shape.gates());
        let r = match shape.cell {
            Cell::Lstm => Tensor::zeros(0, DType::F32, &Device::Cpu)?,
            Cell::Gru => vb.get(h, "r")?,
        };
        Ok(Recurrent {
            below: Linear::new(shape.below(l), g, vb.clone())?,
            u: vb.get((h, g), "u")?,
            r,
            cell: shape.cell,
        })
    }

    fn forward(&self, x: Option<&Tensor>, batch: &Arc<Batch>) -> Result<Tensor> {
        let sums = match x {
            Some(x) => self.below.forward(x)?,
            None => self.below.w.apply_op2(&self.below.b, SparseProduct(batch.clone()))?,
        };
        sums.apply_op3(&self.u, &self.r, Recurrence::new(self.cell, batch))
    }
}

/// Over the last outputs of the views that count. The window ends where the stride last came by.
struct Pool {
    pooling: Pooling,
    kernel: usize,
    stride: usize,
}

impl Pool {
    fn forward(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        let window = |j: usize| batch.counted.iter().map(move |c| (c.step - c.step % self.stride, c.session, j));
        let row = |(end, session, j): (usize, usize, usize)| {
            end.checked_sub(j).map(|step| (batch.starts[step] + session) as u32)
        };
        let newest: Vec<u32> = window(0).filter_map(row).collect();
        let mut pooled = x.index_select(&rows(newest.clone())?, 0)?;
        for j in 1..self.kernel {
            pooled = match self.pooling {
                // Where there is no view yet, the newest once more.
                Pooling::Max => {
                    let earlier = window(j).zip(&newest).map(|(at, &newest)| row(at).unwrap_or(newest));
                    pooled.maximum(&x.index_select(&rows(earlier.collect())?, 0)?)?
                }
                Pooling::Mean => {
                    let earlier = window(j).map(|at| row(at).unwrap_or(Batch::NONE)).collect();
                    (pooled + x.index_select(&rows(earlier)?, 0)?)?
                }
            };
        }
        if self.pooling == Pooling::Mean {
            let share = window(0).map(|(end, ..)| 1.0 / self.kernel.min(end + 1) as f32).collect();
            let share = Tensor::from_vec(share, (newest.len(), 1), &Device::Cpu)?;
            pooled = pooled.broadcast_mul(&share)?;
        }
        Ok(pooled)
    }
}

fn rows(rows: Vec<u32>) -> Result<Tensor> {
    Tensor::new(rows, &Device::Cpu)
}

/// Zero with probability `share`, else what keeps the expectation. candle's own dropout cannot be seeded on the CPU.
fn draw(dims: &[usize], share: f32, rng: &mut Xoshiro256PlusPlus) -> Result<Tensor> {
    let (n, keep) = (dims.iter().product::<usize>(), 1.0 / (1.0 - share));
    let limit = (f64::from(share) * f64::from(u32::MAX)) as u32;
    let mut mask = vec![0.0; n.next_multiple_of(2)];
    for pair in mask.as_chunks_mut::<2>().0 {
        let bits = rng.next_u64();
        *pair = [bits as u32, (bits >> 32) as u32].map(|b| if b < limit { 0.0 } else { keep });
    }
    mask.truncate(n);
    Tensor::from_vec(mask, dims, &Device::Cpu)
}
