//! One commit of a repository at the Hub, and what of it is cached.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use candlewick_engine::{FileEntry, LoadError, ModelFile, OnBytes, Snapshot};
use candlewick_protocol::ModelRef;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::cache::{RepoCache, is_commit};
use crate::client::{HubClient, Revision};
use crate::transfer::{fetch, peek, whole_size};

/// See [`Snapshot`].
pub(crate) struct HubSnapshot {
    model: ModelRef,
    cache: RepoCache,
    commit: String,
    files: Vec<FileEntry>,
    /// Absent when offline: then only what is cached is listed.
    client: Option<Arc<HubClient>>,
}

impl HubSnapshot {
    /// What the cache has of a commit.
    pub(crate) fn cached(
        model: ModelRef,
        cache: RepoCache,
        commit: String,
        client: Option<Arc<HubClient>>,
    ) -> Self {
        let files = cache.entries(&commit);
        Self { model, cache, commit, files, client }
    }

    /// What the Hub has just said.
    pub(crate) fn current(
        model: ModelRef,
        cache: RepoCache,
        revision: Revision,
        client: Arc<HubClient>,
    ) -> Self {
        let Revision { commit, files } = revision;
        let entry = |(name, size): (String, u64)| {
            let cached = cache.pointer(&commit, &name).exists();
            FileEntry { name, size: Some(size), cached }
        };
        let files = files.into_iter().map(entry).collect();
        let snapshot = Self { model, cache, commit, files, client: Some(client) };
        if snapshot.files.iter().any(|file| file.cached) {
            snapshot.move_branch();
        }
        snapshot
    }

    /// Lets the branch point here in the cache, once this commit could be served alone. Until then it stays where it
    /// was, so that an update that is never finished does not cost the version that is there.
    fn move_branch(&self) {
        let revision = self.model.revision();
        if is_commit(revision) {
            return;
        }
        let known = self.cache.commit_of(revision);
        if known.as_ref() == Some(&self.commit) {
            return;
        }
        if (known.is_none() || self.cache.missing(&self.commit, &self.model).is_none())
            && let Err(error) = self.cache.write_ref(revision, &self.commit)
        {
            tracing::warn!(model = %self.model, %error, "the cache cannot remember where this branch is");
        }
    }

    async fn bring(&self, name: &str, on_bytes: OnBytes<'_>) -> Result<PathBuf, LoadError> {
        let Some(entry) = self.files.iter().find(|file| file.name == name) else {
            return Err(LoadError::NotFound(format!(
                "`{}` has no file `{name}` at commit {}",
                self.model, self.commit
            )));
        };
        let pointer = self.cache.pointer(&self.commit, name);
        if let Some(size) = whole_size(&pointer, entry.size) {
            on_bytes(size, Some(size));
            return Ok(pointer);
        }
        let Some(client) = &self.client else {
            return Err(LoadError::Offline(format!(
                "`{name}` of `{}` is no longer at {}, and HF_HUB_OFFLINE forbids downloading it",
                self.model,
                pointer.display()
            )));
        };
        let asked = client.asked(self.model.repo(), &self.commit, Some(name));
        let path = fetch(client, &self.cache, &asked, on_bytes).await?;
        self.move_branch();
        Ok(path)
    }
}

impl Snapshot for HubSnapshot {
    fn commit(&self) -> Option<&str> {
        Some(&self.commit)
    }

    fn files(&self) -> &[FileEntry] {
        &self.files
    }

    fn peek<'a>(
        &'a self,
        name: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, LoadError>> {
        async move {
            let Some(client) = &self.client else { return Ok(None) };
            let asked = client.asked(self.model.repo(), &self.commit, Some(name));
            peek(client, &asked, &range).await.map(Some)
        }
        .boxed()
    }

    fn fetch<'a>(
        &'a self,
        name: &'a str,
        on_bytes: OnBytes<'a>,
    ) -> BoxFuture<'a, Result<ModelFile, LoadError>> {
        async move { self.bring(name, on_bytes).await.map(ModelFile::Path) }.boxed()
    }
}
