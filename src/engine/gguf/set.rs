//! The files of one model: usually one, or a set whose names end in `-00001-of-00003.gguf`. The first holds the metadata.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::header::{Header, TensorInfo};
use crate::files::gguf_names;
use crate::{LoadError, ModelFile, ModelFiles};

/// A GGUF model: its first file's metadata, and the tensors of all its files.
#[derive(Debug)]
pub struct Gguf {
    head: Header,
    names: Vec<String>,
    tensors: BTreeMap<String, GgufTensor>,
}

/// A tensor of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Which of the set's files holds it.
    pub file: usize,
    /// What and where it is there.
    pub info: TensorInfo,
}

impl Gguf {
    /// Reads the headers of all files that belong to this one. Blocks.
    ///
    /// # Errors
    /// As [`Header::read`]; `Corrupt` too for files that do not belong together, `NotFound` if one is not there.
    pub fn open(name: &str, files: &ModelFiles) -> Result<Self, LoadError> {
        let names = gguf_names(name);
        let mut headers = Vec::new();
        for name in &names {
            let file =
                files.get(name).ok_or_else(|| LoadError::NotFound(format!("there is no file {name}")))?;
            headers.push(Header::read(name, file)?);
        }
        Self::of_headers(names, headers)
    }

    /// The files of these names, by their headers.
    pub(super) fn of_headers(names: Vec<String>, mut headers: Vec<Header>) -> Result<Self, LoadError> {
        let mut tensors = BTreeMap::new();
        for (index, header) in headers.iter_mut().enumerate() {
            check_place(header, index, names.len())?;
            for (name, info) in header.take_tensors() {
                if tensors.insert(name.clone(), GgufTensor { file: index, info }).is_some() {
                    return Err(header.corrupt(format!("tensor {name} is in an earlier file of the set too")));
                }
            }
        }
        let head = headers.swap_remove(0);
        if let Some(total) = head.count("split.tensors.count")?
            && total != tensors.len()
        {
            return Err(
                head.corrupt(format!("the set should have {total} tensors, and has {}", tensors.len()))
            );
        }
        Ok(Self { head, names, tensors })
    }

    /// What the first file says.
    pub fn head(&self) -> &Header {
        &self.head
    }

    /// The files of the set, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The tensors of all files, by name.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// A tensor, if there is such.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// The bytes of a small tensor; large ones are mapped by whoever computes with them.
    pub(super) fn read(&self, tensor: &GgufTensor, files: &ModelFiles) -> Result<Vec<u8>, LoadError> {
        let name = &self.names[tensor.file];
        let range = tensor.info.range.clone();
        let whole = |bytes: &[u8]| {
            let part = bytes.get(range.start as usize..range.end as usize);
            part.map(<[u8]>::to_vec).ok_or_else(|| self.head.corrupt(format!("{name} is no longer whole")))
        };
        match files.get(name) {
            None => Err(LoadError::NotFound(format!("there is no file {name}"))),
            Some(ModelFile::Embedded(bytes)) => whole(bytes),
            Some(ModelFile::Made(bytes)) => whole(bytes),
            Some(ModelFile::Path(path)) => {
                let read = || -> std::io::Result<Vec<u8>> {
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(range.start))?;
                    let mut bytes = Vec::new();
                    file.take(range.end - range.start).read_to_end(&mut bytes)?;
                    Ok(bytes)
                };
                read().map_err(|error| LoadError::Io { path: path.clone(), why: error.to_string() })
            }
        }
    }
}

/// Whether a file says that it is where its name puts it.
fn check_place(header: &Header, index: usize, num_files: usize) -> Result<(), LoadError> {
    let count = header.count("split.count")?.filter(|count| *count > 0).unwrap_or(1);
    let number = header.count("split.no")?.unwrap_or(0);
    if count != num_files || number != index {
        return Err(header.corrupt(format!(
            "it is number {} of {count} by what it says, and number {} of {num_files} by its name; the files of a set are \
             named like `model-00001-of-00003.gguf`",
            number + 1,
            index + 1
        )));
    }
    Ok(())
}
