//! Bodies of requests, read as their routes would read them and not answered: for tests and fuzzing.

use candlewick_protocol::RequestId;

use crate::ApiSettings;
use crate::body::parse;
use crate::error::ApiError;
use crate::from_wire::{
    read_chat, read_classify, read_completions, read_decode, read_detokenize, read_embed, read_embeddings,
    read_pooling, read_predict, read_rerank, read_score, read_similarity, read_tokenize,
};
use crate::sender::Sender;

/// Whether a body would be accepted by the JSON route at a path; the text says what is wrong with it. A path that no such
/// route has accepts any JSON object.
///
/// # Errors
/// What the client would be told.
pub fn check_body(path: &str, body: &[u8]) -> Result<(), String> {
    let read = || -> Result<(), ApiError> {
        let body = parse(body)?;
        let (sender, settings) = (Sender::unknown(RequestId::from("check")), ApiSettings::default());
        match path {
            "/v1/chat/completions" => drop(read_chat(body, sender, &settings)?),
            "/v1/completions" => drop(read_completions(body, sender, &settings)?),
            "/v1/embeddings" => drop(read_embeddings(body, sender, &settings)?),
            "/pooling" => drop(read_pooling(body, sender, &settings)?),
            "/classify" => drop(read_classify(body, sender, &settings)?),
            "/score" | "/v1/score" => drop(read_score(body, sender, &settings)?),
            "/rerank" | "/v1/rerank" => drop(read_rerank(body, sender, &settings, true)?),
            "/embed" => drop(read_embed(body, sender, &settings, false)?),
            "/predict" => drop(read_predict(body, sender, &settings)?),
            "/similarity" => drop(read_similarity(body, sender, &settings)?),
            "/v2/rerank" => drop(read_rerank(body, sender, &settings, false)?),
            "/tokenize" | "/v1/tokenize" => drop(read_tokenize(body)?),
            "/detokenize" | "/v1/detokenize" => drop(read_detokenize(body)?),
            "/decode" => drop(read_decode(body)?),
            _ => {}
        }
        Ok(())
    };
    read().map_err(|error| error.message)
}
