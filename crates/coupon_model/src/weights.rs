//! Model weights as safetensors bytes: named tensors, and one JSON text for what is not a number. Everything that is
//! stored as safetensors goes through here.

use crate::{Error, Result};
use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor, WithDType};
use safetensors::{SafeTensors, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};

/// The one metadata key. One key, because safetensors keeps metadata in a hash map: with two, equal models would
/// have different bytes from run to run, and so different digests.
const META: &str = "coupon_ext";

/// Collects tensors, then encodes them; the same content always gives the same bytes.
#[derive(Default)]
pub(crate) struct Writer {
    tensors: Vec<(String, candle_core::Result<Tensor>)>,
}

impl Writer {
    pub fn f64(self, name: &str, shape: &[usize], values: &[f64]) -> Writer {
        self.push(name, Tensor::from_slice(values, shape, &Device::Cpu))
    }

    pub fn f32(self, name: &str, shape: &[usize], values: &[f32]) -> Writer {
        self.push(name, Tensor::from_slice(values, shape, &Device::Cpu))
    }

    /// Bytes that are no numbers of ours.
    pub fn bytes(self, name: &str, bytes: Vec<u8>) -> Writer {
        let length = bytes.len();
        self.push(name, Tensor::from_vec(bytes, length, &Device::Cpu))
    }

    fn push(mut self, name: &str, tensor: candle_core::Result<Tensor>) -> Writer {
        self.tensors.push((name.into(), tensor));
        self
    }

    pub fn finish<M: Serialize>(self, meta: &M) -> Result<Vec<u8>> {
        let numerics = |e: &dyn std::fmt::Display| Error::Numerics(e.to_string());
        let meta = serde_json::to_string(meta).map_err(|e| numerics(&e))?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in self.tensors {
            if tensors.insert(name, tensor.map_err(|e| numerics(&e))?).is_some() {
                return Err(numerics(&"two tensors of one name"));
            }
        }
        safetensors::serialize(&tensors, Some(HashMap::from([(META.to_string(), meta)]))).map_err(|e| numerics(&e))
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
        self.numbers(name, shape)
    }

    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.numbers(name, shape)
    }

    fn numbers<T: WithDType>(&self, name: &str, shape: &[usize]) -> Result<Vec<T>> {
        let view = self.view(name)?;
        let corrupt = |e: candle_core::Error| Error::Corrupt(format!("tensor {name}: {e}"));
        if DType::try_from(view.dtype()).map_err(corrupt)? != T::DTYPE || view.shape() != shape {
            return Err(Error::Corrupt(format!(
                "tensor {name} is {:?} {:?}, expected {:?} {shape:?}",
                view.dtype(),
                view.shape(),
                T::DTYPE
            )));
        }
        let tensor = view.load(&Device::Cpu).and_then(|tensor| tensor.flatten_all()).map_err(corrupt)?;
        let values = tensor.to_vec1::<T>().map_err(corrupt)?;
        if values.iter().all(|x| x.to_f64().is_finite()) {
            Ok(values)
        } else {
            Err(Error::Corrupt(format!("tensor {name} holds a value that is not finite")))
        }
    }

    /// What [`Writer::bytes`] wrote; `None` where there is no such tensor, or it holds numbers.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.tensors.tensor(name).ok().filter(|t| t.dtype() == DType::U8.into()).map(|t| t.data())
    }

    /// The shape of a tensor, where the file decides it.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.view(name)?.shape().to_vec())
    }

    fn view(&self, name: &str) -> Result<TensorView<'a>> {
        self.tensors.tensor(name).map_err(|_| Error::Corrupt(format!("no tensor {name}")))
    }
}
