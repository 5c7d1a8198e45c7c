//! The Hub with its cache as a source of models.

use std::sync::Arc;

use candlewick_engine::{LoadError, ModelSource, Snapshot, SourceListing};
use candlewick_protocol::ModelRef;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::HubSettings;
use crate::cache::{RepoCache, is_commit, is_safe_path};
use crate::client::HubClient;
use crate::listing::list;
use crate::snapshot::HubSnapshot;

/// The longest name that the Hub gives a repository.
const REPO_ID_LEN_MAX: usize = 96;

/// Models at a Hugging Face Hub, and those of its cache.
///
/// A commit that is whole in the cache costs no request. A branch is looked up each time, because it moves; when the Hub
/// cannot be reached, or has forgotten the model, the cached copy serves, and a warning is logged.
pub struct HubSource {
    client: Arc<HubClient>,
}

impl HubSource {
    /// # Errors
    /// `Network` if the endpoint is no address.
    pub fn new(settings: HubSettings) -> Result<Self, LoadError> {
        Ok(Self { client: Arc::new(HubClient::new(settings)?) })
    }

    async fn find(&self, model: &ModelRef) -> Result<HubSnapshot, LoadError> {
        if !is_repo_id(model.repo()) {
            return Err(LoadError::NotFound(format!(
                "`{}` is no name of a model: at the Hub they are called `org/name`, and a folder on this machine is \
                 written with a leading `/`, `./` or `~`",
                model.repo()
            )));
        }
        // A revision is a path in the cache.
        if !is_safe_path(model.revision()) {
            return Err(LoadError::NotFound(format!(
                "`{}` cannot be a revision: it is no name of a branch",
                model.revision()
            )));
        }
        let settings = self.client.settings();
        let cache = RepoCache::new(&settings.cache_dir, model.repo());
        let cached = Cached::look(&cache, model);
        if settings.offline {
            let snapshot = |commit| HubSnapshot::cached(model.clone(), cache.clone(), commit, None);
            return cached.whole().map(snapshot).map_err(|why| offline(model, settings, &why));
        }
        let from_cache = |commit| {
            HubSnapshot::cached(model.clone(), cache.clone(), commit, Some(Arc::clone(&self.client)))
        };
        match cached {
            Cached::Whole(commit) if is_commit(model.revision()) => Ok(from_cache(commit)),
            cached => match self.client.revision(model.repo(), model.revision()).await {
                Ok(revision) => {
                    Ok(HubSnapshot::current(model.clone(), cache.clone(), revision, Arc::clone(&self.client)))
                }
                Err(error) => match cached.whole() {
                    Ok(commit) => {
                        tracing::warn!(%model, commit, %error, "using the cached copy");
                        Ok(from_cache(commit))
                    }
                    Err(_) => Err(error),
                },
            },
        }
    }
}

/// What the cache has of a model.
enum Cached {
    /// All that serving needs, of this commit.
    Whole(String),
    /// Something, and what is missing.
    Part(String),
    Nothing,
}

impl Cached {
    fn look(cache: &RepoCache, model: &ModelRef) -> Self {
        let commit = cache.commit_of(model.revision());
        let Some(commit) = commit.filter(|commit| cache.snapshot_dir(commit).is_dir()) else {
            return Self::Nothing;
        };
        match cache.missing(&commit, model) {
            Some(missing) => Self::Part(missing),
            None => Self::Whole(commit),
        }
    }

    fn whole(self) -> Result<String, String> {
        match self {
            Self::Whole(commit) => Ok(commit),
            Self::Part(missing) => Err(format!("is only partly in the cache ({missing})")),
            Self::Nothing => Err("is not in the cache".into()),
        }
    }
}

fn offline(model: &ModelRef, settings: &HubSettings, why: &str) -> LoadError {
    LoadError::Offline(format!(
        "`{model}` {why} at {}, and HF_HUB_OFFLINE forbids downloading it: unset HF_HUB_OFFLINE, or run \
         `candlewick download {model}` where there is a network",
        settings.cache_dir.display()
    ))
}

/// `org/name` or `name`, as `validate_repo_id` of Python's `huggingface_hub` has it. Also what keeps a name from climbing
/// out of the cache.
fn is_repo_id(repo: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(fits) && !part.starts_with(['-', '.']);
    let parts = repo.split('/').collect::<Vec<_>>();
    let odd = repo.contains("--") || repo.contains("..") || repo.ends_with(".git");
    repo.len() <= REPO_ID_LEN_MAX && parts.len() <= 2 && parts.into_iter().all(is_part) && !odd
}

impl ModelSource for HubSource {
    /// Every name that is not a path.
    fn serves(&self, model: &ModelRef) -> bool {
        !model.is_path()
    }

    fn resolve<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Box<dyn Snapshot>, LoadError>> {
        async move { self.find(model).await.map(|snapshot| Box::new(snapshot) as Box<dyn Snapshot>) }.boxed()
    }

    fn list(&self) -> Vec<SourceListing> {
        list(&self.client.settings().cache_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_hub_could_not_have_are_recognised() {
        for name in ["org/name", "gpt2", "Qwen/Qwen2.5-0.5B-Instruct", "a_b/c.d"] {
            assert!(is_repo_id(name), "{name}");
        }
        for name in ["a/b/c", "", "a/", "a--b/c", "..", "a/.b", "a b/c", "org/m:fastest", "a\\b"] {
            assert!(!is_repo_id(name), "{name}");
        }
    }
}
