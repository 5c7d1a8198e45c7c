//! Bringing one file into the cache: resumed where it broke off, checked, and only then visible.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candlewick_engine::{LoadError, OnBytes};
use futures::StreamExt;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::HubSettings;
use crate::cache::RepoCache;
use crate::client::{HubClient, RemoteFile, RequestError};
use crate::partial::Partial;
use crate::refusal::{Asked, root_cause};

/// Chunks (of some 16 KiB) that may wait for the disk before the network has to.
const CHUNKS_MAX: usize = 64;

/// The longest wait between two tries, whatever the Hub asks for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Brings a file here, and gives its name in the snapshot. `asked` names the file at a commit.
pub(crate) async fn fetch(
    client: &HubClient,
    cache: &RepoCache,
    asked: &Asked<'_>,
    on_bytes: OnBytes<'_>,
) -> Result<PathBuf, LoadError> {
    let name = asked.file.unwrap_or_default();
    let mut retries = Retries::new(client.settings());
    let remote = loop {
        match client.describe(asked).await {
            Ok(remote) => break remote,
            Err(error) => retries.wait(error).await?,
        }
    };
    let blob = cache.blob(&remote.etag);
    let lock = cache.lock(&remote.etag).await?;
    // Here already: under another commit or name, or because whoever held the lock has just brought it.
    if let Some(size) = whole_size(&blob, remote.size) {
        on_bytes(size, Some(size));
        return cache.link(asked.revision, name, &remote.etag);
    }
    let (path, wants_digest) = (cache.partial(&remote.etag), remote.sha256().is_some());
    let size = remote.size;
    let open = move || {
        let partial = Partial::open(path, size, wants_digest, lock)?;
        partial.check_room()?;
        Ok(partial)
    };
    let partial = blocking(open).await?;
    let mut transfer = Transfer { client, asked, remote: &remote, on_bytes, reported: 0 };
    let partial = transfer.complete(partial, &mut retries).await?;
    let _lock = partial.finish(&blob)?;
    cache.link(asked.revision, name, &remote.etag)
}

/// Some bytes of a file, kept nowhere. Fewer come only where the file ends.
pub(crate) async fn peek(
    client: &HubClient,
    asked: &Asked<'_>,
    range: &Range<u64>,
) -> Result<Vec<u8>, LoadError> {
    let mut retries = Retries::new(client.settings());
    let mut bytes = Vec::new();
    loop {
        let rest = range.start + bytes.len() as u64..range.end;
        if rest.is_empty() {
            return Ok(bytes);
        }
        let response = match client.read_range(asked, &rest).await {
            Ok(response) if response.status() == StatusCode::RANGE_NOT_SATISFIABLE => return Ok(bytes),
            Ok(response) => response,
            Err(error) => {
                retries.wait(error).await?;
                continue;
            }
        };
        // A server that knows no ranges sends the file from its beginning.
        let mut num_before = match continues_at(&response, rest.start, None) {
            true => 0,
            false => rest.start,
        };
        let num_known = bytes.len();
        let mut num_left = (rest.end - rest.start) as usize;
        let mut stream = response.bytes_stream();
        let why = loop {
            let mut chunk = match stream.next().await {
                None => break None,
                Some(Err(error)) => break Some(root_cause(&error)),
                Some(Ok(chunk)) => chunk,
            };
            let skipped = num_before.min(chunk.len() as u64);
            num_before -= skipped;
            chunk = chunk.slice(skipped as usize..);
            let num_taken = chunk.len().min(num_left);
            bytes.extend_from_slice(&chunk[..num_taken]);
            num_left -= num_taken;
            if num_left == 0 {
                break None;
            }
        };
        let Some(why) = why else { return Ok(bytes) };
        if bytes.len() > num_known {
            retries.reset();
        }
        let Asked { endpoint, repo, file, .. } = *asked;
        let file = file.unwrap_or_default();
        let text = format!("{endpoint} broke off the beginning of `{file}` of `{repo}` ({why})");
        retries.wait(RequestError::Transient(LoadError::Network(text), None)).await?;
    }
}

/// The size of a file, unless it is absent or has another than expected.
pub(crate) fn whole_size(path: &Path, expected: Option<u64>) -> Option<u64> {
    let size = std::fs::metadata(path).ok()?.len();
    let whole = expected.is_none_or(|expected| expected == size);
    if !whole {
        tracing::warn!(path = %path.display(), size, ?expected, "a cached file has the wrong size: fetching it again");
    }
    whole.then_some(size)
}

struct Transfer<'a> {
    client: &'a HubClient,
    asked: &'a Asked<'a>,
    remote: &'a RemoteFile,
    on_bytes: OnBytes<'a>,
    /// The progress told so far. A transfer that must start over does not take it back.
    reported: u64,
}

impl Transfer<'_> {
    /// Receives until all bytes are there and are the right ones.
    async fn complete(&mut self, mut partial: Partial, retries: &mut Retries) -> Result<Partial, LoadError> {
        let mut resumed = partial.len() > 0;
        loop {
            partial = self.receive_all(partial, retries).await?;
            let (Some(expected), Some(actual)) = (self.remote.sha256(), partial.sha256()) else {
                return Ok(partial);
            };
            if actual.eq_ignore_ascii_case(expected) {
                return Ok(partial);
            }
            partial.restart()?;
            if !resumed {
                return Err(
                    self.corrupt(format!("its sha256 is {actual} and should be {expected}; try again"))
                );
            }
            tracing::warn!(
                file = self.asked.file,
                "what an earlier try left behind was not right: starting again"
            );
            resumed = false;
        }
    }

    /// Receives, again and again, until as many bytes are there as there should be.
    async fn receive_all(
        &mut self,
        mut partial: Partial,
        retries: &mut Retries,
    ) -> Result<Partial, LoadError> {
        loop {
            let start = partial.len();
            let size = self.remote.size;
            // Without a size there is no telling how much is missing.
            if size.is_none_or(|size| start > size) && start > 0 {
                partial.restart()?;
                continue;
            }
            if size == Some(start) {
                self.report(start);
                return Ok(partial);
            }
            let response = match self.client.read_from(self.asked, start).await {
                Ok(response) => response,
                Err(error) => {
                    retries.wait(error).await?;
                    continue;
                }
            };
            if start > 0 && !continues_at(&response, start, size) {
                // The server knows no ranges, or another file: from the beginning, then.
                tracing::debug!(file = self.asked.file, status = %response.status(), "the transfer cannot be resumed");
                partial.restart()?;
                if response.status() != StatusCode::OK {
                    let error =
                        LoadError::Network(format!("{} refuses the range asked for", self.asked.endpoint));
                    retries.wait(RequestError::Transient(error, None)).await?;
                    continue;
                }
            }
            let ended;
            (partial, ended) = self.receive(partial, response).await?;
            if partial.len() > start {
                retries.reset();
            }
            match ended {
                Ok(()) if size.is_none() => return Ok(partial),
                Ok(()) if size == Some(partial.len()) => {}
                Ok(()) => retries.wait(self.cut_short(partial.len(), "the connection was closed")).await?,
                Err(why) => retries.wait(self.cut_short(partial.len(), &why)).await?,
            }
        }
    }

    /// Receives one answer's bytes. The inner result tells how the connection ended.
    async fn receive(
        &mut self,
        partial: Partial,
        response: Response,
    ) -> Result<(Partial, Result<(), String>), LoadError> {
        let mut received = partial.len();
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let writer = spawn_blocking(move || partial.append_all(chunks));
        let mut stream = response.bytes_stream();
        let mut ended = Ok(());
        let mut too_long = false;
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    ended = Err(if error.is_timeout() {
                        "nothing came for too long".into()
                    } else {
                        root_cause(&error)
                    });
                    break;
                }
            };
            received += chunk.len() as u64;
            too_long = self.remote.size.is_some_and(|size| received > size);
            // The writer ends early only with an error, which is heard below.
            if too_long || sender.send(chunk).await.is_err() {
                break;
            }
            self.report(received);
        }
        drop(sender);
        let mut partial = writer
            .await
            .map_err(|error| LoadError::Internal(format!("the writer of a download: {error}")))??;
        if too_long {
            partial.restart()?;
            let size = self.remote.size.unwrap_or_default();
            return Err(self.corrupt(format!("more than its {size} bytes were sent; try again")));
        }
        Ok((partial, ended))
    }

    fn report(&mut self, received: u64) {
        // Of an empty file, too, something is told.
        if received > self.reported || received == 0 {
            self.reported = received;
            (self.on_bytes)(received, self.remote.size);
        }
    }

    fn cut_short(&self, received: u64, why: &str) -> RequestError {
        let Asked { endpoint, repo, file, .. } = *self.asked;
        let (file, size) = (file.unwrap_or_default(), self.remote.size.unwrap_or_default());
        let text = format!(
            "{endpoint} broke off `{file}` of `{repo}` at {received} of {size} bytes ({why}); what has arrived is kept, and \
             the next try goes on from there"
        );
        RequestError::Transient(LoadError::Network(text), None)
    }

    fn corrupt(&self, why: String) -> LoadError {
        LoadError::Corrupt { file: self.asked.file.unwrap_or_default().into(), why }
    }
}

/// Whether an answer is the rest of the file from `start` on: `Content-Range: bytes start-end/size`.
fn continues_at(response: &Response, start: u64, size: Option<u64>) -> bool {
    let range =
        response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes "));
    let Some((range, total)) = range.and_then(|range| range.split_once('/')) else { return false };
    let first = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
    let same_size = total == "*" || size.is_none() || total.parse().ok() == size;
    response.status() == StatusCode::PARTIAL_CONTENT && first == Some(start) && same_size
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    spawn_blocking(work).await.map_err(|error| LoadError::Internal(format!("a file operation: {error}")))?
}

/// How many tries in a row may bring nothing, and how long to wait between them.
struct Retries {
    num_max: u32,
    backoff: Duration,
    num: u32,
}

impl Retries {
    fn new(settings: &HubSettings) -> Self {
        Self { num_max: settings.num_retries, backoff: settings.retry_backoff, num: 0 }
    }

    /// Something arrived.
    fn reset(&mut self) {
        self.num = 0;
    }

    /// Waits before the next try; or gives the error if there is to be none.
    async fn wait(&mut self, error: RequestError) -> Result<(), LoadError> {
        let (error, after) = match error {
            RequestError::Final(error) => return Err(error),
            RequestError::Transient(error, after) => (error, after),
        };
        if self.num == self.num_max {
            return Err(error);
        }
        let wait = after.unwrap_or(self.backoff * 2_u32.saturating_pow(self.num)).min(WAIT_MAX);
        self.num += 1;
        tracing::warn!(%error, try_number = self.num, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
