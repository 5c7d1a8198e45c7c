//! For tests: a backend that says what it is told to, a server in front of it, and a client that reads raw bytes.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use candlewick_actors::{EventStream, Follower, JobLogWriter};
use candlewick_protocol::{
    ActorNode, ActorRole, ActorState, Delta, EncodeAnswer, EncodeRequest, ErrorKind, Event, Failure,
    FinishReason, Finished, GenerationRequest, LoadEvent, LocatedToken, LoggedEvent, ModelCard, ModelRef,
    ModelStatus, Piece, Prompt, ResponseRecord, ServerStatus, Started, StoredResponse, TextAnswer,
    TextOutput, TextRequest, TextTask, Usage,
};
use futures::future::{FutureExt, LocalBoxFuture};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::LiveApi;
use crate::backend::{Backend, Chain};

type Submit = Box<dyn Fn(GenerationRequest) -> Result<EventStream, Failure> + Send + Sync>;

type Encode = Box<dyn Fn(EncodeRequest) -> Result<EncodeAnswer, Failure> + Send + Sync>;

/// A backend that does what it is told.
pub struct Scripted {
    pub submit: Submit,
    pub load: Vec<LoadEvent>,
    pub pinned: Option<ModelRef>,
    pub asked: Mutex<Vec<GenerationRequest>>,
    pub encode: Encode,
    pub encoded: Mutex<Vec<EncodeRequest>>,
    pub list_panics: bool,
    /// Responses are kept, here.
    pub keeps_responses: bool,
    pub stored: Mutex<BTreeMap<String, StoredResponse>>,
    /// The one job that is at work, and its response.
    pub job: Mutex<Option<(String, JobLogWriter)>>,
}

impl Scripted {
    /// Answers every request with these events.
    pub fn saying(events: Vec<Event>) -> Self {
        Self::with(move |_| Ok(stream_of(events.clone())))
    }

    /// Answers requests by a function.
    pub fn with(
        submit: impl Fn(GenerationRequest) -> Result<EventStream, Failure> + Send + Sync + 'static,
    ) -> Self {
        Self {
            submit: Box::new(submit),
            load: Vec::new(),
            pinned: None,
            asked: Mutex::default(),
            encode: Box::new(|_| Err(Failure::new(ErrorKind::Unsupported, "this model generates text"))),
            encoded: Mutex::default(),
            list_panics: false,
            keeps_responses: false,
            stored: Mutex::default(),
            job: Mutex::default(),
        }
    }

    fn stored(&self) -> MutexGuard<'_, BTreeMap<String, StoredResponse>> {
        self.stored.lock().expect("no test panics with the lock")
    }

    /// More happens in the job.
    pub fn job_says(&self, events: Vec<Event>) {
        let mut job = self.job.lock().expect("no test panics with the lock");
        let (id, log) = job.as_ref().expect("a job is at work");
        let entries: Vec<_> = events.iter().filter_map(|event| LoggedEvent::of(7, event)).collect();
        self.stored().get_mut(id).expect("it was kept").log.extend(entries.iter().cloned());
        let is_over = entries.last().is_some_and(LoggedEvent::is_last);
        log.publish(entries);
        if is_over {
            *job = None;
        }
    }
}

impl Backend for Scripted {
    fn submit(&self, request: GenerationRequest) -> LocalBoxFuture<'_, Result<EventStream, Failure>> {
        self.asked.lock().expect("no test panics with the lock").push(request.clone());
        std::future::ready((self.submit)(request)).boxed_local()
    }

    fn admit_answer(&self, _num_bytes: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn submit_many(
        &self,
        requests: Vec<GenerationRequest>,
    ) -> LocalBoxFuture<'_, Result<Vec<EventStream>, Failure>> {
        self.asked.lock().expect("no test panics with the lock").extend(requests.iter().cloned());
        let streams = requests.into_iter().map(|request| (self.submit)(request)).collect();
        std::future::ready(streams).boxed_local()
    }

    fn encode(&self, request: EncodeRequest) -> LocalBoxFuture<'_, Result<EncodeAnswer, Failure>> {
        self.encoded.lock().expect("no test panics with the lock").push(request.clone());
        std::future::ready((self.encode)(request)).boxed_local()
    }

    fn load(&self, _model: ModelRef) -> mpsc::Receiver<LoadEvent> {
        channel_of(self.load.clone())
    }

    /// Each character is a token, its number the id.
    fn text(&self, request: TextRequest) -> LocalBoxFuture<'_, Result<TextAnswer, Failure>> {
        let characters = |text: &str| text.chars().map(|char| (u32::from(char), char.to_string())).collect();
        let output = match request.task {
            TextTask::Encode { prompt: Prompt::Text { text, .. }, .. } => {
                TextOutput::Encoded(characters(&text))
            }
            TextTask::Encode { prompt, .. } => TextOutput::Encoded(characters(&format!("{prompt:?}"))),
            TextTask::Locate { texts, .. } => {
                let located = |(at, char): (usize, char)| LocatedToken {
                    id: u32::from(char),
                    text: char.to_string(),
                    special: false,
                    span: Some((at, at + 1)),
                };
                let texts = texts.iter().map(|text| text.chars().enumerate().map(located).collect());
                TextOutput::Located(texts.collect())
            }
            TextTask::Decode { lists, .. } => {
                let text = |ids: &Vec<u32>| ids.iter().filter_map(|id| char::from_u32(*id)).collect();
                TextOutput::Decoded(lists.iter().map(text).collect())
            }
        };
        std::future::ready(Ok(TextAnswer { max_model_len: 4096, output })).boxed_local()
    }

    fn unload<'a>(&'a self, model: &'a ModelRef, force: bool) -> LocalBoxFuture<'a, Result<(), Failure>> {
        let outcome = match force {
            true => Ok(()),
            false => Err(Failure::new(ErrorKind::Conflict, format!("{model} is busy"))),
        };
        std::future::ready(outcome).boxed_local()
    }

    fn reset(&self) -> LocalBoxFuture<'_, ()> {
        std::future::ready(()).boxed_local()
    }

    fn pinned(&self) -> Option<ModelRef> {
        self.pinned.clone()
    }

    fn observe(&self) -> ActorNode {
        ActorNode {
            role: ActorRole::Root,
            name: String::new(),
            state: ActorState::Running,
            reason: None,
            age_s: 1.0,
            mailbox_depth: Some(0),
            num_restarts: 0,
            last_failure: None,
            load: None,
            children: Vec::new(),
        }
    }

    fn list(&self) -> LocalBoxFuture<'_, Vec<ModelCard>> {
        assert!(!self.list_panics, "the script says so");
        let card = |id: &str, status| ModelCard {
            alias_of: None,
            id: id.to_owned(),
            created: 1_700_000_000,
            owned_by: "acme".to_owned(),
            status,
            max_model_len: Some(4096),
            revision: None,
        };
        let cards =
            vec![card("acme/cold", ModelStatus::Available), card("acme/warm@dev", ModelStatus::Loaded)];
        std::future::ready(cards).boxed_local()
    }

    fn status(&self) -> LocalBoxFuture<'_, ServerStatus> {
        let status = ServerStatus {
            ready: false,
            reason: Some("the pinned model is loading".to_owned()),
            models: vec![("acme/warm@dev".to_owned(), ModelStatus::Loaded)],
        };
        std::future::ready(status).boxed_local()
    }

    fn metrics_text(&self) -> String {
        "# TYPE vllm:num_requests_running gauge\n".to_owned()
    }

    fn keeps_responses(&self) -> bool {
        self.keeps_responses
    }

    fn keep_response(
        &self,
        record: ResponseRecord,
        log: Vec<LoggedEvent>,
    ) -> LocalBoxFuture<'_, Result<(), Failure>> {
        self.stored().insert(record.id.clone(), StoredResponse { record, log });
        std::future::ready(Ok(())).boxed_local()
    }

    fn find_response<'a>(
        &'a self,
        id: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<StoredResponse>, Failure>> {
        std::future::ready(Ok(self.stored().get(id).cloned())).boxed_local()
    }

    fn find_chain<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Result<Chain, Failure>> {
        let (stored, mut chain, mut next) = (self.stored(), Vec::new(), Some(id.to_owned()));
        while let Some(id) = next.take() {
            match stored.get(&id) {
                Some(found) => {
                    next = found.record.previous.clone();
                    chain.insert(0, found.clone());
                }
                None => return std::future::ready(Ok(Err(id))).boxed_local(),
            }
        }
        std::future::ready(Ok(Ok(chain))).boxed_local()
    }

    fn forget_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Result<bool, Failure>> {
        std::future::ready(Ok(self.stored().remove(id).is_some())).boxed_local()
    }

    fn run_response(
        &self,
        record: ResponseRecord,
        request: GenerationRequest,
    ) -> LocalBoxFuture<'_, Result<(), Failure>> {
        self.asked.lock().expect("no test panics with the lock").push(request);
        *self.job.lock().expect("no test panics with the lock") =
            Some((record.id.clone(), JobLogWriter::default()));
        self.keep_response(record, Vec::new())
    }

    fn cancel_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, bool> {
        let is_at_work =
            self.job.lock().expect("no test panics with the lock").as_ref().is_some_and(|(job, _)| job == id);
        if is_at_work {
            self.job_says(vec![Event::Failed(Failure::new(ErrorKind::Cancelled, "cancelled"))]);
        }
        std::future::ready(is_at_work).boxed_local()
    }

    fn follow_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Option<Follower>> {
        let job = self.job.lock().expect("no test panics with the lock");
        let log = job.as_ref().filter(|(job, _)| job == id).map(|(_, log)| log.reader().follow());
        std::future::ready(log).boxed_local()
    }
}

/// A channel that holds these messages and is closed behind them.
pub fn channel_of<T>(messages: Vec<T>) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(messages.len().max(1));
    for message in messages {
        assert!(sender.try_send(message).is_ok(), "the channel is as large as its content");
    }
    receiver
}

/// A stream of these events.
pub fn stream_of(events: Vec<Event>) -> EventStream {
    EventStream { events: channel_of(events) }
}

pub fn started() -> Event {
    Event::Started(Started {
        model: "acme/m@main".to_owned(),
        prompt_token_ids: vec![1, 2, 3],
        prompt_logprobs: None,
        prompt_text: None,
    })
}

pub fn piece(choice: u32, delta: Delta) -> Event {
    Event::Piece(Piece { choice, delta, logprobs: Vec::new(), token_ids: vec![7] })
}

pub fn text(choice: u32, text: &str) -> Event {
    piece(choice, Delta::Text(text.to_owned()))
}

pub fn ended(choice: u32, reason: FinishReason) -> Event {
    Event::Ended { choice, reason, stop: None }
}

pub fn finished(completion_tokens: u64) -> Event {
    let usage = Usage { prompt_tokens: 3, completion_tokens, cached_tokens: 2, reasoning_tokens: 1 };
    Event::Finished(Finished { usage })
}

/// One choice that says "Hello there".
pub fn hello() -> Vec<Event> {
    let stop = ended(0, FinishReason::Stop);
    vec![Event::Queued, started(), text(0, "Hello"), text(0, " there"), stop, finished(2)]
}

/// A server of a scripted backend.
pub struct Front {
    pub address: SocketAddr,
    handle: ServerHandle,
}

impl Front {
    pub fn start(backend: Arc<Scripted>, settings: impl Into<LiveApi>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = crate::serve(listener, backend, settings.into(), 1).expect("the server starts");
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self { address, handle }
    }

    pub async fn stop(self) {
        self.handle.stop(false).await;
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&self, head: &str, body: &str) -> Answer {
        let mut stream = self.send(head, body).await;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("the answer can be read");
        Answer::parse(&String::from_utf8(bytes).expect("answers are UTF-8"))
    }

    /// Sends a request and returns the connection. `head` is the request line and further headers, without the last
    /// line break.
    pub async fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let request = format!("{head}\r\nhost: x\r\nconnection: close\r\n{length}\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("the request can be sent");
        stream
    }

    /// Sends bytes, keeps the connection open, and reads until the server closes it.
    pub async fn converse(&self, sent: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        stream.write_all(sent.as_bytes()).await.expect("it can be sent");
        let mut answer = String::new();
        let whole = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), whole)
            .await
            .expect("the server closes the connection")
            .expect("the answer can be read");
        answer
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1"), "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\ncontent-type: application/json");
        self.ask(&head, &body.to_string()).await
    }
}

/// An answer, taken apart.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head ends with an empty line");
        let mut lines = head.lines();
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let answer = Self { status: status.expect("a status"), headers, body: body.to_owned() };
        match answer.header("transfer-encoding") {
            Some("chunked") => Self { body: unchunked(&answer.body), ..answer },
            _ => answer,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The payloads of `data:` lines; each must be framed as SSE wants it.
    pub fn data(&self) -> Vec<String> {
        let frames = self.body.split_terminator("\n\n");
        frames.filter_map(|frame| frame.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// The payloads that are JSON; the last must have been `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        let mut data = self.data();
        assert_eq!(data.pop().as_deref(), Some("[DONE]"), "in {:?}", self.body);
        data.iter().map(|text| serde_json::from_str(text).expect("a chunk is JSON")).collect()
    }
}

fn unchunked(body: &str) -> String {
    let mut whole = String::new();
    let mut rest = body;
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        whole.push_str(&tail[..size]);
        rest = tail[size..].strip_prefix("\r\n").expect("a chunk ends with a line break");
        if size == 0 {
            break;
        }
    }
    whole
}
