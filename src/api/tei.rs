//! The routes of text-embeddings-inference: `/embed`, `/embed_all`, `/predict`, `/similarity`, and `/rerank` where the body has
//! its fields. They name no model where one is pinned; `model` names one where none is.

use actix_web::{HttpRequest, HttpResponse, web};
use candlewick_protocol::{EncodeAnswer, EncodeOutput};
use serde_json::{Map, Value};

use crate::ApiState;
use crate::body::JsonBody;
use crate::encoding::{Answered, ask, labels_tokens, unasked};
use crate::error::ApiError;
use crate::from_wire::{
    PredictCall, TeiRerankCall, read_embed, read_predict, read_similarity, read_tei_rerank,
};
use crate::sender::Sender;
use crate::to_wire::{best_first, labelled};
use crate::wire::encoding::TextScore;

/// `POST /embed`: a vector of each text.
pub async fn embed(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_embed(body.0, Sender::of(&request)?, &state.settings(), false)?;
    let Answered { answer: EncodeAnswer { output: EncodeOutput::Vectors(vectors), .. }, .. } =
        ask(&request, &state, call, "").await?
    else {
        return Err(unasked());
    };
    let vectors: Vec<Vec<f32>> = vectors.into_iter().map(|rows| rows.values).collect();
    Ok(HttpResponse::Ok().json(vectors))
}

/// `POST /embed_all`: a vector of each token of each text.
pub async fn embed_all(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_embed(body.0, Sender::of(&request)?, &state.settings(), true)?;
    let Answered { answer: EncodeAnswer { output: EncodeOutput::Vectors(texts), .. }, .. } =
        ask(&request, &state, call, "").await?
    else {
        return Err(unasked());
    };
    let texts: Vec<Vec<&[f32]>> = texts.iter().map(|rows| rows.iter().collect()).collect();
    Ok(HttpResponse::Ok().json(texts))
}

/// `POST /predict`: the labels of texts, likeliest first.
pub async fn predict(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let PredictCall { call, is_batch } = read_predict(body.0, Sender::of(&request)?, &state.settings())?;
    let Answered {
        answer: EncodeAnswer { output: EncodeOutput::Labels { names, scores, of_tokens }, .. },
        ..
    } = ask(&request, &state, call, "").await?
    else {
        return Err(unasked());
    };
    if of_tokens {
        return Err(labels_tokens());
    }
    let mut texts: Vec<_> = scores.iter().map(|rows| labelled(&names, rows)).collect();
    match texts.pop() {
        Some(one) if !is_batch => Ok(HttpResponse::Ok().json(one)),
        last => {
            texts.extend(last);
            Ok(HttpResponse::Ok().json(texts))
        }
    }
}

/// `POST /similarity`: how alike sentences are to one.
pub async fn similarity(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_similarity(body.0, Sender::of(&request)?, &state.settings())?;
    let Answered { answer: EncodeAnswer { output: EncodeOutput::Scores(scores), .. }, .. } =
        ask(&request, &state, call, "").await?
    else {
        return Err(unasked());
    };
    Ok(HttpResponse::Ok().json(scores))
}

/// `/rerank`: texts by how well they answer a question, the best first.
pub async fn rerank(
    request: &HttpRequest,
    state: &ApiState,
    body: Map<String, Value>,
) -> Result<HttpResponse, ApiError> {
    let TeiRerankCall { call, texts } = read_tei_rerank(body, Sender::of(request)?, &state.settings())?;
    let Answered { answer: EncodeAnswer { output: EncodeOutput::Scores(scores), .. }, .. } =
        ask(request, state, call, "").await?
    else {
        return Err(unasked());
    };
    let ranked = |index: usize| TextScore {
        index,
        score: scores[index],
        text: texts.as_ref().map(|texts| texts[index].clone()),
    };
    Ok(HttpResponse::Ok().json(best_first(&scores).into_iter().map(ranked).collect::<Vec<_>>()))
}
