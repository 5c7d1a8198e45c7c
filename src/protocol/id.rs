//! Names of things: requests and models.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A request as its client knows it: the `X-Request-Id` it sent, or one we made. Two clients may send the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RequestId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request as we know it: unique in this process, whatever its client calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestKey(pub u64);

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A model as a client names it: `<repo>[@<revision>][:<file>.gguf]`, where the repository may also be a local folder.
///
/// A suffix after `:` that does not end in `.gguf` stays part of the repository, as the peer has it. A name that begins
/// with `/`, `./`, `../` or `~` is a path: no revision is read from it, so folders with an `@` work, and `./dir/x.gguf`
/// means the same as `./dir:x.gguf`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelRef {
    repo: String,
    revision: Option<String>,
    file: Option<String>,
}

/// Longest name in bytes: longer than any on the Hub, and it stands in logs and error texts.
const NAME_BYTES_MAX: usize = 512;

/// The revision meant where none is named.
const DEFAULT_REVISION: &str = "main";

impl ModelRef {
    /// `org/name`, or a folder.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit; `main` where none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// Whether the client named a revision itself.
    pub fn names_revision(&self) -> bool {
        self.revision.is_some()
    }

    /// The GGUF file within the repository, if one is meant.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Whether the repository is a folder on this machine.
    pub fn is_path(&self) -> bool {
        is_path(&self.repo)
    }

    /// The full name under which a model is held: `repo@revision[:file]`. Two spellings of one model have one canonical id.
    pub fn canonical(&self) -> String {
        match &self.file {
            Some(file) => format!("{}@{}:{file}", self.repo, self.revision()),
            None => format!("{}@{}", self.repo, self.revision()),
        }
    }

    /// The same model with another revision.
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }
}

fn is_path(repo: &str) -> bool {
    repo.starts_with(['/', '~'])
        || repo.starts_with("./")
        || repo.starts_with("../")
        || repo == "."
        || repo == ".."
}

/// Why a text names no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelRefError {
    /// There is no repository in it.
    EmptyRepo,
    /// There is nothing after the `@`.
    EmptyRevision,
    /// A revision or file that would climb out of its folder, or holds a control character.
    Unsafe,
    /// Longer than any model's name.
    TooLong,
}

impl fmt::Display for ModelRefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => return write!(f, "a model name has at most {NAME_BYTES_MAX} bytes; this name is longer"),
            Self::EmptyRepo => "a model is named like `org/name`, `org/name@revision` or `org/name:file.gguf`; this name is empty",
            Self::EmptyRevision => "there is no revision after the `@` of this model name",
            Self::Unsafe => "a model name may not hold `..` path segments or control characters",
        })
    }
}

impl std::error::Error for ModelRefError {}

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, ModelRefError> {
        let text = text.trim();
        if text.len() > NAME_BYTES_MAX {
            return Err(ModelRefError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(ModelRefError::Unsafe);
        }
        let (name, file) = match text.rsplit_once(':') {
            Some((name, file)) if file.ends_with(".gguf") => (name, Some(file)),
            _ => (text, None),
        };
        let (name, file) = match (file, name.rsplit_once('/')) {
            (None, Some((folder, file))) if is_path(name) && file.ends_with(".gguf") => {
                (if folder.is_empty() { "/" } else { folder }, Some(file))
            }
            _ => (name, file),
        };
        let (repo, revision) = match name.split_once('@') {
            Some((repo, revision)) if !is_path(name) => (repo, Some(revision)),
            _ => (name, None),
        };
        if repo.is_empty() {
            return Err(ModelRefError::EmptyRepo);
        }
        if revision.is_some_and(str::is_empty) {
            return Err(ModelRefError::EmptyRevision);
        }
        let climbs = |part: &str| part.split('/').any(|segment| segment == "..");
        if revision.is_some_and(climbs) || file.is_some_and(climbs) || (!is_path(repo) && climbs(repo)) {
            return Err(ModelRefError::Unsafe);
        }
        // `dir/` and `dir` are one model.
        let repo = if repo.len() > 1 { repo.trim_end_matches('/') } else { repo };
        Ok(Self { repo: repo.into(), revision: revision.map(Into::into), file: file.map(Into::into) })
    }
}

impl TryFrom<String> for ModelRef {
    type Error = ModelRefError;

    fn try_from(text: String) -> Result<Self, ModelRefError> {
        text.parse()
    }
}

impl From<ModelRef> for String {
    fn from(model: ModelRef) -> String {
        model.to_string()
    }
}

/// The name as the client wrote it.
impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        let model: ModelRef = text.parse().expect("the name is good");
        assert_eq!(model.canonical(), canonical);
        assert_eq!(model.to_string().parse::<ModelRef>().expect("what is printed can be read"), model);
    }

    #[test]
    fn spellings_of_one_model_share_a_canonical_id() {
        check("org/m", "org/m@main");
        check("org/m@main", "org/m@main");
        check("org/m@dev:q8.gguf", "org/m@dev:q8.gguf");
        check("org/m:q8.gguf", "org/m@main:q8.gguf");
        check("org/m:fastest", "org/m:fastest@main");
        check("/srv/a@b/", "/srv/a@b@main");
        check("gpt2", "gpt2@main");
        check("./m.gguf", ".@main:m.gguf");
        check("/srv/a@b/m.gguf", "/srv/a@b@main:m.gguf");
        check("~/m.gguf", "~@main:m.gguf");
        check("/m.gguf", "/@main:m.gguf");
        check("org/m.gguf", "org/m.gguf@main");
    }

    #[test]
    fn names_that_name_nothing_are_refused() {
        assert_eq!("".parse::<ModelRef>(), Err(ModelRefError::EmptyRepo));
        assert_eq!("@main".parse::<ModelRef>(), Err(ModelRefError::EmptyRepo));
        assert_eq!("org/m@".parse::<ModelRef>(), Err(ModelRefError::EmptyRevision));
        assert_eq!("org/m@../../etc".parse::<ModelRef>(), Err(ModelRefError::Unsafe));
        assert_eq!("org/../m".parse::<ModelRef>(), Err(ModelRefError::Unsafe));
        assert_eq!("org/m:../x.gguf".parse::<ModelRef>(), Err(ModelRefError::Unsafe));
    }

    #[test]
    fn a_name_has_a_longest_length() {
        "m".repeat(NAME_BYTES_MAX).parse::<ModelRef>().expect("it is just short enough");
        assert_eq!("m".repeat(NAME_BYTES_MAX + 1).parse::<ModelRef>(), Err(ModelRefError::TooLong));
    }
}
