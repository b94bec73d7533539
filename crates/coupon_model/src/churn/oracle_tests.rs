//! The step that serves, the scorer and the graph that trains against PyTorch, in every version of the inner loops that
//! this CPU can run: `models/fixtures/churn_oracle.py` made the numbers.

use std::sync::Arc;

use safetensors::SafeTensors;

use super::batch::{Batch, Counted};
use super::net::{Net, Scratch, Shape};
use super::network::{Network, loss};
use super::scorer::Scorer;
use super::simd::tests::with_each_level;
use super::{Cell, Pooling, Spec};

const FILE: &[u8] = include_bytes!("../../../../models/fixtures/churn_oracle.safetensors");
const CASES: usize = 8;
const INPUTS: usize = 6;
const STEPS: usize = 7;

struct Oracle {
    file: SafeTensors<'static>,
    case: usize,
    spec: Spec,
    net: Net,
}

impl Oracle {
    fn read(case: usize) -> Oracle {
        let file = SafeTensors::deserialize(FILE).unwrap();
        let get = |name: &str| numbers(&file, case, name);
        let sizes: Vec<usize> = get("sizes").iter().map(|s| *s as usize).collect();
        let spec = Spec {
            convolution: sizes[0],
            convolution_kernel: sizes[1],
            cell: if sizes[2] == 1 { Cell::Gru } else { Cell::Lstm },
            layers: sizes[3],
            hidden: sizes[4],
            pooling: if sizes[5] == 1 { Pooling::Mean } else { Pooling::Max },
            kernel: sizes[6],
            stride: sizes[7],
            feed_forward: 5,
            ..Spec::default()
        };
        let shape = Shape::new(&spec, INPUTS);
        let net = Net::build(shape, |name, _, to| {
            to.copy_from_slice(&get(name));
            Ok::<_, ()>(())
        });
        let net = net.unwrap();
        Oracle { file, case, spec, net }
    }

    fn get(&self, name: &str) -> Vec<f32> {
        numbers(&self.file, self.case, name)
    }

    fn entries(&self, session: usize, t: usize) -> Vec<(u32, f32)> {
        let row = &self.get("inputs")[(session * STEPS + t) * INPUTS..][..INPUTS];
        row.iter().zip(0..).filter(|(x, _)| **x != 0.0).map(|(x, i)| (i, *x)).collect()
    }

    fn lengths(&self) -> Vec<usize> {
        self.get("lengths").iter().map(|n| *n as usize).collect()
    }

    /// The three sessions, which are in falling order of length, side by side.
    fn batch(&self) -> Batch {
        let (churned, weights, lengths) = (self.get("churned"), self.get("weights"), self.lengths());
        let (mut starts, mut rows, mut counted) = (vec![0], Vec::new(), Vec::new());
        for step in 0..STEPS {
            for session in (0..lengths.len()).filter(|&b| step < lengths[b]) {
                rows.push(self.entries(session, step));
                counted.push(Counted { step, session, target: churned[session], weight: weights[session] });
            }
            starts.push(rows.len());
        }
        Batch::of(starts, rows, counted)
    }
}

fn numbers(file: &SafeTensors, case: usize, name: &str) -> Vec<f32> {
    let tensor = file.tensor(&format!("{case}.{name}")).unwrap_or_else(|e| panic!("{case}.{name}: {e}"));
    tensor.data().as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn close(ours: f32, theirs: f32, tolerance: f32, what: &str) {
    assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(1.0), "{what}: {ours} against {theirs}");
}

#[test]
fn the_step_agrees_with_pytorch() {
    with_each_level(|level| {
        for case in 0..CASES {
            let oracle = Oracle::read(case);
            let logits = oracle.get("logits");
            for (b, &n) in oracle.lengths().iter().enumerate() {
                let mut memory = vec![0.0; oracle.net.shape.memory()];
                let mut scratch = Scratch::new(&oracle.spec, INPUTS);
                for t in 0..n {
                    scratch.entries = oracle.entries(b, t);
                    let ours = oracle.net.step(&mut memory, t as u32, &mut scratch);
                    close(ours, logits[b * STEPS + t], 1e-5, &format!("{level:?}, case {case}, logit {t}"));
                }
            }
        }
    });
}

#[test]
fn the_graph_its_loss_and_its_gradient_agree_with_pytorch() {
    with_each_level(|level| {
        for case in 0..CASES {
            let oracle = Oracle::read(case);
            let theirs = oracle.get("logits");
            let (network, batch) = (Network::new(&oracle.net).unwrap(), Arc::new(oracle.batch()));
            let logits = network.forward(&batch, None).unwrap();
            let mut scorer = Scorer::default();
            scorer.batch = oracle.batch();
            let scored = scorer.score(&oracle.net);
            for ((c, z), scored) in batch.counted.iter().zip(logits.to_vec1::<f32>().unwrap()).zip(scored) {
                let theirs = theirs[c.session * STEPS + c.step];
                let which = format!("{level:?}, case {case}, logit of session {} view {}", c.session, c.step);
                close(z, theirs, 1e-5, &which);
                close(*scored, theirs, 1e-5, &which);
            }
            let loss = loss(&logits, &batch, 2.0, [1.0, 1.0]).unwrap();
            close(2.0 * loss.to_scalar::<f64>().unwrap() as f32, oracle.get("loss")[0], 1e-5, "loss");
            let gradients = loss.backward().unwrap();
            for (var, (name, ..)) in network.vars().zip(oracle.net.shape.tensors()) {
                let theirs = oracle.get(&format!("gradient.{name}"));
                assert!(theirs.iter().any(|g| g.abs() > 1e-3), "case {case}: {name} has a gradient to compare");
                let ours = gradients.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(ours.len(), theirs.len());
                for (a, b) in ours.iter().zip(theirs) {
                    close(2.0 * a, b, 2e-5, &format!("{level:?}, case {case}, {name}"));
                }
            }
        }
    });
}
