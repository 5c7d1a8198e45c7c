//! The checkpoint that a bench runs.

use std::path::Path;

use candlewick::ember;
use candlewick_engine::{ModelFile, ModelFiles, gguf};

/// The files of a folder, or one GGUF file; without a path, the embedded model's.
pub fn files_of(path: Option<&String>) -> ModelFiles {
    let Some(path) = path.map(Path::new) else {
        let files = ember::FILES.iter().map(|(name, bytes)| ((*name).into(), ModelFile::Embedded(bytes)));
        return ModelFiles { files: files.collect(), gguf: None };
    };
    if path.is_file() {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let files = [(name.clone(), ModelFile::Path(path.into()))].into();
        let mut files = ModelFiles { files, gguf: Some(name) };
        gguf::unfold(&mut files).expect("the GGUF file is whole");
        return files;
    }
    let entries =
        std::fs::read_dir(path).expect("the folder can be read").map(|entry| entry.expect("readable"));
    let files =
        entries.map(|entry| (entry.file_name().to_string_lossy().into(), ModelFile::Path(entry.path())));
    ModelFiles { files: files.collect(), gguf: None }
}
