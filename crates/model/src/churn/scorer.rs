//! Many views at once through a network as it serves: every view of sessions side by side, or the last view of one.

mod running;

use super::View;
use super::aligned::Aligned;
use super::batch::Batch;
use super::inputs::{Layout, RECENCY_DECAY};
use super::net::{Net, pool};
use super::ops::{SparseProduct, repeat};
use super::recurrent::Layer;
use super::simd::{TILE, add_sparse, lstm_alone, product, running_product};
use super::spec::RnnType;
use running::IncrementalFeatures;

/// Buffers for all that scoring needs; kept from batch to batch.
#[derive(Debug, Default)]
pub struct Scorer {
    pub batch: Batch,
    running: IncrementalFeatures,
    /// A stretch of columns of the inputs' weights.
    packed: Aligned,
    /// Each view's contributions to the convolution: rows × taps·channels.
    taps: Aligned,
    gates: Aligned,
    kept: Aligned,
    /// Of the layer below, or of the convolution.
    below: Aligned,
    outputs: Aligned,
    /// One row a counted view: pooled outputs, and the feed-forward layer.
    pooled: Aligned,
    wide: Aligned,
    logits: Vec<f32>,
}

impl Scorer {
    /// Logits of churn of the batch's views that count, in their order.
    pub fn score(&mut self, net: &Net) -> &[f32] {
        let at = |place: &std::ops::Range<usize>| &net.values[place.clone()];
        if net.shape.conv_channels > 0 {
            self.convolve(net);
        } else {
            let layer = &net.places.layers[0];
            let gates = self.gates.sized(self.batch.rows() * net.shape.gates());
            SparseProduct::forward(&self.batch, at(&layer.w), at(&layer.b), &mut self.packed, gates);
        }
        self.recur(net)
    }

    /// The logit of a session's last view; `None` for no view.
    pub fn score_last(&mut self, net: &Net, layout: &Layout, views: &[View]) -> Option<f32> {
        if !layout.rich() || net.shape.conv_channels > 0 {
            self.batch.fill_whole(&[views], layout, true);
            return self.score(net).first().copied();
        }
        self.batch.fill_blank(views.len());
        self.running.fill(layout, views);
        let (layer, changes) = (&net.places.layers[0], self.running.changes());
        let (b, w) = (&net.values[layer.b.clone()], &net.values[layer.w.clone()]);
        let gates = self.gates.sized(views.len() * net.shape.gates());
        let packed = self.packed.sized(changes.rows() * TILE);
        running_product(gates, b, &changes, w, packed, RECENCY_DECAY);
        self.recur(net).first().copied()
    }

    /// What [`Scorer::score`] said.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// What follows the convolution, or the first layer's sums from below where there is none.
    fn recur(&mut self, net: &Net) -> &[f32] {
        let (shape, places, batch) = (&net.shape, &net.places, &self.batch);
        let at = |place: &std::ops::Range<usize>| &net.values[place.clone()];
        let (n, g, rows, ff) = (shape.hidden_size, shape.gates(), batch.rows(), shape.dense_units);
        for (l, layer) in places.layers.iter().enumerate() {
            if l > 0 || shape.conv_channels > 0 {
                let gates = self.gates.sized(rows * g);
                repeat(at(&layer.b), gates);
                product(gates, &self.below, false, at(&layer.w), [rows, g, shape.below(l)]);
            }
            let outputs = self.outputs.sized(rows * n);
            let layer = Layer { cell: shape.rnn_type, hidden: n, u: at(&layer.u), r: at(&layer.r) };
            if shape.rnn_type == RnnType::Lstm && rows == batch.steps() {
                // Steps of one row each.
                let c = self.kept.sized(n);
                c.fill(0.0);
                lstm_alone(&mut self.gates, layer.u, c, outputs);
            } else {
                layer.forward(batch, &mut self.gates, self.kept.sized(rows * layer.kept()), outputs);
            }
            std::mem::swap(&mut self.below, &mut self.outputs);
        }
        let (outputs, counted) = (&self.below, batch.counted.len());
        let output = |step: usize, session: usize| &outputs[(batch.starts[step] + session) * n..][..n];
        for (c, pooled) in batch.counted.iter().zip(self.pooled.sized(counted * n).chunks_exact_mut(n)) {
            let end = c.step - c.step % shape.pool_stride;
            let earlier = (1..shape.pool_size.min(end + 1)).map(|j| output(end - j, c.session));
            pool(shape.pooling, pooled, output(end, c.session), earlier);
        }
        let wide = self.wide.sized(counted * ff);
        repeat(at(&places.f1[1]), wide);
        product(wide, &self.pooled, false, at(&places.f1[0]), [counted, ff, n]);
        let (out, bias) = (at(&places.f2[0]), at(&places.f2[1])[0]);
        let dot = |x: &[f32]| x.iter().zip(out).map(|(x, w)| x.max(0.0) * w).sum::<f32>() + bias;
        self.logits.clear();
        self.logits.extend(wide.chunks_exact(ff).map(dot));
        &self.logits
    }

    /// Row t of the result: relu(bias + Σ_j part j of the view j steps earlier).
    fn convolve(&mut self, net: &Net) {
        let (channels, taps) = (net.shape.conv_channels, net.shape.conv_kernel);
        let [w, b] = net.places.convolution.clone().map(|place| &net.values[place]);
        self.taps.sized(self.batch.rows() * taps * channels).fill(0.0);
        let parts = self.taps.chunks_exact_mut(taps * channels);
        self.batch.inputs().zip(parts).for_each(|(x, parts)| add_sparse(parts, x, w));
        repeat(b, self.below.sized(self.batch.rows() * channels));
        for t in 0..self.batch.steps() {
            for (session, row) in self.batch.step(t).enumerate() {
                let sum = &mut self.below[row * channels..(row + 1) * channels];
                for j in 0..taps.min(t + 1) {
                    let row = self.batch.starts[t - j] + session;
                    let part = &self.taps[(row * taps + j) * channels..][..channels];
                    sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                }
                sum.iter_mut().for_each(|x| *x = x.max(0.0));
            }
        }
    }
}
