//! Sources that misbehave or are slow: a load tells its bytes, and a source's panic is an answer.

use std::sync::Arc;
use std::time::Duration;

use candlewick_actors::{Gateway, TreeParts};
use candlewick_engine::fake::{FakeFactory, FakeSource};
use candlewick_engine::{FileEntry, LoadError, ModelFile, ModelSource, OnBytes, Snapshot, SourceListing};
use candlewick_protocol::{ErrorKind, Failpoints, LoadEvent, LoadStage, ModelRef, Progress, ProgressUnit};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::support::*;

/// The fake source, as if nothing of it were here yet.
struct Remote(FakeSource);

struct RemoteSnapshot {
    snapshot: Box<dyn Snapshot>,
    files: Vec<FileEntry>,
}

impl ModelSource for Remote {
    fn serves(&self, model: &ModelRef) -> bool {
        self.0.serves(model)
    }

    fn resolve<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Box<dyn Snapshot>, LoadError>> {
        async move {
            let snapshot = self.0.resolve(model).await?;
            let files =
                snapshot.files().iter().map(|file| FileEntry { cached: false, ..file.clone() }).collect();
            Ok(Box::new(RemoteSnapshot { snapshot, files }) as Box<dyn Snapshot>)
        }
        .boxed()
    }

    fn list(&self) -> Vec<SourceListing> {
        Vec::new()
    }
}

impl Snapshot for RemoteSnapshot {
    fn commit(&self) -> Option<&str> {
        Some("c0ffee")
    }

    fn files(&self) -> &[FileEntry] {
        &self.files
    }

    fn fetch<'a>(
        &'a self,
        name: &'a str,
        on_bytes: OnBytes<'a>,
    ) -> BoxFuture<'a, Result<ModelFile, LoadError>> {
        on_bytes(0, Some(10));
        on_bytes(4, Some(10));
        self.snapshot.fetch(name, on_bytes)
    }
}

/// Panics over everything.
struct Broken;

impl ModelSource for Broken {
    fn serves(&self, _model: &ModelRef) -> bool {
        true
    }

    fn resolve<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Box<dyn Snapshot>, LoadError>> {
        async move { panic!("no way to find {model}") }.boxed()
    }

    fn list(&self) -> Vec<SourceListing> {
        panic!("no way to list anything")
    }
}

async fn start(source: Arc<dyn ModelSource>) -> Gateway {
    let parts = TreeParts {
        sources: vec![source],
        factory: Arc::new(FakeFactory::default()),
        settings: settings(),
        failpoints: Failpoints::default(),
        archive: None,
        memory: None,
        settings_source: None,
    };
    Gateway::start(parts).await.expect("the tree starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_told_in_bytes_between_config_and_weights() {
    let gateway = start(Arc::new(Remote(FakeSource::new(MODELS)))).await;
    let events = drain(gateway.load(model("fake/a"))).await;
    let stages = events.iter().filter_map(|event| match event {
        LoadEvent::Loading { stage, progress, .. } => Some((*stage, *progress)),
        _ => None,
    });
    let stages = stages.collect::<Vec<_>>();
    assert!(stages.is_sorted_by_key(|(stage, _)| *stage), "{stages:?}");
    let last_download = stages.iter().rfind(|(stage, _)| *stage == LoadStage::Download);
    let last = Some(Progress { current: 10, total: Some(10), unit: ProgressUnit::Bytes });
    assert_eq!(last_download.map(|(_, progress)| *progress), Some(last), "{stages:?}");
    let cards = gateway.list().await;
    assert_eq!((cards[0].id.as_str(), cards[0].revision.as_deref()), ("fake/a", Some("c0ffee")));
    gateway.shutdown(Duration::ZERO).await;
    assert_eq!(gateway.num_actors(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_panics_is_an_answer() {
    let gateway = start(Arc::new(Broken)).await;
    let stream = gateway.submit(request("hi", 5)).await.expect("the request is admitted");
    let failure = read_all(1, stream).await.failure();
    assert_eq!(failure.kind, ErrorKind::Internal);
    assert!(failure.message.contains("no way to find fake/a"), "{failure}");
    assert!(gateway.list().await.is_empty());
    gateway.shutdown(Duration::ZERO).await;
    assert_eq!(gateway.num_actors(), 0);
}
