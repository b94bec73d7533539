//! Model weights as safetensors bytes: named tensors, and one JSON text for what is not a number. Everything that is
//! stored as safetensors goes through here.

use crate::{Error, Result};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeSet, HashMap};

/// The one metadata key. One key, because safetensors keeps metadata in a hash map: with two, equal models would
/// have different bytes from run to run, and so different digests.
const META: &str = "coupon_ext";

/// Collects tensors, then encodes them; the same content always gives the same bytes.
#[derive(Default)]
pub(crate) struct Writer {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Writer {
    pub fn f64(mut self, name: &str, shape: &[usize], values: &[f64]) -> Writer {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push((name.into(), Dtype::F64, shape.to_vec(), bytes));
        self
    }

    pub fn f32(mut self, name: &str, shape: &[usize], values: &[f32]) -> Writer {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push((name.into(), Dtype::F32, shape.to_vec(), bytes));
        self
    }

    /// Bytes that are no numbers of ours.
    pub fn bytes(mut self, name: &str, bytes: Vec<u8>) -> Writer {
        self.tensors.push((name.into(), Dtype::U8, vec![bytes.len()], bytes));
        self
    }

    pub fn finish<M: Serialize>(self, meta: &M) -> Result<Vec<u8>> {
        let numerics = |e: &dyn std::fmt::Display| Error::Numerics(e.to_string());
        let meta = serde_json::to_string(meta).map_err(|e| numerics(&e))?;
        let names: BTreeSet<&str> = self.tensors.iter().map(|t| &*t.0).collect();
        if names.len() < self.tensors.len() {
            // safetensors 0.8 panics.
            return Err(numerics(&"two tensors of one name"));
        }
        let mut views = Vec::with_capacity(self.tensors.len());
        for (name, dtype, shape, bytes) in &self.tensors {
            views.push((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| numerics(&e))?));
        }
        safetensors::serialize(views, Some(HashMap::from([(META.to_string(), meta)]))).map_err(|e| numerics(&e))
    }
}

/// Decodes what [`Writer`] encoded; whatever is missing, misshapen or not finite is [`Error::Corrupt`].
pub(crate) struct Reader<'a> {
    tensors: SafeTensors<'a>,
    meta: String,
    size: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Reader<'a>> {
        let corrupt = |e: safetensors::SafeTensorError| Error::Corrupt(e.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(corrupt)?;
        let meta = metadata.metadata().as_ref().and_then(|m| m.get(META)).cloned();
        let meta = meta.ok_or_else(|| Error::Corrupt(format!("no metadata {META}")))?;
        Ok(Reader { tensors: SafeTensors::deserialize(bytes).map_err(corrupt)?, meta, size: bytes.len() })
    }

    /// Whether so many bytes of tensors can be in the file: asked before room is made for them.
    pub fn holds(&self, bytes: usize) -> bool {
        bytes <= self.size
    }

    /// Number of tensors.
    pub fn count(&self) -> usize {
        self.tensors.len()
    }

    pub fn meta<M: DeserializeOwned>(&self) -> Result<M> {
        serde_json::from_str(&self.meta).map_err(|e| Error::Corrupt(e.to_string()))
    }

    pub fn f64(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let values: Vec<f64> =
            self.raw(name, Dtype::F64, shape)?.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        finite(name, values.iter().all(|v| v.is_finite())).map(|()| values)
    }

    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let values: Vec<f32> =
            self.raw(name, Dtype::F32, shape)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        finite(name, values.iter().all(|v| v.is_finite())).map(|()| values)
    }

    /// What [`Writer::bytes`] wrote; `None` where there is no such tensor, or it holds numbers.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.tensors.tensor(name).ok().filter(|t| t.dtype() == Dtype::U8).map(|t| t.data())
    }

    /// The shape of a tensor, where the file decides it.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.tensors.tensor(name).map_err(|_| Error::Corrupt(format!("no tensor {name}")))?.shape().to_vec())
    }

    fn raw(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8]> {
        let tensor = self.tensors.tensor(name).map_err(|_| Error::Corrupt(format!("no tensor {name}")))?;
        if tensor.dtype() != dtype || tensor.shape() != shape {
            return Err(Error::Corrupt(format!(
                "tensor {name} is {:?} {:?}, expected {dtype:?} {shape:?}",
                tensor.dtype(),
                tensor.shape()
            )));
        }
        Ok(tensor.data())
    }
}

fn finite(name: &str, finite: bool) -> Result<()> {
    if finite { Ok(()) } else { Err(Error::Corrupt(format!("tensor {name} holds a value that is not finite"))) }
}
