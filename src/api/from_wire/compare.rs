//! Pairs of texts: `/score`, and `/rerank` as vLLM, Jina and Cohere have it.

use candlewick_protocol::{EncodeInput, EncodeInputs, EncodeWork, PromptTruncation, TruncationSide};
use serde_json::{Map, Value};

use super::encoding::{
    EncodeCall, NumberFormat, check_count, finish, finish_uncut, read_activation, text_at,
};
use super::fields::{Fields, wrong_type};
use super::shape::read_truncation;
use crate::ApiSettings;
use crate::error::ApiError;
use crate::sender::Sender;

/// The names of the two sides of `/score`.
const SIDES: [[&str; 2]; 4] =
    [["text_1", "text_2"], ["queries", "documents"], ["queries", "items"], ["data_1", "data_2"]];

/// Reads a request for scores.
pub fn read_score(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let mut fields = Fields::root(body);
    let [first, second] =
        SIDES.into_iter().find(|[first, second]| fields.has(first) && fields.has(second)).unwrap_or(SIDES[0]);
    let firsts = read_side(&mut fields, first)?;
    let seconds = read_side(&mut fields, second)?;
    let work = EncodeWork::Compare {
        firsts,
        seconds,
        activation: read_activation(&mut fields)?,
        max_second_tokens: read_max_doc_tokens(&mut fields)?,
    };
    fields.word("encoding_format", &["float"])?;
    finish(fields, work, NumberFormat::Float, sender, settings)
}

/// A request to rank, read.
#[derive(Debug)]
pub struct RerankCall {
    /// What the model side is asked.
    pub call: EncodeCall,
    /// How many of the best are told.
    pub top_n: usize,
    /// The documents, where they are to be told again.
    pub documents: Option<Vec<String>>,
}

/// Reads a request to rank. `returns_documents` is what holds where the request does not say.
pub fn read_rerank(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
    returns_documents: bool,
) -> Result<RerankCall, ApiError> {
    let mut fields = Fields::root(body);
    let query = fields.string("query")?;
    let query = fields.require("query", query)?;
    let firsts = EncodeInputs {
        inputs: vec![text_at("query", query, true)?],
        param: "query".to_owned(),
        is_list: false,
    };
    let documents = fields.list("documents")?;
    let documents = texts_of("documents", fields.require("documents", documents)?)?;
    let top_n = fields.integer("top_n", 0..=i64::MAX)?.unwrap_or(0);
    let top_n = usize::try_from(top_n).ok().filter(|&top_n| top_n > 0).unwrap_or(documents.len());
    let is_told = fields.bool("return_documents")?.unwrap_or(returns_documents);
    fields.refuse("rank_fields", "documents are ranked by their `text`", |value| {
        value == &Value::from(vec!["text"])
    })?;
    let seconds = as_inputs("documents", documents.clone(), true)?;
    let work = EncodeWork::Compare {
        firsts,
        seconds,
        activation: read_activation(&mut fields)?,
        max_second_tokens: read_max_doc_tokens(&mut fields)?,
    };
    // Those who rank are used to long documents being cut, unless they say how.
    let truncation = read_truncation(&mut fields, TruncationSide::Right)?
        .unwrap_or(PromptTruncation { num_tokens: None, side: TruncationSide::Right });
    let mut call = finish_uncut(fields, work, NumberFormat::Float, sender, settings)?;
    call.request.truncation = Some(truncation);
    Ok(RerankCall { call, top_n, documents: is_told.then_some(documents) })
}

fn read_max_doc_tokens(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    fields
        .refuse("max_tokens_per_query", "have both cut with `truncate_prompt_tokens`", |value| value == 0)?;
    Ok(fields.count("max_tokens_per_doc", 0)?.filter(|&num_tokens| num_tokens > 0))
}

/// One text or several.
fn read_side(fields: &mut Fields, name: &str) -> Result<EncodeInputs, ApiError> {
    let value = fields.take(name);
    match fields.require(name, value)? {
        Value::Array(items) => as_inputs(name, texts_of(name, items)?, true),
        one => as_inputs(name, vec![text_of(name, one)?], false),
    }
}

pub(super) fn texts_of(path: &str, items: Vec<Value>) -> Result<Vec<String>, ApiError> {
    if items.is_empty() {
        return Err(ApiError::invalid(path, format!("`{path}` must not be an empty list")));
    }
    check_count(path, items.len())?;
    items.into_iter().enumerate().map(|(index, item)| text_of(&format!("{path}.{index}"), item)).collect()
}

/// A text, or an object that holds one as its `text`.
fn text_of(path: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Object(map) if map.get("text").is_some_and(Value::is_string) => {
            let mut fields = Fields::at(path, Value::Object(map))?;
            let text = fields.string("text")?.unwrap_or_default();
            fields.finish();
            Ok(text)
        }
        Value::Object(map) if map.contains_key("content") => {
            let path = format!("{path}.content");
            Err(ApiError::unsupported(path.as_str(), format!("`{path}` is not supported: send text")))
        }
        other => Err(wrong_type(path, "a string, or an object with a `text`", &other)),
    }
}

pub(super) fn as_inputs(path: &str, texts: Vec<String>, is_list: bool) -> Result<EncodeInputs, ApiError> {
    let inputs = EncodeInputs { inputs: Vec::new(), param: path.to_owned(), is_list };
    let read = texts.into_iter().enumerate().map(|(index, text)| text_at(&inputs.path(index), text, true));
    let read = read.collect::<Result<Vec<EncodeInput>, _>>()?;
    Ok(EncodeInputs { inputs: read, ..inputs })
}
