//! `/tokenize`, `/detokenize` and `/decode`: vLLM's bodies, and TEI's, which are told apart by their keys.

use candlewick_protocol::{ChatPrompt, Prompt, TextRequest, TextTask, ToolChoice};
use serde_json::{Map, Value};

use super::chat::{read_template_kwargs, read_turn};
use super::fields::{Fields, token_ids_at, wrong_type};
use super::messages::read_messages;
use super::shared::read_model;
use super::tools::{Tools, read_tools};
use crate::error::ApiError;

/// A question, read, and how it is answered.
#[derive(Debug)]
pub struct TextCall {
    /// What the model side is asked.
    pub request: TextRequest,
    /// Tell also how the vocabulary spells each token.
    pub return_token_strs: bool,
}

/// Reads the body of `/tokenize`.
pub fn read_tokenize(body: Map<String, Value>) -> Result<TextCall, ApiError> {
    let mut fields = Fields::root(body);
    let model = read_model(&mut fields)?.map(|(_, model)| model);
    let call = |task, return_token_strs| TextCall { request: TextRequest { model, task }, return_token_strs };
    if let Some(inputs) = fields.take("inputs") {
        let texts = read_texts("inputs", inputs)?;
        let add_special_tokens = fields.bool("add_special_tokens")?.unwrap_or(true);
        fields.refuse("prompt_name", "send the whole text in `inputs`", |_| false)?;
        fields.finish();
        return Ok(call(TextTask::Locate { texts, add_special_tokens }, false));
    }
    let return_token_strs = fields.flag("return_token_strs")?;
    if fields.has("messages") {
        let chat = read_conversation(&mut fields)?;
        let add_special_tokens = fields.flag("add_special_tokens")?;
        fields.finish();
        let task = TextTask::Encode { prompt: Prompt::Chat(chat), add_special_tokens };
        return Ok(call(task, return_token_strs));
    }
    let mut text = None;
    for name in ["prompt", "text", "input"] {
        text = text.or(fields.string(name)?);
    }
    let Some(text) = text else {
        let message = "send `prompt` (a text), `messages` (a conversation) or `inputs` (one text or several)";
        return Err(ApiError { message: message.to_owned(), ..ApiError::missing("prompt") });
    };
    let add_special_tokens = fields.bool("add_special_tokens")?.unwrap_or(true);
    fields.finish();
    let task = TextTask::Encode { prompt: Prompt::Text { text, add_special_tokens }, add_special_tokens };
    Ok(call(task, return_token_strs))
}

fn read_conversation(fields: &mut Fields) -> Result<ChatPrompt, ApiError> {
    let messages = read_messages(fields)?;
    let Tools { tools, .. } = read_tools(fields)?;
    let (add_generation_prompt, continue_final_message) = read_turn(fields)?;
    let template_kwargs = read_template_kwargs(fields)?;
    fields.refuse("chat_template", "templates come from the model or the server's settings", |_| false)?;
    fields.refuse("mm_processor_kwargs", "media are not supported yet", |_| false)?;
    Ok(ChatPrompt {
        messages,
        tools,
        tool_choice: ToolChoice::Auto,
        parallel_tool_calls: true,
        template_kwargs,
        add_generation_prompt,
        continue_final_message,
        ..ChatPrompt::default()
    })
}

/// Reads the body of `/detokenize`.
pub fn read_detokenize(body: Map<String, Value>) -> Result<TextCall, ApiError> {
    let mut fields = Fields::root(body);
    let model = read_model(&mut fields)?.map(|(_, model)| model);
    let tokens = fields.token_ids("tokens")?;
    let lists = vec![fields.require("tokens", tokens)?];
    fields.finish();
    let task = TextTask::Decode { lists, skip_special_tokens: false, param: "tokens".to_owned() };
    Ok(TextCall { request: TextRequest { model, task }, return_token_strs: false })
}

/// Reads the body of `/decode`: one list of ids, or several.
pub fn read_decode(body: Map<String, Value>) -> Result<TextCall, ApiError> {
    let mut fields = Fields::root(body);
    let model = read_model(&mut fields)?.map(|(_, model)| model);
    let ids = fields.list("ids")?;
    let ids = fields.require("ids", ids)?;
    let lists = if ids.iter().any(Value::is_array) {
        let list = |(index, list): (usize, &Value)| {
            let path = format!("ids.{index}");
            let ids = list.as_array().ok_or_else(|| wrong_type(&path, "a list of token ids", list))?;
            token_ids_at(&path, ids)
        };
        ids.iter().enumerate().map(list).collect::<Result<_, _>>()?
    } else {
        vec![token_ids_at("ids", &ids)?]
    };
    let skip_special_tokens = fields.bool("skip_special_tokens")?.unwrap_or(true);
    fields.finish();
    let task = TextTask::Decode { lists, skip_special_tokens, param: "ids".to_owned() };
    Ok(TextCall { request: TextRequest { model, task }, return_token_strs: false })
}

fn read_texts(path: &str, value: Value) -> Result<Vec<String>, ApiError> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(items) => {
            let texts = items.into_iter().enumerate().map(|(index, item)| match item {
                Value::String(text) => Ok(text),
                other => Err(wrong_type(&format!("{path}.{index}"), "a string", &other)),
            });
            texts.collect()
        }
        other => Err(wrong_type(path, "a string or a list of strings", &other)),
    }
}
