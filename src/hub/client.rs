//! Questions to the Hub: what a revision is, what is in it, what a file is, and its bytes from some point on.

use std::ops::Range;
use std::time::Duration;

use candlewick_engine::LoadError;
use futures::{StreamExt, pin_mut};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, split_id};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};

use crate::HubSettings;
use crate::cache::{is_commit, is_safe_path};
use crate::refusal::{Asked, Refusal, hub_error, unreachable};

/// A network that swallows packets shows while connecting; no need to wait for the whole answer's time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many redirects the question for a file's size and etag follows.
const REDIRECTS_MAX: u32 = 10;

/// hf-hub looks for a token in the environment itself if it is given none, and ours comes from the settings alone. This
/// one cannot be written in a header, so hf-hub sends none. Ugly; needless once its builder can be told "no token".
const NO_TOKEN: &str = "\n";

/// Speaks with one Hub.
#[derive(Debug)]
pub(crate) struct HubClient {
    hub: HFClient,
    /// Follows redirects; drops `Authorization` when one leads to another host or port (reqwest does so).
    transfer: Client,
    /// Follows none: the answer that redirects to a CDN is the one that carries the file's etag.
    metadata: Client,
    endpoint: Url,
    settings: HubSettings,
}

/// A branch, tag or commit at the moment of asking.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) commit: String,
    /// Path and size of every file.
    pub(crate) files: Vec<(String, u64)>,
}

/// A file as the Hub describes it.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    /// Names its content; fit to be a file name.
    pub(crate) etag: String,
    pub(crate) size: Option<u64>,
}

impl RemoteFile {
    /// The digest of the content, if the etag is one: it is for every file in LFS.
    pub(crate) fn sha256(&self) -> Option<&str> {
        Some(self.etag.as_str())
            .filter(|etag| etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// Trying again may help, perhaps after the time that the Hub asked for.
    Transient(LoadError, Option<Duration>),
    /// It will be the same again.
    Final(LoadError),
}

impl HubClient {
    /// # Errors
    /// `Network` if the endpoint is no URL or TLS cannot be set up.
    pub(crate) fn new(settings: HubSettings) -> Result<Self, LoadError> {
        let endpoint =
            Url::parse(&settings.endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint = endpoint.ok_or_else(|| {
            LoadError::Network(format!(
                "HF_ENDPOINT `{}` is not an address like https://huggingface.co",
                settings.endpoint
            ))
        })?;
        let broken = |error: &dyn std::fmt::Display| {
            LoadError::Network(format!("the HTTP client cannot be made: {error}"))
        };
        let builder = || {
            Client::builder()
                .user_agent(concat!("candlewick/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(settings.read_timeout)
        };
        let transfer = builder().build().map_err(|error| broken(&error))?;
        let metadata = builder().redirect(Policy::none()).build().map_err(|error| broken(&error))?;
        let hub = HFClient::builder()
            .client(transfer.clone())
            .endpoint(&settings.endpoint)
            .token(settings.token.as_deref().unwrap_or(NO_TOKEN))
            .cache_dir(&settings.cache_dir)
            .retry_max_attempts(1)
            .build()
            .map_err(|error| broken(&error))?;
        Ok(Self { hub, transfer, metadata, endpoint, settings })
    }

    pub(crate) fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The words in which an error tells what was asked.
    pub(crate) fn asked<'a>(&'a self, repo: &'a str, revision: &'a str, file: Option<&'a str>) -> Asked<'a> {
        let has_token = self.settings.token.is_some();
        Asked { endpoint: &self.settings.endpoint, repo, revision, file, has_token }
    }

    /// The commit that a revision is now, and its files.
    pub(crate) async fn revision(&self, repo: &str, revision: &str) -> Result<Revision, LoadError> {
        let asked = self.asked(repo, revision, None);
        let (owner, name) = split_id(repo);
        let model = self.hub.model(owner, name);

        let commit = if is_commit(revision) {
            revision.to_owned()
        } else {
            let info = model.info().revision(revision).expand(vec!["sha".into()]).send();
            let info = self.in_time(&asked, info).await?.map_err(|error| hub_error(&error, &asked))?;
            // It becomes the name of a folder.
            info.sha.filter(|sha| is_commit(sha)).ok_or_else(|| {
                LoadError::Network(format!(
                    "{} did not say which commit `{revision}` of `{repo}` is",
                    asked.endpoint
                ))
            })?
        };

        let tree = model.list_tree().revision(commit.clone()).recursive(true).send();
        let tree = tree.map_err(|error| hub_error(&error, &asked))?;
        pin_mut!(tree);
        let mut files = Vec::new();
        while let Some(entry) = self.in_time(&asked, tree.next()).await? {
            match entry.map_err(|error| hub_error(&error, &asked))? {
                RepoTreeEntry::File { path, size, .. } if is_safe_path(&path) => files.push((path, size)),
                _ => {}
            }
        }
        Ok(Revision { commit, files })
    }

    async fn in_time<T>(&self, asked: &Asked<'_>, answer: impl Future<Output = T>) -> Result<T, LoadError> {
        tokio::time::timeout(self.settings.metadata_timeout, answer).await.map_err(|_| {
            LoadError::Network(format!("{} did not answer in time for `{}`", asked.endpoint, asked.repo))
        })
    }

    /// What a file is, without its bytes. `asked.revision` should be a commit.
    pub(crate) async fn describe(&self, asked: &Asked<'_>) -> Result<RemoteFile, RequestError> {
        let mut url = self.file_url(asked);
        for _ in 0..REDIRECTS_MAX {
            let request = self.metadata.head(url.clone()).timeout(self.settings.metadata_timeout);
            let response = self.send(request, &url, asked).await?;
            let headers = response.headers();
            if response.status().is_redirection() && !headers.contains_key("x-linked-etag") {
                // The Hub redirects within itself when the repository was renamed, or to a cache of its own.
                let next = headers.get(LOCATION).and_then(|location| url.join(location.to_str().ok()?).ok());
                url = next.ok_or_else(|| no_usable("redirect without a target", asked))?;
                continue;
            }
            return remote_file(headers, asked);
        }
        Err(no_usable("redirect without an end", asked))
    }

    /// The bytes of a file from `start` on. The answer is 200 from the beginning, 206 from `start`, or 416.
    pub(crate) async fn read_from(&self, asked: &Asked<'_>, start: u64) -> Result<Response, RequestError> {
        let url = self.file_url(asked);
        let mut request = self.transfer.get(url.clone());
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        self.send(request, &url, asked).await
    }

    /// Some bytes of a file. The answer is 206 with them, 200 with the whole file, or 416.
    pub(crate) async fn read_range(
        &self,
        asked: &Asked<'_>,
        range: &Range<u64>,
    ) -> Result<Response, RequestError> {
        let url = self.file_url(asked);
        let last = range.end.saturating_sub(1);
        let request = self.transfer.get(url.clone()).header(RANGE, format!("bytes={}-{last}", range.start));
        self.send(request, &url, asked).await
    }

    /// Sends with the token if the URL is the Hub's, and sorts out what is no answer.
    async fn send(
        &self,
        mut request: RequestBuilder,
        url: &Url,
        asked: &Asked<'_>,
    ) -> Result<Response, RequestError> {
        if let Some(token) = &self.settings.token
            && url.origin() == self.endpoint.origin()
        {
            request = request.bearer_auth(token);
        }
        // A compressed answer would have another length than the file, and no ranges.
        let sent = request.header(ACCEPT_ENCODING, "identity").send().await;
        let response = sent.map_err(|error| RequestError::Transient(unreachable(&error, asked), None))?;
        let status = response.status();
        if status.is_success() || status.is_redirection() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let refusal = Refusal::of(status.as_u16(), response.headers());
        let error = refusal.error(asked);
        Err(if refusal.is_transient() {
            RequestError::Transient(error, refusal.retry_after)
        } else {
            RequestError::Final(error)
        })
    }

    /// `{endpoint}/{repo}/resolve/{revision}/{file}`, each part escaped. For files kept in Xet, too, it gives the bytes.
    fn file_url(&self, asked: &Asked<'_>) -> Url {
        let mut url = self.endpoint.clone();
        let file = asked.file.unwrap_or_default();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend(asked.repo.split('/'))
            .push("resolve")
            .push(asked.revision)
            .extend(file.split('/'));
        url
    }
}

fn remote_file(headers: &HeaderMap, asked: &Asked<'_>) -> Result<RemoteFile, RequestError> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let etag = text("x-linked-etag")
        .or_else(|| text(ETAG.as_str()))
        .map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    let etag = etag
        .filter(|etag| is_file_name(etag))
        .ok_or_else(|| no_usable("description without an etag", asked))?;
    let size =
        text("x-linked-size").or_else(|| text(CONTENT_LENGTH.as_str())).and_then(|size| size.parse().ok());
    Ok(RemoteFile { etag: etag.into(), size })
}

fn no_usable(what: &str, asked: &Asked<'_>) -> RequestError {
    let Asked { endpoint, repo, file, .. } = *asked;
    let file = file.unwrap_or_default();
    RequestError::Final(LoadError::Network(format!(
        "{endpoint} answered with a {what} for `{file}` of `{repo}`: is HF_ENDPOINT the address of a Hub?"
    )))
}

fn is_file_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped_part_by_part() {
        let mut settings = HubSettings::new("/nowhere");
        settings.endpoint = "http://mirror:81/hub".into();
        let client = HubClient::new(settings).expect("the endpoint is good");
        let url = client.file_url(&client.asked("org/m", "feature/x", Some("a b/c#1.txt")));
        assert_eq!(url.as_str(), "http://mirror:81/hub/org/m/resolve/feature%2Fx/a%20b/c%231.txt");
    }

    #[test]
    fn what_the_hub_sends_cannot_leave_the_cache() {
        for path in ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a\\b"] {
            assert!(!is_safe_path(path), "{path}");
        }
        assert!(is_safe_path("additional_chat_templates/rag.jinja"));
        for etag in ["../x", ".", "", "a/b"] {
            assert!(!is_file_name(etag), "{etag}");
        }
        assert!(is_file_name("5f2a-3"));
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_named() {
        let mut settings = HubSettings::new("/nowhere");
        settings.endpoint = "huggingface.co".into();
        let error = HubClient::new(settings).expect_err("it has no scheme");
        assert!(error.to_string().contains("`huggingface.co`"), "{error}");
    }
}
