//! Where the Hub and its cache are, in the words of Python's `huggingface_hub` environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to reach the Hub, and where its files are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// Address of the Hub, without a slash at its end.
    pub endpoint: String,
    /// Sent to the Hub, and to no other host.
    pub token: Option<String>,
    /// The folder that holds `models--org--name`.
    pub cache_dir: PathBuf,
    /// Use what is cached and nothing else: no request is ever made.
    pub offline: bool,
    /// How long the Hub may take to say what a revision is before the cached one is used instead.
    pub metadata_timeout: Duration,
    /// How long a transfer may stand still before it counts as broken off.
    pub read_timeout: Duration,
    /// How often in a row a transfer is tried again without a single byte arriving.
    pub num_retries: u32,
    /// The wait before the first of those; doubled each time.
    pub retry_backoff: Duration,
}

impl HubSettings {
    const ENDPOINT: &str = "https://huggingface.co";

    /// The public Hub without a token, cached in this folder.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: Self::ENDPOINT.into(),
            token: None,
            cache_dir: cache_dir.into(),
            offline: false,
            metadata_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            num_retries: 5,
            retry_backoff: Duration::from_millis(500),
        }
    }

    /// What Python would do under the same environment (`huggingface_hub/constants.py`): `HF_HOME`, `XDG_CACHE_HOME`,
    /// `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_HUB_ETAG_TIMEOUT` and
    /// `HF_HUB_DOWNLOAD_TIMEOUT`. A variable that is empty counts as absent.
    ///
    /// `env` looks a variable up; main hands in the process's environment. Reads the token file, if there is one.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let flag = |name: &str| var(name).is_some_and(|value| is_true(&value));
        let seconds =
            |name: &str| var(name).and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);

        let user = var("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = |name: &str| var(name).map(|value| expand_user(&value, &user));
        let home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface")
        });
        let cache_dir = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            var("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok())
        };

        let defaults = Self::new(cache_dir);
        Self {
            endpoint: var("HF_ENDPOINT")
                .map_or(defaults.endpoint, |value| value.trim().trim_end_matches('/').into()),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
            metadata_timeout: seconds("HF_HUB_ETAG_TIMEOUT").unwrap_or(defaults.metadata_timeout),
            read_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT").unwrap_or(defaults.read_timeout),
            ..defaults
        }
    }
}

/// Without the token: settings end up in logs.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

/// `~` and `~/x` as the user's folder.
pub(crate) fn expand_user(path: &str, user: &Path) -> PathBuf {
    match path.strip_prefix('~') {
        Some("") => user.into(),
        Some(rest) if rest.starts_with('/') => user.join(rest.trim_start_matches('/')),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_env(&|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
        })
    }

    #[track_caller]
    fn check_cache(vars: &[(&str, &str)], expected: &str) {
        assert_eq!(settings(vars).cache_dir, Path::new(expected));
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        check_cache(&[("HOME", "/u")], "/u/.cache/huggingface/hub");
        check_cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        check_cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/h")], "/u/h/hub");
        check_cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old");
        check_cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new");
        check_cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "")], "/h/hub");
    }

    #[test]
    fn a_token_comes_from_the_variable_before_the_file() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let home_path = home.path().to_str().expect("its name is text");
        std::fs::write(home.path().join("token"), "hf_file\n").expect("the token is written");
        let token = |vars: &[(&str, &str)]| settings(&[&[("HF_HOME", home_path)], vars].concat()).token;
        assert_eq!(token(&[]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN", " hf_var ")]).as_deref(), Some("hf_var"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nowhere")]), None);
        assert_eq!(token(&[("HF_TOKEN", "hf_var"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert!(!format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")])).contains("hf_secret"));
    }

    #[test]
    fn offline_takes_the_words_that_python_takes() {
        for word in ["1", "true", "YES", "On"] {
            assert!(settings(&[("HF_HUB_OFFLINE", word)]).offline, "{word}");
        }
        for word in ["0", "false", ""] {
            assert!(!settings(&[("HF_HUB_OFFLINE", word)]).offline, "{word}");
        }
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror:8080/")]).endpoint, "http://mirror:8080");
        assert_eq!(settings(&[("HF_HUB_ETAG_TIMEOUT", "3")]).metadata_timeout, Duration::from_secs(3));
    }
}
