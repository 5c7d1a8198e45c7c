//! The routes of text-embeddings-inference: `/embed`, `/embed_all`, `/predict`, `/similarity`, and its `/rerank`.

use candlewick_protocol::{
    EncodeInput, EncodeInputs, EncodeWork, LabelActivation, PromptTruncation, TruncationSide,
};
use serde_json::{Map, Value};

use super::compare::{as_inputs, texts_of};
use super::encoding::{EncodeCall, NumberFormat, check_count, finish_uncut, inputs_of, text_at};
use super::fields::{Fields, wrong_type};
use crate::ApiSettings;
use crate::error::ApiError;
use crate::sender::Sender;

/// Reads a request for vectors, of texts or of their tokens.
pub fn read_embed(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
    of_tokens: bool,
) -> Result<EncodeCall, ApiError> {
    let mut fields = Fields::root(body);
    let inputs = fields.take("inputs");
    let inputs = inputs_of("inputs", fields.require("inputs", inputs)?, true)?;
    // Its tokens come as they are; its texts at unit length unless the request says otherwise.
    let normalize = if of_tokens { None } else { Some(fields.bool("normalize")?.unwrap_or(true)) };
    let work = EncodeWork::Embed {
        inputs,
        of_tokens,
        dimensions: fields.count("dimensions", 1)?,
        normalize,
        prompt_name: fields.string("prompt_name")?,
    };
    finish(fields, work, sender, settings)
}

/// A request for labels, read.
#[derive(Debug)]
pub struct PredictCall {
    /// What the model side is asked.
    pub call: EncodeCall,
    /// Answer with a list for each text.
    pub is_batch: bool,
}

/// Reads a request for labels: a text, two that belong together, or a list of either.
pub fn read_predict(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<PredictCall, ApiError> {
    let mut fields = Fields::root(body);
    let inputs = fields.take("inputs");
    let inputs = fields.require("inputs", inputs)?;
    let (inputs, is_batch) = match inputs {
        Value::Array(items) if items.iter().any(Value::is_array) => {
            check_count("inputs", items.len())?;
            let items = items.into_iter().enumerate();
            let read = items.map(|(index, item)| text_or_pair(&format!("inputs.{index}"), item));
            (read.collect::<Result<Vec<_>, _>>()?, true)
        }
        one => (vec![text_or_pair("inputs", one)?], false),
    };
    let inputs = EncodeInputs { inputs, param: "inputs".to_owned(), is_list: is_batch };
    let work = EncodeWork::Classify { inputs, activation: read_raw_scores(&mut fields)? };
    Ok(PredictCall { call: finish(fields, work, sender, settings)?, is_batch })
}

fn text_or_pair(path: &str, value: Value) -> Result<EncodeInput, ApiError> {
    let allowed = "a text, or a list of one text or of two that belong together";
    match value {
        Value::String(text) => text_at(path, text, true),
        Value::Array(items) => {
            let mut texts = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let text = item.as_str();
                texts.push(text.ok_or_else(|| wrong_type(&format!("{path}.{index}"), "a string", item))?);
            }
            match texts[..] {
                [text] => text_at(path, text.to_owned(), true),
                [first, second] => Ok(EncodeInput::Pair(first.to_owned(), second.to_owned())),
                _ => Err(wrong_type(path, allowed, &Value::Array(items))),
            }
        }
        other => Err(wrong_type(path, allowed, &other)),
    }
}

/// Whether a body of `/rerank` is one of text-embeddings-inference.
pub fn is_tei_rerank(body: &Map<String, Value>) -> bool {
    let has = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    has("texts") && !has("documents")
}

/// A request to rank, read.
#[derive(Debug)]
pub struct TeiRerankCall {
    /// What the model side is asked.
    pub call: EncodeCall,
    /// The texts, where they are to be told again.
    pub texts: Option<Vec<String>>,
}

/// Reads a request to rank.
pub fn read_tei_rerank(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<TeiRerankCall, ApiError> {
    let mut fields = Fields::root(body);
    let query = fields.string("query")?;
    let query = fields.require("query", query)?;
    let texts = fields.list("texts")?;
    let texts = texts_of("texts", fields.require("texts", texts)?)?;
    let return_text = fields.flag("return_text")?;
    let work = EncodeWork::Compare {
        firsts: as_inputs("query", vec![query], false)?,
        seconds: as_inputs("texts", texts.clone(), true)?,
        activation: read_raw_scores(&mut fields)?,
        max_second_tokens: None,
    };
    let call = finish(fields, work, sender, settings)?;
    Ok(TeiRerankCall { call, texts: return_text.then_some(texts) })
}

/// Reads a request for how alike sentences are to one.
pub fn read_similarity(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let mut fields = Fields::root(body);
    let inputs = fields.object("inputs")?;
    let mut inputs = fields.require("inputs", inputs)?;
    let source = inputs.string("source_sentence")?;
    let source = inputs.require("source_sentence", source)?;
    let sentences = inputs.list("sentences")?;
    let sentences = texts_of("inputs.sentences", inputs.require("sentences", sentences)?)?;
    inputs.finish();
    if let Some(mut parameters) = fields.object("parameters")? {
        for name in ["truncate", "truncation_direction"] {
            if let Some(value) = parameters.take(name) {
                fields.put(name, value);
            }
        }
        parameters.refuse("prompt_name", "put it before the sentences", |_| false)?;
        parameters.finish();
    }
    let work = EncodeWork::Compare {
        firsts: as_inputs("inputs.source_sentence", vec![source], false)?,
        seconds: as_inputs("inputs.sentences", sentences, true)?,
        activation: None,
        max_second_tokens: None,
    };
    finish(fields, work, sender, settings)
}

fn read_raw_scores(fields: &mut Fields) -> Result<Option<LabelActivation>, ApiError> {
    Ok(fields.flag("raw_scores")?.then_some(LabelActivation::Identity))
}

fn finish(
    mut fields: Fields,
    work: EncodeWork,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let side = match fields.word("truncation_direction", &["Right", "Left", "right", "left"])? {
        Some("Left" | "left") => TruncationSide::Left,
        _ => TruncationSide::Right,
    };
    let is_cut = fields.flag("truncate")?;
    let mut call = finish_uncut(fields, work, NumberFormat::Float, sender, settings)?;
    call.request.truncation = is_cut.then_some(PromptTruncation { num_tokens: None, side });
    Ok(call)
}
