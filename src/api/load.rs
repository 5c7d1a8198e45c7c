//! Loading and unloading on demand: `/load_model` as `transformers serve` has it, `/v1/models/load`, `/v1/models/unload`
//! and `/reset`.

use std::io;
use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_lab::sse::{Data, Event as Frame};
use candlewick_protocol::{ErrorKind, Failure, LoadEvent, ModelRef, quoted};
use futures::stream::{self, Stream};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::body::JsonBody;
use crate::error::ApiError;
use crate::from_wire::{Fields, read_model};
use crate::to_wire::load_frame;
use crate::wire::error::Fault;
use crate::wire::models::{LoadFrame, Loaded, Unloaded};
use crate::{ApiState, disconnect, sse};

/// How long `wait: false` listens for a model that is already there, or fails at once.
const GLANCE: Duration = Duration::from_millis(100);

/// `POST /load_model`: loads a model and streams its progress. Exactly one terminal frame, whoever else waits for it.
pub async fn stream(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let mut fields = Fields::root(body.0);
    let Some((_, model)) = read_model(&mut fields)? else {
        let message = "`model` is required and is missing";
        return Err(ApiError::new(Fault::MissingLoadModel, message).with_param("model"));
    };
    fields.finish();
    let canonical = model.canonical();
    let events = state.backend().load(model);
    Ok(sse::respond(&request, load_frames(events, canonical, disconnect::token(&request))))
}

/// Frames of a load. A load whose channel closes without a last word is told as an error.
fn load_frames(
    events: mpsc::Receiver<LoadEvent>,
    canonical: String,
    gone: CancellationToken,
) -> impl Stream<Item = Frame> {
    stream::unfold(Some((events, canonical, gone)), |listening| async move {
        let (mut events, canonical, gone) = listening?;
        let event = gone.run_until_cancelled(events.recv()).await?;
        let event =
            event.unwrap_or_else(|| LoadEvent::Failed { model: canonical.clone(), failure: cut_off() });
        let (frame, is_last) = load_frame(event);
        let frame = Frame::from(Data::new(python_json(&frame)));
        Some((frame, (!is_last).then_some((events, canonical, gone))))
    })
}

fn cut_off() -> Failure {
    Failure::new(
        ErrorKind::Internal,
        "the load ended without a last word; sending the request again may help",
    )
}

/// JSON as Python's `json.dumps` spaces it: clients of `transformers serve` are known to compare the text.
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn python_json(frame: &LoadFrame) -> String {
    let mut text = Vec::new();
    frame
        .serialize(&mut Serializer::with_formatter(&mut text, PythonSpacing))
        .expect("a frame is text and numbers");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// `POST /v1/models/load`.
pub async fn load(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let mut fields = Fields::root(body.0);
    let (name, model) = read_named(&mut fields)?;
    let wait = fields.bool("wait")?.unwrap_or(true);
    for name in ["dtype", "device", "quantization", "alias"] {
        fields.refuse(name, "it is a setting of the server, the same for all models", |_| false)?;
    }
    fields.refuse("pin", "the pinned model is named when the server starts", |value| {
        value == &Value::Bool(false)
    })?;
    fields.finish();

    let begun = Instant::now();
    let events = state.backend().load(model);
    let gone = disconnect::token(&request);
    let outcome = if wait {
        let outcome = gone.run_until_cancelled(loaded(events)).await;
        Some(outcome.unwrap_or_else(|| Err(disconnect::client_closed())))
    } else {
        timeout(GLANCE, loaded(events)).await.ok()
    };
    match outcome {
        Some(Err(error)) => Err(error),
        Some(Ok(())) => {
            let load_time_ms = Some(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
            Ok(HttpResponse::Ok().json(Loaded { id: name, object: "model", status: "loaded", load_time_ms }))
        }
        None => {
            let loading = Loaded { id: name, object: "model", status: "loading", load_time_ms: None };
            Ok(HttpResponse::Accepted().json(loading))
        }
    }
}

async fn loaded(mut events: mpsc::Receiver<LoadEvent>) -> Result<(), ApiError> {
    loop {
        match events.recv().await {
            Some(LoadEvent::Loading { .. }) => {}
            Some(LoadEvent::Ready { .. }) => return Ok(()),
            Some(LoadEvent::Failed { failure, .. }) => return Err(failure.into()),
            None => return Err(cut_off().into()),
        }
    }
}

/// `POST /v1/models/unload`.
pub async fn unload(state: web::Data<ApiState>, body: JsonBody) -> Result<HttpResponse, ApiError> {
    let mut fields = Fields::root(body.0);
    let (name, model) = read_named(&mut fields)?;
    let force = fields.flag("force")?;
    fields.refuse("drain", "try again when the model is idle, or send `force`", |value| {
        value == &Value::Bool(false)
    })?;
    fields.finish();
    state.backend().unload(&model, force).await?;
    Ok(HttpResponse::Ok().json(Unloaded { id: name, object: "model", status: "unloaded" }))
}

/// `model`, which must be there, and `revision`, which may be.
fn read_named(fields: &mut Fields) -> Result<(String, ModelRef), ApiError> {
    let model = read_model(fields)?;
    let (name, model) = fields.require("model", model)?;
    let Some(revision) = fields.string("revision")? else { return Ok((name, model)) };
    if model.names_revision() && model.revision() != revision {
        let named = quoted(model.revision());
        let message = format!("`revision` is {} and `model` already names {named}", quoted(&revision));
        return Err(ApiError::invalid("revision", message));
    }
    // Through text and back, so that a revision is held to the rules of a model's name.
    let model: ModelRef = model.with_revision(revision).to_string().parse().map_err(
        |error: candlewick_protocol::ModelRefError| ApiError::invalid("revision", error.to_string()),
    )?;
    Ok((model.to_string(), model))
}

/// `POST /reset`.
pub async fn reset(state: web::Data<ApiState>) -> HttpResponse {
    state.backend().reset().await;
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

#[cfg(test)]
mod tests {
    use candlewick_protocol::{LoadStage, Progress, ProgressUnit};

    use super::*;

    #[track_caller]
    fn check(event: LoadEvent, text: &str) {
        assert_eq!(python_json(&load_frame(event).0), text);
    }

    #[test]
    fn frames_are_those_of_the_recorded_traffic() {
        let model = || "acme/tiny-qwen2@main".to_owned();
        check(
            LoadEvent::Loading { model: model(), stage: LoadStage::Processor, progress: None },
            r#"{"status": "loading", "model": "acme/tiny-qwen2@main", "stage": "processor"}"#,
        );
        let progress = |current, total, unit| Some(Progress { current, total, unit });
        check(
            LoadEvent::Loading {
                model: model(),
                stage: LoadStage::Weights,
                progress: progress(1, Some(26), ProgressUnit::Tensors),
            },
            r#"{"status": "loading", "model": "acme/tiny-qwen2@main", "stage": "weights", "progress": {"current": 1, "total": 26}}"#,
        );
        check(
            LoadEvent::Loading {
                model: model(),
                stage: LoadStage::Download,
                progress: progress(1, None, ProgressUnit::Bytes),
            },
            r#"{"status": "loading", "model": "acme/tiny-qwen2@main", "stage": "download", "progress": {"current": 1, "total": null}}"#,
        );
        check(
            LoadEvent::Ready { model: model(), cached: true },
            r#"{"status": "ready", "model": "acme/tiny-qwen2@main", "cached": true}"#,
        );
        check(
            LoadEvent::Failed {
                model: model(),
                failure: Failure::new(ErrorKind::ModelNotFound, "no \"such\"\nmodel"),
            },
            r#"{"status": "error", "model": "acme/tiny-qwen2@main", "message": "no \"such\"\nmodel"}"#,
        );
    }
}
