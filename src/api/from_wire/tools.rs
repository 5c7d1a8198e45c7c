//! Tools and the choice among them, with OpenAI's older names for both.

use candlewick_protocol::{ToolChoice, quoted};
use serde_json::{Value, json};

use super::fields::{Fields, wrong_type};
use crate::error::ApiError;

/// Most functions in the older field.
const NUM_FUNCTIONS_MAX: usize = 128;
/// Longest name of a function.
const NAME_LENGTH_MAX: usize = 64;

/// The tools as they came, and the choice among them.
pub fn read_tools(fields: &mut Fields) -> Result<(Vec<Value>, ToolChoice), ApiError> {
    let functions = read_functions(fields)?;
    let path = fields.path("tools");
    let sent = fields.list("tools")?;
    // Clients that build the list always may send it empty, with `tool_choice: "auto"`.
    let was_sent = sent.is_some() || functions.is_some();
    let mut tools = sent.unwrap_or_default();
    for (index, tool) in tools.iter().enumerate() {
        check_tool(format!("{path}.{index}"), tool)?;
    }
    if let Some(functions) = functions {
        if !tools.is_empty() {
            return Err(ApiError::invalid(
                "functions",
                "`functions` is the older name of `tools`: send only `tools`",
            ));
        }
        tools = functions;
    }
    let choice = read_choice(fields, &tools, was_sent)?;
    Ok((tools, choice))
}

fn read_functions(fields: &mut Fields) -> Result<Option<Vec<Value>>, ApiError> {
    let path = fields.path("functions");
    let Some(functions) = fields.list("functions")? else { return Ok(None) };
    if functions.len() > NUM_FUNCTIONS_MAX {
        return Err(ApiError::invalid(path, format!("`functions` holds at most {NUM_FUNCTIONS_MAX}")));
    }
    for (index, function) in functions.iter().enumerate() {
        check_function(format!("{path}.{index}"), function)?;
    }
    Ok(Some(
        functions.into_iter().map(|function| json!({"type": "function", "function": function})).collect(),
    ))
}

fn check_tool(path: String, tool: &Value) -> Result<(), ApiError> {
    let mut tool = Fields::at(path, tool.clone())?;
    let class = tool.string("type")?;
    match tool.require("type", class)?.as_str() {
        "function" => {}
        "custom" => {
            return Err(ApiError::unsupported(
                tool.path("type"),
                "custom tools are not supported: send a function",
            ));
        }
        other => {
            let path = tool.path("type");
            return Err(ApiError::invalid(
                path.as_str(),
                format!("`{path}` must be function, not {}", quoted(other)),
            ));
        }
    }
    let path = tool.path("function");
    let function = tool.take("function");
    check_function(path, &tool.require("function", function)?)
}

fn check_function(path: String, function: &Value) -> Result<(), ApiError> {
    let mut function = Fields::at(path, function.clone())?;
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(is_name_byte) {
        let path = function.path("name");
        return Err(ApiError::invalid(
            path.as_str(),
            format!("`{path}` must be 1 to {NAME_LENGTH_MAX} letters, digits, `_` or `-`"),
        ));
    }
    function.string("description")?;
    function.map("parameters")?;
    // True asks for arguments that keep to the schema, which takes constrained output.
    let why = "arguments cannot be held to their schema yet; the tool works without `strict`, or with `strict: false`";
    function.refuse("strict", why, |value| value == &Value::Bool(false))
}

fn read_choice(fields: &mut Fields, tools: &[Value], tools_sent: bool) -> Result<ToolChoice, ApiError> {
    let (name, choice) = match (fields.take("tool_choice"), fields.take("function_call")) {
        (None, None) => return Ok(ToolChoice::Auto),
        (Some(choice), _) => ("tool_choice", choice),
        (None, Some(choice)) => ("function_call", choice),
    };
    let path = fields.path(name);
    let forced = |what: &str| {
        ApiError::unsupported(
            path.as_str(),
            format!(
                "{what} is not supported: calls cannot be forced by this server yet; send `auto` or `none`"
            ),
        )
    };
    match &choice {
        Value::String(word) if word == "none" => return Ok(ToolChoice::None),
        _ if !tools_sent => {
            return Err(ApiError::invalid(
                path.as_str(),
                format!("`{path}` is only allowed together with `tools`"),
            ));
        }
        Value::String(word) if word == "auto" => return Ok(ToolChoice::Auto),
        Value::String(word) if word == "required" => return Err(forced("`required`")),
        Value::Object(_) => {}
        other => {
            return Err(wrong_type(&path, "none, auto, required or an object that names a function", other));
        }
    }
    let wanted = choice.pointer("/function/name").or_else(|| choice.get("name")).and_then(Value::as_str);
    let Some(wanted) = wanted else {
        return Err(ApiError::unsupported(path, "only a choice of `none` or `auto` is supported"));
    };
    let is_wanted = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str) == Some(wanted);
    if !tools.iter().any(is_wanted) {
        return Err(ApiError::invalid(
            path.as_str(),
            format!("`{path}` names {}, which is not in `tools`", quoted(wanted)),
        ));
    }
    Err(forced("a choice of one function"))
}
