//! Tools and the choice among them, with OpenAI's older names for both.

use candlewick_protocol::{AllowedMode, ToolChoice, quoted};
use serde_json::{Value, json};

use super::fields::{Fields, wrong_type};
use super::strict::{check_nesting, check_strict};
use crate::error::ApiError;

/// Most functions in the older field.
const NUM_FUNCTIONS_MAX: usize = 128;
/// Longest name of a function.
const NAME_LENGTH_MAX: usize = 64;

/// What a request says about tools.
#[derive(Debug)]
pub struct Tools {
    /// As they came.
    pub tools: Vec<Value>,
    /// The choice among them.
    pub choice: ToolChoice,
    /// They came under their older name, `functions`: so a call is told, as `function_call`, and there is but one.
    pub are_functions: bool,
}

/// Reads the tools and the choice among them.
pub fn read_tools(fields: &mut Fields) -> Result<Tools, ApiError> {
    let functions = read_functions(fields)?;
    let path = fields.path("tools");
    let sent = fields.list("tools")?;
    // Clients that build the list always may send it empty, with `tool_choice: "auto"`.
    let are_functions = functions.is_some();
    let was_sent = sent.is_some() || are_functions;
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
    Ok(Tools { tools, choice, are_functions })
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
        other => return Err(refuse_tool(&mut tool, other)),
    }
    let path = tool.path("function");
    let function = tool.take("function");
    check_function(path, &tool.require("function", function)?)
}

/// A custom tool is named in what its client is told: among many tools it is the one to look for.
fn refuse_tool(tool: &mut Fields, class: &str) -> ApiError {
    let path = tool.path("type");
    let name = tool.map("custom").ok().flatten().and_then(|mut custom| custom.swap_remove("name"));
    match (class, name) {
        ("custom", Some(Value::String(name))) => {
            let message =
                format!("custom tools such as {} are not supported: send a function", quoted(&name));
            ApiError::unsupported(path, message)
        }
        _ => not_a_function(&path, class),
    }
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
    let path = function.path("parameters");
    let parameters = function.map("parameters")?;
    let is_strict = function.flag("strict")?;
    if let Some(parameters) = parameters {
        let parameters = Value::Object(parameters);
        check_nesting(&path, &parameters)?;
        if is_strict {
            check_strict(&path, &parameters)?;
        }
    }
    Ok(())
}

fn read_choice(fields: &mut Fields, tools: &[Value], tools_sent: bool) -> Result<ToolChoice, ApiError> {
    let (name, choice) = match (fields.take("tool_choice"), fields.take("function_call")) {
        (None, None) => return Ok(ToolChoice::Auto),
        (Some(choice), _) => ("tool_choice", choice),
        (None, Some(choice)) => ("function_call", choice),
    };
    let path = fields.path(name);
    let choice = match choice {
        Value::String(word) if word == "none" => return Ok(ToolChoice::None),
        _ if !tools_sent => {
            return Err(ApiError::invalid(
                path.as_str(),
                format!("`{path}` is only allowed together with `tools`"),
            ));
        }
        Value::String(word) if word == "auto" => ToolChoice::Auto,
        Value::String(word) if word == "required" && !tools.is_empty() => ToolChoice::Required,
        Value::String(word) if word == "required" => {
            return Err(ApiError::invalid(
                path.as_str(),
                format!("`{path}` is required, and `tools` is empty"),
            ));
        }
        choice @ Value::Object(_) => read_choice_object(&path, choice, tools)?,
        other => {
            return Err(wrong_type(&path, "none, auto, required or an object that names a function", &other));
        }
    };
    Ok(choice)
}

/// `{"type": "function", "function": {"name"}}`, the older `{"name"}`, or `{"type": "allowed_tools", …}`.
fn read_choice_object(path: &str, choice: Value, tools: &[Value]) -> Result<ToolChoice, ApiError> {
    let mut choice = Fields::at(path, choice)?;
    let class = choice.string("type")?;
    match class.as_deref() {
        None | Some("function") => Ok(ToolChoice::Function(read_named(choice, tools)?)),
        Some("allowed_tools") => {
            // The Responses API has the same fields without the object around them.
            let mut allowed = choice.object("allowed_tools")?.unwrap_or(choice);
            let mode = allowed.word("mode", &["auto", "required"])?;
            let mode = match allowed.require("mode", mode)? {
                "required" => AllowedMode::Required,
                _ => AllowedMode::Auto,
            };
            let path = allowed.path("tools");
            let named = allowed.list("tools")?;
            let named = allowed.require("tools", named)?;
            if named.is_empty() {
                return Err(ApiError::invalid(
                    path.as_str(),
                    format!("`{path}` must name at least one tool"),
                ));
            }
            allowed.finish();
            let names = named.into_iter().enumerate().map(|(index, tool)| {
                let mut tool = Fields::at(format!("{path}.{index}"), tool)?;
                match tool.string("type")?.as_deref() {
                    None | Some("function") => read_named(tool, tools),
                    Some(other) => Err(not_a_function(&tool.path("type"), other)),
                }
            });
            Ok(ToolChoice::Allowed { mode, names: names.collect::<Result<_, _>>()? })
        }
        Some(other) => Err(not_a_function(&choice.path("type"), other)),
    }
}

/// The name of a tool that was sent: in `function`, or beside `type`.
fn read_named(mut choice: Fields, tools: &[Value]) -> Result<String, ApiError> {
    let mut named = choice.object("function")?.unwrap_or(choice);
    let path = named.path("name");
    let name = named.string("name")?;
    let name = named.require("name", name)?;
    named.finish();
    let is_wanted = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str) == Some(&name);
    if tools.iter().any(is_wanted) {
        return Ok(name);
    }
    Err(ApiError::invalid(
        path.as_str(),
        format!("`{path}` names {}, which is not in `tools`", quoted(&name)),
    ))
}

fn not_a_function(path: &str, class: &str) -> ApiError {
    match class {
        "custom" => ApiError::unsupported(path, "custom tools are not supported: send a function"),
        other => ApiError::invalid(path, format!("`{path}` must be function, not {}", quoted(other))),
    }
}
