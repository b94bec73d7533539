//! One recurrent layer over a batch, forward and backward through time.

use super::aligned::Aligned;
use super::batch::Batch;
use super::net::{Layer, Shape};
use super::simd::{add_columns, add_rows, gru, gru_back, lstm, lstm_alone, lstm_back, product};
use super::spec::Cell;

/// What a layer did on a batch; rows are the batch's.
#[derive(Debug, Default)]
pub struct Run {
    /// Sums from below, then activations: rows × gates·H. Filled by the caller before [`Run::forward`].
    pub gates: Aligned,
    /// LSTM: cells after each step, rows × H.
    cells: Aligned,
    /// GRU: sums from the step before, then their gradients, rows × 3H.
    back: Aligned,
    /// rows × H.
    pub outputs: Aligned,
    /// Gradients of the sums from below: rows × gates·H.
    pub sums: Aligned,
    /// Gradients of the cells, and outputs one step earlier, each a buffer of the backward pass.
    later: Aligned,
    earlier: Aligned,
}

/// One row is a sum of rows, and need not be packed.
fn onto(sums: &mut [f32], before: &[f32], u: &[f32], dims: [usize; 3]) {
    match dims[0] {
        1 => add_rows(sums, before, u),
        _ => product(sums, before, false, u, dims),
    }
}

impl Run {
    /// `kept`: for [`Run::backward`]; otherwise only the outputs are.
    pub fn forward(&mut self, shape: &Shape, layer: &Layer, values: &[f32], batch: &Batch, kept: bool) {
        let (n, g, rows) = (shape.hidden, shape.gates(), batch.rows());
        let u = &values[layer.u.clone()];
        let outputs = self.outputs.sized(rows * n);
        // Steps of one row each.
        if !kept && shape.cell == Cell::Lstm && rows == batch.steps() {
            let c = self.cells.sized(n);
            c.fill(0.0);
            lstm_alone(&mut self.gates, u, c, outputs);
            return;
        }
        let zeros = vec![0.0; batch.starts.get(1).map_or(0, |r| r * n)];
        match shape.cell {
            Cell::Lstm => self.cells.sized(rows * n),
            Cell::Gru => self.back.sized(rows * g),
        };
        for t in 0..batch.steps() {
            let step = batch.step(t);
            let m = step.len();
            let (done, here) = outputs.split_at_mut(step.start * n);
            let here = &mut here[..m * n];
            // Those of this step's sessions, one step earlier.
            let before = if t > 0 { &done[batch.starts[t - 1] * n..][..m * n] } else { &zeros[..m * n] };
            let gates = &mut self.gates[step.start * g..step.end * g];
            match shape.cell {
                Cell::Lstm => {
                    if t > 0 {
                        onto(gates, before, u, [m, g, n]);
                        let from = batch.starts[t - 1] * n;
                        self.cells.copy_within(from..from + m * n, step.start * n);
                    } else {
                        self.cells[..m * n].fill(0.0);
                    }
                    lstm(gates, &mut self.cells[step.start * n..step.end * n], here, n);
                }
                Cell::Gru => {
                    let back = &mut self.back[step.start * g..step.end * g];
                    for row in back.chunks_exact_mut(g) {
                        row[..2 * n].fill(0.0);
                        row[2 * n..].copy_from_slice(&values[layer.r.clone()]);
                    }
                    if t > 0 {
                        onto(back, before, u, [m, g, n]);
                    }
                    gru(gates, back, before, here, n);
                }
            }
        }
    }

    /// From `outputs`' gradient (rows × H, used up) to that of the sums from below, and of the layer's own u, b and r in
    /// `gradient`. `u` transposed comes as `mirror`.
    pub fn backward(
        &mut self,
        shape: &Shape,
        layer: &Layer,
        mirror: &[f32],
        batch: &Batch,
        outputs: &mut [f32],
        gradient: &mut [f32],
    ) {
        let (n, g, rows) = (shape.hidden, shape.gates(), batch.rows());
        let first = batch.starts.get(1).map_or(0, |r| r * n);
        let zeros = vec![0.0; first];
        let dc = self.later.sized(first);
        dc.fill(0.0);
        self.sums.sized(rows * g);
        for t in (0..batch.steps()).rev() {
            let step = batch.step(t);
            let m = step.len();
            // The same sessions one step earlier.
            let past = if t > 0 { batch.starts[t - 1] * n..(batch.starts[t - 1] + m) * n } else { 0..0 };
            if t + 1 < batch.steps() {
                let later = batch.step(t + 1);
                let (here, after) = outputs[step.start * n..].split_at_mut(m * n);
                let here = &mut here[..later.len() * n];
                let sums = match shape.cell {
                    Cell::Lstm => &self.sums,
                    Cell::Gru => {
                        here.iter_mut().zip(&*after).for_each(|(d, a)| *d += a);
                        &self.back
                    }
                };
                product(here, &sums[later.start * g..later.end * g], false, mirror, [later.len(), n, g]);
            }
            let gates = &self.gates[step.start * g..step.end * g];
            let dh = &mut outputs[step.start * n..step.end * n];
            let sums = &mut self.sums[step.start * g..step.end * g];
            match shape.cell {
                Cell::Lstm => {
                    let before = if t > 0 { &self.cells[past] } else { &zeros[..m * n] };
                    let after = &self.cells[step.start * n..step.end * n];
                    lstm_back(gates, [before, after], dh, &mut dc[..m * n], sums, n);
                }
                Cell::Gru => {
                    let before = if t > 0 { &self.outputs[past] } else { &zeros[..m * n] };
                    gru_back(gates, before, dh, &mut self.back[step.start * g..step.end * g], sums, n);
                }
            }
        }
        // One product for u over all steps: outputs one step earlier against the gradients of what they were added to.
        let skip = batch.starts.get(1).copied().unwrap_or(0);
        let earlier = self.earlier.sized((rows - skip) * n);
        for t in 1..batch.steps() {
            let (step, from) = (batch.step(t), batch.starts[t - 1] * n);
            let to = &mut earlier[(step.start - skip) * n..(step.end - skip) * n];
            to.copy_from_slice(&self.outputs[from..from + step.len() * n]);
        }
        let onto = if shape.cell == Cell::Gru { &self.back } else { &self.sums };
        product(&mut gradient[layer.u.clone()], &self.earlier, true, &onto[skip * g..rows * g], [n, g, rows - skip]);
        add_columns(&mut gradient[layer.b.clone()], &self.sums[..rows * g]);
        for row in self.back.chunks_exact(g.max(1)).take(if shape.cell == Cell::Gru { rows } else { 0 }) {
            add_columns(&mut gradient[layer.r.clone()], &row[2 * n..]);
        }
    }
}
