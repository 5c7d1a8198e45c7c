//! A GGUF model is looked at before it is here: the headers of its files are fetched first, so that one that cannot be served is
//! refused after megabytes and not after gigabytes.
//!
//! Headers have no known length: most of it is the vocabulary, and the list of tensors comes last. So a file's beginning is
//! asked for in parts, each larger than all before it, until the header is whole.

use std::ops::Range;

use serde_json::Value;

use super::header::{Header, architecture_of_start};
use super::tensor_type::TensorType;
use super::{Gguf, config, tokenizer};
use crate::files::gguf_names;
use crate::{FileEntry, LoadError, Snapshot};

/// Bytes of a file that are asked for first: the hyperparameters are in them, and of many files of a set the whole header.
const FIRST_BYTES: u64 = 256 << 10;

/// By how much more is asked for each time.
const GROWTH: u64 = 4;

/// A header longer than this is not looked at ahead. Those of the largest vocabularies take a tenth of it.
const HEADER_BYTES_MAX: u64 = 128 << 20;

/// What is known of a model's files by their beginnings.
#[derive(Debug)]
pub struct Ahead {
    names: Vec<String>,
    sizes: Vec<u64>,
    /// Those of the first files, in order.
    headers: Vec<Header>,
    /// The beginning of the file after them.
    start: Vec<u8>,
    /// What all headers together say.
    config: Option<Value>,
}

/// Takes in what has come; a step that blocks, for a thread that may.
pub type Work = Box<dyn FnOnce() -> Result<Ahead, LoadError> + Send>;

/// Refuses a GGUF model by the headers of its files, where they are elsewhere and can be looked at there; else does nothing, since
/// then nothing is lost by fetching them. Answers its `config.json`, which may lack the factors that positions are stretched by.
///
/// # Errors
/// As [`unfold`](super::unfold) and [`Snapshot::peek`]; `Unsupported` too if a tensor is stored in a way that is not read.
pub async fn check_ahead<Answer: Future<Output = Result<Ahead, LoadError>>>(
    snapshot: &dyn Snapshot,
    gguf: &str,
    blocking: impl Fn(Work) -> Answer,
) -> Result<Option<Value>, LoadError> {
    let Some(mut ahead) = Ahead::of(snapshot.files(), gguf) else { return Ok(None) };
    while let Some((name, range)) = ahead.wanted() {
        if range.end > HEADER_BYTES_MAX {
            return Ok(None);
        }
        let Some(bytes) = snapshot.peek(name, range).await? else { return Ok(None) };
        ahead = blocking(Box::new(move || ahead.with(&bytes))).await?;
    }
    Ok(ahead.config)
}

impl Ahead {
    /// Nothing is known yet. `None` if a file is here already, or there is no telling how long one is.
    fn of(files: &[FileEntry], gguf: &str) -> Option<Self> {
        let names = gguf_names(gguf);
        let size = |name: &String| {
            let file = files.iter().find(|file| file.name == *name)?;
            file.size.filter(|_| !file.cached)
        };
        let sizes = names.iter().map(size).collect::<Option<Vec<_>>>()?;
        Some(Self { names, sizes, headers: Vec::new(), start: Vec::new(), config: None })
    }

    /// What to fetch next: of which file, and which of its bytes. `None` if nothing more is needed.
    fn wanted(&self) -> Option<(&str, Range<u64>)> {
        let (name, size) = (self.names.get(self.headers.len())?, self.sizes[self.headers.len()]);
        let known = self.start.len() as u64;
        Some((name, known..(known * GROWTH).max(FIRST_BYTES).min(size)))
    }

    /// The bytes that were wanted.
    fn with(mut self, bytes: &[u8]) -> Result<Self, LoadError> {
        let (name, size) = (&self.names[self.headers.len()], self.sizes[self.headers.len()]);
        self.start.extend(bytes);
        let Some(header) = Header::read_start(name, &self.start, size)? else {
            if bytes.is_empty() {
                let why = format!("nothing comes of it after {} of its {size} bytes", self.start.len());
                return Err(LoadError::Corrupt { file: name.clone(), why });
            }
            // No need to wait for the vocabulary of a model that is none of ours.
            if let Some(architecture) = architecture_of_start(name, &self.start, size) {
                config::family(name, &architecture)?;
            }
            return Ok(self);
        };
        self.start = Vec::new();
        self.headers.push(header);
        if self.headers.len() == self.names.len() {
            self.config = Some(checked(self.names.clone(), std::mem::take(&mut self.headers))?);
            self.names.clear();
        }
        Ok(self)
    }
}

/// What a load would find wrong with headers, found now; and the config that they tell.
fn checked(names: Vec<String>, headers: Vec<Header>) -> Result<Value, LoadError> {
    let gguf = Gguf::of_headers(names, headers)?;
    let config = config::config(&gguf, None)?;
    tokenizer::tokenizer(gguf.head())?;
    tokenizer::tokenizer_config(gguf.head())?;
    for (tensor, found) in gguf.tensors() {
        let stored = found.info.tensor_type;
        if let TensorType::Other(_) = stored {
            return Err(LoadError::Unsupported(format!(
                "{}: tensor {tensor} is stored as {stored}; the types that are read are {}",
                gguf.names()[found.file],
                TensorType::READ
            )));
        }
    }
    Ok(config)
}
