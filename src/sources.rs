//! Where models come from, in the order in which they are asked: the program itself, folders, the Hub.

use std::path::PathBuf;
use std::sync::Arc;

use candlewick_engine::{LoadError, ModelSource};
use candlewick_hub::{DirectorySource, EmbeddedSource, HubSettings, HubSource};
use candlewick_protocol::ModelRef;

use crate::ember;
use crate::settings::HubOverrides;

/// All sources.
pub fn all(overrides: &HubOverrides) -> Result<Vec<Arc<dyn ModelSource>>, LoadError> {
    let mut sources: Vec<Arc<dyn ModelSource>> = Vec::new();
    if !ember::FILES.is_empty() {
        let model = ember::MODEL.parse().expect("our own model has a good name");
        sources.push(Arc::new(EmbeddedSource::new(model, ember::FILES)));
    }
    sources.push(Arc::new(folders(overrides)));
    sources.push(Arc::new(HubSource::new(hub_settings(overrides))?));
    Ok(sources)
}

/// Says in detail why a path holds no model; whatever is no path is good. For the person at the command line: clients are
/// told less.
pub fn check_folder(model: &ModelRef, overrides: &HubOverrides) -> Result<(), LoadError> {
    if model.is_path() { folders(overrides).check(model) } else { Ok(()) }
}

fn folders(overrides: &HubOverrides) -> DirectorySource {
    DirectorySource::new(overrides.env.get("HOME").map_or_else(std::env::temp_dir, PathBuf::from))
}

/// What the `HF_…` variables say, under what our own settings say.
pub fn hub_settings(overrides: &HubOverrides) -> HubSettings {
    let from_env = HubSettings::from_env(&|name| overrides.env.get(name).cloned());
    let overrides = overrides.clone();
    HubSettings {
        cache_dir: overrides.cache_dir.unwrap_or(from_env.cache_dir),
        endpoint: overrides
            .endpoint
            .map_or(from_env.endpoint, |endpoint| endpoint.trim_end_matches('/').into()),
        token: overrides.token.or(from_env.token),
        offline: overrides.offline.unwrap_or(from_env.offline),
        ..from_env
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, Sources};

    fn hub(file: &str) -> HubSettings {
        let env = [
            ("HF_HOME", "/hf"),
            ("HF_HUB_OFFLINE", "1"),
            ("HF_TOKEN", "t"),
            ("HF_ENDPOINT", "http://mirror/"),
        ];
        let env = env.map(|(name, value)| (name.into(), value.into())).into();
        let file = Some(crate::settings::SettingsFile { path: "f".into(), text: file.into() });
        hub_settings(&Settings::load(&Sources { file, env, ..Sources::default() }).expect("good").hub)
    }

    #[test]
    fn the_hub_s_own_variables_hold_until_our_settings_say_otherwise() {
        let silent = hub("");
        assert_eq!(silent.cache_dir, PathBuf::from("/hf/hub"));
        assert!(silent.offline);
        let loud = hub("[hub]\ncache_dir = \"/c\"\noffline = false\nendpoint = \"http://e/\"\ntoken = \"u\"");
        assert_eq!((loud.cache_dir, loud.offline), (PathBuf::from("/c"), false));
        assert_eq!((loud.endpoint.as_str(), loud.token.as_deref()), ("http://e", Some("u")));
    }
}
