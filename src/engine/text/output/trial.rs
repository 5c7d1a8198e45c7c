//! The parsers on text alone, without a model: for tests and fuzzing.

use std::sync::Arc;

use candlewick_protocol::Delta;
use serde_json::Value;

use super::reader::Parser;
use super::{
    Deltas, OutputFormat, ReasoningSyntax, ResponseTemplate, ToolSyntax, parser, reasoning, response_parser,
};
use crate::LoadError;

/// What a parser of tool calls tells of an answer that comes in pieces; neighbours of one kind are one. Reasoning is
/// between the tags that most models use.
///
/// # Errors
/// A parser that is not known is [`LoadError::Unsupported`].
pub fn read_with_parser(name: &str, tools: &[Value], pieces: &[&str]) -> Result<Vec<Delta>, LoadError> {
    let syntax = ToolSyntax::named(name)?;
    let tags = reasoning::KNOWN.iter().find(|tags| tags.open == "<think>");
    let reasoning = match syntax {
        ToolSyntax::Harmony => Some(ReasoningSyntax::Harmony),
        _ => tags.copied().map(ReasoningSyntax::Tags),
    };
    let parser = parser(reasoning, Some(syntax), &format(tools)).expect("there is something to parse");
    Ok(told(parser, pieces))
}

/// What a response template tells of an answer that comes in pieces, behind a prompt.
///
/// # Errors
/// The text says what is wrong with the template.
pub fn read_with_template(
    template: &Value,
    prompt: &str,
    tools: &[Value],
    pieces: &[&str],
) -> Result<Vec<Delta>, String> {
    let template = Arc::new(ResponseTemplate::new(template)?);
    Ok(told(response_parser(&template, template.prompt_tail(prompt), &format(tools)), pieces))
}

fn format(tools: &[Value]) -> OutputFormat {
    OutputFormat {
        parse_tool_calls: true,
        parse_reasoning: true,
        tools: tools.into(),
        ..OutputFormat::default()
    }
}

fn told(mut parser: Parser, pieces: &[&str]) -> Vec<Delta> {
    let mut deltas = Deltas::default();
    for piece in pieces {
        deltas.extend(parser.push(piece));
    }
    deltas.extend(parser.finish());
    deltas.0
}
