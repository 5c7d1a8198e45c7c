//! Named tensors from safetensors files, one file or several with an index, or from a GGUF file or set; on disk or in
//! the program. Names and the order of rows are those of the Hub's checkpoints, whichever they come from (`gguf.rs`).
//!
//! Files on disk are mapped while they are read; each tensor that a model asks for is packed or copied once into memory
//! of its own, in the type it is to be kept in, and the mapping is dropped with the [`Checkpoint`]. Every tensor is asked
//! for with the shape that the config calls for: a checkpoint that does not fit its config is an error here, never a
//! crash later.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use candlewick_engine::gguf::TensorType;
use candlewick_engine::{DType, Kernels, LoadError, LoadOptions, ModelFile, ModelFiles};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::ggml;
use crate::gguf::{self, RowOrder};
use crate::header::names_are_unique;
use crate::kernels::packed::pack::Packing;
use crate::kernels::packed::{Kind, Packed};
use crate::kernels::pages::Arena;
use crate::kernels::pool::Pool;
use crate::mapped::MappedFile;
use crate::packing::{self, Matrix, Role, pack_matrices};

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
    Mapped(MappedFile),
    Embedded(&'static [u8]),
    Made(Arc<[u8]>),
}

/// A tensor: what it is, and where.
pub(crate) struct Entry {
    pub(crate) shard: usize,
    pub(crate) stored: Stored,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: std::ops::Range<usize>,
    /// The order of its rows.
    pub(crate) order: RowOrder,
}

/// What the elements of a tensor are stored as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// A type that is read.
    As(TensorType),
    /// Another, by its name.
    Unread(String),
}

impl Stored {
    fn of_safetensors(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::As(TensorType::F32),
            Dtype::F16 => Self::As(TensorType::F16),
            Dtype::BF16 => Self::As(TensorType::BF16),
            other => Self::Unread(format!("{other:?}")),
        }
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }

    /// Takes the pages of a mapped file off this process; they stay in the system's cache.
    fn release(&self) {
        if let Self::Mapped(map) = self {
            map.release();
        }
    }

    fn open(file: &ModelFile) -> Result<Self, LoadError> {
        match file {
            ModelFile::Embedded(bytes) => Ok(Self::Embedded(bytes)),
            ModelFile::Made(bytes) => Ok(Self::Made(bytes.clone())),
            ModelFile::Path(path) => {
                let failed =
                    |error: std::io::Error| LoadError::Io { path: path.clone(), why: error.to_string() };
                Ok(Self::Mapped(MappedFile::open(path).map_err(failed)?))
            }
        }
    }
}

impl Checkpoint {
    /// Opens every weight file and checks its header against its length.
    pub(crate) fn open(files: &ModelFiles) -> Result<Self, LoadError> {
        let mut checkpoint = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        if let Some(name) = &files.gguf {
            checkpoint.add_gguf(name, files)?;
        } else if let Some(file) = files.get(SINGLE) {
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
        let bytes = Bytes::open(file)?;
        let slice = bytes.as_slice();
        let corrupt = |error: String| LoadError::Corrupt {
            file: name.into(),
            why: format!("not a whole safetensors file ({} bytes): {error}", slice.len()),
        };
        let parsed = SafeTensors::deserialize(slice).map_err(|error| corrupt(error.to_string()))?;
        names_are_unique(slice).map_err(corrupt)?;
        for (tensor, view) in parsed.iter() {
            let start = view.data().as_ptr() as usize - slice.as_ptr() as usize;
            let entry = Entry {
                shard: self.shards.len(),
                stored: Stored::of_safetensors(view.dtype()),
                shape: view.shape().to_vec(),
                range: start..start + view.data().len(),
                order: RowOrder::AsStored,
            };
            self.tensors.insert(tensor.to_owned(), entry);
        }
        self.shards.push(Shard { name: name.to_owned(), bytes });
        Ok(())
    }

    fn add_gguf(&mut self, name: &str, files: &ModelFiles) -> Result<(), LoadError> {
        let tensors = gguf::tensors(name, files)?;
        for name in tensors.files {
            let file =
                files.get(&name).ok_or_else(|| LoadError::NotFound(format!("there is no file {name}")))?;
            self.shards.push(Shard { bytes: Bytes::open(file)?, name });
        }
        for (tensor, entry) in tensors.entries {
            let Shard { name, bytes } = &self.shards[entry.shard];
            // The header was held against the length that the file had then.
            if entry.range.end > bytes.as_slice().len() {
                let why =
                    format!("it has become shorter while it was read: tensor {tensor} is no longer in it");
                return Err(LoadError::Corrupt { file: name.clone(), why });
            }
            self.tensors.insert(tensor, entry);
        }
        Ok(())
    }

    /// Takes what was read so far off this process's account, so that a load does not hold a model twice.
    fn release(&self) {
        self.shards.iter().for_each(|shard| shard.bytes.release());
    }

    /// Bytes that its tensors will take, whichever of them are asked for.
    pub(crate) fn bytes_in_memory(&self, options: &LoadOptions) -> u64 {
        let bytes = |entry: &Entry| match (&entry.stored, &entry.shape[..]) {
            (Stored::As(stored), &[num_rows, num_in]) => {
                let matrix = Matrix { stored: *stored, bytes: &[], num_rows, order: entry.order };
                packing::packed_bytes(&matrix, num_in, options)
            }
            // Vectors are kept in f32; what is not read is not kept.
            (Stored::As(_), shape) => shape.iter().product::<usize>() as u64 * 4,
            (Stored::Unread(_), _) => 0,
        };
        // A head that is the embedding lies there once, also where a file has it twice.
        let is_again = |name: &str| name == "lm_head.weight" && self.same(name, "model.embed_tokens.weight");
        let kept = self.tensors.iter().filter(|(name, _)| !is_again(name));
        kept.map(|(_, entry)| bytes(entry)).sum()
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
        let are_same =
            one.stored == other.stored && one.shape == other.shape && self.data(one) == self.data(other);
        self.release();
        are_same
    }

    /// The bytes of a tensor, its rows in the order of the Hub's checkpoints.
    fn ordered(&self, entry: &Entry) -> Cow<'_, [u8]> {
        let (data, rows) = (self.data(entry), entry.shape[0]);
        if entry.order == RowOrder::AsStored {
            return Cow::Borrowed(data);
        }
        let row_bytes = data.len() / rows;
        let row = |row: usize| &data[entry.order.stored_row(row) * row_bytes..][..row_bytes];
        Cow::Owned((0..rows).flat_map(row).copied().collect())
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
    options: LoadOptions,
    on_progress: &'a mut dyn FnMut(u64, u64) -> bool,
    read: HashSet<String>,
    /// Where packed matrices lie.
    arena: Arena,
    /// Who packs them, a matrix at a time: a model that serves meanwhile waits for a piece of one at most.
    pool: &'a Pool,
    /// Parameters read so far.
    pub(crate) num_parameters: u64,
    /// Bytes they take in memory.
    pub(crate) num_bytes: u64,
}

impl<'a> WeightReader<'a> {
    /// A reader that keeps matrices as the options say.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        options: LoadOptions,
        pool: &'a Pool,
        on_progress: &'a mut dyn FnMut(u64, u64) -> bool,
    ) -> Self {
        Self {
            checkpoint,
            options,
            on_progress,
            read: HashSet::new(),
            arena: Arena::default(),
            pool,
            num_parameters: 0,
            num_bytes: 0,
        }
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
        let Stored::As(stored) = entry.stored else { return Err(self.unsupported(name, entry)) };
        let data = &*self.checkpoint.ordered(entry);
        let target = match (self.options.dtype, stored) {
            (DType::Bf16, _) | (DType::Auto, TensorType::BF16) => TensorType::BF16,
            (DType::F16, _) | (DType::Auto, TensorType::F16) => TensorType::F16,
            // Blocks come out in whole: nothing of what they mean is lost.
            (DType::F32 | DType::Auto, _) => TensorType::F32,
        };
        let kept = match (target, stored) {
            // The usual case, and a plain copy.
            (TensorType::BF16, TensorType::BF16) => {
                keep(Some(elements(data).map(bf16::from_le_bytes).collect()), &shape)
            }
            (TensorType::F16, TensorType::F16) => {
                keep(Some(elements(data).map(f16::from_le_bytes).collect()), &shape)
            }
            (TensorType::BF16, stored) => keep(decode(data, stored, &shape, bf16::from_f32), &shape),
            (TensorType::F16, stored) => keep(decode(data, stored, &shape, f16::from_f32), &shape),
            (_, stored) => keep(decode(data, stored, &shape, |x| x), &shape),
        };
        let tensor = kept.ok_or_else(|| self.unsupported(name, entry))??;
        self.checkpoint.release();
        self.count(name, tensor.elem_count(), tensor.elem_count() * tensor.dtype().size_in_bytes())?;
        Ok(tensor)
    }

    /// What computes the model.
    pub(crate) fn kernels(&self) -> Kernels {
        self.options.kernels
    }

    /// Matrices over the same inputs as one, packed for products; each part is a name and a number of outputs.
    pub(crate) fn packed(
        &mut self,
        parts: &[(&str, usize)],
        num_in: usize,
        packing: Packing,
        role: Role,
    ) -> Result<Packed, LoadError> {
        let mut matrices = Vec::with_capacity(parts.len());
        for &(name, num_rows) in parts {
            let entry = self.checkpoint.entry(name, &[num_rows, num_in])?;
            let Stored::As(stored) = entry.stored else { return Err(self.unsupported(name, entry)) };
            matrices.push(Matrix {
                stored,
                bytes: self.checkpoint.data(entry),
                num_rows,
                order: entry.order,
            });
        }
        let kind = packing::kind(&matrices, num_in, role, &self.options);
        // What a region was read from goes before the next is read: a file that is mapped counts as ours.
        let after_region = || self.checkpoint.release();
        let packed =
            self.pool.install(|| pack_matrices(kind, num_in, &matrices, packing, &self.arena, &after_region));
        let packed = packed.map_err(|error| {
            let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
            LoadError::OutOfMemory(format!("no memory for {}: {error}", names.join(", ")))
        })?;
        self.num_bytes += packed.num_bytes() as u64;
        for &(name, num_out) in parts {
            self.count(name, num_out * num_in, 0)?;
        }
        Ok(packed)
    }

    /// Whether a matrix is kept in fewer bits than a float has.
    pub(crate) fn is_quantized(&self, name: &str, [num_rows, num_in]: [usize; 2], role: Role) -> bool {
        let Some(Entry { stored: Stored::As(stored), order, .. }) = self.checkpoint.tensors.get(name) else {
            return false;
        };
        let matrix = Matrix { stored: *stored, bytes: &[], num_rows, order: *order };
        !matches!(packing::kind(&[matrix], num_in, role, &self.options), Kind::F32 | Kind::F16 | Kind::Bf16)
    }

    /// A bias or a norm's weight: always kept in `f32`, but rounded to the type that weights are kept in.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let entry = self.checkpoint.entry(name, &[len])?;
        let Stored::As(stored) = entry.stored else { return Err(self.unsupported(name, entry)) };
        let round = match self.options.dtype {
            DType::Auto | DType::F32 => |x: f32| x,
            DType::F16 => |x: f32| f16::from_f32(x).to_f32(),
            DType::Bf16 => |x: f32| bf16::from_f32(x).to_f32(),
        };
        let kept = decode(&self.checkpoint.ordered(entry), stored, &[len], round);
        let kept = kept.ok_or_else(|| self.unsupported(name, entry))?;
        self.count(name, len, len * size_of::<f32>())?;
        Ok(kept)
    }

    fn unsupported(&self, name: &str, entry: &Entry) -> LoadError {
        let stored = match &entry.stored {
            Stored::As(tensor_type) => tensor_type.to_string(),
            Stored::Unread(name) => name.clone(),
        };
        LoadError::Unsupported(format!(
            "{}: tensor {name} is stored as {stored}; the types that are read are {}",
            self.checkpoint.shards[entry.shard].name,
            TensorType::READ
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
fn decode<T>(data: &[u8], stored: TensorType, shape: &[usize], convert: impl Fn(f32) -> T) -> Option<Vec<T>> {
    let columns = *shape.last()?;
    let row_bytes = stored.bytes(columns)?;
    let mut row = vec![0.0; columns];
    let mut all = Vec::with_capacity(shape.iter().product());
    for bytes in data.chunks_exact(row_bytes) {
        if !ggml::decode(stored, bytes, &mut row) {
            return None;
        }
        all.extend(row.iter().map(|x| convert(*x)));
    }
    Some(all)
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
