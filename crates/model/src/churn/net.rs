//! The network: what it is made of, and its forward step.
//!
//! views → (causal convolution, ReLU) → recurrent layers → pooling → feed-forward, ReLU → one logit of churn

use std::ops::Range;

use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::Spec;
use super::aligned::Aligned;
use super::simd::{LANES, add_rows, add_rows_lanes, add_sparse, gru, lstm_step};
use super::spec::{Pooling, RnnType};

/// The sizes of a network, which say where each tensor lies among its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub inputs: usize,
    /// Channels of the convolution; 0: none.
    pub conv_channels: usize,
    /// Views the convolution looks over.
    pub conv_kernel: usize,
    pub rnn_type: RnnType,
    pub num_layers: usize,
    pub hidden_size: usize,
    pub pooling: Pooling,
    pub pool_size: usize,
    pub pool_stride: usize,
    pub dense_units: usize,
}

/// Where one recurrent layer's tensors lie. Matrices are row-major by input, so that a step is a sum of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// inputs × gates·H.
    pub w: Range<usize>,
    /// H × gates·H.
    pub u: Range<usize>,
    /// gates·H.
    pub b: Range<usize>,
    /// H: the bias inside the reset gate's product; empty but for a GRU.
    pub r: Range<usize>,
}

/// Where everything lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Places {
    /// inputs × taps·channels, the newest view's first, and channels; empty without a convolution.
    pub convolution: [Range<usize>; 2],
    pub layers: Vec<Layer>,
    /// H × feed-forward, and its bias.
    pub f1: [Range<usize>; 2],
    /// feed-forward × 1, and its bias.
    pub f2: [Range<usize>; 2],
    pub total: usize,
}

impl Shape {
    pub fn new(spec: &Spec, inputs: usize) -> Shape {
        Shape {
            inputs,
            conv_channels: spec.conv_channels,
            conv_kernel: spec.conv_kernel,
            rnn_type: spec.rnn_type,
            num_layers: spec.num_layers,
            hidden_size: spec.hidden_size,
            pooling: spec.pooling,
            pool_size: spec.pool_size,
            pool_stride: spec.pool_stride,
            dense_units: spec.dense_units,
        }
    }

    /// Numbers of a layer's gates.
    pub fn gates(&self) -> usize {
        self.hidden_size * self.rnn_type.gates()
    }

    /// Length of what enters layer `l`.
    pub fn below(&self, l: usize) -> usize {
        match l {
            0 if self.conv_channels > 0 => self.conv_channels,
            0 => self.inputs,
            _ => self.hidden_size,
        }
    }

    /// Numbers a session carries from view to view: sums of the convolution still to come, h (and c) a layer, the outputs
    /// that the pooling still looks at, newest first, but for the last one, which is h, and with a stride the window that
    /// stands.
    pub fn memory(&self) -> usize {
        let state = self.num_layers * self.state();
        self.pending() + state + self.ring() + if self.pool_stride > 1 { self.hidden_size } else { 0 }
    }

    fn ring(&self) -> usize {
        self.pool_size.saturating_sub(2) * self.hidden_size
    }

    fn state(&self) -> usize {
        self.hidden_size * if self.rnn_type == RnnType::Lstm { 2 } else { 1 }
    }

    fn pending(&self) -> usize {
        if self.conv_channels > 0 { (self.conv_kernel - 1) * self.conv_channels } else { 0 }
    }

    pub fn places(&self) -> Places {
        let mut total = 0;
        // Each begins at a cache line; what is left between two is zero and stays so.
        let mut take = |n: usize| {
            let from = total;
            total = (from + n).next_multiple_of(Aligned::LINE);
            from..from + n
        };
        let (h, g, ff) = (self.hidden_size, self.gates(), self.dense_units);
        let convolution = [take(self.inputs * self.conv_kernel * self.conv_channels), take(self.conv_channels)];
        let layer = |l: usize| Layer {
            w: take(self.below(l) * g),
            u: take(h * g),
            b: take(g),
            r: take(if self.rnn_type == RnnType::Gru { h } else { 0 }),
        };
        let layers = (0..self.num_layers).map(layer).collect();
        let (f1, f2) = ([take(h * ff), take(ff)], [take(ff), take(1)]);
        Places { convolution, layers, f1, f2, total }
    }

    /// Every tensor with its name, shape and place, in the order of their places: what is saved.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Range<usize>)> {
        let Places { convolution: [cw, cb], layers, f1, f2, .. } = self.places();
        let (h, g, ff) = (self.hidden_size, self.gates(), self.dense_units);
        let mut all = vec![
            ("convolution.w".to_string(), vec![self.inputs, self.conv_kernel * self.conv_channels], cw),
            ("convolution.b".to_string(), vec![self.conv_channels], cb),
        ];
        for (l, Layer { w, u, b, r }) in layers.into_iter().enumerate() {
            all.push((format!("{l}.w"), vec![self.below(l), g], w));
            all.push((format!("{l}.u"), vec![h, g], u));
            all.push((format!("{l}.b"), vec![g], b));
            all.push((format!("{l}.r"), vec![h], r));
        }
        let [w1, b1] = f1;
        let [w2, b2] = f2;
        all.push(("f1.w".into(), vec![h, ff], w1));
        all.push(("f1.b".into(), vec![ff], b1));
        all.push(("f2.w".into(), vec![ff, 1], w2));
        all.push(("f2.b".into(), vec![1], b2));
        all.retain(|tensor| !tensor.2.is_empty());
        all
    }
}

/// A trained network: all its numbers in one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Net {
    pub(super) shape: Shape,
    pub(super) places: Places,
    pub(super) values: Aligned,
}

/// Buffers of a step, made once a session.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// The view's inputs.
    pub entries: Vec<(u32, f32)>,
    /// In one piece, because a live click makes a session's buffers anew: taps of the convolution, gates, sums from the
    /// step before, outputs, the last layer's before, feed-forward layer.
    numbers: Aligned,
}

impl Scratch {
    pub(super) fn new(spec: &Spec, entries: usize) -> Scratch {
        let lengths = Scratch::lengths(&Shape::new(spec, 0));
        let mut numbers = Aligned::default();
        numbers.sized(lengths.iter().map(|n| n.next_multiple_of(Aligned::LINE)).sum());
        Scratch { entries: Vec::with_capacity(entries), numbers }
    }

    fn lengths(shape: &Shape) -> [usize; 6] {
        let back = if shape.rnn_type == RnnType::Gru { shape.gates() } else { 0 };
        [
            shape.conv_kernel * shape.conv_channels,
            shape.gates(),
            back,
            shape.hidden_size,
            shape.hidden_size,
            shape.dense_units,
        ]
    }

    /// A session's buffers with what it carries from view to view, of which it has seen `before`.
    fn walk<'a>(&'a mut self, shape: &Shape, memory: &'a mut [f32], before: u32) -> Walk<'a> {
        let mut rest = &mut *self.numbers;
        let [taps, gates, back, output, earlier, wide] = Scratch::lengths(shape).map(|n| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(n.next_multiple_of(Aligned::LINE));
            rest = after;
            &mut part[..n]
        });
        let (pending, memory) = memory.split_at_mut(shape.pending());
        let (states, window) = memory.split_at_mut(shape.num_layers * shape.state());
        earlier.copy_from_slice(&states[(shape.num_layers - 1) * shape.state()..][..shape.hidden_size]);
        let before = before as usize;
        Walk { entries: &self.entries, taps, gates, back, output, earlier, wide, pending, states, window, before }
    }
}

/// One session's step under way.
struct Walk<'a> {
    entries: &'a [(u32, f32)],
    taps: &'a mut [f32],
    gates: &'a mut [f32],
    /// A GRU's sums from the step before.
    back: &'a mut [f32],
    output: &'a mut [f32],
    /// The last layer's output at the step before.
    earlier: &'a mut [f32],
    wide: &'a mut [f32],
    pending: &'a mut [f32],
    states: &'a mut [f32],
    window: &'a mut [f32],
    before: usize,
}

impl Walk<'_> {
    /// What layer `l` sums up from the step before, and its output then.
    fn recurrent(&mut self, shape: &Shape, l: usize) -> (&mut [f32], &[f32]) {
        let sums = if shape.rnn_type == RnnType::Gru { &mut *self.back } else { &mut *self.gates };
        (sums, &self.states[l * shape.state()..][..shape.hidden_size])
    }
}

impl Net {
    /// `tensor` gives the numbers of each of [`Shape::tensors`], in that order.
    pub(super) fn build<E>(
        shape: Shape,
        mut tensor: impl FnMut(&str, &[usize], &mut [f32]) -> Result<(), E>,
    ) -> Result<Net, E> {
        let places = shape.places();
        let mut values = Aligned::zeros(places.total);
        for (name, dims, place) in shape.tensors() {
            tensor(&name, &dims, &mut values[place])?;
        }
        Ok(Net { shape, places, values })
    }

    /// A network before training: every weight uniform within 1/√(units), as PyTorch starts recurrent layers.
    pub(super) fn random(spec: &Spec, inputs: usize, rng: &mut Xoshiro256PlusPlus) -> Net {
        let shape = Shape::new(spec, inputs);
        let units = |name: &str| match name {
            "convolution.w" | "convolution.b" => shape.conv_channels,
            "f2.w" | "f2.b" => shape.dense_units,
            _ => shape.hidden_size,
        };
        let Ok(net) = Net::build(shape, |name, _, numbers| {
            let bound = 1.0 / (units(name) as f32).sqrt();
            numbers.iter_mut().for_each(|x| *x = rng.gen_range(-bound..=bound));
            Ok::<_, std::convert::Infallible>(())
        });
        net
    }

    /// A network with its inputs in new places: `map` says where each stood; one that stood nowhere gets no weight.
    pub(super) fn renewed(old: &Net, inputs: usize, map: &[Option<usize>]) -> Net {
        // The first tensor is the one that the inputs enter.
        let (mut first, mut places) = (true, old.shape.tensors().into_iter().map(|tensor| tensor.2));
        let Ok(net) = Net::build(Shape { inputs, ..old.shape }, |_, dims, to| {
            let from = &old.values[places.next().expect("the same layers")];
            if !std::mem::take(&mut first) {
                to.copy_from_slice(from);
                return Ok::<_, std::convert::Infallible>(());
            }
            let width = dims[1];
            for (to, at) in to.chunks_exact_mut(width).zip(map) {
                match at {
                    Some(at) => to.copy_from_slice(&from[at * width..(at + 1) * width]),
                    None => to.fill(0.0),
                }
            }
            Ok(())
        });
        net
    }

    /// Advances a session by one view whose inputs are `scratch.entries`, and returns the logit of churn.
    ///
    /// `memory` is `Shape::memory` numbers, zeros before the first view; `before` is the number of views it has seen.
    /// Costs (entries + H·layers) · gates·H multiply-adds; allocates nothing.
    pub fn step(&self, memory: &mut [f32], before: u32, scratch: &mut Scratch) -> f32 {
        let mut walk = scratch.walk(&self.shape, memory, before);
        for (l, layer) in self.places.layers.iter().enumerate() {
            self.enter(&mut walk, l);
            let (sums, h) = walk.recurrent(&self.shape, l);
            add_rows(sums, h, &self.values[layer.u.clone()]);
            self.cell(&mut walk, l);
        }
        self.leave(&mut walk)
    }

    /// [`Net::step`] of several sessions, to the bit.
    pub(super) fn step_lanes(&self, sessions: [(&mut [f32], u32, &mut Scratch); LANES]) -> [f32; LANES] {
        let shape = &self.shape;
        let mut walks = sessions.map(|(memory, before, scratch)| scratch.walk(shape, memory, before));
        for (l, layer) in self.places.layers.iter().enumerate() {
            walks.iter_mut().for_each(|walk| self.enter(walk, l));
            let [a, b, c, d] = walks.each_mut().map(|walk| walk.recurrent(shape, l));
            add_rows_lanes([a.0, b.0, c.0, d.0], [a.1, b.1, c.1, d.1], &self.values[layer.u.clone()]);
            walks.iter_mut().for_each(|walk| self.cell(walk, l));
        }
        walks.each_mut().map(|walk| self.leave(walk))
    }

    /// What layer `l` sums up from below.
    fn enter(&self, walk: &mut Walk, l: usize) {
        let (shape, at) = (&self.shape, |place: &Range<usize>| &self.values[place.clone()]);
        let layer = &self.places.layers[l];
        walk.gates.copy_from_slice(at(&layer.b));
        match l {
            0 if shape.conv_channels > 0 => {
                let [w, b] = self.places.convolution.each_ref().map(at);
                convolve(walk.taps, walk.pending, walk.entries, w, b);
                add_rows(walk.gates, &walk.taps[..shape.conv_channels], at(&layer.w));
            }
            0 => add_sparse(walk.gates, walk.entries, at(&layer.w)),
            _ => add_rows(walk.gates, walk.output, at(&layer.w)),
        }
        if shape.rnn_type == RnnType::Gru {
            let (gates, reset) = walk.back.split_at_mut(2 * shape.hidden_size);
            gates.fill(0.0);
            reset.copy_from_slice(at(&layer.r));
        }
    }

    /// The cell, after [`Net::enter`] and what [`Walk::recurrent`] was for.
    fn cell(&self, walk: &mut Walk, l: usize) {
        let (shape, n) = (&self.shape, self.shape.hidden_size);
        let state = &mut walk.states[l * shape.state()..(l + 1) * shape.state()];
        match shape.rnn_type {
            RnnType::Lstm => {
                let (h, c) = state.split_at_mut(n);
                lstm_step(walk.gates, c, h);
                walk.output.copy_from_slice(h);
            }
            RnnType::Gru => {
                gru(walk.gates, walk.back, state, walk.output, n);
                state.copy_from_slice(walk.output);
            }
        }
    }

    /// From the last layer's output to the logit.
    fn leave(&self, walk: &mut Walk) -> f32 {
        let (shape, at) = (&self.shape, |place: &Range<usize>| &self.values[place.clone()]);
        let n = shape.hidden_size;
        // The window that stands becomes the output, and the output before joins the ring.
        let (ring, standing) = walk.window.split_at_mut(shape.ring());
        let pooled = &mut walk.gates[..n];
        if walk.before.is_multiple_of(shape.pool_stride) {
            let earlier = std::iter::once(&*walk.earlier).chain(ring.chunks_exact(n));
            pool(shape.pooling, pooled, walk.output, earlier.take(walk.before.min(shape.pool_size - 1)));
            standing.copy_from_slice(&pooled[..standing.len()]);
        } else {
            pooled.copy_from_slice(standing);
        }
        if !ring.is_empty() {
            ring.copy_within(..ring.len() - n, n);
            ring[..n].copy_from_slice(walk.earlier);
        }
        walk.wide.copy_from_slice(at(&self.places.f1[1]));
        add_rows(walk.wide, pooled, at(&self.places.f1[0]));
        rectified_product(walk.wide, at(&self.places.f2[0])) + at(&self.places.f2[1])[0]
    }
}

/// Σ max(x, 0) · w, in eight sums: one waits for each addition, a fiftieth of a step.
fn rectified_product(x: &[f32], w: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (x, w) in x.chunks(8).zip(w.chunks(8)) {
        for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
            *sum += x.max(0.0) * w;
        }
    }
    sums.iter().sum()
}

/// One view's contribution to each of the next `taps` steps is added up as it comes, so that no view has to be kept;
/// the channels of this step are left in front of `taps`.
fn convolve(taps: &mut [f32], pending: &mut [f32], entries: &[(u32, f32)], w: &[f32], b: &[f32]) {
    let channels = b.len();
    taps.fill(0.0);
    add_sparse(taps, entries, w);
    let (now, later) = taps.split_at_mut(channels);
    now.iter_mut().zip(b).for_each(|(x, b)| *x += b);
    if !pending.is_empty() {
        now.iter_mut().zip(&*pending).for_each(|(x, p)| *x += p);
        pending.copy_within(channels.., 0);
        let end = pending.len() - channels;
        pending[end..].fill(0.0);
        pending.iter_mut().zip(later).for_each(|(p, x)| *p += *x);
    }
    now.iter_mut().for_each(|x| *x = x.max(0.0));
}

/// Over the newest output and earlier ones.
pub(super) fn pool<'a>(pooling: Pooling, pooled: &mut [f32], output: &[f32], earlier: impl Iterator<Item = &'a [f32]>) {
    pooled.copy_from_slice(output);
    let mut count = 1.0;
    for earlier in earlier {
        count += 1.0;
        match pooling {
            Pooling::Max => pooled.iter_mut().zip(earlier).for_each(|(p, e)| *p = p.max(*e)),
            Pooling::Mean => pooled.iter_mut().zip(earlier).for_each(|(p, e)| *p += e),
        }
    }
    if pooling == Pooling::Mean {
        pooled.iter_mut().for_each(|p| *p /= count);
    }
}
