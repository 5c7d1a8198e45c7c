//! A small Hugging Face Hub on loopback: the part of the real one's HTTP that a download meets, and its troubles.
//!
//! Serves `/api/models/{repo}/revision/{revision}`, `/api/models/{repo}/tree/{commit}` and
//! `/{repo}/resolve/{revision}/{file}` with HEAD, ranges, etags and the Hub's error codes. Files marked as LFS are
//! redirected to a CDN: a second port, which answers 400 to a request that carries the token. Every request is recorded.
//! Faults are asked for file by file, and nothing depends on time: a transfer that is to stand still does so until the
//! test lets it go on.
//!
//! Plain tokio and nothing of this crate, so that other packages may include this file by path.
#![allow(dead_code, reason = "each test binary that includes this file uses another part of it")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A repository, built up and then given to [`TestHub::start`].
#[derive(Debug, Clone, Default)]
pub struct Repo {
    commit: String,
    refs: BTreeMap<String, String>,
    files: BTreeMap<String, RepoFile>,
    /// The token whose bearer may read it; others learn that there is no such repository.
    private_to: Option<String>,
    /// The token whose bearer has accepted the terms.
    gated_for: Option<String>,
}

#[derive(Debug, Clone)]
struct RepoFile {
    content: Arc<[u8]>,
    etag: String,
    lfs: bool,
}

impl Repo {
    /// An empty repository whose `main` is at this commit.
    pub fn new(commit: &str) -> Self {
        Self {
            commit: commit.into(),
            refs: BTreeMap::from([("main".into(), commit.into())]),
            ..Self::default()
        }
    }

    /// Lets another branch be at the same commit.
    pub fn branch(mut self, name: &str) -> Self {
        self.refs.insert(name.into(), self.commit.clone());
        self
    }

    /// A file kept in git. The etag must name the content.
    pub fn file(mut self, name: &str, etag: &str, content: impl Into<Vec<u8>>) -> Self {
        let file = RepoFile { content: content.into().into(), etag: etag.into(), lfs: false };
        self.files.insert(name.into(), file);
        self
    }

    /// A file kept in LFS, which the CDN delivers. The etag is the content's sha256, unless a test wants a wrong one.
    pub fn lfs(mut self, name: &str, sha256: &str, content: impl Into<Vec<u8>>) -> Self {
        let file = RepoFile { content: content.into().into(), etag: sha256.into(), lfs: true };
        self.files.insert(name.into(), file);
        self
    }

    /// Hides the repository from everyone without this token.
    pub fn private_to(mut self, token: &str) -> Self {
        self.private_to = Some(token.into());
        self
    }

    /// Refuses the files to everyone without this token.
    pub fn gated_for(mut self, token: &str) -> Self {
        self.gated_for = Some(token.into());
        self
    }
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// Whether it came to the CDN.
    pub cdn: bool,
}

impl Recorded {
    /// Whether it asked for a file's bytes (and not only was told where they are).
    pub fn is_transfer(&self) -> bool {
        self.method == "GET" && (self.cdn || self.path.contains("/resolve/"))
    }
}

/// What goes wrong with one delivery of a file.
#[derive(Debug, Clone)]
enum Fault {
    /// The connection closes after so many bytes of the body.
    BreakAfter(usize),
    /// So many bytes are sent, then none until the gate opens.
    HoldAfter(usize, watch::Receiver<bool>),
    /// The range asked for is ignored: the whole file comes with 200.
    IgnoreRange,
    /// An answer with this status instead of the file.
    Status(u16),
}

#[derive(Default)]
struct State {
    repos: HashMap<String, Repo>,
    tokens: Vec<String>,
    renamed: HashMap<String, String>,
    faults: HashMap<String, VecDeque<Fault>>,
    requests: Vec<Recorded>,
    sent: HashMap<String, u64>,
    cdn: Option<SocketAddr>,
    api_held: Option<watch::Receiver<bool>>,
}

/// A Hub that runs until it is dropped.
pub struct TestHub {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    _servers: JoinSet<()>,
}

/// Opens when dropped or told to.
#[derive(Debug)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// Lets everything held by it go on.
    pub fn open(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

impl TestHub {
    /// Serves these repositories on a free port.
    pub async fn start(repos: impl IntoIterator<Item = (&'static str, Repo)>) -> Self {
        let repos = repos.into_iter().map(|(id, repo)| (id.into(), repo)).collect();
        let state = Arc::new(Mutex::new(State { repos, ..State::default() }));
        let mut servers = JoinSet::new();
        let address = listen(&mut servers, &state, false).await;
        let cdn = listen(&mut servers, &state, true).await;
        lock(&state).cdn = Some(cdn);
        Self { state, address, _servers: servers }
    }

    /// What to set `HF_ENDPOINT` to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a token valid. Tokens that repositories name are valid anyhow; any other is refused.
    pub fn add_token(&self, token: &str) {
        lock(&self.state).tokens.push(token.into());
    }

    /// Adds a repository, or puts another in its place.
    pub fn put(&self, id: &str, repo: Repo) {
        lock(&self.state).repos.insert(id.into(), repo);
    }

    /// Sends whoever asks for the first name on to the second, as the Hub does for a repository that was renamed.
    pub fn rename(&self, from: &str, to: &str) {
        lock(&self.state).renamed.insert(from.into(), to.into());
    }

    /// The next delivery of the file that has no fault yet closes the connection after so many bytes.
    pub fn break_after(&self, file: &str, num_bytes: usize) {
        self.add_fault(file, Fault::BreakAfter(num_bytes));
    }

    /// The next delivery stands still after so many bytes until the gate opens.
    pub fn hold_after(&self, file: &str, num_bytes: usize) -> Gate {
        let (gate, opened) = watch::channel(false);
        self.add_fault(file, Fault::HoldAfter(num_bytes, opened));
        Gate(gate)
    }

    /// The next delivery sends the whole file, whatever was asked.
    pub fn ignore_range(&self, file: &str) {
        self.add_fault(file, Fault::IgnoreRange);
    }

    /// The next delivery is this status instead.
    pub fn fail(&self, file: &str, status: u16) {
        self.add_fault(file, Fault::Status(status));
    }

    /// Questions about repositories are not answered until the gate opens.
    pub fn hold_api(&self) -> Gate {
        let (gate, opened) = watch::channel(false);
        lock(&self.state).api_held = Some(opened);
        Gate(gate)
    }

    fn add_fault(&self, file: &str, fault: Fault) {
        lock(&self.state).faults.entry(file.into()).or_default().push_back(fault);
    }

    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.state).requests.clone()
    }

    /// Requests for bytes of files, in their order.
    pub fn transfers(&self) -> Vec<Recorded> {
        let mut requests = self.requests();
        // A redirect to the CDN is not a transfer of its own.
        let lfs = |path: &str| {
            let state = lock(&self.state);
            state
                .repos
                .values()
                .flat_map(|repo| &repo.files)
                .any(|(name, file)| file.lfs && path.ends_with(name))
        };
        requests.retain(|request| request.is_transfer() && (request.cdn || !lfs(&request.path)));
        requests
    }

    /// Body bytes of a file that were sent, over all deliveries.
    pub fn bytes_sent(&self, file: &str) -> u64 {
        lock(&self.state).sent.get(file).copied().unwrap_or_default()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no handler panics while it holds the state")
}

async fn listen(servers: &mut JoinSet<()>, state: &Arc<Mutex<State>>, cdn: bool) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound");
    let state = Arc::clone(state);
    servers.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let state = Arc::clone(&state);
            // A client may hang up at any time: that is what the tests are about.
            connections.spawn(async move { drop(serve(stream, &state, cdn).await) });
        }
    });
    address
}

/// One request per connection: the broken-off and the held ones need no special case then.
async fn serve(stream: TcpStream, state: &Mutex<State>, cdn: bool) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().replace("%2F", "/");
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let request = Recorded {
        method,
        path,
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
        cdn,
    };
    lock(state).requests.push(request.clone());
    if request.path.starts_with("/api/") {
        let held = lock(state).api_held.clone();
        if let Some(mut held) = held {
            drop(held.wait_for(|open| *open).await);
        }
    }
    let answer = answer(&request, &mut lock(state));
    send(stream, &request, answer, state).await
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Arc<[u8]>,
    start: usize,
    /// The file that the body belongs to, and what goes wrong with it.
    file: Option<String>,
    fault: Option<Fault>,
}

impl Answer {
    fn new(status: u16, headers: Vec<(&'static str, String)>, body: impl Into<Arc<[u8]>>) -> Self {
        Self { status, headers, body: body.into(), start: 0, file: None, fault: None }
    }

    fn json(body: String) -> Self {
        Self::new(200, vec![("content-type", "application/json".into())], body.into_bytes())
    }

    fn error(status: u16, code: Option<&str>, message: &str) -> Self {
        let mut headers = vec![("x-error-message", message.to_owned())];
        headers.extend(code.map(|code| ("x-error-code", code.to_owned())));
        Self::new(status, headers, format!("{{\"error\":\"{message}\"}}").into_bytes())
    }

    fn no_repo(has_token: bool) -> Self {
        Self::error(if has_token { 404 } else { 401 }, Some("RepoNotFound"), "Repository not found")
    }
}

fn answer(request: &Recorded, state: &mut State) -> Answer {
    if request.cdn {
        return deliver_from_cdn(request, state);
    }
    let token = request.authorization.as_deref().map(|value| value.trim_start_matches("Bearer "));
    let knows = |token: &str| {
        let of_repo =
            |repo: &Repo| [&repo.private_to, &repo.gated_for].into_iter().flatten().any(|own| own == token);
        state.tokens.iter().any(|known| known == token) || state.repos.values().any(of_repo)
    };
    if token.is_some_and(|token| !knows(token)) {
        return Answer::error(401, None, "Invalid credentials in Authorization header");
    }
    let api = request.path.strip_prefix("/api/models/");
    let path = api.unwrap_or(request.path.trim_start_matches('/'));
    // `org/name/verb/rest` or `name/verb/rest`.
    let verbs: &[&str] = if api.is_some() { &["/revision/", "/tree/"] } else { &["/resolve/"] };
    let Some((id, verb, rest)) =
        verbs.iter().find_map(|verb| path.split_once(verb).map(|(id, rest)| (id, *verb, rest)))
    else {
        return Answer::error(404, None, "no such page");
    };
    if let Some(to) = state.renamed.get(id) {
        return Answer::new(307, vec![("location", request.path.replacen(id, to, 1))], Vec::new());
    }
    let Some(repo) = state.repos.get(id).cloned() else { return Answer::no_repo(token.is_some()) };
    if repo.private_to.as_deref().is_some_and(|own| token != Some(own)) {
        return Answer::no_repo(token.is_some());
    }
    let no_revision = || Answer::error(404, Some("RevisionNotFound"), "Invalid rev id");
    let commit_of = |revision: &str| match revision == repo.commit {
        true => Some(repo.commit.clone()),
        false => repo.refs.get(revision).cloned(),
    };
    match verb {
        "/revision/" => match commit_of(rest) {
            Some(commit) => Answer::json(format!("{{\"_id\":\"1\",\"id\":\"{id}\",\"sha\":\"{commit}\"}}")),
            None => no_revision(),
        },
        "/tree/" => match commit_of(rest) {
            Some(_) => Answer::json(tree(&repo)),
            None => no_revision(),
        },
        _ => resolve(request, state, &repo, id, rest, token),
    }
}

fn tree(repo: &Repo) -> String {
    let entry = |(name, file): (&String, &RepoFile)| {
        let size = file.content.len();
        let lfs = if file.lfs {
            format!(",\"lfs\":{{\"oid\":\"{}\",\"size\":{size},\"pointerSize\":134}}", file.etag)
        } else {
            String::new()
        };
        format!("{{\"type\":\"file\",\"oid\":\"{}\",\"size\":{size},\"path\":\"{name}\"{lfs}}}", file.etag)
    };
    let mut entries = repo.files.iter().map(entry).collect::<Vec<_>>();
    let folders = repo.files.keys().filter_map(|name| name.rsplit_once('/')).map(|(folder, _)| folder);
    entries.extend(
        folders.map(|folder| {
            format!("{{\"type\":\"directory\",\"oid\":\"d\",\"size\":0,\"path\":\"{folder}\"}}")
        }),
    );
    format!("[{}]", entries.join(","))
}

fn resolve(
    request: &Recorded,
    state: &mut State,
    repo: &Repo,
    id: &str,
    rest: &str,
    token: Option<&str>,
) -> Answer {
    let known = repo.refs.keys().chain([&repo.commit]);
    let name = known.filter_map(|revision| rest.strip_prefix(revision.as_str())?.strip_prefix('/')).next();
    let Some(name) = name else { return Answer::error(404, Some("RevisionNotFound"), "Invalid rev id") };
    if repo.gated_for.as_deref().is_some_and(|own| token != Some(own)) {
        let status = if token.is_some() { 403 } else { 401 };
        return Answer::error(status, Some("GatedRepo"), "Access to this model is restricted");
    }
    let Some(file) = repo.files.get(name) else {
        return Answer::error(404, Some("EntryNotFound"), "Entry not found");
    };
    let mut headers = vec![("x-repo-commit", repo.commit.clone())];
    if file.lfs {
        let cdn = state.cdn.expect("the CDN is up before the Hub's address is known");
        headers.push(("x-linked-etag", format!("\"{}\"", file.etag)));
        headers.push(("x-linked-size", file.content.len().to_string()));
        headers.push(("location", format!("http://{cdn}/{id}/{}?signature=1", file.etag)));
        // The etag of the redirect itself: not the one to go by.
        headers.push(("etag", "\"redirect\"".into()));
        return Answer::new(302, headers, Vec::new());
    }
    headers.push(("etag", format!("W/\"{}\"", file.etag)));
    deliver(request, state, name, file, headers)
}

fn deliver_from_cdn(request: &Recorded, state: &mut State) -> Answer {
    if request.authorization.is_some() {
        return Answer::error(400, None, "the token has come to the CDN");
    }
    let mut parts = request.path.trim_start_matches('/').rsplitn(2, '/');
    let (etag, id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let file = state.repos.get(id).and_then(|repo| repo.files.iter().find(|(_, file)| file.etag == etag));
    let Some((name, file)) = file.map(|(name, file)| (name.clone(), file.clone())) else {
        return Answer::error(404, None, "no such object");
    };
    deliver(request, state, &name, &file, vec![("etag", "\"of the CDN\"".into())])
}

fn deliver(
    request: &Recorded,
    state: &mut State,
    name: &str,
    file: &RepoFile,
    mut headers: Vec<(&'static str, String)>,
) -> Answer {
    if request.method == "HEAD" {
        headers.push(("accept-ranges", "bytes".into()));
        return Answer::new(200, headers, Arc::clone(&file.content));
    }
    let fault = state.faults.get_mut(name).and_then(VecDeque::pop_front);
    if let Some(Fault::Status(status)) = fault {
        return Answer::error(status, None, "a fault of the test");
    }
    let size = file.content.len();
    let start = request.range.as_deref().filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    let range = start.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let end =
        range.and_then(|(_, last)| last.parse::<usize>().ok()).map_or(size, |last| (last + 1).min(size));
    let start = range.and_then(|(start, _)| start.parse::<usize>().ok());
    let mut answer = match start {
        Some(start) if start >= size => {
            headers.push(("content-range", format!("bytes */{size}")));
            return Answer::new(416, headers, Vec::new());
        }
        Some(start) => {
            headers.push(("content-range", format!("bytes {start}-{}/{size}", end - 1)));
            Answer { start, ..Answer::new(206, headers, &file.content[..end]) }
        }
        None => Answer::new(200, headers, Arc::clone(&file.content)),
    };
    answer.file = Some(name.into());
    answer.fault = fault;
    answer
}

async fn send(
    mut stream: BufReader<TcpStream>,
    request: &Recorded,
    answer: Answer,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let body = &answer.body[answer.start..];
    let mut head =
        format!("HTTP/1.1 {} Test\r\nconnection: close\r\ncontent-length: {}\r\n", answer.status, body.len());
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if request.method == "HEAD" {
        return stream.shutdown().await;
    }
    let count = |num_bytes: usize| {
        if let Some(file) = &answer.file {
            *lock(state).sent.entry(file.clone()).or_default() += num_bytes as u64;
        }
    };
    let first = match &answer.fault {
        Some(Fault::BreakAfter(limit) | Fault::HoldAfter(limit, _)) => (*limit).min(body.len()),
        _ => body.len(),
    };
    count(first);
    stream.write_all(&body[..first]).await?;
    stream.flush().await?;
    match answer.fault {
        Some(Fault::BreakAfter(_)) => return stream.shutdown().await,
        Some(Fault::HoldAfter(_, mut opened)) => {
            // A client that hangs up ends the wait, too.
            let mut rest = [0; 1];
            tokio::select! {
                _ = opened.wait_for(|open| *open) => {}
                _ = stream.read(&mut rest) => return Ok(()),
            }
        }
        _ => {}
    }
    count(body.len() - first);
    stream.write_all(&body[first..]).await?;
    stream.shutdown().await
}
