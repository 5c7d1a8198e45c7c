//! Calls whose arguments are written like those of a function: Python's, and Gemma's own. Values that are not plain text
//! are written as JSON, which both parsers read too.

use candlewick_protocol::{Failure, JsonLayout};
use serde_json::json;

use super::fields::{Arguments, arguments};
use super::{CallRules, Calls, Tool, any_tool, repeated};
use crate::grammar::lark::{Lark, literal};
use crate::grammar::schema::{self, Strictness};

/// Names of arguments that the schema does not tell.
const ANY_NAME: &str = "/[A-Za-z_][A-Za-z0-9_]{0,63}/";

/// Gemma's quotes.
const QUOTE: &str = "<|\"|>";

pub(super) fn pythonic(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let (mut first, mut next) = (Vec::new(), Vec::new());
    for tool in &rules.tools {
        let arguments = list(lark, tool, "=", |lark, tool, field| field.json(lark, tool))?;
        let arguments = lark.rule(&format!("{arguments} \")\""));
        // With its bracket in one text: from the name on it cannot be anything else.
        first.push(format!("{} {arguments}", literal(&format!("[{}(", tool.name))));
        next.push(format!("{} {arguments}", literal(&format!(", {}(", tool.name))));
    }
    let next = if rules.many { format!("({})*", next.join(" | ")) } else { String::new() };
    let list = lark.rule(&format!("({}) {next} \"]\"", first.join(" | ")));
    if lark.has_token("<|tool_call_start|>") {
        let rest = format!("{list} {}", lark.mark("<|tool_call_end|>"));
        return Ok(Calls { opening: Some("<|tool_call_start|>"), rest, taken: None });
    }
    let names: Vec<String> = rules.tools.iter().map(|tool| tool.name.replace('-', "\\-")).collect();
    let taken = format!(r"\s*\[\s*({})\(", names.join("|"));
    Ok(Calls { opening: None, rest: list, taken: Some(taken) })
}

pub(super) fn gemma(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let call = any_tool(lark, rules, |lark, tool| {
        let arguments = list(lark, tool, ":", |lark, _, field| {
            let quote = lark.mark(QUOTE);
            field.value(lark, &quote, QUOTE, r#"<\|"\|>"#, "")
        })?;
        Ok(format!("{} {arguments} \"}}\"", literal(&format!("call:{}{{", tool.name))))
    })?;
    let call = lark.rule(&format!("{call} {}", lark.mark("<tool_call|>")));
    let rest = repeated(&call, &lark.mark("<|tool_call>"), rules.many);
    Ok(Calls { opening: Some("<|tool_call>"), rest, taken: None })
}

/// The arguments in the schema's order with commas between them; those that are not required may be left out.
fn list(
    lark: &mut Lark<'_>,
    tool: &Tool<'_>,
    colon: &str,
    mut value: impl FnMut(&mut Lark<'_>, &Tool<'_>, &super::fields::Field<'_>) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let fields = match arguments(tool)? {
        Arguments::Fields(fields) => fields,
        Arguments::Open => {
            let name = lark.terminal(ANY_NAME);
            let any = schema::grammar(&json!({}), &JsonLayout::Free, Strictness::Lenient, &tool.path)?;
            let field = format!("{name} {} {}", literal(colon), lark.nested(any));
            let field = lark.rule(&field);
            return Ok(format!("({field} (\",\" {field})*)?"));
        }
    };
    // From the last to the first: what may follow where something came before, and what where nothing did.
    let (mut after, mut first) = (String::new(), String::new());
    for field in fields.iter().rev() {
        let value = value(lark, tool, field)?;
        let field_rule = lark.rule(&format!("{} {value}", literal(&format!("{}{colon}", field.name))));
        let (next, begin) = (format!("\",\" {field_rule} {after}"), format!("{field_rule} {after}"));
        if field.is_required {
            (after, first) = (lark.rule(&next), begin);
        } else {
            let skipped = if first.is_empty() { "\"\"".to_owned() } else { first };
            let skip_after = if after.is_empty() { "\"\"".to_owned() } else { after };
            (after, first) = (lark.rule(&format!("{next} | {skip_after}")), format!("({begin} | {skipped})"));
        }
        first = if first.is_empty() { first } else { lark.rule(&first) };
    }
    Ok(first)
}
