//! `/v1/responses`: the request as a whole.

use candlewick_protocol::{
    ChatPrompt, Constraint, GenerationRequest, Prompt, RequestId, Search, TruncationSide, merge_sampling,
    quoted,
};
use serde_json::{Map, Value, json};

use super::chat::{check_forms, read_template, read_template_kwargs};
use super::fields::Fields;
use super::format::{read_constraint, read_format};
use super::items::read_input;
use super::sampling::{check_token_limits, read_generation_config, read_sampling};
use super::shape::{read_cache_salt, read_num_top, read_output, read_truncation};
use super::shared::{
    read_harmless, read_model, read_priority, read_request_id, read_stream, read_timeout, refuse_unsupported,
};
use super::tools::{Tools, read_tools};
use crate::ApiSettings;
use crate::error::ApiError;
use crate::sender::Sender;
use crate::to_wire::ResponseHead;
use crate::wire::responses::{Echo, EchoReasoning, EchoText};

/// What may be asked for beside the answer. All but the log-probabilities is about tools that are not here.
const INCLUDE: [&str; 9] = [
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "file_search_call.action.results",
];

/// A request for a response, read. Its messages are not made yet: what it refers to must be found first.
#[derive(Debug)]
pub struct ResponsesCall {
    /// What the model side is asked, but for the messages.
    pub generation: GenerationRequest,
    /// What was new in the input, item by item.
    pub input: Vec<Value>,
    /// System text of this turn.
    pub instructions: Option<String>,
    /// The response that it goes on from.
    pub previous: Option<String>,
    /// In events.
    pub stream: bool,
    /// Without its client.
    pub background: bool,
    /// Whether to keep it, if the client said so.
    pub store: Option<bool>,
    /// How to write the answer.
    pub head: ResponseHead,
}

/// Reads a request for a response.
pub fn read_responses(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<ResponsesCall, ApiError> {
    let mut fields = Fields::root(body);
    let echo = EchoedAsSent::peek(&fields);
    let (model_name, model) = read_model(&mut fields)?.unzip();
    let input = read_input(&mut fields)?;
    let instructions = fields.string("instructions")?;
    let previous = fields.string("previous_response_id")?;
    let store = fields.bool("store")?;
    let background = fields.flag("background")?;
    let stream = read_stream(&mut fields)?.is_some();
    let logprobs = read_logprobs(&mut fields, settings.max_logprobs)?;
    let Tools { tools, choice: tool_choice, .. } = read_response_tools(&mut fields)?;
    let parallel_tool_calls = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    let max_tool_calls = fields.count("max_tool_calls", 1)?;
    let reasoning = read_reasoning(&mut fields)?;
    let (text, format) = read_text(&mut fields)?;
    let truncation = fields.word("truncation", &["auto", "disabled"])?.unwrap_or("disabled");

    refuse_token_limits(&mut fields)?;
    let mut sampling = read_sampling(&mut fields)?;
    let max_output_tokens = fields.count("max_output_tokens", 1)?;
    sampling.max_tokens = max_output_tokens;
    if let Some(config) = read_generation_config(&mut fields)? {
        sampling = merge_sampling(sampling, &config);
    }
    check_token_limits(&sampling)?;

    read_harmless(&mut fields)?;
    let hide_reasoning = !fields.bool("include_reasoning")?.unwrap_or(true);
    let tokens_as_token_ids = fields.flag("return_tokens_as_token_ids")?;
    let request_id = read_request_id(&mut fields)?.as_deref().map_or(sender.request_id, RequestId::from);
    let prompt = ChatPrompt {
        tools,
        tool_choice,
        parallel_tool_calls,
        template_kwargs: read_template_kwargs(&mut fields)?,
        add_generation_prompt: true,
        drop_oldest_to_fit: truncation == "auto",
        chat_template: read_template(&mut fields, settings)?,
        ..ChatPrompt::default()
    };
    let priority = read_priority(&mut fields)?;
    let timeout = read_timeout(&mut fields, sender.timeout)?;
    let cache_salt = read_cache_salt(&mut fields)?;
    let cut = read_truncation(&mut fields, TruncationSide::Left)?;
    refuse_responses_only(&mut fields)?;
    let constraint = match (format, read_constraint(&mut fields)?) {
        (Some(format), Some(other)) => {
            let (first, second) = (&format.param, &other.param);
            let message =
                format!("`{first}` and `{second}` both hold the answer to a form; send one of them");
            return Err(ApiError::invalid(second.as_str(), message));
        }
        (format, other) => format.or(other),
    };
    check_forms(constraint.as_ref(), &prompt.tool_choice)?;
    refuse_unsupported(&mut fields)?;
    let output = read_output(&mut fields, logprobs, false, stream, settings)?;
    fields.finish_request(settings.strict_fields)?;

    let echo = Echo {
        background,
        instructions: instructions.clone(),
        max_output_tokens,
        max_tool_calls,
        model: model_name.unwrap_or_default(),
        parallel_tool_calls,
        previous_response_id: previous.clone(),
        reasoning,
        service_tier: "default".into(),
        text,
        top_logprobs: logprobs.unwrap_or(0),
        truncation: truncation.into(),
        ..echo.into_echo()
    };
    let head = ResponseHead { echo, logprobs: logprobs.is_some(), tokens_as_token_ids, hide_reasoning };
    let generation = GenerationRequest {
        request_id,
        model,
        prompt: Prompt::Chat(prompt),
        sampling,
        num_choices: 1,
        constraint,
        search: Search::Sample,
        output,
        priority,
        truncation: cut,
        cache_salt,
        timeout,
        share: sender.share,
    };
    Ok(ResponsesCall { generation, input, instructions, previous, stream, background, store, head })
}

/// What is repeated to the client as it came.
struct EchoedAsSent(Map<String, Value>);

impl EchoedAsSent {
    fn peek(fields: &Fields) -> Self {
        const NAMES: [&str; 8] = [
            "metadata",
            "prompt_cache_key",
            "safety_identifier",
            "temperature",
            "tool_choice",
            "tools",
            "top_p",
            "user",
        ];
        Self(NAMES.iter().filter_map(|&name| Some((name.to_owned(), fields.peek(name)?.clone()))).collect())
    }

    fn into_echo(mut self) -> Echo {
        let mut take = |name: &str| self.0.swap_remove(name);
        Echo {
            metadata: take("metadata").and_then(|sent| sent.as_object().cloned()).unwrap_or_default(),
            prompt_cache_key: take("prompt_cache_key"),
            safety_identifier: take("safety_identifier"),
            temperature: take("temperature"),
            tool_choice: take("tool_choice").unwrap_or_else(|| "auto".into()),
            tools: match take("tools") {
                Some(Value::Array(tools)) => tools.into_iter().map(flat).collect(),
                _ => Vec::new(),
            },
            top_p: take("top_p"),
            user: take("user"),
            ..Echo::default()
        }
    }
}

/// Reads `include` and `top_logprobs`: how many of the likeliest tokens to report beside each, or none at all.
fn read_logprobs(fields: &mut Fields, max: u32) -> Result<Option<u32>, ApiError> {
    let path = fields.path("include");
    let mut wanted = false;
    for (index, item) in fields.list("include")?.unwrap_or_default().into_iter().enumerate() {
        let path = format!("{path}.{index}");
        wanted |= check_include(&path, item.as_str().unwrap_or_default())?;
    }
    let top = read_num_top(fields, "top_logprobs", max)?.unwrap_or(0);
    Ok(wanted.then_some(top))
}

/// Checks a word of `include`; returns whether it asks for log-probabilities.
pub fn check_include(path: &str, word: &str) -> Result<bool, ApiError> {
    if !INCLUDE.contains(&word) {
        let message = format!("`{path}` must be one of {}, not {}", INCLUDE.join(", "), quoted(word));
        return Err(ApiError::invalid(path, message));
    }
    Ok(word == INCLUDE[0])
}

/// Tools are written flat here; their reader knows them as chat has them. The choice among them it knows in both forms.
fn read_response_tools(fields: &mut Fields) -> Result<Tools, ApiError> {
    let path = fields.path("tools");
    if let Some(tools) = fields.list("tools")? {
        for (index, tool) in tools.iter().enumerate() {
            refuse_hosted(&format!("{path}.{index}"), tool)?;
        }
        fields.put("tools", tools.into_iter().map(nested).collect());
    }
    read_tools(fields).map_err(|mut error| {
        error.message = error.message.replace(".function.", ".").replace(".function`", "`");
        error.param = error.param.map(|param| param.replace(".function.", "."));
        error
    })
}

fn refuse_hosted(path: &str, tool: &Value) -> Result<(), ApiError> {
    match tool.get("type").and_then(Value::as_str) {
        None | Some("function" | "custom") => Ok(()),
        Some("mcp") => Err(ApiError::unsupported(
            format!("{path}.type"),
            format!(
                "`{path}.type` is mcp: remote tools are not supported yet; call the server yourself, and give the model a function"
            ),
        )),
        Some(other) => Err(ApiError::unsupported(
            format!("{path}.type"),
            format!(
                "`{path}.type` is {}: this server has no tools of its own; give the model a function",
                quoted(other)
            ),
        )),
    }
}

/// `{type, name, …}` → `{type, function: {name, …}}`. Those that are nested already pass, as the peer has it.
fn nested(tool: Value) -> Value {
    match tool {
        Value::Object(mut fields)
            if fields.get("type").is_some_and(|class| class == "function")
                && !fields.contains_key("function") =>
        {
            fields.shift_remove("type");
            json!({"type": "function", "function": fields})
        }
        other => other,
    }
}

/// `{type, function: {name, …}}` → `{type, name, …}`.
fn flat(tool: Value) -> Value {
    match tool {
        Value::Object(mut fields) => match fields.swap_remove("function") {
            Some(Value::Object(function)) => {
                let mut flat = Map::from_iter([("type".to_owned(), Value::from("function"))]);
                flat.extend(function);
                Value::Object(flat)
            }
            _ => Value::Object(fields),
        },
        other => other,
    }
}

/// How hard to think is told to the template; a summary there is not.
fn read_reasoning(fields: &mut Fields) -> Result<EchoReasoning, ApiError> {
    const EFFORTS: [&str; 8] = ["none", "minimal", "low", "medium", "high", "hard", "xhigh", "max"];
    let Some(mut reasoning) = fields.object("reasoning")? else { return Ok(EchoReasoning::default()) };
    let effort = reasoning.word("effort", &EFFORTS)?;
    if let Some(effort) = effort {
        fields.put("reasoning_effort", effort.into());
    }
    let mut summary = None;
    for name in ["summary", "generate_summary"] {
        // `auto` leaves it to the server, which has none to give and gives the reasoning itself.
        let path = reasoning.path(name);
        match reasoning.word(name, &["auto", "concise", "detailed", "none"])? {
            Some("concise" | "detailed") => {
                let why = "reasoning is not summarised, it is given as it is; send `auto` or nothing";
                return Err(ApiError::unsupported(
                    path.as_str(),
                    format!("`{path}` is not supported: {why}"),
                ));
            }
            word => summary = summary.or(word),
        }
    }
    reasoning.finish();
    Ok(EchoReasoning { effort: effort.map(str::to_owned), summary: summary.map(str::to_owned) })
}

/// Reads `text`, and `response_format`, which guides of the Hub have for `text.format`: what is echoed, and the form.
fn read_text(fields: &mut Fields) -> Result<(EchoText, Option<Constraint>), ApiError> {
    let mut format = None;
    let mut verbosity = None;
    if let Some(mut text) = fields.object("text")? {
        format = text.take("format");
        verbosity = text.word("verbosity", &["low", "medium", "high"])?;
        if let Some(word @ ("low" | "high")) = verbosity {
            let path = text.path("verbosity");
            let message = format!(
                "`{path}` {} is not supported: say in the prompt how long answers should be",
                quoted(word)
            );
            return Err(ApiError::unsupported(path, message));
        }
        text.finish();
    }
    let alias = fields.take("response_format");
    match (&format, &alias) {
        (Some(format), Some(alias)) if flat_format(format) != flat_format(alias) => {
            return Err(ApiError::invalid(
                "response_format",
                "`response_format` is another name of `text.format`, and here they differ: send only `text.format`",
            ));
        }
        _ => {}
    }
    let path = if format.is_some() { "text.format" } else { "response_format" };
    let format = format.or(alias).map(|format| flat_format(&format));
    let constraint = match &format {
        Some(format) => read_format(path, format.clone())?,
        None => None,
    };
    let text = EchoText {
        format: format.unwrap_or_else(|| json!({"type": "text"})),
        verbosity: verbosity.unwrap_or("medium").into(),
    };
    Ok((text, constraint))
}

/// `{type, json_schema: {name, …}}` → `{type, name, …}`.
fn flat_format(format: &Value) -> Value {
    let (Some(class), Some(Value::Object(schema))) = (format.get("type"), format.get("json_schema")) else {
        return format.clone();
    };
    let mut flat = Map::from_iter([("type".to_owned(), class.clone())]);
    flat.extend(schema.clone());
    Value::Object(flat)
}

/// The limits of the other routes would be dropped in silence, and an answer without an end would come.
fn refuse_token_limits(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["max_tokens", "max_completion_tokens"] {
        fields.refuse(name, "the limit is called `max_output_tokens` here", |_| false)?;
    }
    Ok(())
}

fn refuse_responses_only(fields: &mut Fields) -> Result<(), ApiError> {
    let never = |_: &Value| false;
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let off = |value: &Value| value == &Value::Bool(false);
    let why = "conversations are not kept by this server; go on from a response with `previous_response_id`";
    fields.refuse("conversation", why, never)?;
    fields.refuse("prompt", "there are no prompt templates here; send the text in `input`", never)?;
    let why = "histories are not compacted; `truncation: \"auto\"` drops the oldest items";
    fields.refuse("context_management", why, is_empty)?;
    fields.refuse("previous_input_messages", "send them as items of `input`", is_empty)?;
    fields.refuse("enable_response_messages", "the answer is in `output`", off)?;
    fields.refuse("n", "a response is one answer; send the request again for another", |n| n == 1)?;
    fields.refuse("best_of", "a response is one answer, and none is chosen among several", |best| {
        best.as_f64().is_some_and(|best| best <= 1.0)
    })?;
    fields.refuse("use_beam_search", "a response is sampled; completions and chats can be searched", off)?;
    fields.refuse("length_penalty", "it belongs to beam search", |penalty| penalty == 1)?;
    let why = "a response has no place for it; completions and chats do";
    fields.refuse("prompt_logprobs", why, never)?;
    fields.refuse("return_prompt_text", why, off)?;
    fields.refuse("return_token_ids", why, off)?;
    fields.refuse("mm_processor_kwargs", "media are not supported yet", never)
}
