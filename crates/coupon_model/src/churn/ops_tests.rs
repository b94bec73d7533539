//! Each operation with a kernel of its own against the same written in candle's, and its gradients against autograd's.

use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use proptest::prelude::*;

use super::batch::Batch;
use super::ops::{DenseProduct, Recurrence, SparseProduct};
use super::simd::tests::with_each_level;
use super::spec::Cell;

const CPU: &Device = &Device::Cpu;

fn var(dims: &[usize], seed: u32) -> Var {
    let n = dims.iter().product::<usize>() as u32;
    let number = |i: u32| ((i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) >> 8) % 2000;
    let numbers: Vec<f32> = (0..n).map(|i| number(i) as f32 * 1e-3 - 1.0).collect();
    Var::from_vec(numbers, dims, CPU).unwrap()
}

/// Sessions of these lengths in falling order, each view with two inputs of five.
fn batch(lengths: &[usize]) -> Arc<Batch> {
    let (mut starts, mut inputs) = (vec![0], Vec::new());
    for t in 0..lengths[0] {
        let active = lengths.iter().filter(|n| **n > t).count();
        inputs.extend((0..active).map(|b| vec![((b + t) as u32 % 2, 0.5), (2 + (b * t) as u32 % 3, t as f32 - 1.5)]));
        starts.push(inputs.len());
    }
    Arc::new(Batch::of(starts, inputs, Vec::new()))
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..6, 1..7).prop_map(|mut lengths| {
        lengths.sort_by_key(|n| std::cmp::Reverse(*n));
        lengths
    })
}

/// What depends on rows step by step, from candle's own operations.
fn recurrence(cell: Cell, batch: &Batch, sums: &Tensor, u: &Tensor, r: &Tensor) -> Result<Tensor> {
    let n = u.dim(0)?;
    let first = batch.step(0).len();
    let (mut h, mut c) = (Tensor::zeros((first, n), DType::F32, CPU)?, Tensor::zeros((first, n), DType::F32, CPU)?);
    let mut all = Vec::new();
    for t in 0..batch.steps() {
        let rows = batch.step(t);
        let before = h.i(..rows.len())?;
        let (below, back) = (sums.i(rows.clone())?, before.matmul(u)?);
        let part = |x: &Tensor, k: usize| x.narrow(1, k * n, n);
        match cell {
            Cell::Lstm => {
                let sums = (below + back)?;
                let [i, f, o] = [0, 1, 3].map(|k| candle_nn::ops::sigmoid(&part(&sums, k)?));
                c = ((f? * c.i(..rows.len())?)? + (i? * part(&sums, 2)?.tanh()?)?)?;
                h = (o? * c.tanh()?)?;
            }
            Cell::Gru => {
                let [reset, z] = [0, 1].map(|k| candle_nn::ops::sigmoid(&(part(&below, k)? + part(&back, k)?)?));
                let m = (part(&below, 2)? + (reset? * part(&back, 2)?.broadcast_add(r)?)?)?.tanh()?;
                h = (&m + (z? * (before - &m)?)?)?;
            }
        }
        all.push(h.clone());
    }
    Tensor::cat(&all, 0)
}

/// The same numbers, and the same gradients of a sum over them in which each weighs differently.
fn agree(vars: &[&Var], ours: &Tensor, theirs: &Tensor) {
    let close = |a: &Tensor, b: &Tensor| {
        assert_eq!(a.dims(), b.dims());
        let [a, b] = [a, b].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 2e-5 * b.abs().max(1.0), "{a} against {b}");
        }
    };
    close(ours, theirs);
    let weights = var(ours.dims(), 99);
    let [ours, theirs] = [ours, theirs].map(|t| t.mul(&weights).unwrap().sum_all().unwrap().backward().unwrap());
    vars.iter().for_each(|v| close(ours.get(v).unwrap(), theirs.get(v).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn products_are_candles(lengths in lengths(), n in 1usize..140, seed in 0u32..99) {
        let batch = batch(&lengths);
        let mut dense = vec![0.0f32; batch.rows() * 5];
        for (to, row) in dense.chunks_exact_mut(5).zip(batch.inputs()) {
            row.iter().for_each(|&(i, x)| to[i as usize] += x);
        }
        let x = Var::from_vec(dense, (batch.rows(), 5), CPU).unwrap();
        let (w, b) = (var(&[5, n], seed), var(&[n], seed + 1));
        let theirs = x.matmul(&w).unwrap().broadcast_add(&b).unwrap();
        with_each_level(|_| {
            let sparse = w.apply_op2(&b, SparseProduct(batch.clone())).unwrap();
            agree(&[&w, &b], &sparse, &theirs);
            agree(&[&x, &w, &b], &x.apply_op3(&w, &b, DenseProduct).unwrap(), &theirs);
        });
    }

    #[test]
    fn recurrences_are_candles(lengths in lengths(), gru in any::<bool>(), n in 1usize..40, seed in 0u32..99) {
        let (cell, batch) = (if gru { Cell::Gru } else { Cell::Lstm }, batch(&lengths));
        let (sums, u) = (var(&[batch.rows(), cell.gates() * n], seed), var(&[n, cell.gates() * n], seed + 1));
        let r = var(&[if gru { n } else { 0 }], seed + 2);
        let theirs = recurrence(cell, &batch, &sums, &u, &r).unwrap();
        with_each_level(|_| {
            let ours = sums.apply_op3(&u, &r, Recurrence::new(cell, &batch)).unwrap();
            // Of one session of one view nothing reaches u in candle's graph but zeros.
            let vars: &[&Var] = if gru { &[&sums, &u, &r] } else { &[&sums, &u] };
            agree(vars, &ours, &theirs);
        });
    }
}

#[test]
fn a_graph_goes_back_once() {
    let batch = batch(&[2, 1]);
    let (sums, u) = (var(&[3, 8], 1), var(&[2, 8], 2));
    let ours = sums.apply_op3(&u, &var(&[0], 3), Recurrence::new(Cell::Lstm, &batch)).unwrap().sum_all().unwrap();
    assert!(ours.backward().is_ok() && ours.backward().is_err());
}
