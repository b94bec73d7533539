//! The network and its forward step, by hand.

use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::Spec;
use super::math::{add_rows, axpy, cell};

/// One LSTM layer; gates i, f, g, o. Matrices are row-major by input, so that a step is a sum of rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// inputs × 4H.
    pub w: Vec<f32>,
    /// H × 4H.
    pub u: Vec<f32>,
    /// 4H.
    pub b: Vec<f32>,
}

/// A trained network: LSTM layers, pooling over `kernel` steps, a feed-forward layer, one logit.
#[derive(Debug, Clone, PartialEq)]
pub struct Net {
    pub(super) inputs: usize,
    pub(super) hidden: usize,
    pub(super) kernel: usize,
    pub(super) layers: Vec<Layer>,
    /// H × feed-forward.
    pub(super) f1: Vec<f32>,
    pub(super) f1_bias: Vec<f32>,
    pub(super) f2: Vec<f32>,
    pub(super) f2_bias: Vec<f32>,
}

/// Buffers of a step, made once a session.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// The view's inputs.
    pub entries: Vec<(u32, f32)>,
    gates: Vec<f32>,
    pooled: Vec<f32>,
    wide: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(spec: &Spec, entries: usize) -> Scratch {
        Scratch {
            entries: Vec::with_capacity(entries),
            gates: vec![0.0; 4 * spec.hidden],
            pooled: vec![0.0; spec.hidden],
            wide: vec![0.0; spec.feed_forward],
        }
    }
}

impl Net {
    /// A network before training: every weight uniform within 1/√(fan), as PyTorch starts.
    pub(super) fn random(spec: &Spec, inputs: usize, rng: &mut Xoshiro256PlusPlus) -> Net {
        let (h, ff) = (spec.hidden, spec.feed_forward);
        let mut draw = |n: usize, fan: usize| -> Vec<f32> {
            let bound = 1.0 / (fan as f32).sqrt();
            (0..n).map(|_| rng.gen_range(-bound..=bound)).collect()
        };
        let layers = (0..spec.layers)
            .map(|l| Layer {
                w: draw(if l == 0 { inputs } else { h } * 4 * h, h),
                u: draw(4 * h * h, h),
                b: draw(4 * h, h),
            })
            .collect();
        Net {
            inputs,
            hidden: h,
            kernel: spec.kernel,
            layers,
            f1: draw(h * ff, h),
            f1_bias: draw(ff, h),
            f2: draw(ff, ff),
            f2_bias: draw(1, ff),
        }
    }

    /// Every tensor with its name and shape, in one fixed order: what is saved, trained and counted.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>, &Vec<f32>)> {
        let (h, ff) = (self.hidden, self.f2.len());
        let mut all = Vec::new();
        for (l, layer) in self.layers.iter().enumerate() {
            let inputs = if l == 0 { self.inputs } else { h };
            all.push((format!("lstm.{l}.w"), vec![inputs, 4 * h], &layer.w));
            all.push((format!("lstm.{l}.u"), vec![h, 4 * h], &layer.u));
            all.push((format!("lstm.{l}.b"), vec![4 * h], &layer.b));
        }
        all.push(("f1.w".into(), vec![h, ff], &self.f1));
        all.push(("f1.b".into(), vec![ff], &self.f1_bias));
        all.push(("f2.w".into(), vec![ff, 1], &self.f2));
        all.push(("f2.b".into(), vec![1], &self.f2_bias));
        all
    }

    /// The same tensors, to be written, in the same order.
    pub(super) fn tensors_mut(&mut self) -> Vec<&mut Vec<f32>> {
        let layers = self.layers.iter_mut().flat_map(|l| [&mut l.w, &mut l.u, &mut l.b]);
        layers.chain([&mut self.f1, &mut self.f1_bias, &mut self.f2, &mut self.f2_bias]).collect()
    }

    /// Advances a session by one view whose inputs are `scratch.entries`, and returns the logit of churn.
    ///
    /// `memory` is the recurrent state (h and c a layer, then the last outputs, newest first), `before` the number of
    /// views it has seen. Costs (entries + H·layers) · 4H multiply-adds; allocates nothing.
    pub fn step(&self, memory: &mut [f32], before: u32, scratch: &mut Scratch) -> f32 {
        let n = self.hidden;
        let Scratch { entries, gates, pooled, wide } = scratch;
        let (states, ring) = memory.split_at_mut(2 * n * self.layers.len());
        for (l, layer) in self.layers.iter().enumerate() {
            let (below, state) = states.split_at_mut(2 * n * l);
            let (h, c) = state[..2 * n].split_at_mut(n);
            gates.copy_from_slice(&layer.b);
            if l == 0 {
                for &(i, x) in entries.iter() {
                    let i = i as usize * 4 * n;
                    axpy(gates, x, &layer.w[i..i + 4 * n]);
                }
            } else {
                add_rows(gates, &below[2 * n * (l - 1)..][..n], &layer.w);
            }
            add_rows(gates, h, &layer.u);
            cell(gates, c, h);
        }
        let output = &states[2 * n * (self.layers.len() - 1)..][..n];
        pooled.copy_from_slice(output);
        // Before `kernel` views have been seen the pooling looks at those there are: the first output repeated.
        for earlier in ring.chunks_exact(n).take(before as usize) {
            pooled.iter_mut().zip(earlier).for_each(|(p, e)| *p = p.max(*e));
        }
        if !ring.is_empty() {
            ring.copy_within(..ring.len() - n, n);
            ring[..n].copy_from_slice(output);
        }
        wide.copy_from_slice(&self.f1_bias);
        add_rows(wide, pooled, &self.f1);
        wide.iter().zip(&self.f2).map(|(x, w)| x.max(0.0) * w).sum::<f32>() + self.f2_bias[0]
    }
}
