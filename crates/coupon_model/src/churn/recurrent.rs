//! One recurrent layer over a batch, forward and backward through time: what the scorer runs, and what the training
//! graph's operation [`Recurrence`](super::ops::Recurrence) is made of.

use super::aligned::Aligned;
use super::batch::Batch;
use super::simd::{add_columns, add_rows, gru, gru_back, lstm, lstm_back, product};
use super::spec::Cell;

/// A layer's own numbers; rows are those of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    pub cell: Cell,
    /// Units.
    pub hidden: usize,
    /// H × gates·H.
    pub u: &'a [f32],
    /// H: the bias inside the reset gate's product; empty but for a GRU.
    pub r: &'a [f32],
}

/// One row is a sum of rows, and need not be packed.
fn onto(sums: &mut [f32], before: &[f32], u: &[f32], dims: [usize; 3]) {
    match dims[0] {
        1 => add_rows(sums, before, u),
        _ => product(sums, before, false, u, dims),
    }
}

impl Layer<'_> {
    /// Numbers of a row's gates.
    fn gates(&self) -> usize {
        self.cell.gates() * self.hidden
    }

    /// Numbers a row that [`Layer::backward`] needs beside gates and outputs: an LSTM's cells, a GRU's sums from the
    /// step before.
    pub fn kept(&self) -> usize {
        self.hidden * if self.cell == Cell::Gru { 3 } else { 1 }
    }

    /// `gates` (rows × gates·H) holds the sums from below and leaves with the activations, `kept` is rows ×
    /// [`Layer::kept`], `outputs` rows × H.
    pub fn forward(&self, batch: &Batch, gates: &mut [f32], kept: &mut [f32], outputs: &mut [f32]) {
        let (n, g) = (self.hidden, self.gates());
        let zeros = vec![0.0; batch.starts.get(1).map_or(0, |r| r * n)];
        for t in 0..batch.steps() {
            let step = batch.step(t);
            let m = step.len();
            let (done, here) = outputs.split_at_mut(step.start * n);
            let here = &mut here[..m * n];
            // Those of this step's sessions, one step earlier.
            let before = if t > 0 { &done[batch.starts[t - 1] * n..][..m * n] } else { &zeros[..m * n] };
            let gates = &mut gates[step.start * g..step.end * g];
            match self.cell {
                Cell::Lstm => {
                    if t > 0 {
                        onto(gates, before, self.u, [m, g, n]);
                        let from = batch.starts[t - 1] * n;
                        kept.copy_within(from..from + m * n, step.start * n);
                    } else {
                        kept[..m * n].fill(0.0);
                    }
                    lstm(gates, &mut kept[step.start * n..step.end * n], here, n);
                }
                Cell::Gru => {
                    let back = &mut kept[step.start * g..step.end * g];
                    for row in back.chunks_exact_mut(g) {
                        row[..2 * n].fill(0.0);
                        row[2 * n..].copy_from_slice(self.r);
                    }
                    if t > 0 {
                        onto(back, before, self.u, [m, g, n]);
                    }
                    gru(gates, back, before, here, n);
                }
            }
        }
    }

    /// From `outputs`' gradient (rows × H, used up) to that of the sums from below (`sums`), and of u and r. `gates`
    /// and `kept` are as [`Layer::forward`] left them; a GRU's `kept` is used up.
    pub fn backward(
        &self,
        batch: &Batch,
        (gates, kept, outputs): (&[f32], &mut [f32], &[f32]),
        of_outputs: &mut [f32],
        sums: &mut [f32],
        [of_u, of_r]: [&mut [f32]; 2],
    ) {
        let (n, g, rows) = (self.hidden, self.gates(), batch.rows());
        let first = batch.starts.get(1).map_or(0, |r| r * n);
        let (zeros, mut dc) = (vec![0.0; first], vec![0.0; first]);
        let mut transposed = Aligned::default();
        transpose(transposed.sized(n * g), self.u, g);
        for t in (0..batch.steps()).rev() {
            let step = batch.step(t);
            let m = step.len();
            // The same sessions one step earlier.
            let past = if t > 0 { batch.starts[t - 1] * n..(batch.starts[t - 1] + m) * n } else { 0..0 };
            if t + 1 < batch.steps() {
                let later = batch.step(t + 1);
                let (here, after) = of_outputs[step.start * n..].split_at_mut(m * n);
                let here = &mut here[..later.len() * n];
                let sums = match self.cell {
                    Cell::Lstm => &*sums,
                    Cell::Gru => {
                        here.iter_mut().zip(&*after).for_each(|(d, a)| *d += a);
                        &*kept
                    }
                };
                product(here, &sums[later.start * g..later.end * g], false, &transposed, [later.len(), n, g]);
            }
            let gates = &gates[step.start * g..step.end * g];
            let dh = &mut of_outputs[step.start * n..step.end * n];
            let sums = &mut sums[step.start * g..step.end * g];
            match self.cell {
                Cell::Lstm => {
                    let before = if t > 0 { &kept[past] } else { &zeros[..m * n] };
                    let after = &kept[step.start * n..step.end * n];
                    lstm_back(gates, [before, after], dh, &mut dc[..m * n], sums, n);
                }
                Cell::Gru => {
                    let before = if t > 0 { &outputs[past] } else { &zeros[..m * n] };
                    gru_back(gates, before, dh, &mut kept[step.start * g..step.end * g], sums, n);
                }
            }
        }
        // One product for u over all steps: outputs one step earlier against the gradients of what they were added to.
        let skip = batch.starts.get(1).copied().unwrap_or(0);
        let mut earlier = vec![0.0; (rows - skip) * n];
        for t in 1..batch.steps() {
            let (step, from) = (batch.step(t), batch.starts[t - 1] * n);
            let to = &mut earlier[(step.start - skip) * n..(step.end - skip) * n];
            to.copy_from_slice(&outputs[from..from + step.len() * n]);
        }
        let onto = if self.cell == Cell::Gru { &*kept } else { &*sums };
        product(of_u, &earlier, true, &onto[skip * g..rows * g], [n, g, rows - skip]);
        if self.cell == Cell::Gru {
            kept.chunks_exact(g).for_each(|row| add_columns(of_r, &row[2 * n..]));
        }
    }
}

/// `to` is the transpose of `from`, rows of `columns`: the dense matrices carry gradients down.
pub fn transpose(to: &mut [f32], from: &[f32], columns: usize) {
    let rows = from.len() / columns;
    for (i, row) in from.chunks_exact(columns).enumerate() {
        row.iter().enumerate().for_each(|(j, x)| to[j * rows + i] = *x);
    }
}
