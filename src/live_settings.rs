//! The settings of a server that runs: read again when their files change, checked as a whole, compared with what holds, and
//! put in force as far as that can be done without a restart.
//!
//! Invariants: settings that are wrong change nothing and say why in one line of the log; a key that needs a restart keeps
//! the value that the server was started with, and what was written since is told as pending; a server that asks for keys
//! is never opened to everybody while it runs.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use candlewick_actors::{Glance, Reloaded, SettingsSource, TreeSettings};
use candlewick_api::{ApiSettings, EffectiveSetting, LiveApi};
use serde_json::Value;

use crate::logging::LogControl;
use crate::room_settings::{RoomSettingsError, api_settings, tree_settings};
use crate::settings::{ChatTemplate, Settings};
use crate::settings_effect::{Effect, effect_of};
use crate::settings_files::SettingsFiles;
use crate::settings_layers::{API_KEYS, Layered};
use crate::show_settings::shown;

/// What a server needs to follow its settings.
#[derive(Clone)]
pub struct Watched {
    /// Where they are read.
    pub files: SettingsFiles,
    /// As they were written when the server was started.
    pub layered: Layered,
    /// What changes the log; without it the log stays as it is.
    pub log: Option<LogControl>,
}

/// The settings of a server that runs.
pub struct LiveSettings {
    watched: Watched,
    api: LiveApi,
    /// Memory that was free when the server started: shares of it stay what they were.
    available_bytes: u64,
    now: Mutex<Now>,
}

/// What holds.
struct Now {
    settings: Settings,
    layered: Layered,
    /// What came of them, files that they name included.
    tree: TreeSettings,
    /// The file that was read, if there was one: one that vanishes is waited for.
    file: Option<PathBuf>,
    /// The contents of all files when they were last read, good or not.
    read: u64,
}

/// Why settings were not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Unreadable(#[from] crate::settings_files::UnreadableFile),
    #[error("{}", .0.to_string().replace('\n', "; "))]
    Wrong(#[from] crate::settings_layers::SettingsError),
    #[error(transparent)]
    Rooms(#[from] RoomSettingsError),
    #[error(
        "`{API_KEYS}`: no key is left, and everybody could use the server; start it again if that is what you want"
    )]
    Opened,
}

impl LiveSettings {
    /// Of a server that was started with these.
    pub fn new(
        watched: Watched,
        settings: Settings,
        tree: TreeSettings,
        api: LiveApi,
        available_bytes: u64,
    ) -> Arc<Self> {
        let file = watched.files.path();
        let read = contents(file.as_deref(), &settings);
        let layered = watched.layered.clone();
        let now = Mutex::new(Now { settings, layered, tree, file, read });
        Arc::new(Self { watched, api, available_bytes, now })
    }

    /// Time that requests in flight have to finish when the server stops.
    pub fn drain_timeout(&self) -> Duration {
        self.now().settings.server.drain_timeout
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file to read: the same as before while it is gone, since it may be on its way back.
    fn file(&self, now: &Now) -> Option<PathBuf> {
        self.watched.files.path().or_else(|| now.file.clone())
    }

    fn read(&self, now: &mut Now) -> Result<Option<(TreeSettings, ApiSettings)>, Refusal> {
        let file = self.file(now);
        now.read = contents(file.as_deref(), &now.settings);
        let sources = self.watched.files.read_from(file.as_deref())?;
        let (settings, layered) = Settings::load_layered(&sources)?;
        // The settings may name other files than before.
        now.read = contents(file.as_deref(), &settings);
        let tree = tree_settings(&settings, self.available_bytes)?;
        let api = api_settings(settings.server.clone())?;
        if api.api_keys.is_empty() && !self.api.is_open() {
            return Err(Refusal::Opened);
        }
        // Files that are named may say something else where the settings say the same.
        let is_new = layered != now.layered || tree != now.tree || self.api.differs(&api);
        changes(&now.layered, &layered, &self.watched.layered).tell();
        *now = Now { settings, layered, tree: tree.clone(), file, read: now.read };
        Ok(is_new.then_some((tree, api)))
    }
}

impl SettingsSource for LiveSettings {
    fn glance(&self) -> Glance {
        let now = self.now();
        Glance { seen: contents(self.file(&now).as_deref(), &now.settings), read: now.read }
    }

    fn reload(&self) -> Reloaded {
        let mut now = self.now();
        match self.read(&mut now) {
            Err(refusal) => {
                tracing::error!("the settings are wrong, and nothing was changed: {refusal}");
                Reloaded::Refused
            }
            Ok(None) => Reloaded::Unchanged,
            Ok(Some((tree, api))) => {
                let effective = effective(&now.layered, &self.watched.layered);
                let (live, log) = (self.api.clone(), self.watched.log.clone());
                let log_settings = now.settings.log.clone();
                let publish = Box::new(move || {
                    live.replace(api, effective);
                    if let Some(log) = log {
                        log.set(&log_settings);
                    }
                });
                Reloaded::Changed { tree: Box::new(tree), publish }
            }
        }
    }
}

/// The contents of all files that settings are made of, as a number.
fn contents(file: Option<&Path>, settings: &Settings) -> u64 {
    let template = match &settings.models.chat_template {
        Some(ChatTemplate::File(path)) => Some(path.as_path()),
        Some(ChatTemplate::Inline(_)) | None => None,
    };
    let mut hasher = DefaultHasher::new();
    for path in [file, settings.server.api_key_file.as_deref(), template] {
        path.hash(&mut hasher);
        path.and_then(|path| std::fs::read(path).ok()).hash(&mut hasher);
    }
    hasher.finish()
}

/// What is different, in words.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    taken: Vec<String>,
    pending: Vec<String>,
}

impl Changes {
    fn tell(&self) {
        if !self.taken.is_empty() {
            tracing::info!("the settings have changed: {}", self.taken.join(", "));
        }
        if !self.pending.is_empty() {
            tracing::warn!(
                "settings that wait until the server is started again: {}",
                self.pending.join(", ")
            );
        }
    }
}

/// What has changed since the last reading; of what needs a restart, what is not as it was at the start.
fn changes(before: &Layered, after: &Layered, at_start: &Layered) -> Changes {
    let (mut taken, mut pending) = (Vec::new(), Vec::new());
    let (before, at_start) = (before.values(), at_start.values());
    for (key, new) in after.values() {
        if before.get(&key) == Some(&new) {
            continue;
        }
        match effect_of(&key) {
            Effect::Restart if at_start.get(&key) == Some(&new) => {
                taken.push(format!("{key} is again as it was"))
            }
            Effect::Restart => pending.push(format!("{key} = {}", shown(&key, &new))),
            effect => taken.push(format!("{key} = {} ({effect})", shown(&key, &new))),
        }
    }
    Changes { taken, pending }
}

/// Every setting as it holds, with what waits for a restart beside it.
pub fn effective(now: &Layered, at_start: &Layered) -> Vec<EffectiveSetting> {
    let started = at_start.values();
    let setting = |(key, written): (String, Value)| {
        let (takes, started) = (effect_of(&key), started[&key].clone());
        let is_pending = takes == Effect::Restart && written != started;
        let (value, layered) = if is_pending { (&started, at_start) } else { (&written, now) };
        EffectiveSetting {
            value: shown(&key, value),
            origin: layered.place(&key).to_string(),
            takes: takes.as_str(),
            pending: is_pending.then(|| shown(&key, &written)),
            key,
        }
    };
    now.values().into_iter().map(setting).collect()
}
