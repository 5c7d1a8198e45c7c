//! `/v1/responses`: made, streamed, kept, run in the background.

mod frames;
mod past;
mod stored;
mod tale;

#[cfg(test)]
mod tests;

use actix_web::{HttpRequest, HttpResponse, web};
use candlewick_protocol::{ErrorKind, Event, Failure, GenerationRequest, Prompt, ResponseRecord};
use futures::StreamExt;

pub use self::stored::{cancel, delete, input_items, retrieve};

use self::tale::{Tale, now};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::from_wire::{ResponsesCall, kept, read_responses};
use crate::generation::first_word;
use crate::sender::Sender;
use crate::to_wire::{ItemIds, ResponseWriter};
use crate::wire::responses::{InputTokens, Response};
use crate::{ApiState, disconnect, sse};

/// Makes a response: whole, in events, or in the background.
pub async fn create(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_responses(body.0, Sender::of(&request)?, &state.settings())?;
    let gone = disconnect::token(&request);
    let answer = gone.run_until_cancelled(answer(&request, &state, call)).await;
    answer.unwrap_or_else(|| Err(disconnect::client_closed()))
}

/// Counts the tokens of what a response would be asked.
pub async fn input_tokens(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let mut call = read_responses(body.0, Sender::of(&request)?, &state.settings())?;
    // Nothing is generated, and nothing is kept.
    (call.background, call.store) = (false, Some(false));
    call.generation.sampling.max_tokens = Some(0);
    call.generation.sampling.min_tokens = None;
    let count = async {
        let (record, generation) = prepare(&state, call).await?;
        let events = state.backend().submit(generation).await.map_err(at_input)?;
        let response =
            listen(tale::of_generation(tale::generation(events)), ResponseWriter::new(&record)).await?;
        let input_tokens = response.usage.map_or(0, |usage| usage.input_tokens);
        Ok(HttpResponse::Ok().json(InputTokens { object: "response.input_tokens", input_tokens }))
    };
    let gone = disconnect::token(&request);
    gone.run_until_cancelled(count).await.unwrap_or_else(|| Err(disconnect::client_closed()))
}

/// Histories are not compacted here.
pub async fn compact() -> Result<HttpResponse, ApiError> {
    let message = "`/v1/responses/compact` is not supported: histories are not compacted by this server; `truncation: \"auto\"` \
                   drops the oldest items where they do not fit";
    Err(ApiError::new(crate::wire::error::Fault::Kind(ErrorKind::Unsupported), message))
}

async fn answer(
    request: &HttpRequest,
    state: &ApiState,
    call: ResponsesCall,
) -> Result<HttpResponse, ApiError> {
    let (background, stream) = (call.background, call.stream);
    let (record, generation) = prepare(state, call).await?;
    let writer = ResponseWriter::new(&record);
    if background {
        return run(request, state, record, generation, stream).await;
    }
    let store = writer.response().echo.store;
    let events = state.backend().submit(generation).await.map_err(at_input)?;
    let mut generation = tale::generation(events);
    if stream {
        generation = first_word(generation, 1, state.settings().stream_open_after).await.map_err(at_input)?;
    }
    let mut tale = tale::of_generation(generation);
    if store {
        tale = tale::kept(tale, record, state.backend.clone());
    }
    match stream {
        true => Ok(respond(request, state, tale, writer, None)),
        false => Ok(HttpResponse::Ok().json(listen(tale, writer).await?)),
    }
}

/// Checks what needs the server's state, and puts the call into the words of the model side and of the store.
async fn prepare(
    state: &ApiState,
    call: ResponsesCall,
) -> Result<(ResponseRecord, GenerationRequest), ApiError> {
    let ResponsesCall {
        mut generation, mut input, instructions, previous, background, store, mut head, ..
    } = call;
    let backend = state.backend();
    let can_store = backend.keeps_responses();
    if background && store == Some(false) {
        return Err(ApiError::invalid(
            "background",
            "`background` needs `store`: leave `store` out, or send `store: true`",
        ));
    }
    if background && !can_store {
        return Err(past::no_store("background"));
    }
    if store == Some(true) && !can_store {
        return Err(past::no_store("store"));
    }
    head.echo.store = store.unwrap_or(can_store);
    if let Some(pinned) = state.pinned_unless_named(generation.model.as_ref())? {
        head.echo.model = pinned;
    }
    if let (true, Some(model)) = (state.settings().echo_revision, &generation.model) {
        head.echo.model = model.canonical();
    }

    let messages = past::messages(backend, previous.as_deref(), &mut input, instructions.as_deref()).await?;
    if let Prompt::Chat(chat) = &mut generation.prompt {
        chat.messages = messages;
    }
    let ids = ItemIds::new();
    let input =
        input.into_iter().enumerate().map(|(index, item)| kept(item, |prefix| ids.input(prefix, index)));
    let record = ResponseRecord {
        id: ids.response(),
        created_at: now(),
        background,
        previous,
        head: head.to_value(),
        input: input.collect(),
    };
    Ok((record, generation))
}

/// In the background. A client that wants events follows like any other, and may leave.
async fn run(
    request: &HttpRequest,
    state: &ApiState,
    record: ResponseRecord,
    generation: GenerationRequest,
    stream: bool,
) -> Result<HttpResponse, ApiError> {
    let writer = ResponseWriter::new(&record);
    let id = record.id.clone();
    state.backend().run_response(record, generation).await.map_err(at_input)?;
    if !stream {
        return Ok(HttpResponse::Ok().json(writer.response()));
    }
    let tale = match state.backend().follow_response(&id).await {
        Some(follower) => tale::of_follower(follower),
        // It is over already.
        None => match state.backend().find_response(&id).await? {
            Some(stored) => tale::of_log(stored.log),
            None => return Err(past::not_found(&id)),
        },
    };
    Ok(respond(request, state, tale, writer, None))
}

fn respond(
    request: &HttpRequest,
    state: &ApiState,
    tale: Tale,
    writer: ResponseWriter,
    after: Option<u64>,
) -> HttpResponse {
    let gone = disconnect::token(request);
    sse::respond(request, frames::frames(tale, writer, after, state.settings().keep_alive, gone))
}

/// Listens to the end. A failure is the whole answer.
async fn listen(mut tale: Tale, mut writer: ResponseWriter) -> Result<Response, ApiError> {
    while let Some(entry) = tale.next().await {
        if let Event::Failed(failure) = entry.event {
            return Err(at_input(failure));
        }
        writer.take(&entry);
    }
    Ok(writer.into_response())
}

/// A prompt that does not fit, or that the template refuses, came from the input.
fn at_input(mut failure: Failure) -> ApiError {
    let is_messages = failure.param.as_deref() == Some("messages");
    if is_messages || (failure.kind == ErrorKind::ContextOverflow && failure.param.is_none()) {
        failure.param = Some("input".to_owned());
    }
    if failure.param.as_deref() == Some("max_tokens") {
        failure.param = Some("max_output_tokens".to_owned());
        failure.message = failure.message.replace("max_tokens", "max_output_tokens");
    }
    failure.into()
}
