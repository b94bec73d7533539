//! The hand-written step and candle's graph against PyTorch: `models/fixtures/churn_oracle.py` made the numbers.

use std::sync::Arc;

use safetensors::SafeTensors;

use super::graph::{Batch, Graph};
use super::net::{Layer, Net, Scratch};
use super::ops::{Sparse, read};
use super::{Loss, Spec};

const FILE: &[u8] = include_bytes!("../../../../models/fixtures/churn_oracle.safetensors");

struct Oracle {
    file: SafeTensors<'static>,
    spec: Spec,
    net: Net,
}

impl Oracle {
    fn read() -> Oracle {
        let file = SafeTensors::deserialize(FILE).unwrap();
        let get = |name: &str| numbers(&file, name);
        let layer = |l: usize| Layer {
            w: get(&format!("lstm.{l}.w")),
            u: get(&format!("lstm.{l}.u")),
            b: get(&format!("lstm.{l}.b")),
        };
        let net = Net {
            inputs: 6,
            hidden: 8,
            kernel: 3,
            layers: vec![layer(0), layer(1)],
            f1: get("f1.w"),
            f1_bias: get("f1.b"),
            f2: get("f2.w"),
            f2_bias: get("f2.b"),
        };
        let spec = Spec { layers: 2, hidden: 8, kernel: 3, feed_forward: 5, loss: Loss::EveryView, ..Spec::default() };
        Oracle { file, spec, net }
    }

    fn get(&self, name: &str) -> Vec<f32> {
        numbers(&self.file, name)
    }

    fn entries(&self, session: usize, t: usize) -> Vec<(u32, f32)> {
        let row = &self.get("inputs")[(session * 7 + t) * 6..][..6];
        row.iter().zip(0..).filter(|(x, _)| **x != 0.0).map(|(x, i)| (i, *x)).collect()
    }

    fn lengths(&self) -> Vec<usize> {
        let file = self.file.tensor("lengths").unwrap();
        file.data().as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x) as usize).collect()
    }

    /// The three sessions side by side, padded to `steps`.
    fn batch(&self, steps: usize) -> Batch {
        let (churned, weights) = (self.get("churned"), self.get("weights"));
        let mut sparse = Sparse { starts: vec![0], entries: Vec::new() };
        let mut batch = Batch { sessions: 3, ..Batch::default() };
        for t in 0..steps {
            for (b, &n) in self.lengths().iter().enumerate() {
                if t < n {
                    sparse.entries.extend(self.entries(b, t));
                    batch.rows.push((3 * t + b) as u32);
                    batch.targets.push(churned[b]);
                    batch.weights.push(weights[b]);
                }
                sparse.starts.push(sparse.entries.len() as u32);
            }
        }
        batch.inputs = Arc::new(sparse);
        batch
    }
}

fn numbers(file: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    tensor.data().as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn close(ours: f32, theirs: f32, tolerance: f32, what: &str) {
    assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(1.0), "{what}: {ours} against {theirs}");
}

#[test]
fn the_step_agrees_with_pytorch() {
    let oracle = Oracle::read();
    let logits = oracle.get("logits");
    for (b, &n) in oracle.lengths().iter().enumerate() {
        let mut memory = vec![0.0; oracle.spec.recurrent()];
        let mut scratch = Scratch::new(&oracle.spec, 6);
        for t in 0..n {
            scratch.entries = oracle.entries(b, t);
            let ours = oracle.net.step(&mut memory, t as u32, &mut scratch);
            close(ours, logits[b * 7 + t], 1e-5, "logit");
        }
    }
}

#[test]
fn the_graph_its_loss_and_its_gradient_agree_with_pytorch_whatever_the_padding() {
    let oracle = Oracle::read();
    let graph = Graph::new(oracle.net.clone()).unwrap();
    for steps in [7, 12] {
        let batch = oracle.batch(steps);
        let theirs = oracle.get("logits");
        let ours = graph.logits(&batch, None).unwrap().to_vec1::<f32>().unwrap();
        for (row, z) in batch.rows.iter().zip(ours) {
            close(z, theirs[(row % 3 * 7 + row / 3) as usize], 1e-5, "logit");
        }
        // The scale divides the loss, and so its gradient.
        let loss = graph.loss(&batch, 2.0, None).unwrap();
        close(2.0 * loss.to_scalar::<f32>().unwrap(), oracle.get("loss")[0], 1e-5, "loss");
        let gradients = loss.backward().unwrap();
        for ((name, _, _), var) in oracle.net.tensors().iter().zip(&graph.vars) {
            let theirs = oracle.get(&format!("gradient.{name}"));
            let ours = read(gradients.get(var).unwrap(), <[f32]>::to_vec).unwrap();
            assert_eq!(ours.len(), theirs.len());
            assert!(theirs.iter().any(|g| g.abs() > 1e-3), "{name} has a gradient to compare");
            for (a, b) in ours.iter().zip(theirs) {
                close(2.0 * a, b, 2e-5, name);
            }
        }
    }
}
