//! Reads the primitives of a GGUF header, never beyond the file and never more than a header may hold.

use std::fs::File;
use std::io::{BufReader, Read};

use crate::{LoadError, ModelFile};

/// Longest text, in bytes: chat templates are the longest of real ones, and stay below a hundredth of it.
const TEXT_BYTES_MAX: u64 = 8 << 20;

/// Elements of all lists together. Tokens, their scores and types, and merges of the largest vocabularies are two million.
const LIST_ELEMENTS_MAX: u64 = 16 << 20;

/// A file being read from its beginning.
pub(super) struct Reader<'a> {
    name: &'a str,
    source: Box<dyn Read + 'a>,
    position: u64,
    len: u64,
    list_elements_left: u64,
    is_short: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn open(name: &'a str, file: &'a ModelFile) -> Result<Self, LoadError> {
        let (source, len): (Box<dyn Read + 'a>, u64) = match file {
            ModelFile::Embedded(bytes) => (Box::new(*bytes), bytes.len() as u64),
            ModelFile::Made(bytes) => (Box::new(&**bytes), bytes.len() as u64),
            ModelFile::Path(path) => {
                let failed =
                    |error: std::io::Error| LoadError::Io { path: path.clone(), why: error.to_string() };
                let file = File::open(path).map_err(failed)?;
                let len = file.metadata().map_err(failed)?.len();
                (Box::new(BufReader::with_capacity(1 << 16, file)), len)
            }
        };
        Ok(Self::new(name, source, len))
    }

    /// The beginning of a file that has so many bytes in all.
    pub(super) fn of_start(name: &'a str, start: &'a [u8], len: u64) -> Self {
        Self::new(name, Box::new(start), len)
    }

    fn new(name: &'a str, source: Box<dyn Read + 'a>, len: u64) -> Self {
        Self { name, source, position: 0, len, list_elements_left: LIST_ELEMENTS_MAX, is_short: false }
    }

    /// Whether a read has failed for no other reason than that the beginning of a file is all there is.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// The error of a file that cannot be.
    pub(super) fn corrupt(&self, why: impl Into<String>) -> LoadError {
        LoadError::Corrupt { file: self.name.into(), why: why.into() }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the whole file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, LoadError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, LoadError> {
        self.take().map(u64::from_le_bytes)
    }

    /// How many things follow, each of so many bytes at least.
    pub(super) fn count(&mut self, bytes_each: u64, what: &str) -> Result<u64, LoadError> {
        let count = self.u64()?;
        let left = self.len.saturating_sub(self.position);
        if count > left / bytes_each {
            return Err(self.corrupt(format!(
                "{what} has {count} entries by its header, and the {left} bytes that are left cannot hold them"
            )));
        }
        Ok(count)
    }

    /// Takes so many elements of what all lists together may have.
    pub(super) fn spend(&mut self, num_elements: u64, key: &str) -> Result<(), LoadError> {
        match self.list_elements_left.checked_sub(num_elements) {
            Some(left) => self.list_elements_left = left,
            None => {
                return Err(self.corrupt(format!(
                    "with `{key}`, its lists have more than {LIST_ELEMENTS_MAX} elements, which no vocabulary needs"
                )));
            }
        }
        Ok(())
    }

    /// A text; what is not UTF-8 in it becomes replacement characters.
    pub(super) fn text(&mut self) -> Result<String, LoadError> {
        let len = self.count(1, "a text")?;
        if len > TEXT_BYTES_MAX {
            return Err(self.corrupt(format!("a text of {len} bytes is in it; {TEXT_BYTES_MAX} is the most")));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), LoadError> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                self.is_short = self.position + bytes.len() as u64 <= self.len;
                self.corrupt(format!("it breaks off within its header, after {} bytes", self.len))
            }
            _ => self.corrupt(format!("it cannot be read: {error}")),
        })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
