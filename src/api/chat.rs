//! `POST /v1/chat/completions`.

use actix_web::{HttpRequest, HttpResponse, web};
use candlewick_protocol::{ErrorKind, Failure};

use crate::body::JsonBody;
use crate::collect::{Keep, collect};
use crate::error::ApiError;
use crate::from_wire::{ChatCall, read_chat};
use crate::generation::{first_word, merge};
use crate::sender::Sender;
use crate::to_wire::{ChatChunks, Head, chat_completion};
use crate::{ApiState, disconnect, sse};

/// Answers a conversation, whole or in chunks.
pub async fn create(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_chat(body.0, Sender::of(&request)?, &state.settings())?;
    let gone = disconnect::token(&request);
    let answer = gone.run_until_cancelled(answer(&request, &state, call)).await;
    answer.unwrap_or_else(|| Err(disconnect::client_closed()))
}

async fn answer(request: &HttpRequest, state: &ApiState, call: ChatCall) -> Result<HttpResponse, ApiError> {
    let ChatCall { generation, reply } = call;
    let settings = state.settings();
    let pinned = state.pinned_unless_named(generation.model.as_ref())?;
    let head = Head::now("chatcmpl-", &generation.request_id, reply, pinned, settings.echo_revision);
    let num_choices = generation.num_choices;
    let logprobs = generation.output.logprobs.is_some();

    let events = state.backend().submit(generation).await.map_err(at_messages)?;
    let generation = merge(vec![events]);
    if head.options.stream.is_none() {
        let keep = Keep { num_choices, logprobs, reasoning: !head.options.hide_reasoning };
        let may_keep = |num_bytes| state.backend().admit_answer(num_bytes);
        let collected = collect(generation, 1, keep, may_keep).await.map_err(at_messages)?;
        let collected = collected.into_iter().next().expect("one source was collected");
        return Ok(HttpResponse::Ok().json(chat_completion(&head, collected)));
    }
    let generation = first_word(generation, 1, settings.stream_open_after).await.map_err(at_messages)?;
    let chunks = ChatChunks::new(head, num_choices, logprobs);
    let frames = sse::frames(generation, 1, chunks, settings.keep_alive, disconnect::token(request));
    Ok(sse::respond(request, frames))
}

/// A prompt that does not fit came from the messages.
fn at_messages(mut failure: Failure) -> ApiError {
    if failure.kind == ErrorKind::ContextOverflow && failure.param.is_none() {
        failure.param = Some("messages".to_owned());
    }
    failure.into()
}
