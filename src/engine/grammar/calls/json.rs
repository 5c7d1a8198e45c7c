//! Calls whose arguments are JSON: Hermes, Llama, Mistral, DeepSeek, Phi, and gpt-oss in its channels.

use std::borrow::Cow;

use candlewick_protocol::{Failure, JsonLayout};
use serde_json::{Map, Value, json};

use super::{CallRules, Calls, Tool, any_tool, repeated};
use crate::grammar::lark::{Lark, literal};
use crate::grammar::schema;

/// The arguments of a tool: an object by its schema.
fn arguments(lark: &mut Lark<'_>, tool: &Tool<'_>) -> Result<String, Failure> {
    let schema = match tool.parameters {
        None => Cow::Owned(json!({"type": "object", "properties": {}, "additionalProperties": false})),
        Some(Value::Object(map)) if !map.contains_key("type") => {
            let object = [("type".to_owned(), Value::from("object"))];
            let map: Map<String, Value> = object.into_iter().chain(map.clone()).collect();
            Cow::Owned(Value::Object(map))
        }
        Some(schema) => Cow::Borrowed(schema),
    };
    Ok(lark.nested(schema::grammar(&schema, &JsonLayout::Free, tool.strictness, &tool.path)?))
}

/// The object of a call, up to its arguments.
fn head(name: &str, arguments_key: &str) -> String {
    literal(&format!("{{\"name\": {}, \"{arguments_key}\": ", Value::from(name)))
}

/// `{"name": …, "arguments": {…}}`.
fn object(lark: &mut Lark<'_>, tool: &Tool<'_>, arguments_key: &str) -> Result<String, Failure> {
    let arguments = arguments(lark, tool)?;
    Ok(format!("{} {arguments} \"}}\"", head(tool.name, arguments_key)))
}

pub(super) fn hermes(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let call = any_tool(lark, rules, |lark, tool| object(lark, tool, "arguments"))?;
    let call = lark.rule(&format!("\"\\n\" {call} \"\\n\" {}", lark.mark("</tool_call>")));
    let rest = repeated(&call, &lark.mark("\n<tool_call>"), rules.many);
    Ok(Calls { opening: Some("<tool_call>"), rest, taken: None })
}

pub(super) fn llama(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let call = any_tool(lark, rules, |lark, tool| object(lark, tool, "parameters"))?;
    let rest = repeated(&call, "\"; \"", rules.many);
    // Whatever may be read as the beginning of a call.
    let taken = r#"\s*\{\s*"(name|parameters|arguments|type|id)""#;
    Ok(Calls { opening: None, rest, taken: Some(taken.into()) })
}

pub(super) fn mistral(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let rest = if lark.has_token("[ARGS]") {
        let call = any_tool(lark, rules, |lark, tool| {
            let arguments = arguments(lark, tool)?;
            Ok(format!("{} {} {arguments}", literal(tool.name), lark.mark("[ARGS]")))
        })?;
        repeated(&call, &lark.mark("[TOOL_CALLS]"), rules.many)
    } else {
        let call = any_tool(lark, rules, |lark, tool| object(lark, tool, "arguments"))?;
        format!("\"[\" {} \"]\"", repeated(&call, "\", \"", rules.many))
    };
    Ok(Calls { opening: Some("[TOOL_CALLS]"), rest, taken: None })
}

pub(super) fn deepseek(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let (begin, end) = (lark.mark("<｜tool▁call▁begin｜>"), lark.mark("<｜tool▁call▁end｜>"));
    let separator = lark.mark("<｜tool▁sep｜>");
    let call = any_tool(lark, rules, |lark, tool| {
        let (arguments, name) = (arguments(lark, tool)?, literal(tool.name));
        // V3.1, or V3 and R1: the prompt shows the model which.
        let fence = literal("\n```");
        Ok(format!(
            "{name} {separator} {arguments} | \"function\" {separator} {name} \"\\n```json\\n\" {arguments} {fence}"
        ))
    })?;
    let call = lark.rule(&format!("{begin} {call} {end}"));
    let rest = format!("{} {}", repeated(&call, "\"\\n\"?", rules.many), lark.mark("<｜tool▁calls▁end｜>"));
    // The outer mark may be missing, and the parser reads that too.
    let taken = Some("<｜tool▁call▁begin｜>".into());
    Ok(Calls { opening: Some("<｜tool▁calls▁begin｜>"), rest, taken })
}

pub(super) fn phi(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let call = any_tool(lark, rules, |lark, tool| object(lark, tool, "arguments"))?;
    let array = format!("\"[\" {} \"]\"", repeated(&call, "\", \"", rules.many));
    if !lark.has_token("<|tool_call|>") {
        return Ok(Calls { opening: Some("functools"), rest: array, taken: None });
    }
    // Granite has no closing mark.
    let close = if lark.has_token("<|/tool_call|>") { lark.mark("<|/tool_call|>") } else { String::new() };
    let taken = Some(r"functools\s*\[".into());
    Ok(Calls { opening: Some("<|tool_call|>"), rest: format!("{array} {close}"), taken })
}

/// Messages to functions, behind `<|start|>assistant`.
pub(in crate::grammar) fn harmony(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<String, Failure> {
    let constrain =
        if lark.has_token("<|constrain|>") { lark.mark(" <|constrain|>json") } else { String::new() };
    let call = any_tool(lark, rules, |lark, tool| {
        let arguments = arguments(lark, tool)?;
        let head = lark.mark(&format!("<|channel|>commentary to=functions.{}", tool.name));
        Ok(format!("{head} {constrain} {} {arguments} {}", lark.mark("<|message|>"), lark.mark("<|call|>")))
    })?;
    Ok(repeated(&call, &lark.mark("<|start|>assistant"), rules.many))
}
