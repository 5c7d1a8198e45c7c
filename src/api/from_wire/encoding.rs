//! Texts to encode: `/v1/embeddings`, `/pooling` and `/classify`.

use candlewick_protocol::{
    ChatPrompt, EncodeInput, EncodeInputs, EncodeRequest, EncodeWork, LabelActivation, RequestId,
    TruncationSide,
};
use serde_json::{Map, Value};

use super::chat::{read_template, read_template_kwargs, read_turn};
use super::fields::{Fields, token_ids_at, wrong_type};
use super::messages::read_messages;
use super::shape::{read_cache_salt, read_truncation};
use super::shared::{read_model, read_priority, read_request_id, read_timeout};
use crate::ApiSettings;
use crate::error::ApiError;
use crate::sender::Sender;

/// Most texts in one request: OpenAI's limit.
pub(super) const NUM_INPUTS_MAX: usize = 2048;

/// Texts to encode, read.
#[derive(Debug)]
pub struct EncodeCall {
    /// What the model side is asked.
    pub request: EncodeRequest,
    /// The model as the client named it.
    pub model: Option<String>,
    /// How numbers are written.
    pub format: NumberFormat,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NumberFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of their 32 bits each, the lowest byte first.
    Base64,
}

/// Reads a request for embeddings.
pub fn read_embeddings(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let mut fields = Fields::root(body);
    let inputs = read_inputs(&mut fields, settings)?;
    let format = read_format(&mut fields)?;
    let work = read_embed(&mut fields, inputs, false)?;
    finish(fields, work, format, sender, settings)
}

/// Reads a request to pool: what the model does, or what `task` says.
pub fn read_pooling(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let mut fields = Fields::root(body);
    let inputs = read_inputs(&mut fields, settings)?;
    let format = read_format(&mut fields)?;
    let task = fields.word("task", &["embed", "token_embed", "classify", "token_classify", "encode"])?;
    let work = match task {
        None => EncodeWork::Own { inputs, normalize: read_normalize(&mut fields)?, activation: None },
        Some("encode") => EncodeWork::Own { inputs, normalize: None, activation: None },
        Some("embed" | "token_embed") => read_embed(&mut fields, inputs, task == Some("token_embed"))?,
        Some(_) => EncodeWork::Classify { inputs, activation: read_activation(&mut fields)? },
    };
    finish(fields, work, format, sender, settings)
}

fn read_embed(fields: &mut Fields, inputs: EncodeInputs, of_tokens: bool) -> Result<EncodeWork, ApiError> {
    Ok(EncodeWork::Embed {
        inputs,
        of_tokens,
        dimensions: fields.count("dimensions", 1)?,
        normalize: read_normalize(fields)?,
        prompt_name: fields.string("prompt_name")?,
    })
}

/// Reads a request to classify.
pub fn read_classify(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let mut fields = Fields::root(body);
    let inputs = read_inputs(&mut fields, settings)?;
    let work = EncodeWork::Classify { inputs, activation: read_activation(&mut fields)? };
    finish(fields, work, NumberFormat::Float, sender, settings)
}

/// Reads what all requests to encode have in common, and puts them together.
pub(super) fn finish(
    mut fields: Fields,
    work: EncodeWork,
    format: NumberFormat,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let truncation = read_truncation(&mut fields, TruncationSide::Right)?;
    let mut call = finish_uncut(fields, work, format, sender, settings)?;
    call.request.truncation = truncation;
    Ok(call)
}

/// The same where the route has its own fields for what is too long.
pub(super) fn finish_uncut(
    mut fields: Fields,
    work: EncodeWork,
    format: NumberFormat,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<EncodeCall, ApiError> {
    let (model_name, model) = read_model(&mut fields)?.unzip();
    let timeout = read_timeout(&mut fields, sender.timeout)?;
    let request_id = read_request_id(&mut fields)?;
    // Texts take turns and nothing is cached, so that neither changes anything.
    read_priority(&mut fields)?;
    read_cache_salt(&mut fields)?;
    fields.string("user")?;
    fields.refuse("mm_processor_kwargs", "media are not supported yet", |_| false)?;
    fields.finish_request(settings.strict_fields)?;
    let request_id = request_id.as_deref().map_or(sender.request_id, RequestId::from);
    let request = EncodeRequest { request_id, model, work, truncation: None, timeout, share: sender.share };
    Ok(EncodeCall { request, model: model_name, format })
}

/// `input` in its four forms (text, texts, token ids, lists of token ids), or `messages`.
fn read_inputs(fields: &mut Fields, settings: &ApiSettings) -> Result<EncodeInputs, ApiError> {
    if fields.has("messages") {
        if fields.has("input") {
            return Err(ApiError::invalid("messages", "`messages` and `input` cannot be combined"));
        }
        let chat = read_conversation(fields, settings)?;
        let inputs = vec![EncodeInput::Chat(chat)];
        return Ok(EncodeInputs { inputs, param: "messages".to_owned(), is_list: false });
    }
    let add_special_tokens = fields.bool("add_special_tokens")?.unwrap_or(true);
    let input = fields.take("input");
    inputs_of("input", fields.require("input", input)?, add_special_tokens)
}

/// Texts or token ids at a path: one or a list.
pub(super) fn inputs_of(
    path: &str,
    value: Value,
    add_special_tokens: bool,
) -> Result<EncodeInputs, ApiError> {
    let inputs =
        |inputs: Vec<EncodeInput>, is_list| Ok(EncodeInputs { inputs, param: path.to_owned(), is_list });
    let items = match value {
        Value::String(text) => return inputs(vec![text_at(path, text, add_special_tokens)?], false),
        Value::Array(items) => items,
        other => {
            return Err(wrong_type(path, "text, a list of texts, token ids or a list of those", &other));
        }
    };
    match items.first() {
        None => return Err(ApiError::invalid(path, format!("`{path}` must not be an empty list"))),
        Some(Value::Number(_)) => {
            return inputs(vec![EncodeInput::Tokens(token_ids_at(path, &items)?)], false);
        }
        Some(_) => check_count(path, items.len())?,
    }
    let texts = items[0].is_string();
    let read = items.into_iter().enumerate().map(|(index, item)| {
        let path = format!("{path}.{index}");
        match item {
            Value::String(text) if texts => text_at(&path, text, add_special_tokens),
            Value::Array(ids) if !texts && ids.is_empty() => {
                Err(ApiError::invalid(path.as_str(), format!("`{path}` must hold at least one token id")))
            }
            Value::Array(ids) if !texts => Ok(EncodeInput::Tokens(token_ids_at(&path, &ids)?)),
            other if texts => Err(wrong_type(&path, "a string like the first", &other)),
            other => Err(wrong_type(&path, "a list of token ids", &other)),
        }
    });
    inputs(read.collect::<Result<_, _>>()?, true)
}

/// Whether so many texts may come in one request.
pub(super) fn check_count(path: &str, count: usize) -> Result<(), ApiError> {
    if count <= NUM_INPUTS_MAX {
        return Ok(());
    }
    Err(ApiError::invalid(path, format!("`{path}` holds at most {NUM_INPUTS_MAX} texts, not {count}")))
}

/// A text that says something.
pub(super) fn text_at(path: &str, text: String, add_special_tokens: bool) -> Result<EncodeInput, ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid(path, format!("`{path}` must not be an empty string")));
    }
    Ok(EncodeInput::Text { text, add_special_tokens })
}

fn read_conversation(fields: &mut Fields, settings: &ApiSettings) -> Result<ChatPrompt, ApiError> {
    let messages = read_messages(fields)?;
    // Nobody is to go on: vectors are of what was said.
    if !fields.has("add_generation_prompt") {
        fields.put("add_generation_prompt", Value::Bool(false));
    }
    let (add_generation_prompt, continue_final_message) = read_turn(fields)?;
    Ok(ChatPrompt {
        messages,
        template_kwargs: read_template_kwargs(fields)?,
        add_generation_prompt,
        continue_final_message,
        add_special_tokens: fields.flag("add_special_tokens")?,
        chat_template: read_template(fields, settings)?,
        ..ChatPrompt::default()
    })
}

fn read_format(fields: &mut Fields) -> Result<NumberFormat, ApiError> {
    // vLLM's other forms of the same numbers.
    fields.refuse("embed_dtype", "numbers are float32", |value| value == "float32")?;
    fields
        .refuse("endianness", "the lowest byte is first", |value| value == "native" || value == "little")?;
    Ok(match fields.word("encoding_format", &["float", "base64"])? {
        Some("base64") => NumberFormat::Base64,
        _ => NumberFormat::Float,
    })
}

/// Whether vectors come at unit length, by its two names.
fn read_normalize(fields: &mut Fields) -> Result<Option<bool>, ApiError> {
    let normalize = fields.bool("normalize")?;
    Ok(normalize.or(fields.bool("use_activation")?))
}

/// Whether scores become likelihoods, by its names: false tells them as they are.
pub(super) fn read_activation(fields: &mut Fields) -> Result<Option<LabelActivation>, ApiError> {
    let mut is_on = fields.bool("use_activation")?;
    for name in ["activation", "softmax"] {
        is_on = is_on.or(fields.bool(name)?);
    }
    Ok((is_on == Some(false)).then_some(LabelActivation::Identity))
}
