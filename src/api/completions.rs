//! `POST /v1/completions`: one generation for each prompt, answered as one.

use actix_web::{HttpRequest, HttpResponse, web};
use candlewick_protocol::{ErrorKind, Failure};

use crate::body::JsonBody;
use crate::collect::{Keep, collect};
use crate::error::ApiError;
use crate::from_wire::{CompletionsCall, read_completions};
use crate::generation::{first_word, merge};
use crate::sender::Sender;
use crate::to_wire::{CompletionChunks, Head, completion};
use crate::{ApiState, disconnect, sse};

/// Continues texts, whole or in chunks.
pub async fn create(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_completions(body.0, Sender::of(&request)?, &state.settings())?;
    let gone = disconnect::token(&request);
    let answer = gone.run_until_cancelled(answer(&request, &state, call)).await;
    answer.unwrap_or_else(|| Err(disconnect::client_closed()))
}

async fn answer(
    request: &HttpRequest,
    state: &ApiState,
    call: CompletionsCall,
) -> Result<HttpResponse, ApiError> {
    let CompletionsCall { generations, reply } = call;
    let settings = state.settings();
    let first = generations.first().expect("there is at least one prompt");
    let pinned = state.pinned_unless_named(first.model.as_ref())?;
    let head = Head::now("cmpl-", &first.request_id, reply, pinned, settings.echo_revision);
    let num_choices = first.num_choices;
    let logprobs = first.output.logprobs.is_some();
    let num_prompts = generations.len();

    let generation = merge(state.backend().submit_many(generations).await.map_err(at_prompt)?);
    if head.options.stream.is_none() {
        let keep = Keep { num_choices, logprobs, reasoning: true };
        let may_keep = |num_bytes| state.backend().admit_answer(num_bytes);
        let collected = collect(generation, num_prompts, keep, may_keep).await.map_err(at_prompt)?;
        return Ok(HttpResponse::Ok().json(completion(&head, collected, num_choices)));
    }
    let generation =
        first_word(generation, num_prompts, settings.stream_open_after).await.map_err(at_prompt)?;
    let chunks = CompletionChunks::new(head, num_prompts, num_choices, logprobs);
    let frames =
        sse::frames(generation, num_prompts, chunks, settings.keep_alive, disconnect::token(request));
    Ok(sse::respond(request, frames))
}

/// A prompt that does not fit came from the field of that name.
fn at_prompt(mut failure: Failure) -> ApiError {
    if failure.kind == ErrorKind::ContextOverflow && failure.param.is_none() {
        failure.param = Some("prompt".to_owned());
    }
    failure.into()
}
