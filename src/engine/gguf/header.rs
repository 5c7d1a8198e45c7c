//! What a GGUF file says about itself: its metadata, and which tensors are where.

use std::collections::BTreeMap;
use std::ops::Range;

use super::reader::Reader;
use super::tensor_type::TensorType;
use super::value::MetaValue;
use crate::{LoadError, ModelFile};

/// Where tensors begin where the file does not say: at multiples of this.
const ALIGNMENT: u64 = 32;
/// The coarsest alignment that is believed.
const ALIGNMENT_MAX: u64 = 1 << 16;
/// ggml has no tensor of more dimensions.
const DIMENSIONS_MAX: u32 = 4;
/// Longest name of a key or tensor, in bytes; ggml allows tensors 64, the format allows keys 65535.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// The header of one GGUF file.
#[derive(Debug)]
pub struct Header {
    name: String,
    metadata: BTreeMap<String, MetaValue>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// One tensor: what it is, and where in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its elements are stored.
    pub tensor_type: TensorType,
    /// Its shape as PyTorch has it: rows before columns (the file has them the other way round).
    pub shape: Vec<usize>,
    /// Its bytes within the file. Empty for types that are not read, whose size is not known.
    pub range: Range<u64>,
}

impl Header {
    /// Reads the header of a file, and holds every tensor against the file's length. Blocks.
    ///
    /// # Errors
    /// `Corrupt` for what is no GGUF file or a broken one, `Unsupported` for versions that are not read.
    pub fn read(name: &str, file: &ModelFile) -> Result<Self, LoadError> {
        Self::read_from(name, &mut Reader::open(name, file)?)
    }

    /// Reads the header of a file of so many bytes, of which only the beginning is here; `None` if the header is longer than that.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub(super) fn read_start(name: &str, start: &[u8], len: u64) -> Result<Option<Self>, LoadError> {
        let mut reader = Reader::of_start(name, start, len);
        match Self::read_from(name, &mut reader) {
            Ok(header) => Ok(Some(header)),
            Err(_) if reader.is_short() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_from(name: &str, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        read_version(reader)?;
        // A tensor has a name, dimensions, a type and an offset; a key a name, a type and a value.
        let num_tensors = reader.count(24, "its list of tensors")?;
        let num_keys = reader.count(13, "its metadata")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..num_keys {
            let key = read_name(reader)?;
            let value = MetaValue::read(reader, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(reader.corrupt(format!("the key `{key}` is in it twice")));
            }
        }
        let mut placed = BTreeMap::new();
        for _ in 0..num_tensors {
            let tensor = read_name(reader)?;
            let found = Placed::read(reader, &tensor)?;
            if placed.insert(tensor.clone(), found).is_some() {
                return Err(reader.corrupt(format!("the tensor {tensor} is in it twice")));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(MetaValue::Number(given))
                if *given >= 1.0
                    && *given <= ALIGNMENT_MAX as f64
                    && given.fract() == 0.0
                    && (*given as u64).is_power_of_two() =>
            {
                *given as u64
            }
            Some(other) => {
                return Err(reader.corrupt(format!(
                    "`general.alignment` should be a power of two up to {ALIGNMENT_MAX}, and is {other:?}"
                )));
            }
        };
        let data_start = reader.position().next_multiple_of(alignment);
        let tensors = placed
            .into_iter()
            .map(|(tensor, placed)| {
                let info = placed.within(&tensor, data_start, alignment, reader)?;
                Ok((tensor, info))
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(Self { name: name.into(), metadata, tensors })
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The tensors, for a set that holds those of all its files.
    pub(super) fn take_tensors(&mut self) -> BTreeMap<String, TensorInfo> {
        std::mem::take(&mut self.tensors)
    }

    /// `general.architecture`: which kind of model it is.
    ///
    /// # Errors
    /// `Corrupt` if the file does not say.
    pub fn architecture(&self) -> Result<&str, LoadError> {
        self.text("general.architecture").ok_or_else(|| {
            self.corrupt("it does not say which model it is: `general.architecture` is missing")
        })
    }

    /// A number, if the key is there and is one.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            MetaValue::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A whole number that is not negative, if the key is there and is one. A list counts if all its elements are equal:
    /// some writers give one for each layer.
    ///
    /// # Errors
    /// `Unsupported` for a list of different numbers, `Corrupt` for anything else.
    pub fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        let number = match self.metadata.get(key) {
            None => return Ok(None),
            Some(MetaValue::Number(number)) => *number,
            Some(MetaValue::Numbers(numbers)) if !numbers.is_empty() => {
                if numbers.iter().any(|number| *number != numbers[0]) {
                    return Err(LoadError::Unsupported(format!(
                        "{}: `{key}` differs from layer to layer, which is not there for any family",
                        self.name
                    )));
                }
                numbers[0]
            }
            Some(other) => return Err(self.corrupt(format!("`{key}` should be a number, and is {other:?}"))),
        };
        if number < 0.0 || number.fract() != 0.0 || number > f64::from(u32::MAX) {
            return Err(self.corrupt(format!("`{key}` should be a whole number, and is {number}")));
        }
        Ok(Some(number as usize))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            MetaValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            MetaValue::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn texts(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key)? {
            MetaValue::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    pub(super) fn numbers(&self, key: &str) -> Option<&[f64]> {
        match self.metadata.get(key)? {
            MetaValue::Numbers(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// The keys that begin so, without that beginning, and their texts.
    pub(super) fn texts_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.metadata.iter().filter_map(move |(key, value)| match value {
            MetaValue::Text(text) => Some((key.strip_prefix(prefix)?, text.as_str())),
            _ => None,
        })
    }

    /// The error of a file that cannot be.
    pub fn corrupt(&self, why: impl Into<String>) -> LoadError {
        LoadError::Corrupt { file: self.name.clone(), why: why.into() }
    }
}

/// The longest context that a file's model was made for, if the file says so before it comes to its vocabulary, as llama.cpp's
/// converter has it: so little is read that it can be asked of every file of a list. `None` too for what is no GGUF file.
pub fn context_length(name: &str, file: &ModelFile) -> Option<u64> {
    let mut reader = Reader::open(name, file).ok()?;
    match value_before_vocabulary(&mut reader, |key| key.ends_with(".context_length"))? {
        MetaValue::Number(length) => Some(length as u64),
        _ => None,
    }
}

/// `general.architecture`, if the beginning of a file says it.
pub(super) fn architecture_of_start(name: &str, start: &[u8], len: u64) -> Option<String> {
    let mut reader = Reader::of_start(name, start, len);
    match value_before_vocabulary(&mut reader, |key| key == "general.architecture")? {
        MetaValue::Text(architecture) => Some(architecture),
        _ => None,
    }
}

/// The first value whose key is wanted. The vocabulary, which is nearly all of a header, is not read.
fn value_before_vocabulary(reader: &mut Reader<'_>, is_wanted: impl Fn(&str) -> bool) -> Option<MetaValue> {
    read_version(reader).ok()?;
    reader.count(24, "its list of tensors").ok()?;
    for _ in 0..reader.count(13, "its metadata").ok()? {
        let key = read_name(reader).ok()?;
        if key.starts_with("tokenizer.") {
            return None;
        }
        let value = MetaValue::read(reader, &key).ok()?;
        if is_wanted(&key) {
            return Some(value);
        }
    }
    None
}

fn read_version(reader: &mut Reader<'_>) -> Result<(), LoadError> {
    if reader.len() < 24 || reader.take()? != *b"GGUF" {
        return Err(reader.corrupt(format!("not a GGUF file ({} bytes)", reader.len())));
    }
    match reader.u32()? {
        2 | 3 => Ok(()),
        version if version.swap_bytes() <= 3 && version != 0 => Err(LoadError::Unsupported(
            "the GGUF file is for machines of the other byte order (big-endian); convert it for little-endian ones"
                .into(),
        )),
        version => Err(LoadError::Unsupported(format!(
            "the GGUF file is of version {version}; versions 2 and 3 are read, and llama.cpp's converter writes 3"
        ))),
    }
}

fn read_name(reader: &mut Reader<'_>) -> Result<String, LoadError> {
    let name = reader.text()?;
    if name.len() > NAME_BYTES_MAX {
        return Err(reader.corrupt(format!("a name of {} bytes is in it", name.len())));
    }
    Ok(name)
}

/// A tensor whose offset counts from where the data begins.
struct Placed {
    tensor_type: TensorType,
    shape: Vec<usize>,
    offset: u64,
}

impl Placed {
    fn read(reader: &mut Reader<'_>, tensor: &str) -> Result<Self, LoadError> {
        let num_dimensions = reader.u32()?;
        if num_dimensions == 0 || num_dimensions > DIMENSIONS_MAX {
            return Err(reader.corrupt(format!(
                "tensor {tensor} has {num_dimensions} dimensions; there are from 1 to {DIMENSIONS_MAX}"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..num_dimensions {
            let dimension = reader.u64()?;
            let dimension = usize::try_from(dimension).ok().filter(|dimension| *dimension > 0);
            shape.push(
                dimension.ok_or_else(|| {
                    reader.corrupt(format!("tensor {tensor} has a dimension that cannot be"))
                })?,
            );
        }
        shape.reverse();
        let tensor_type = TensorType::of_id(reader.u32()?);
        Ok(Self { tensor_type, shape, offset: reader.u64()? })
    }

    fn within(
        self,
        tensor: &str,
        data_start: u64,
        alignment: u64,
        reader: &Reader<'_>,
    ) -> Result<TensorInfo, LoadError> {
        let Self { tensor_type, shape, offset } = self;
        if !offset.is_multiple_of(alignment) {
            return Err(reader.corrupt(format!(
                "tensor {tensor} begins at {offset}, which is no multiple of the alignment ({alignment})"
            )));
        }
        let start = data_start.checked_add(offset);
        let num_bytes = match tensor_type.block() {
            None => Some(0),
            Some((block_len, _)) => {
                let columns = *shape.last().expect("there is a dimension at least");
                if !columns.is_multiple_of(block_len) {
                    return Err(reader.corrupt(format!(
                        "tensor {tensor} of {tensor_type} has rows of {columns}, which is no multiple of {block_len}"
                    )));
                }
                let num_elements =
                    shape.iter().try_fold(1usize, |count, dimension| count.checked_mul(*dimension));
                num_elements.and_then(|count| tensor_type.bytes(count))
            }
        };
        let end = start.zip(num_bytes).and_then(|(start, bytes)| start.checked_add(bytes as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= reader.len() => {
                Ok(TensorInfo { tensor_type, shape, range: start..end })
            }
            _ => Err(reader.corrupt(format!(
                "tensor {tensor} of shape {shape:?} reaches beyond the end of the file ({} bytes): it is not whole",
                reader.len()
            ))),
        }
    }
}
