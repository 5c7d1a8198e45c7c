//! Events → server-sent events: chunks as they come, comments while nothing does, always a last word.
//!
//! Every stream ends with `[DONE]`, after an error too. Nothing is buffered here: the next event is taken from the
//! generation when the connection asks for more, so a slow client is felt by its own generation and by nobody else.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Version};
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse::{Data, Event as Frame, Sse};
use candlewick_actors::SPANS;
use candlewick_protocol::{Event, FinishReason, LoadStage, Piece, Progress, Started, StopCause, Usage};
use futures::future;
use futures::stream::{self, Stream, StreamExt};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::generation::{Generation, News, cut_off};
use crate::to_wire::stage;
use crate::{ApiState, disconnect, fail, request_id};

const DONE: &str = "[DONE]";

/// Makes the chunks of one kind of answer.
pub trait Chunks {
    /// A chunk.
    type Chunk: Serialize;
    /// A source has started.
    fn started(&mut self, source: usize, started: Started) -> Vec<Self::Chunk>;
    /// A source says more.
    fn piece(&mut self, source: usize, piece: Piece) -> Vec<Self::Chunk>;
    /// A choice of a source is complete.
    fn ended(
        &mut self,
        source: usize,
        choice: u32,
        reason: FinishReason,
        stop: Option<StopCause>,
    ) -> Vec<Self::Chunk>;
    /// All sources have finished.
    fn finished(&mut self, usage: Usage) -> Vec<Self::Chunk>;
}

struct Writer<C> {
    generation: Generation,
    chunks: C,
    /// Sources that have not had their last word.
    is_open: Vec<bool>,
    usage: Usage,
    /// Frames to send before anything else is heard.
    ready: VecDeque<Frame>,
    /// No more events are wanted once the last word is in `ready`.
    is_over: bool,
    gone: CancellationToken,
    idle: Idle,
}

/// Knows when a client must hear something, if only a comment, and what that says.
pub struct Idle {
    keep_alive: Duration,
    comment_at: Instant,
    /// The stage last told, and what the next comment says.
    stage: Option<LoadStage>,
    comment: String,
}

impl Idle {
    /// A comment is due each `keep_alive`.
    pub fn new(keep_alive: Duration) -> Self {
        let comment_at = Instant::now() + keep_alive;
        Self { keep_alive, comment_at, stage: None, comment: KEEP_ALIVE.to_owned() }
    }

    /// Ends when a comment is due.
    pub async fn too_long(&self) {
        tokio::time::sleep_until(self.comment_at).await;
    }

    /// What there is to say.
    pub fn comment(&self) -> Frame {
        Frame::Comment(self.comment.clone().into())
    }

    /// Something was said.
    pub fn spoke(&mut self) {
        self.comment_at = Instant::now() + self.keep_alive;
    }

    /// A new stage is told at once, its progress with the next comment that is due.
    pub fn loading(&mut self, at: LoadStage, progress: Option<Progress>) -> Option<Frame> {
        self.comment = match progress {
            Some(Progress { current, total: Some(total), .. }) => {
                format!("loading {} {current}/{total}", stage(at))
            }
            Some(Progress { current, total: None, .. }) => format!("loading {} {current}", stage(at)),
            None => format!("loading {}", stage(at)),
        };
        (self.stage.replace(at) != Some(at)).then(|| self.comment())
    }

    /// There is nothing to say but that the connection lives.
    pub fn started(&mut self) {
        self.comment = KEEP_ALIVE.to_owned();
    }
}

/// The frames of an answer from `num_sources` sources. Ends early, and cancels the generation, once `gone` is cancelled.
pub fn frames<C: Chunks + 'static>(
    generation: Generation,
    num_sources: usize,
    chunks: C,
    keep_alive: Duration,
    gone: CancellationToken,
) -> impl Stream<Item = Frame> {
    let writer = Writer {
        generation,
        chunks,
        is_open: vec![true; num_sources],
        usage: Usage::default(),
        ready: VecDeque::new(),
        is_over: false,
        gone,
        idle: Idle::new(keep_alive),
    };
    stream::unfold(writer, |mut writer| async move { writer.next().await.map(|frame| (frame, writer)) })
}

const KEEP_ALIVE: &str = "keep-alive";

impl<C: Chunks> Writer<C> {
    async fn next(&mut self) -> Option<Frame> {
        while self.ready.is_empty() {
            if self.is_over {
                return None;
            }
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return None,
                news = self.generation.next() => self.hear(news),
                () = self.idle.too_long() => self.ready.push_back(self.idle.comment()),
            }
        }
        self.idle.spoke();
        self.ready.pop_front()
    }

    fn hear(&mut self, news: Option<News>) {
        let Some((source, event)) = news else { return self.fail(cut_off().into()) };
        match event {
            None if self.is_open[source] => self.fail(cut_off().into()),
            None => {}
            Some(Event::Queued) => {}
            Some(Event::Loading { stage, progress }) => self.ready.extend(self.idle.loading(stage, progress)),
            Some(Event::Started(started)) => {
                self.idle.started();
                let chunks = self.chunks.started(source, started);
                self.send(chunks);
            }
            Some(Event::Piece(piece)) => {
                let chunks = self.chunks.piece(source, piece);
                self.send(chunks);
            }
            Some(Event::Ended { choice, reason, stop }) => {
                let chunks = self.chunks.ended(source, choice, reason, stop);
                self.send(chunks);
            }
            Some(Event::Finished(finished)) => {
                self.usage += finished.usage;
                self.is_open[source] = false;
                if !self.is_open.contains(&true) {
                    let chunks = self.chunks.finished(self.usage);
                    self.send(chunks);
                    self.end();
                }
            }
            Some(Event::Failed(failure)) => self.fail(failure.into()),
        }
    }

    fn send(&mut self, chunks: Vec<C::Chunk>) {
        for chunk in chunks {
            match Data::new_json(&chunk) {
                Ok(data) => self.ready.push_back(data.into()),
                Err(error) => {
                    return self.fail(ApiError::internal(format!("the answer cannot be written: {error}")));
                }
            }
        }
    }

    fn fail(&mut self, error: ApiError) {
        if !self.is_over {
            self.ready.push_back(error_frame(&error));
            self.end();
        }
    }

    fn end(&mut self) {
        self.ready.push_back(Data::new(DONE).into());
        self.is_over = true;
    }
}

fn error_frame(error: &ApiError) -> Frame {
    tracing::debug!("stream ended with an error: {}", error.message);
    Data::new(serde_json::to_string(&error.body()).expect("an error is text and null")).into()
}

/// An answer of server-sent events. What goes wrong while frames are made becomes an error frame: the client gets its last
/// word. Nothing is written any more once the client has left.
pub fn respond(request: &HttpRequest, frames: impl Stream<Item = Frame> + 'static) -> HttpResponse {
    let state = request.app_data::<web::Data<ApiState>>().expect("every route has the state");
    let failpoints = state.live().failpoints().clone();
    let (id, gone) = (request_id::of(request), disconnect::token(request));
    // Ends with the stream: after the last frame, or when the client leaves.
    let span = tracing::info_span!(target: SPANS, "stream");
    let frames = frames.then(move |frame| {
        let failpoints = failpoints.clone();
        let _open = &span;
        async move { fail::strike(&failpoints).await.map(|()| frame) }
    });
    let frames = AssertUnwindSafe(frames)
        .catch_unwind()
        .scan(false, move |is_over, frame| {
            let next = match frame {
                _ if *is_over => None,
                Ok(Ok(frame)) => Some(vec![frame]),
                broken => {
                    let why = broken.map(|frame| frame.unwrap_err()).unwrap_or_else(|_| "a panic".into());
                    tracing::error!(request_id = %id, why, "a stream could not be written");
                    *is_over = true;
                    let message = format!("writing the answer failed: {why} (request {id})");
                    Some(vec![error_frame(&ApiError::internal(message)), Data::new(DONE).into()])
                }
            };
            future::ready(next)
        })
        .flat_map(stream::iter)
        .take_until(async move { gone.cancelled().await });
    let mut response = Sse::from_infallible_stream(frames).respond_to(request);
    // Proxies of the nginx kind hold streams back unless told not to.
    let buffering = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(buffering, HeaderValue::from_static("no"));
    // It names no encoding; `Sse` sets it to keep a layer of compression off, and there is none.
    response.headers_mut().remove(header::CONTENT_ENCODING);
    if request.version() < Version::HTTP_11 {
        // HTTP/1.0 knows no chunks: the body ends with the connection.
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}
