//! Named tensors from safetensors files: one file or several with an index, on disk or in the program.
//!
//! Files on disk are mapped while they are read; each tensor that a model asks for is copied once into memory of its
//! own, in the type it is to be kept in, and the mapping is dropped with the [`Checkpoint`]. Every tensor is asked for
//! with the shape that the config calls for: a checkpoint that does not fit its config is an error here, never a crash
//! later.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;

use candle_core::{Device, Tensor};
use candlewick_engine::{DType, LoadError, ModelFile, ModelFiles};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The file of a checkpoint that is not sharded.
const SINGLE: &str = "model.safetensors";
/// The list of tensors and files of one that is.
const INDEX: &str = "model.safetensors.index.json";

/// The files of a checkpoint, open.
pub(crate) struct Checkpoint {
    shards: Vec<Shard>,
    /// Tensor → the shard that holds it, and what and where it is there.
    tensors: BTreeMap<String, Entry>,
}

struct Shard {
    name: String,
    bytes: Bytes,
}

enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

impl Checkpoint {
    /// Opens every weight file and checks its header against its length.
    pub(crate) fn open(files: &ModelFiles) -> Result<Self, LoadError> {
        let mut checkpoint = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        if let Some(file) = files.get(SINGLE) {
            checkpoint.add_shard(SINGLE, file)?;
        } else if let Some(index) = files.json(INDEX)? {
            for name in shard_names(&index)? {
                let file = files.get(&name).ok_or_else(|| LoadError::Corrupt {
                    file: INDEX.into(),
                    why: format!("it names {name}, which is not there"),
                })?;
                checkpoint.add_shard(&name, file)?;
            }
        } else {
            let pickled = files.files.keys().find(|name| name.ends_with(".bin") || name.ends_with(".pt"));
            return Err(match pickled {
                Some(name) => LoadError::Unsupported(format!(
                    "the weights are in {name}, a pickle file, which can run code and is never opened; convert them \
                     to safetensors"
                )),
                None => LoadError::NotFound(format!("no weights: there is neither {SINGLE} nor {INDEX}")),
            });
        }
        Ok(checkpoint)
    }

    fn add_shard(&mut self, name: &str, file: &ModelFile) -> Result<(), LoadError> {
        let bytes = match file {
            ModelFile::Embedded(bytes) => Bytes::Embedded(bytes),
            ModelFile::Path(path) => {
                let failed =
                    |error: std::io::Error| LoadError::Io { path: path.clone(), why: error.to_string() };
                let file = File::open(path).map_err(failed)?;
                // SAFETY: the mapping is read while the model loads and no longer. The files of a Hub cache are not
                // rewritten in place; one that is truncated meanwhile by somebody else ends the process, as it would
                // any program that maps files.
                Bytes::Mapped(unsafe { Mmap::map(&file) }.map_err(failed)?)
            }
        };
        let slice = bytes.as_slice();
        let parsed = SafeTensors::deserialize(slice).map_err(|error| LoadError::Corrupt {
            file: name.into(),
            why: format!("not a whole safetensors file ({} bytes): {error}", slice.len()),
        })?;
        for (tensor, view) in parsed.iter() {
            let start = view.data().as_ptr() as usize - slice.as_ptr() as usize;
            let entry = Entry {
                shard: self.shards.len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                range: start..start + view.data().len(),
            };
            self.tensors.insert(tensor.to_owned(), entry);
        }
        self.shards.push(Shard { name: name.to_owned(), bytes });
        Ok(())
    }

    /// Number of tensors in the files.
    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether two tensors are there and the same, bit for bit.
    pub(crate) fn same(&self, one: &str, other: &str) -> bool {
        let (Some(one), Some(other)) = (self.tensors.get(one), self.tensors.get(other)) else { return false };
        one.dtype == other.dtype && one.shape == other.shape && self.data(one) == self.data(other)
    }

    fn data(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].bytes.as_slice()[entry.range.clone()]
    }

    fn entry(&self, name: &str, expected: &[usize]) -> Result<&Entry, LoadError> {
        let Some(entry) = self.tensors.get(name) else {
            let file = if self.shards.len() == 1 { &self.shards[0].name } else { INDEX };
            return Err(LoadError::Corrupt {
                file: file.into(),
                why: format!("tensor {name} is missing; expected shape {expected:?}"),
            });
        };
        if entry.shape != expected {
            return Err(LoadError::Corrupt {
                file: self.shards[entry.shard].name.clone(),
                why: format!("tensor {name} has shape {:?}, expected {expected:?}", entry.shape),
            });
        }
        Ok(entry)
    }
}

/// The files that an index names, each once.
fn shard_names(index: &Value) -> Result<Vec<String>, LoadError> {
    let corrupt = |why: &str| LoadError::Corrupt { file: INDEX.into(), why: why.into() };
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| corrupt("it has no `weight_map`"))?;
    let mut names = map
        .values()
        .map(|name| name.as_str().map(str::to_owned).ok_or_else(|| corrupt("`weight_map` should name files")))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// Reads the tensors that a model asks for, counts them, and reports progress.
pub(crate) struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
    dtype: DType,
    on_progress: &'a mut dyn FnMut(u64, u64) -> bool,
    read: HashSet<String>,
    /// Parameters read so far.
    pub(crate) num_parameters: u64,
    /// Bytes they take in memory.
    pub(crate) num_bytes: u64,
}

impl<'a> WeightReader<'a> {
    /// A reader that keeps matrices in `dtype`.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        dtype: DType,
        on_progress: &'a mut dyn FnMut(u64, u64) -> bool,
    ) -> Self {
        Self { checkpoint, dtype, on_progress, read: HashSet::new(), num_parameters: 0, num_bytes: 0 }
    }

    /// The checkpoint it reads from.
    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// Tensors of the checkpoint that nobody asked for.
    pub(crate) fn unread(&self) -> Vec<&'a str> {
        self.checkpoint.tensors.keys().filter(|name| !self.read.contains(*name)).map(String::as_str).collect()
    }

    /// A matrix, in the type that weights are kept in.
    pub(crate) fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Tensor, LoadError> {
        let entry = self.checkpoint.entry(name, &shape)?;
        let data = self.checkpoint.data(entry);
        let target = match self.dtype {
            DType::Auto => entry.dtype,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::BF16,
        };
        let kept = match (target, entry.dtype) {
            // The usual case, and a plain copy.
            (Dtype::BF16, Dtype::BF16) => {
                keep(Some(elements(data).map(bf16::from_le_bytes).collect()), &shape)
            }
            (Dtype::F16, Dtype::F16) => keep(Some(elements(data).map(f16::from_le_bytes).collect()), &shape),
            (Dtype::BF16, stored) => keep(decode(data, stored, bf16::from_f32), &shape),
            (Dtype::F16, stored) => keep(decode(data, stored, f16::from_f32), &shape),
            (Dtype::F32, stored) => keep(decode(data, stored, |x| x), &shape),
            _ => None,
        };
        let tensor = kept.ok_or_else(|| self.unsupported(name, entry))??;
        self.count(name, tensor.elem_count(), tensor.elem_count() * tensor.dtype().size_in_bytes())?;
        Ok(tensor)
    }

    /// A bias or a norm's weight: always kept in `f32`, but rounded to the type that weights are kept in.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Tensor, LoadError> {
        let entry = self.checkpoint.entry(name, &[len])?;
        let round = match self.dtype {
            DType::Auto | DType::F32 => |x: f32| x,
            DType::F16 => |x: f32| f16::from_f32(x).to_f32(),
            DType::Bf16 => |x: f32| bf16::from_f32(x).to_f32(),
        };
        let kept = keep(decode(self.checkpoint.data(entry), entry.dtype, round), &[len]);
        let tensor = kept.ok_or_else(|| self.unsupported(name, entry))??;
        self.count(name, len, len * size_of::<f32>())?;
        Ok(tensor)
    }

    fn unsupported(&self, name: &str, entry: &Entry) -> LoadError {
        LoadError::Unsupported(format!(
            "{}: tensor {name} is stored as {:?}; the types that are read are BF16, F16 and F32",
            self.checkpoint.shards[entry.shard].name, entry.dtype
        ))
    }

    fn count(&mut self, name: &str, num_parameters: usize, num_bytes: usize) -> Result<(), LoadError> {
        self.read.insert(name.to_owned());
        self.num_parameters += num_parameters as u64;
        self.num_bytes += num_bytes as u64;
        if (self.on_progress)(self.read.len() as u64, self.checkpoint.len() as u64) {
            Ok(())
        } else {
            Err(LoadError::Internal("loading was stopped".into()))
        }
    }
}

/// The elements of a stored tensor, each through `convert`; `None` if they are of a type that is not read.
fn decode<T>(data: &[u8], stored: Dtype, convert: impl Fn(f32) -> T) -> Option<Vec<T>> {
    Some(match stored {
        Dtype::F32 => elements(data).map(|bytes| convert(f32::from_le_bytes(bytes))).collect(),
        Dtype::F16 => elements(data).map(|bytes| convert(f16::from_le_bytes(bytes).to_f32())).collect(),
        Dtype::BF16 => elements(data).map(|bytes| convert(bf16::from_le_bytes(bytes).to_f32())).collect(),
        _ => return None,
    })
}

fn elements<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.as_chunks::<N>().0.iter().copied()
}

fn keep<T: candle_core::WithDType>(
    elements: Option<Vec<T>>,
    shape: &[usize],
) -> Option<Result<Tensor, LoadError>> {
    let tensor = Tensor::from_vec(elements?, shape, &Device::Cpu);
    Some(tensor.map_err(|error| LoadError::Internal(format!("a tensor could not be made: {error}"))))
}
