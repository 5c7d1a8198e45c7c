//! The routes that encode texts: `/v1/embeddings`, `/pooling`, `/classify`, `/score` and `/rerank`.

use actix_web::{HttpRequest, HttpResponse, web};
use candlewick_protocol::{EncodeAnswer, EncodeOutput, EncodeWork};

use crate::body::JsonBody;
use crate::error::ApiError;
use crate::from_wire::{
    EncodeCall, NumberFormat, ReplyOptions, RerankCall, is_tei_rerank, read_classify, read_embeddings,
    read_pooling, read_rerank, read_score,
};
use crate::sender::Sender;
use crate::to_wire::{self, Head};
use crate::{ApiState, disconnect, tei};

/// `POST /v1/embeddings`.
pub async fn embeddings(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_embeddings(body.0, Sender::of(&request)?, &state.settings())?;
    let Answered { head, answer, format } = ask(&request, &state, call, "embd-").await?;
    let EncodeAnswer { model, output: EncodeOutput::Vectors(vectors), num_tokens } = answer else {
        return Err(unasked());
    };
    let data = to_wire::embeddings(vectors, format);
    Ok(HttpResponse::Ok().json(to_wire::encoded_list(&head, &model, num_tokens, data)))
}

/// `POST /pooling`.
pub async fn pooling(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_pooling(body.0, Sender::of(&request)?, &state.settings())?;
    let embeds_tokens = matches!(call.request.work, EncodeWork::Embed { of_tokens: true, .. });
    let Answered { head, answer, format } = ask(&request, &state, call, "pool-").await?;
    let EncodeAnswer { model, output, num_tokens } = answer;
    let (rows, of_tokens) = match output {
        EncodeOutput::Vectors(rows) => (rows, embeds_tokens),
        EncodeOutput::Labels { scores, of_tokens, .. } => (scores, of_tokens),
        EncodeOutput::Scores(_) => return Err(unasked()),
    };
    let data = to_wire::pooled(rows, of_tokens, format);
    Ok(HttpResponse::Ok().json(to_wire::encoded_list(&head, &model, num_tokens, data)))
}

/// `POST /classify`.
pub async fn classify(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_classify(body.0, Sender::of(&request)?, &state.settings())?;
    let Answered { head, answer, .. } = ask(&request, &state, call, "classify-").await?;
    let EncodeAnswer { model, output: EncodeOutput::Labels { names, scores, of_tokens }, num_tokens } =
        answer
    else {
        return Err(unasked());
    };
    if of_tokens {
        return Err(labels_tokens());
    }
    let data = to_wire::classified(&names, scores);
    Ok(HttpResponse::Ok().json(to_wire::encoded_list(&head, &model, num_tokens, data)))
}

/// `POST /score` and `/v1/score`.
pub async fn score(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_score(body.0, Sender::of(&request)?, &state.settings())?;
    let Answered { head, answer, .. } = ask(&request, &state, call, "score-").await?;
    let EncodeAnswer { model, output: EncodeOutput::Scores(scores), num_tokens } = answer else {
        return Err(unasked());
    };
    let data = to_wire::scores(scores);
    Ok(HttpResponse::Ok().json(to_wire::encoded_list(&head, &model, num_tokens, data)))
}

/// `POST /rerank` and `/v1/rerank`, in the shape of vLLM and Jina, or of text-embeddings-inference where the body has its fields.
pub async fn rerank(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    if is_tei_rerank(&body.0) {
        return tei::rerank(&request, &state, body.0).await;
    }
    rank(&request, &state, body, false).await
}

/// `POST /v2/rerank`, in Cohere's shape.
pub async fn rerank_cohere(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    rank(&request, &state, body, true).await
}

async fn rank(
    request: &HttpRequest,
    state: &ApiState,
    body: JsonBody,
    is_cohere: bool,
) -> Result<HttpResponse, ApiError> {
    let call = read_rerank(body.0, Sender::of(request)?, &state.settings(), !is_cohere)?;
    let RerankCall { call, top_n, documents } = call;
    let Answered { head, answer, .. } = ask(request, state, call, "rerank-").await?;
    let EncodeAnswer { model, output: EncodeOutput::Scores(scores), num_tokens } = answer else {
        return Err(unasked());
    };
    let ranking = to_wire::ranking(&head, &model, num_tokens, &scores, top_n, documents, is_cohere);
    Ok(HttpResponse::Ok().json(ranking))
}

/// What the model side answered, and how it is written.
pub struct Answered {
    head: Head,
    /// The answer.
    pub answer: EncodeAnswer,
    format: NumberFormat,
}

/// Asks the model side. A client that leaves cancels it.
pub async fn ask(
    request: &HttpRequest,
    state: &ApiState,
    call: EncodeCall,
    prefix: &str,
) -> Result<Answered, ApiError> {
    let EncodeCall { request: wanted, model, format } = call;
    let pinned = state.pinned_unless_named(wanted.model.as_ref())?;
    let options = ReplyOptions { model, ..ReplyOptions::default() };
    let head = Head::now(prefix, &wanted.request_id, options, pinned, state.settings().echo_revision);
    let gone = disconnect::token(request);
    let answer = gone.run_until_cancelled(state.backend().encode(wanted)).await;
    Ok(Answered { head, answer: answer.ok_or_else(disconnect::client_closed)??, format })
}

/// A route that is for labels of texts.
pub fn labels_tokens() -> ApiError {
    ApiError::unsupported(
        "model",
        "this model labels the tokens of texts and not texts; /pooling tells its labels",
    )
}

/// A model side that is out of its mind.
pub fn unasked() -> ApiError {
    ApiError::internal("the model answered another question than was asked")
}
