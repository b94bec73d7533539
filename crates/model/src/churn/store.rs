//! Networks as safetensors: named tensors, and one JSON string for everything else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model::{Model, Segment, layout};
use super::net::{Net, Shape};
use super::{Calibrator, Spec, Vocabulary};
use coupon_base::Error;
use coupon_base::Result;
use coupon_base::weights::{Reader, Writer};

const FORMAT: u32 = 1;
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

fn sane(name: &str, mut numbers: impl Iterator<Item = f64>) -> Result<()> {
    if numbers.all(|x| x.abs() <= MAX_WEIGHT) {
        Ok(())
    } else {
        Err(corrupt(format!("{name} holds a far too large number")))
    }
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
        Model::from_parts(&[(0, bytes)])
    }

    /// Reads [`Model::parts`], in any order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a missing segment 0, a part that holds other segments than its number says, a segment
    /// twice, a tensor that is missing, misshapen or not finite.
    pub fn from_parts<B: AsRef<[u8]>>(parts: &[(u32, B)]) -> Result<Model> {
        let mut decoded = Vec::new();
        for (segment, bytes) in parts {
            let reader = Reader::new(bytes.as_ref())?;
            let head: Head = reader.meta()?;
            if head.format != FORMAT {
                return Err(corrupt(format!("format {}, this version reads {FORMAT}", head.format)));
            }
            if head.segments.first().map(|s| s.0) != Some(*segment) {
                return Err(corrupt(format!("the part of segment {segment} holds another")));
            }
            decoded.push((head, reader));
        }
        let shared = decoded.iter().find_map(|(head, _)| head.shared.clone());
        let (spec, vocabulary) = shared.ok_or_else(|| corrupt("segment 0 is missing"))?;
        check_shared(&spec, &vocabulary)?;
        let inputs = layout(&spec, &vocabulary).inputs();

        let mut found = BTreeMap::new();
        for (head, reader) in &decoded {
            for &(segment, own) in &head.segments {
                let net = if own { Some(read_net(reader, segment, &spec, inputs)?) } else { None };
                let calibrator = read_calibrator(reader, segment)?;
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
        let mut writer = Writer::default();
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
                    writer = writer.f32(&format!("{segment}.{name}"), &shape, &net.values[place]);
                }
            }
            for (name, shape, numbers) in calibrator.tensors() {
                writer = writer.f64(&format!("{segment}.{name}"), &shape, &numbers);
            }
        }
        writer.finish(&head).expect("shapes match their numbers")
    }
}

fn check_shared(spec: &Spec, vocabulary: &Vocabulary) -> Result<()> {
    spec.validate().map_err(corrupt)?;
    let fits = vocabulary.pages.len() <= spec.max_pages
        && vocabulary.categories.len() <= spec.max_categories
        && vocabulary.attributes.len() <= coupon_events::events::MAX_ATTRIBUTES
        && vocabulary.attributes.iter().all(|a| a.len() <= spec.max_attributes);
    if fits { Ok(()) } else { Err(corrupt("more words than the specification allows")) }
}

fn read_net(reader: &Reader, segment: u32, spec: &Spec, inputs: usize) -> Result<Net> {
    let shape = Shape::new(spec, inputs);
    let numbers: usize = shape.tensors().iter().map(|tensor| tensor.2.len()).sum();
    if !reader.holds(numbers.saturating_mul(4)) {
        return Err(corrupt(format!("the network of segment {segment} is smaller than its specification")));
    }
    Net::build(shape, |name, dims, numbers| {
        let name = format!("{segment}.{name}");
        let values = reader.f32(&name, dims)?;
        sane(&name, values.iter().map(|x| f64::from(*x)))?;
        numbers.copy_from_slice(&values);
        Ok(())
    })
}

fn read_calibrator(reader: &Reader, segment: u32) -> Result<Calibrator> {
    let name = format!("{segment}.calibrator");
    let line = reader.f64(&name, &[3])?;
    let name = format!("{name}.curve");
    // The curve is optional, and as long as it is; its reader bounds it.
    let curve = match reader.shape(&name) {
        Ok(shape) => reader.f64(&name, &[shape.first().copied().unwrap_or(0), 2])?,
        Err(_) => Vec::new(),
    };
    sane(&name, line.iter().chain(&curve).copied())?;
    Calibrator::from_tensors([line[0], line[1], line[2]], &curve).map_err(|why| corrupt(format!("{name}: {why}")))
}
