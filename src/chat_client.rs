//! Speaks to an OpenAI-compatible server: ours, or any other. What only ours has (`/load_model`) is done without where it
//! is missing.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::chat_sse::SseParser;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to say that it is well.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server did not do as asked. The text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error(
        "no server answers at {url} ({why}); start one with `candlewick serve`, or leave the address out to talk without one"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// What the system said.
        why: String,
    },
    /// The server answered with an error.
    #[error("{message}")]
    Refused {
        /// HTTP status; 200 if the error came within a stream.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The answer broke off or makes no sense.
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// One part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatPiece {
    /// Text of the answer.
    Text(String),
    /// Text of the model's reasoning.
    Reasoning(String),
    /// The model calls a function: its name, or more of its arguments.
    ToolCall {
        /// The function's name, once.
        name: Option<String>,
        /// More of the arguments.
        arguments: String,
    },
    /// Why the answer ended: `stop`, `length`, …
    Finish(String),
    /// Tokens of the answer, counted by the server.
    Tokens(u64),
}

/// One frame of `/load_model`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum LoadFrame {
    /// The load has come this far.
    Loading {
        /// `processor`, `config`, `download` or `weights`.
        stage: String,
        /// How far within the stage.
        progress: Option<LoadProgress>,
    },
    /// The model answers.
    Ready {
        /// It did so before we asked.
        #[serde(default)]
        cached: bool,
        /// Its full name.
        model: String,
    },
    /// The load has failed.
    Error {
        /// Why.
        message: String,
    },
}

/// How far a stage has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct LoadProgress {
    /// Done so far.
    pub current: u64,
    /// All there is to do, once known.
    pub total: Option<u64>,
}

/// A model that a server has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ServedModel {
    /// Its name.
    pub id: String,
    /// `loaded`, `loading`, `available` or `failed`, if the server says so.
    pub status: Option<String>,
}

impl ServedModel {
    /// Whether it is in memory, or on its way.
    pub fn is_present(&self) -> bool {
        matches!(self.status.as_deref(), Some("loaded" | "loading"))
    }
}

/// Speaks to one server.
#[derive(Debug, Clone)]
pub struct ChatClient {
    http: Client,
    url: String,
    api_key: Option<String>,
}

impl ChatClient {
    /// For the server at `url` (without `/v1`).
    pub fn new(url: impl Into<String>, api_key: Option<String>) -> Result<Self, ClientError> {
        let url = url.into();
        let builder = Client::builder().connect_timeout(CONNECT_TIMEOUT);
        // A proxy of the house cannot reach this machine's own loopback.
        let builder = if is_loopback(&url) { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| ClientError::Broken(error.to_string()))?;
        Ok(Self { http, url, api_key })
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether a server answers. One without `/health` is well too: it answered.
    pub async fn check_health(&self) -> Result<(), ClientError> {
        let response = self.send(self.http.get(self.path("/health")).timeout(HEALTH_TIMEOUT)).await?;
        if response.status().is_server_error() { Err(refusal(response).await) } else { Ok(()) }
    }

    /// The models that the server lists.
    pub async fn models(&self) -> Result<Vec<ServedModel>, ClientError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<ServedModel>,
        }
        let response = self.send(self.http.get(self.path("/v1/models"))).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let list: List = response.json().await.map_err(|error| ClientError::Broken(error.to_string()))?;
        Ok(list.data)
    }

    /// Has the server load a model. Each frame is shown to `on_frame`. Returns whether the server can do that at all.
    pub async fn load_model(
        &self,
        model: &str,
        mut on_frame: impl FnMut(&LoadFrame),
    ) -> Result<bool, ClientError> {
        let body = serde_json::json!({ "model": model });
        let response = self.send(self.http.post(self.path("/load_model")).json(&body)).await?;
        if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return Ok(false);
        }
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let mut frames = Frames::new(response);
        while let Some(data) = frames.next().await? {
            // A frame of a kind that is not known to us is news of a later server, and no reason to stop.
            let Ok(frame) = serde_json::from_str::<LoadFrame>(&data) else { continue };
            on_frame(&frame);
            match frame {
                LoadFrame::Ready { .. } => return Ok(true),
                LoadFrame::Error { message } => return Err(ClientError::Refused { status: 200, message }),
                LoadFrame::Loading { .. } => {}
            }
        }
        Err(ClientError::Broken(format!("the server did not say whether `{model}` is loaded")))
    }

    /// Asks for an answer; the pieces come from [`Answer::next`]. Dropping it ends the answer.
    pub async fn chat(&self, body: &Map<String, Value>) -> Result<Answer, ClientError> {
        let response = self.send(self.http.post(self.path("/v1/chat/completions")).json(body)).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(Answer { frames: Frames::new(response), pieces: Vec::new().into_iter(), is_done: false })
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let request = match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        request
            .send()
            .await
            .map_err(|error| ClientError::Unreachable { url: self.url.clone(), why: innermost(&error) })
    }
}

/// An answer on its way.
#[derive(Debug)]
pub struct Answer {
    frames: Frames,
    pieces: std::vec::IntoIter<ChatPiece>,
    is_done: bool,
}

impl Answer {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<ChatPiece>, ClientError> {
        loop {
            if let Some(piece) = self.pieces.next() {
                return Ok(Some(piece));
            }
            if self.is_done {
                return Ok(None);
            }
            match self.frames.next().await? {
                Some(data) if data.trim() == "[DONE]" => self.is_done = true,
                Some(data) => self.pieces = read_chunk(&data)?.into_iter(),
                None => self.is_done = true,
            }
        }
    }
}

/// The events of a response.
#[derive(Debug)]
struct Frames {
    response: Response,
    parser: SseParser,
    ready: std::collections::VecDeque<String>,
}

impl Frames {
    fn new(response: Response) -> Self {
        Self { response, parser: SseParser::default(), ready: Default::default() }
    }

    async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Ok(Some(data));
            }
            match self.response.chunk().await.map_err(|error| ClientError::Broken(innermost(&error)))? {
                Some(bytes) => self.ready.extend(self.parser.push(&bytes)),
                None => return Ok(None),
            }
        }
    }
}

/// The pieces of one chunk. Pure.
pub fn read_chunk(data: &str) -> Result<Vec<ChatPiece>, ClientError> {
    let chunk: Value = serde_json::from_str(data).map_err(|error| {
        ClientError::Broken(format!("the server sent a chunk that is not JSON ({error})"))
    })?;
    if let Some(message) = error_message(&chunk) {
        return Err(ClientError::Refused { status: 200, message });
    }
    let mut pieces = Vec::new();
    if let Some(choice) = chunk.pointer("/choices/0") {
        let delta = &choice["delta"];
        // `reasoning` is what some other servers call it.
        let reasoning = delta["reasoning_content"].as_str().or(delta["reasoning"].as_str());
        pieces
            .extend(reasoning.filter(|text| !text.is_empty()).map(|text| ChatPiece::Reasoning(text.into())));
        let text = delta["content"].as_str();
        pieces.extend(text.filter(|text| !text.is_empty()).map(|text| ChatPiece::Text(text.into())));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            pieces.push(ChatPiece::ToolCall {
                name: function["name"].as_str().map(Into::into),
                arguments: function["arguments"].as_str().unwrap_or_default().into(),
            });
        }
        pieces.extend(choice["finish_reason"].as_str().map(|reason| ChatPiece::Finish(reason.into())));
    }
    pieces.extend(chunk.pointer("/usage/completion_tokens").and_then(Value::as_u64).map(ChatPiece::Tokens));
    Ok(pieces)
}

/// The text of an error as OpenAI's servers (`error.message`), FastAPI's (`detail`) and others (`error`, `message`) write it.
fn error_message(body: &Value) -> Option<String> {
    let error = body.get("error").filter(|error| !error.is_null());
    let text = error.and_then(|error| error.get("message")).or(error).or(body.get("detail"))?;
    Some(text.as_str().map_or_else(|| text.to_string(), Into::into))
}

async fn refusal(response: Response) -> ClientError {
    let status = response.status();
    let body = response.text().await.unwrap_or_default();
    let said = serde_json::from_str(&body).ok().as_ref().and_then(error_message);
    let mut message = said.unwrap_or_else(|| format!("the server answered {status}"));
    if status == StatusCode::UNAUTHORIZED {
        message.push_str(" (give the key with --api-key or OPENAI_API_KEY)");
    }
    ClientError::Refused { status: status.as_u16(), message }
}

/// The cause at the bottom: "connection refused" rather than "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Whether a URL is one of this machine's own loopback.
pub(crate) fn is_loopback(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or(url);
    host.starts_with("localhost") || host.starts_with("127.") || host.starts_with("[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_many_servers_are_read() {
        let pieces = |data: &str| read_chunk(data).expect("good");
        assert_eq!(pieces(r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#), []);
        assert_eq!(
            pieces(
                r#"{"choices":[{"index":0,"delta":{"content":"hi","reasoning_content":null},"finish_reason":null}]}"#
            ),
            [ChatPiece::Text("hi".into())]
        );
        assert_eq!(
            pieces(r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#),
            [ChatPiece::Reasoning("hm".into())]
        );
        assert_eq!(
            pieces(r#"{"choices":[{"delta":{},"finish_reason":"length"}],"usage":{"completion_tokens":7}}"#),
            [ChatPiece::Finish("length".into()), ChatPiece::Tokens(7)]
        );
        assert_eq!(pieces(r#"{"choices":[],"usage":{"completion_tokens":7}}"#), [ChatPiece::Tokens(7)]);
        assert_eq!(
            pieces(
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]}}]}"#
            ),
            [ChatPiece::ToolCall { name: Some("f".into()), arguments: "{}".into() }]
        );
    }

    #[test]
    fn errors_within_a_stream_are_errors() {
        for data in [r#"{"error":{"message":"no"}}"#, r#"{"error":"no"}"#, r#"{"detail":"no"}"#] {
            assert_eq!(read_chunk(data), Err(ClientError::Refused { status: 200, message: "no".into() }));
        }
        assert!(matches!(read_chunk("<html>"), Err(ClientError::Broken(_))));
    }

    #[test]
    fn frames_of_a_load_are_read() {
        let frame: LoadFrame =
            serde_json::from_str(r#"{"status": "loading", "model": "m@main", "stage": "weights", "progress": {"current": 1, "total": null}}"#)
                .expect("good");
        let progress = Some(LoadProgress { current: 1, total: None });
        assert_eq!(frame, LoadFrame::Loading { stage: "weights".into(), progress });
        let frame: LoadFrame =
            serde_json::from_str(r#"{"status": "ready", "model": "m@main", "cached": true}"#).expect("good");
        assert_eq!(frame, LoadFrame::Ready { cached: true, model: "m@main".into() });
    }
}
