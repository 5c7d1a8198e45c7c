//! `POST /tokenize`, `/detokenize` and `/decode`: text and tokens of a model, with nothing generated. A model that is not
//! in memory is loaded, as by every route that needs one.

use actix_web::{HttpRequest, HttpResponse, web};
use candlewick_protocol::{LocatedToken, TextAnswer, TextOutput};

use crate::body::JsonBody;
use crate::error::ApiError;
use crate::from_wire::{TextCall, read_decode, read_detokenize, read_tokenize};
use crate::wire::text::{Detokenized, Token, Tokenized};
use crate::{ApiState, disconnect};

/// The tokens of a text or of a conversation, or those of several texts and where they stand.
pub async fn tokenize(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let call = read_tokenize(body.0)?;
    let return_token_strs = call.return_token_strs;
    let TextAnswer { max_model_len, output } = ask(&request, &state, call).await?;
    match output {
        TextOutput::Encoded(tokens) => {
            let (tokens, spellings): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
            let token_strs = return_token_strs.then_some(spellings);
            Ok(HttpResponse::Ok().json(Tokenized { count: tokens.len(), max_model_len, tokens, token_strs }))
        }
        TextOutput::Located(texts) => {
            let texts: Vec<Vec<Token>> =
                texts.into_iter().map(|tokens| tokens.into_iter().map(token).collect()).collect();
            Ok(HttpResponse::Ok().json(texts))
        }
        TextOutput::Decoded(_) => Err(unasked()),
    }
}

fn token(token: LocatedToken) -> Token {
    let LocatedToken { id, text, special, span } = token;
    let (start, stop) = span.unzip();
    Token { id, text, special, start, stop }
}

/// The text of tokens, special ones included.
pub async fn detokenize(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    match ask(&request, &state, read_detokenize(body.0)?).await?.output {
        TextOutput::Decoded(mut texts) => {
            Ok(HttpResponse::Ok().json(Detokenized { prompt: texts.pop().unwrap_or_default() }))
        }
        TextOutput::Encoded(_) | TextOutput::Located(_) => Err(unasked()),
    }
}

/// The texts of lists of tokens.
pub async fn decode(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    match ask(&request, &state, read_decode(body.0)?).await?.output {
        TextOutput::Decoded(texts) => Ok(HttpResponse::Ok().json(texts)),
        TextOutput::Encoded(_) | TextOutput::Located(_) => Err(unasked()),
    }
}

async fn ask(request: &HttpRequest, state: &ApiState, call: TextCall) -> Result<TextAnswer, ApiError> {
    state.pinned_unless_named(call.request.model.as_ref())?;
    let gone = disconnect::token(request);
    let answer = gone.run_until_cancelled(state.backend().text(call.request)).await;
    Ok(answer.ok_or_else(disconnect::client_closed)??)
}

fn unasked() -> ApiError {
    ApiError::internal("the tokenizer answered another question than was asked")
}
