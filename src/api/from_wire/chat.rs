//! `/v1/chat/completions`: the request as a whole.

use candlewick_protocol::{
    ChatPrompt, Constraint, Content, ContentPart, GenerationRequest, Message, Prompt, RequestId, ToolChoice,
    TruncationSide, merge_sampling,
};
use serde_json::{Map, Value};

use super::fields::{Fields, wrong_type};
use super::format::read_constraint;
use super::messages::read_messages;
use super::sampling::{check_token_limits, read_generation_config, read_sampling};
use super::shape::{read_cache_salt, read_choices, read_num_top, read_output, read_truncation};
use super::shared::{
    ReplyOptions, read_harmless, read_model, read_priority, read_request_id, read_stream, read_timeout,
    refuse_unsupported,
};
use super::tools::{Tools, read_tools};
use crate::ApiSettings;
use crate::error::ApiError;
use crate::sender::Sender;

/// A chat request, read.
#[derive(Debug)]
pub struct ChatCall {
    /// What the model side is asked.
    pub generation: GenerationRequest,
    /// How its answer is written.
    pub reply: ReplyOptions,
}

/// Reads a chat request.
pub fn read_chat(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<ChatCall, ApiError> {
    let mut fields = Fields::root(body);
    let (model_name, model) = read_model(&mut fields)?.unzip();
    let messages = read_messages(&mut fields)?;
    let Tools { tools, choice: tool_choice, are_functions } = read_tools(&mut fields)?;
    let (add_generation_prompt, continue_final_message) = read_turn(&mut fields)?;
    let stream = read_stream(&mut fields)?;

    let mut sampling = read_sampling(&mut fields)?;
    let old_limit = fields.count("max_tokens", 1)?;
    sampling.max_tokens = fields.count("max_completion_tokens", 1)?.or(old_limit);
    if let Some(config) = read_generation_config(&mut fields)? {
        sampling = merge_sampling(sampling, &config);
    }
    check_token_limits(&sampling)?;

    let echo = fields.flag("echo")?;
    let choices = read_choices(&mut fields, stream.is_some())?;
    let logprobs = read_logprobs(&mut fields, settings.max_logprobs)?;
    let output = read_output(&mut fields, logprobs, false, stream.is_some(), settings)?;
    let echo_text = if echo { echoed(&messages) } else { None };
    let reply = ReplyOptions {
        stream,
        model: model_name,
        tokens_as_token_ids: fields.flag("return_tokens_as_token_ids")?,
        hide_reasoning: !fields.bool("include_reasoning")?.unwrap_or(true),
        echo_service_tier: read_harmless(&mut fields)?,
        echo_text,
        reasoning_fields: settings.reasoning_fields,
        calls_are_function_calls: are_functions,
        request_id: read_request_id(&mut fields)?,
        ..ReplyOptions::default()
    }
    .reporting(&output);
    let prompt = ChatPrompt {
        messages,
        tools,
        tool_choice,
        parallel_tool_calls: fields.bool("parallel_tool_calls")?.unwrap_or(true) && !are_functions,
        template_kwargs: read_template_kwargs(&mut fields)?,
        documents: read_documents(&mut fields)?,
        add_generation_prompt,
        continue_final_message,
        drop_oldest_to_fit: false,
        add_special_tokens: fields.flag("add_special_tokens")?,
        chat_template: read_template(&mut fields, settings)?,
    };
    let constraint = read_constraint(&mut fields)?;
    check_forms(constraint.as_ref(), &prompt.tool_choice)?;
    let (truncation, cache_salt) =
        (read_truncation(&mut fields, TruncationSide::Left)?, read_cache_salt(&mut fields)?);
    let priority = read_priority(&mut fields)?;
    let timeout = read_timeout(&mut fields, sender.timeout)?;
    refuse_chat_only(&mut fields)?;
    refuse_unsupported(&mut fields)?;
    fields.finish_request(settings.strict_fields)?;

    let generation = GenerationRequest {
        request_id: reply.request_id.as_deref().map_or(sender.request_id, RequestId::from),
        model,
        prompt: Prompt::Chat(prompt),
        sampling,
        constraint,
        num_choices: choices.num,
        search: choices.search,
        output,
        priority,
        truncation,
        cache_salt,
        timeout,
        share: sender.share,
    };
    Ok(ChatCall { generation, reply })
}

/// A form for the answer leaves no room for a call that must come.
pub fn check_forms(constraint: Option<&Constraint>, choice: &ToolChoice) -> Result<(), ApiError> {
    match (constraint, choice) {
        (Some(constraint), choice) if choice.is_forced() => Err(ApiError::invalid(
            constraint.param.as_str(),
            "an answer cannot be held to a form where `tool_choice` demands a call; choose `auto` or `none`",
        )),
        _ => Ok(()),
    }
}

/// Whether the template opens the assistant's turn, and whether the last message goes on.
pub fn read_turn(fields: &mut Fields) -> Result<(bool, bool), ApiError> {
    let add_generation_prompt = fields.bool("add_generation_prompt")?;
    let continue_final_message = fields.flag("continue_final_message")?;
    if continue_final_message && add_generation_prompt == Some(true) {
        return Err(ApiError::invalid(
            "continue_final_message",
            "`continue_final_message` and `add_generation_prompt` cannot both be true",
        ));
    }
    Ok((add_generation_prompt.unwrap_or(!continue_final_message), continue_final_message))
}

fn read_logprobs(fields: &mut Fields, max: u32) -> Result<Option<u32>, ApiError> {
    let wanted = fields.flag("logprobs")?;
    let top = read_num_top(fields, "top_logprobs", max)?;
    match (wanted, top) {
        (false, Some(top)) if top > 0 => Err(ApiError::invalid(
            "top_logprobs",
            "`top_logprobs` is only allowed together with `logprobs: true`",
        )),
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

/// A template of the request's own, where the server trusts its clients with that.
pub fn read_template(fields: &mut Fields, settings: &ApiSettings) -> Result<Option<String>, ApiError> {
    let template = fields.string("chat_template")?;
    if template.is_some() && !settings.trust_request_chat_template {
        return Err(ApiError::unsupported(
            fields.path("chat_template"),
            "`chat_template` is not taken from requests: the server was not started with --trust-request-chat-template",
        ));
    }
    Ok(template)
}

/// Variables for the template: `reasoning_effort` first, then what the client names itself, which wins.
pub(super) fn read_template_kwargs(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    // OpenAI's own guide for gpt-oss writes `hard` where everybody else has `high`.
    const EFFORTS: [&str; 8] = ["none", "minimal", "low", "medium", "high", "hard", "xhigh", "max"];
    let mut kwargs = Map::new();
    if let Some(effort) = fields.word("reasoning_effort", &EFFORTS)? {
        let effort = if effort == "hard" { "high" } else { effort };
        kwargs.insert("reasoning_effort".to_owned(), Value::from(effort));
        if effort == "none" {
            kwargs.insert("enable_thinking".to_owned(), Value::Bool(false));
        }
    }
    kwargs.extend(fields.map("chat_template_kwargs")?.unwrap_or_default());
    Ok(kwargs)
}

fn read_documents(fields: &mut Fields) -> Result<Option<Vec<Value>>, ApiError> {
    let path = fields.path("documents");
    let documents = fields.list("documents")?;
    for (index, document) in documents.iter().flatten().enumerate() {
        if !document.is_object() {
            return Err(wrong_type(&format!("{path}.{index}"), "an object", document));
        }
    }
    Ok(documents)
}

/// The text of the last message, if the assistant said it.
fn echoed(messages: &[Message]) -> Option<String> {
    let last = messages.last().filter(|message| message.role == "assistant")?;
    match last.content.as_ref()? {
        Content::Text(text) => Some(text.clone()),
        Content::Parts(parts) => Some(parts.iter().map(|ContentPart::Text { text }| text.as_str()).collect()),
    }
}

fn refuse_chat_only(fields: &mut Fields) -> Result<(), ApiError> {
    let never = |_: &Value| false;
    fields.refuse("modalities", "answers are text", |value| value == &Value::from(vec!["text"]))?;
    fields.refuse("audio", "answers are text", never)?;
    fields.refuse("prediction", "there is no predicted output", never)?;
    fields.refuse("web_search_options", "there is no web search; give the model a tool", never)?;
    fields.refuse("verbosity", "say in the prompt how long answers should be", |value| value == "medium")?;
    fields.refuse("mm_processor_kwargs", "media are not supported yet", never)?;
    fields.refuse("media_io_kwargs", "media are not supported yet", never)?;
    fields.refuse("tool_prompt", "the model's chat template presents the tools", never)
}
