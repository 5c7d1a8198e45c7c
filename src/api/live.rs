//! What a running server goes by, and where changed settings are put.
//!
//! Each reader takes what is in force at that moment and keeps it: a request goes by the settings that it came under to its
//! end, however often they change meanwhile.

use std::sync::{Arc, PoisonError, RwLock};

use candlewick_protocol::Failpoints;
use serde_json::Value;

use crate::auth::KeyRing;
use crate::settings::ApiSettings;

/// A setting as `/admin/config` shows it. Secrets are left out by whoever makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveSetting {
    /// `section.key`.
    pub key: String,
    /// What holds.
    pub value: Value,
    /// Where it was set.
    pub origin: String,
    /// What a change of it takes to be felt.
    pub takes: &'static str,
    /// What has been written since, and waits for a restart.
    pub pending: Option<Value>,
}

/// The settings of a running server. Cheap to clone; clones are of the same server.
#[derive(Clone)]
pub struct LiveApi {
    in_force: Arc<RwLock<InForce>>,
    failpoints: Failpoints,
}

struct InForce {
    settings: Arc<ApiSettings>,
    keys: Arc<KeyRing>,
    effective: Arc<Vec<EffectiveSetting>>,
}

impl LiveApi {
    /// Settings to start with, and what is told of them.
    pub fn new(settings: ApiSettings, effective: Vec<EffectiveSetting>) -> Self {
        let keys = Arc::new(KeyRing::new(&settings.api_keys));
        let in_force = InForce { settings: Arc::new(settings), keys, effective: Arc::new(effective) };
        Self { in_force: Arc::new(RwLock::new(in_force)), failpoints: Failpoints::default() }
    }

    /// The same, with what is to fail on purpose.
    pub fn failing_at(self, failpoints: Failpoints) -> Self {
        Self { failpoints, ..self }
    }

    /// Puts changed settings in force, for every request that comes from now on. Keys that stay keep their counts.
    pub fn replace(&self, settings: ApiSettings, effective: Vec<EffectiveSetting>) {
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let keys = in_force.keys.replaced_by(&settings.api_keys);
        *in_force =
            InForce { settings: Arc::new(settings), keys: Arc::new(keys), effective: Arc::new(effective) };
    }

    /// Whether no key is asked for.
    pub fn is_open(&self) -> bool {
        self.keys().is_open()
    }

    /// Whether other settings than these are in force.
    pub fn differs(&self, settings: &ApiSettings) -> bool {
        *self.settings() != *settings
    }

    pub(crate) fn failpoints(&self) -> &Failpoints {
        &self.failpoints
    }

    pub(crate) fn settings(&self) -> Arc<ApiSettings> {
        self.read(|in_force| in_force.settings.clone())
    }

    pub(crate) fn keys(&self) -> Arc<KeyRing> {
        self.read(|in_force| in_force.keys.clone())
    }

    pub(crate) fn effective(&self) -> Arc<Vec<EffectiveSetting>> {
        self.read(|in_force| in_force.effective.clone())
    }

    fn read<T>(&self, part: impl FnOnce(&InForce) -> T) -> T {
        part(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Settings of a server that nobody asks where they came from.
impl From<ApiSettings> for LiveApi {
    fn from(settings: ApiSettings) -> Self {
        Self::new(settings, Vec::new())
    }
}
