//! One batch through the network and back: its loss, and the gradient of every number of the network.

use rand::RngCore;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::View;
use super::aligned::Aligned;
use super::batch::Batch;
use super::inputs::{FADE, Layout, Running};
use super::math::softplus;
use super::net::{Net, Shape};
use super::recurrent::Run;
use super::simd::{PACKED, STRIP, add_columns, add_sparse, product, running_product, scatter, sparse_product};
use super::spec::Pooling;

/// The dense matrices transposed, which carry gradients down: made once a step for all batches that run side by side.
#[derive(Debug, Default)]
pub struct Mirror(Aligned);

impl Mirror {
    pub fn update(&mut self, net: &Net) {
        let (shape, places) = (&net.shape, &net.places);
        let to = self.0.sized(places.total);
        let mut transpose = |place: &std::ops::Range<usize>, columns: usize| {
            let (from, to) = (&net.values[place.clone()], &mut to[place.clone()]);
            let rows = from.len() / columns;
            for (i, row) in from.chunks_exact(columns).enumerate() {
                row.iter().enumerate().for_each(|(j, x)| to[j * rows + i] = *x);
            }
        };
        for (l, layer) in places.layers.iter().enumerate() {
            transpose(&layer.u, shape.gates());
            if l > 0 || shape.channels > 0 {
                transpose(&layer.w, shape.gates());
            }
        }
        transpose(&places.f1[0], shape.feed_forward);
    }
}

/// A share of a batch, with room for all that a pass needs; kept from batch to batch.
#[derive(Debug, Default)]
pub struct Pass {
    pub batch: Batch,
    /// As long as the network's numbers.
    pub gradient: Aligned,
    /// Weighted sum of the log losses.
    pub loss: f64,
    layers: Vec<Run>,
    running: Running,
    /// A stretch of columns of the inputs' weights.
    packed: Aligned,
    /// Outputs of the convolution: rows × channels, and each view's contributions to it: rows × taps·channels.
    convolved: Aligned,
    taps: Aligned,
    /// The last layer's outputs after dropout, and what they were multiplied by.
    outputs: Aligned,
    mask: Vec<f32>,
    /// One row a counted view: pooled outputs, where a maximum came from, and the feed-forward layer.
    pooled: Aligned,
    origin: Vec<u8>,
    wide: Aligned,
    logits: Vec<f32>,
    /// Gradients: of the logits (rescaled log loss), the feed-forward layer, the pooled outputs, a layer's outputs.
    of_logits: Vec<f32>,
    of_wide: Aligned,
    of_pooled: Aligned,
    of_outputs: Aligned,
}

impl Pass {
    /// Logits of churn of the views that count, in their order, and what [`Pass::backward`] needs. `dropout` is the share
    /// of outputs zeroed, and the generator to draw them.
    pub fn forward(&mut self, net: &Net, dropout: Option<(f32, &mut Xoshiro256PlusPlus)>) -> &[f32] {
        self.run(net, dropout, true)
    }

    /// The logits alone.
    pub fn score(&mut self, net: &Net) -> &[f32] {
        self.run(net, None, false)
    }

    /// The logit of a session's last view; `None` for no view.
    pub fn score_last(&mut self, net: &Net, layout: &Layout, views: &[View]) -> Option<f32> {
        if !layout.rich() || net.shape.channels > 0 {
            self.batch.fill_whole(&[views], layout, true);
            return self.score(net).first().copied();
        }
        self.batch.fill_blank(views.len());
        self.running.fill(layout, views);
        self.layers.resize_with(net.shape.layers, Run::default);
        let (layer, changes) = (&net.places.layers[0], self.running.changes());
        let (b, w) = (&net.values[layer.b.clone()], &net.values[layer.w.clone()]);
        let gates = self.layers[0].gates.sized(views.len() * net.shape.gates());
        let packed = self.packed.sized(changes.rows() * STRIP);
        running_product(gates, b, &changes, w, packed, FADE);
        self.recur(net, None, false).first().copied()
    }

    fn run(&mut self, net: &Net, dropout: Option<(f32, &mut Xoshiro256PlusPlus)>, kept: bool) -> &[f32] {
        let (shape, values) = (&net.shape, &net.values);
        self.layers.resize_with(shape.layers, Run::default);
        if shape.channels > 0 {
            self.convolve(net);
        } else {
            let layer = &net.places.layers[0];
            let entries = self.batch.entries();
            // Packing costs as much as some views' sums.
            let pays = entries.0.len() > 4 * shape.inputs;
            let packed = self.packed.sized(if pays { shape.inputs * PACKED } else { 0 });
            let gates = self.layers[0].gates.sized(self.batch.rows() * shape.gates());
            sparse_product(gates, &values[layer.b.clone()], entries, &values[layer.w.clone()], packed);
        }
        self.recur(net, dropout, kept)
    }

    /// What follows the convolution, or the first layer's sums from below where there is none.
    fn recur(&mut self, net: &Net, dropout: Option<(f32, &mut Xoshiro256PlusPlus)>, kept: bool) -> &[f32] {
        let (shape, values) = (&net.shape, &net.values);
        let (n, g, rows) = (shape.hidden, shape.gates(), self.batch.rows());
        for (l, layer) in net.places.layers.iter().enumerate() {
            let (below, run) = self.layers.split_at_mut(l);
            let run = &mut run[0];
            let x = match below.last() {
                Some(below) => Some(&below.outputs),
                None => (shape.channels > 0).then_some(&self.convolved),
            };
            if let Some(x) = x {
                let gates = run.gates.sized(rows * g);
                repeat(&values[layer.b.clone()], gates);
                product(gates, x, false, &values[layer.w.clone()], [rows, g, shape.below(l)]);
            }
            run.forward(shape, layer, values, &self.batch, kept);
        }
        let last = &mut self.layers[shape.layers - 1].outputs;
        match kept {
            true => self.outputs.clone_from(last),
            false => std::mem::swap(&mut self.outputs, last),
        }
        self.mask.clear();
        if let Some((share, rng)) = dropout.filter(|(share, _)| *share > 0.0) {
            draw(&mut self.mask, self.outputs.len(), share, rng);
            self.outputs.iter_mut().zip(&self.mask).for_each(|(y, m)| *y *= m);
        }
        self.pool(shape);
        let (f1, f2) = (&net.places.f1, &net.places.f2);
        let counted = self.batch.counted.len();
        let ff = shape.feed_forward;
        repeat(&values[f1[1].clone()], self.wide.sized(counted * ff));
        product(&mut self.wide, &self.pooled, false, &values[f1[0].clone()], [counted, ff, n]);
        self.wide.iter_mut().for_each(|x| *x = x.max(0.0));
        let out = &values[f2[0].clone()];
        let dot = |x: &[f32]| x.iter().zip(out).map(|(x, w)| x * w).sum::<f32>() + values[f2[1].start];
        self.logits.clear();
        self.logits.extend(self.wide.chunks_exact(ff).map(dot));
        &self.logits
    }

    /// What [`Pass::forward`] said.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// After [`Pass::forward`]: the loss, and its gradient divided by `scale`, a constant of the training: longer
    /// sessions weigh more, on purpose. A view's weight is multiplied by that of its class (`churned`, else purchased).
    pub fn backward(&mut self, net: &Net, mirror: &Mirror, scale: f64, [churned, purchased]: [f32; 2]) {
        let (shape, places, values) = (&net.shape, &net.places, &net.values);
        let (n, g, rows, ff) = (shape.hidden, shape.gates(), self.batch.rows(), shape.feed_forward);
        let counted = self.batch.counted.len();
        let mut gradient = std::mem::take(&mut self.gradient);
        gradient.sized(places.total).fill(0.0);
        self.loss = 0.0;
        self.of_logits.clear();
        for (c, &z) in self.batch.counted.iter().zip(&self.logits) {
            let weight = c.weight * if c.target > 0.5 { churned } else { purchased };
            self.loss += f64::from(weight) * softplus(f64::from(if c.target > 0.5 { -z } else { z }));
            let p = super::math::sigmoid::<false>(z);
            self.of_logits.push((f64::from(weight * (p - c.target)) / scale) as f32);
        }
        // logit = f2 · relu(f1 · pooled + bias) + bias
        let out = &values[places.f2[0].clone()];
        let of_wide = self.of_wide.sized(counted * ff).chunks_exact_mut(ff);
        for ((to, x), &dz) in of_wide.zip(self.wide.chunks_exact(ff)).zip(&self.of_logits) {
            to.iter_mut().zip(x).zip(out).for_each(|((to, x), w)| *to = if *x > 0.0 { dz * w } else { 0.0 });
        }
        product(&mut gradient[places.f2[0].clone()], &self.wide, true, &self.of_logits, [ff, 1, counted]);
        gradient[places.f2[1].start] = self.of_logits.iter().sum();
        product(&mut gradient[places.f1[0].clone()], &self.pooled, true, &self.of_wide, [n, ff, counted]);
        add_columns(&mut gradient[places.f1[1].clone()], &self.of_wide);
        self.of_pooled.sized(counted * n).fill(0.0);
        let mirror = &mirror.0;
        product(&mut self.of_pooled, &self.of_wide, false, &mirror[places.f1[0].clone()], [counted, n, ff]);
        self.unpool(shape);
        if !self.mask.is_empty() {
            self.of_outputs.iter_mut().zip(&self.mask).for_each(|(d, m)| *d *= m);
        }
        for (l, layer) in places.layers.iter().enumerate().rev() {
            let (below, run) = self.layers.split_at_mut(l);
            let run = &mut run[0];
            run.backward(shape, layer, &mirror[layer.u.clone()], &self.batch, &mut self.of_outputs, &mut gradient);
            let of_w = &mut gradient[layer.w.clone()];
            let x = match below.last() {
                Some(below) => &below.outputs,
                None if shape.channels > 0 => &self.convolved,
                None => {
                    let sums = run.sums.chunks_exact(g);
                    self.batch.inputs().zip(sums).for_each(|(x, sums)| scatter(of_w, x, sums));
                    continue;
                }
            };
            let inputs = shape.below(l);
            product(of_w, x, true, &run.sums, [inputs, g, rows]);
            self.of_outputs.sized(rows * inputs).fill(0.0);
            product(&mut self.of_outputs, &run.sums, false, &mirror[layer.w.clone()], [rows, inputs, g]);
        }
        if shape.channels > 0 {
            self.convolve_back(net, &mut gradient);
        }
        self.gradient = gradient;
    }

    /// Row t of the result: relu(bias + Σ_j part j of the view j steps earlier).
    fn convolve(&mut self, net: &Net) {
        let (channels, taps) = (net.shape.channels, net.shape.taps);
        let [w, b] = net.places.convolution.clone().map(|place| &net.values[place]);
        self.taps.sized(self.batch.rows() * taps * channels).fill(0.0);
        let parts = self.taps.chunks_exact_mut(taps * channels);
        self.batch.inputs().zip(parts).for_each(|(x, parts)| add_sparse(parts, x, w));
        repeat(b, self.convolved.sized(self.batch.rows() * channels));
        for t in 0..self.batch.steps() {
            for (session, row) in self.batch.step(t).enumerate() {
                let sum = &mut self.convolved[row * channels..(row + 1) * channels];
                for j in 0..taps.min(t + 1) {
                    let row = self.batch.starts[t - j] + session;
                    let part = &self.taps[(row * taps + j) * channels..][..channels];
                    sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                }
                sum.iter_mut().for_each(|x| *x = x.max(0.0));
            }
        }
    }

    fn convolve_back(&mut self, net: &Net, gradient: &mut [f32]) {
        let (channels, taps) = (net.shape.channels, net.shape.taps);
        self.of_outputs.iter_mut().zip(self.convolved.iter()).for_each(|(d, y)| *d = if *y > 0.0 { *d } else { 0.0 });
        let [w, b] = net.places.convolution.clone();
        add_columns(&mut gradient[b], &self.of_outputs);
        self.taps.fill(0.0);
        for t in 0..self.batch.steps() {
            for (session, row) in self.batch.step(t).enumerate() {
                for j in 0..taps.min(t + 1) {
                    let part = (self.batch.starts[t - j] + session) * taps + j;
                    let from = &self.of_outputs[row * channels..][..channels];
                    self.taps[part * channels..][..channels].copy_from_slice(from);
                }
            }
        }
        let parts = self.taps.chunks_exact(taps * channels);
        let of_w = &mut gradient[w];
        self.batch.inputs().zip(parts).for_each(|(x, parts)| scatter(of_w, x, parts));
    }

    /// The rows under a counted view's window, newest first. The window ends where the stride last came by.
    fn window(shape: &Shape, starts: &[usize], step: usize, session: usize) -> impl Iterator<Item = usize> {
        let end = step - step % shape.stride;
        (0..shape.kernel.min(end + 1)).map(move |j| starts[end - j] + session)
    }

    fn pool(&mut self, shape: &Shape) {
        let n = shape.hidden;
        let starts = &self.batch.starts;
        let counted = &self.batch.counted;
        self.origin.clear();
        self.origin.resize(counted.len() * n, 0);
        let rows = self.pooled.sized(counted.len() * n).chunks_exact_mut(n).zip(self.origin.chunks_exact_mut(n));
        for (c, (pooled, origin)) in counted.iter().zip(rows) {
            let mut window = Pass::window(shape, starts, c.step, c.session);
            let newest = window.next().expect("a window holds its own end");
            pooled.copy_from_slice(&self.outputs[newest * n..(newest + 1) * n]);
            let mut count = 1;
            for row in window {
                let row = &self.outputs[row * n..(row + 1) * n];
                match shape.pooling {
                    Pooling::Max => {
                        for ((p, o), x) in pooled.iter_mut().zip(&mut *origin).zip(row) {
                            *o = if *x > *p { count } else { *o };
                            *p = p.max(*x);
                        }
                    }
                    Pooling::Mean => pooled.iter_mut().zip(row).for_each(|(p, x)| *p += x),
                }
                count += 1;
            }
            if shape.pooling == Pooling::Mean {
                pooled.iter_mut().for_each(|p| *p /= f32::from(count));
            }
        }
    }

    fn unpool(&mut self, shape: &Shape) {
        let n = shape.hidden;
        self.of_outputs.sized(self.batch.rows() * n).fill(0.0);
        let rows = self.of_pooled.chunks_exact(n).zip(self.origin.chunks_exact(n));
        for (c, (gradient, origin)) in self.batch.counted.iter().zip(rows) {
            let window = || Pass::window(shape, &self.batch.starts, c.step, c.session);
            let share = 1.0 / window().count() as f32;
            for (j, row) in (0u8..).zip(window()) {
                let to = &mut self.of_outputs[row * n..(row + 1) * n];
                match shape.pooling {
                    Pooling::Max => {
                        for ((to, g), o) in to.iter_mut().zip(gradient).zip(origin) {
                            *to += if *o == j { *g } else { 0.0 };
                        }
                    }
                    Pooling::Mean => to.iter_mut().zip(gradient).for_each(|(to, g)| *to += share * g),
                }
            }
        }
    }
}

/// Every row the same.
fn repeat(row: &[f32], rows: &mut [f32]) {
    rows.chunks_exact_mut(row.len()).for_each(|to| to.copy_from_slice(row));
}

/// Zero with probability `share`, else what keeps the expectation.
fn draw(mask: &mut Vec<f32>, n: usize, share: f32, rng: &mut Xoshiro256PlusPlus) {
    let keep = 1.0 / (1.0 - share);
    let limit = (f64::from(share) * f64::from(u32::MAX)) as u32;
    mask.resize_with(n.next_multiple_of(2), || 0.0);
    for pair in mask.as_chunks_mut::<2>().0 {
        let bits = rng.next_u64();
        *pair = [bits as u32, (bits >> 32) as u32].map(|b| if b < limit { 0.0 } else { keep });
    }
    mask.truncate(n);
}
