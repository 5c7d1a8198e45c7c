//! A folder on this machine as a source of models.
//!
//! A path may come from a client, who must not learn from the answer what there is on this machine: every path that
//! holds no model gets one and the same text. Why it holds none goes to the log, and to whoever starts the program.

use std::path::PathBuf;

use candlewick_engine::files::{gguf_models, only_gguf};
use candlewick_engine::{FileEntry, LoadError, ModelFile, ModelSource, OnBytes, Snapshot, SourceListing};
use candlewick_protocol::ModelRef;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::cache::folder_entries;
use crate::settings::expand_user;

/// Models named by a path: `/srv/model`, `./model`, `~/model`, `/srv/models:q8.gguf`, `/srv/models/q8.gguf`. A folder
/// with one GGUF model and nothing else to serve means that.
#[derive(Debug, Clone)]
pub struct DirectorySource {
    home: PathBuf,
}

impl DirectorySource {
    /// `home` is what `~` stands for.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// Why a path holds no model, in detail: for the person who started the program, and not for its clients.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn check(&self, model: &ModelRef) -> Result<(), LoadError> {
        self.find(model).map(drop)
    }

    fn find(&self, model: &ModelRef) -> Result<DirectorySnapshot, LoadError> {
        let folder = expand_user(model.repo(), &self.home);
        let shown = folder.display();
        if folder.is_file() {
            return Err(LoadError::NotFound(format!(
                "{shown} is a file; a model is the folder that holds its config.json, or a GGUF file"
            )));
        }
        if !folder.is_dir() {
            return Err(LoadError::NotFound(format!("there is no folder {shown} on this machine")));
        }
        let files = folder_entries(&folder);
        let needed = model.file().unwrap_or("config.json");
        if !folder.join(needed).is_file() && (model.file().is_some() || only_gguf(&files).is_none()) {
            let ggufs = gguf_models(&files).join(", ");
            return Err(LoadError::NotFound(match (model.file(), ggufs.is_empty()) {
                (Some(_), _) => format!("there is no {needed} in {shown}, so it does not hold that file"),
                (None, true) => format!("there is no {needed} in {shown}, so it does not hold a model"),
                (None, false) => format!(
                    "there is no {needed} in {shown} but GGUF files ({ggufs}); name the one that is meant, as in `{}:NAME.gguf`",
                    model.repo()
                ),
            }));
        }
        // The process may change its folder; a snapshot means the same one always.
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        Ok(DirectorySnapshot { folder, files })
    }
}

impl ModelSource for DirectorySource {
    fn serves(&self, model: &ModelRef) -> bool {
        model.is_path()
    }

    fn resolve<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Box<dyn Snapshot>, LoadError>> {
        let found = match self.find(model) {
            Ok(snapshot) => Ok(Box::new(snapshot) as Box<dyn Snapshot>),
            Err(why) => {
                tracing::debug!(%model, %why, "no model at this path");
                Err(nothing_there(model))
            }
        };
        async move { found }.boxed()
    }

    /// None: which folders hold models is for the user to say.
    fn list(&self) -> Vec<SourceListing> {
        Vec::new()
    }
}

/// The one answer for every path without a model.
fn nothing_there(model: &ModelRef) -> LoadError {
    LoadError::NotFound(match model.file() {
        Some(_) => format!("'{model}' is not a GGUF file in a folder of this machine"),
        None => format!("'{model}' is not a folder with a model (config.json and safetensors)"),
    })
}

struct DirectorySnapshot {
    folder: PathBuf,
    files: Vec<FileEntry>,
}

impl Snapshot for DirectorySnapshot {
    /// None: a folder may change at any time.
    fn commit(&self) -> Option<&str> {
        None
    }

    fn files(&self) -> &[FileEntry] {
        &self.files
    }

    fn fetch<'a>(
        &'a self,
        name: &'a str,
        on_bytes: OnBytes<'a>,
    ) -> BoxFuture<'a, Result<ModelFile, LoadError>> {
        async move {
            let Some(entry) = self.files.iter().find(|file| file.name == name) else {
                return Err(LoadError::NotFound(format!("there is no {name} in {}", self.folder.display())));
            };
            on_bytes(entry.size.unwrap_or_default(), entry.size);
            Ok(ModelFile::Path(self.folder.join(name)))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("additional_chat_templates")).expect("the folder is made");
        for name in ["config.json", "q8.gguf", "additional_chat_templates/rag.jinja"] {
            std::fs::write(folder.path().join(name), name).expect("the file is written");
        }
        folder
    }

    async fn resolve(home: &Path, name: &str) -> Result<Box<dyn Snapshot>, LoadError> {
        let model: ModelRef = name.parse().expect("the name is good");
        let source = DirectorySource::new(home);
        assert!(source.serves(&model));
        source.resolve(&model).await
    }

    #[tokio::test]
    async fn a_folder_lists_its_files_and_gives_their_paths() {
        let folder = folder();
        let path = folder.path().to_str().expect("its name is text").to_owned();
        for name in ["~", &path, &format!("{path}:q8.gguf"), &format!("{path}/q8.gguf"), &format!("{path}/")]
        {
            let snapshot = resolve(folder.path(), name).await.expect("the folder holds a model");
            let names = snapshot.files().iter().map(|file| file.name.as_str()).collect::<Vec<_>>();
            assert_eq!(names, ["additional_chat_templates/rag.jinja", "config.json", "q8.gguf"]);
            let file =
                snapshot.fetch("additional_chat_templates/rag.jinja", &|_, _| {}).await.expect("it is there");
            assert_eq!(&*file.read().expect("it can be read"), b"additional_chat_templates/rag.jinja");
            assert!(matches!(snapshot.fetch("x", &|_, _| {}).await, Err(LoadError::NotFound(_))));
        }
    }

    #[tokio::test]
    async fn a_folder_with_one_gguf_model_means_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf"] {
            std::fs::write(folder.path().join(name), name).expect("the file is written");
        }
        let path = folder.path().to_str().expect("its name is text");
        let snapshot = resolve(folder.path(), path).await.expect("the folder holds a model");
        assert_eq!(only_gguf(snapshot.files()), Some("m-00001-of-00002.gguf"));
    }

    #[tokio::test]
    async fn a_path_that_holds_no_model_says_why_to_its_owner_and_nothing_to_clients() {
        let home = folder();
        let path = home.path().to_str().expect("its name is text").to_owned();
        let check = async |name: String, detail: &str| {
            let model: ModelRef = name.parse().expect("the name is good");
            let error = DirectorySource::new(home.path()).check(&model).expect_err("there is no model");
            assert!(matches!(&error, LoadError::NotFound(why) if why.contains(detail)), "{error}");
            let told = resolve(home.path(), &name).await.err().expect("there is no model").to_string();
            told.replace(&name, "NAME")
        };
        let folder = "'NAME' is not a folder with a model (config.json and safetensors)";
        assert_eq!(check(format!("{path}/nowhere"), "no folder").await, folder);
        assert_eq!(check(format!("{path}/additional_chat_templates"), "no config.json").await, folder);
        assert_eq!(check(format!("{path}/config.json"), "is a file").await, folder);
        let file = "'NAME' is not a GGUF file in a folder of this machine";
        assert_eq!(check(format!("{path}:q4.gguf"), "no q4.gguf").await, file);
        std::fs::remove_file(home.path().join("config.json")).expect("it is removed");
        std::fs::write(home.path().join("q4.gguf"), "").expect("the file is written");
        assert_eq!(check(path.clone(), "q4.gguf, q8.gguf").await, folder);
        assert_eq!(check(format!("{path}:config.json"), "no folder").await, folder);
        assert_eq!(check(format!("{path}/nowhere:q8.gguf"), "no folder").await, file);
    }
}
