//! Networks as safetensors: named tensors, and one JSON string for everything else.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::model::{Model, Segment, layout};
use super::net::{Net, Shape};
use super::{Calibrator, Spec, Vocabulary};
use crate::{Error, Result};

const FORMAT: u32 = 1;
/// The key of the JSON string. One key only: the header keeps them in a hash map, whose order is not reproducible.
const KEY: &str = "churn";
/// No trained weight comes near; with larger ones the sums of a step could leave the finite numbers.
const MAX_WEIGHT: f64 = 1e6;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    /// The segments in this file, and whether each has a network of its own.
    segments: Vec<(u32, bool)>,
    /// Where segment 0 is: what all segments share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<(Spec, Vocabulary)>,
}

fn sane(x: f64) -> bool {
    x.abs() <= MAX_WEIGHT
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::Corrupt(why.to_string())
}

impl Model {
    /// The whole model in one blob. The same model gives the same bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let all: Vec<u32> = std::iter::once(0).chain(self.segments().map(|s| s.0)).collect();
        self.encode(&all)
    }

    /// One blob a segment: segment 0 carries the pooled network, specification and vocabulary, each other its own.
    pub fn parts(&self) -> Vec<(u32, Vec<u8>)> {
        std::iter::once(0).chain(self.segments().map(|s| s.0)).map(|s| (s, self.encode(&[s]))).collect()
    }

    /// Reads [`Model::to_safetensors`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] for anything that saving cannot have written.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Model> {
        Model::from_parts(&[(0, bytes.to_vec())])
    }

    /// Reads [`Model::parts`], in any order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a missing segment 0, a part that holds other segments than its number says, a segment
    /// twice, a tensor that is missing, misshapen or not finite.
    pub fn from_parts(parts: &[(u32, Vec<u8>)]) -> Result<Model> {
        let mut decoded = Vec::new();
        for (segment, bytes) in parts {
            let file = SafeTensors::deserialize(bytes).map_err(corrupt)?;
            let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(corrupt)?;
            let json = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| corrupt("no header"))?;
            let head: Head = serde_json::from_str(json).map_err(corrupt)?;
            if head.format != FORMAT {
                return Err(corrupt(format!("format {}, this version reads {FORMAT}", head.format)));
            }
            if head.segments.first().map(|s| s.0) != Some(*segment) {
                return Err(corrupt(format!("the part of segment {segment} holds another")));
            }
            decoded.push((head, file));
        }
        let shared = decoded.iter().find_map(|(head, _)| head.shared.clone());
        let (spec, vocabulary) = shared.ok_or_else(|| corrupt("segment 0 is missing"))?;
        check_shared(&spec, &vocabulary)?;
        let inputs = layout(&spec, &vocabulary).inputs();

        let mut found = BTreeMap::new();
        for (head, file) in &decoded {
            for &(segment, own) in &head.segments {
                let net = if own { Some(read_net(file, segment, &spec, inputs)?) } else { None };
                let calibrator = read_calibrator(file, segment)?;
                if found.insert(segment, Segment { net, calibrator }).is_some() {
                    return Err(corrupt(format!("segment {segment} twice")));
                }
            }
        }
        match found.remove(&0) {
            Some(Segment { net: Some(net), calibrator }) => Ok(Model::new(spec, vocabulary, (net, calibrator), found)),
            _ => Err(corrupt("no pooled network")),
        }
    }

    fn encode(&self, segments: &[u32]) -> Vec<u8> {
        let mut head = Head { format: FORMAT, segments: Vec::new(), shared: None };
        let mut blobs: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for &segment in segments {
            let (net, calibrator) = match segment {
                0 => (Some(&self.pooled().0), &self.pooled().1),
                _ => match self.own(segment) {
                    Some(own) => (own.net.as_ref(), &own.calibrator),
                    None => continue,
                },
            };
            head.segments.push((segment, net.is_some()));
            if segment == 0 {
                head.shared = Some((self.spec().clone(), self.vocabulary().clone()));
            }
            if let Some(net) = net {
                for (name, shape, place) in net.shape.tensors() {
                    let bytes = net.values[place].iter().flat_map(|x| x.to_le_bytes()).collect();
                    blobs.push((format!("{segment}.{name}"), Dtype::F32, shape, bytes));
                }
            }
            for (name, shape, numbers) in calibrator.tensors() {
                let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
                blobs.push((format!("{segment}.{name}"), Dtype::F64, shape, bytes));
            }
        }
        let json = serde_json::to_string(&head).expect("numbers and texts always serialise");
        let views = blobs.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("shapes match their data"))
        });
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), json)]))).expect("a header of sane size")
    }
}

fn check_shared(spec: &Spec, vocabulary: &Vocabulary) -> Result<()> {
    spec.validate().map_err(corrupt)?;
    let fits = vocabulary.pages.len() <= spec.pages
        && vocabulary.categories.len() <= spec.categories
        && vocabulary.attributes.len() <= crate::events::MAX_ATTRIBUTES
        && vocabulary.attributes.iter().all(|a| a.len() <= spec.attributes);
    if fits { Ok(()) } else { Err(corrupt("more words than the specification allows")) }
}

fn read_net(file: &SafeTensors, segment: u32, spec: &Spec, inputs: usize) -> Result<Net> {
    // Sizes come from the specification, never from the file, so that a file cannot ask for memory.
    Net::build(Shape::new(spec, inputs), |name, dims, numbers| {
        let name = format!("{segment}.{name}");
        let bytes = read_tensor(file, &name, Dtype::F32, dims)?;
        numbers.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(to, x)| *to = f32::from_le_bytes(*x));
        match numbers.iter().all(|x| sane(f64::from(*x))) {
            true => Ok(()),
            false => Err(corrupt(format!("{name} holds a number that is not finite or far too large"))),
        }
    })
}

fn read_calibrator(file: &SafeTensors, segment: u32) -> Result<Calibrator> {
    let numbers = |name: &str, shape: &[usize]| -> Result<Vec<f64>> {
        let bytes = read_tensor(file, name, Dtype::F64, shape)?;
        let numbers: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(|x| f64::from_le_bytes(*x)).collect();
        if !numbers.iter().all(|x| sane(*x)) {
            return Err(corrupt(format!("{name} holds a number that is not finite or far too large")));
        }
        Ok(numbers)
    };
    let name = format!("{segment}.calibrator");
    let line = numbers(&name, &[3])?;
    let name = format!("{name}.curve");
    // The curve is optional, and as long as it is; its reader bounds it.
    let curve = match file.tensor(&name) {
        Ok(tensor) => numbers(&name, &[tensor.shape().first().copied().unwrap_or(0), 2])?,
        Err(_) => Vec::new(),
    };
    Calibrator::from_tensors([line[0], line[1], line[2]], &curve).map_err(|why| corrupt(format!("{name}: {why}")))
}

fn read_tensor<'a>(file: &SafeTensors<'a>, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8]> {
    let tensor = file.tensor(name).map_err(|_| corrupt(format!("tensor {name} is missing")))?;
    if tensor.dtype() != dtype || tensor.shape() != shape {
        return Err(corrupt(format!("tensor {name} is {:?}, {shape:?} was expected", tensor.shape())));
    }
    Ok(tensor.data())
}
