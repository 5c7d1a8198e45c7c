//! Where settings are read from: the file that is named or found, the environment and the flags of this process. Reading
//! again is reading the same places again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::settings_layers::{FlagValue, SettingsFile, Sources, default_files};

/// The places of this process's settings.
#[derive(Debug, Clone, Default)]
pub struct SettingsFiles {
    /// The file that was named, if one was; it must be there.
    pub named: Option<PathBuf>,
    /// The environment as it was at the start.
    pub env: BTreeMap<String, String>,
    /// What was said on the command line.
    pub flags: Vec<FlagValue>,
    /// The folder that relative paths start from.
    pub working_dir: PathBuf,
}

/// A settings file is there and cannot be read, or was named and is not there.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the settings file {}: {why}", path.display())]
pub struct UnreadableFile {
    path: PathBuf,
    why: std::io::Error,
}

impl SettingsFiles {
    /// The file that holds: the one that is named, or the first of those that may be.
    pub fn path(&self) -> Option<PathBuf> {
        match &self.named {
            Some(path) => Some(self.working_dir.join(path)),
            None => default_files(&self.working_dir, &self.env).into_iter().find(|path| path.is_file()),
        }
    }

    /// Reads everything.
    pub fn read(&self) -> Result<Sources, UnreadableFile> {
        self.read_from(self.path().as_deref())
    }

    /// Reads everything, with this file.
    pub fn read_from(&self, path: Option<&Path>) -> Result<Sources, UnreadableFile> {
        let read = |path: &Path| match std::fs::read_to_string(path) {
            Ok(text) => Ok(SettingsFile { path: path.into(), text }),
            Err(why) => Err(UnreadableFile { path: path.into(), why }),
        };
        Ok(Sources {
            file: path.map(read).transpose()?,
            env: self.env.clone(),
            flags: self.flags.clone(),
            working_dir: self.working_dir.clone(),
        })
    }
}
