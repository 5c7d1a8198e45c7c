//! Tool calls as a grammar, in the markup that the model's family writes and its parser reads back
//! ([`crate::text::output`]). A file for each way of writing arguments: as JSON, field by field in marks, or as literals.

mod fields;
mod json;
mod literals;
mod marked;

use candlewick_protocol::Failure;
use serde_json::Value;

use super::lark::Lark;
use super::schema::Strictness;
use crate::text::output::ToolSyntax;

pub(super) use self::json::harmony;

/// Which calls are to be made.
#[derive(Debug)]
pub(super) struct CallRules<'a> {
    pub(super) syntax: ToolSyntax,
    /// The tools that may be called, at least one.
    pub(super) tools: Vec<Tool<'a>>,
    /// Several calls, or one.
    pub(super) many: bool,
}

/// A tool.
#[derive(Debug)]
pub(super) struct Tool<'a> {
    pub(super) name: &'a str,
    /// The schema of its arguments; a tool without one has none.
    pub(super) parameters: Option<&'a Value>,
    pub(super) strictness: Strictness,
    /// Where the request has the schema.
    pub(super) path: String,
}

/// How a family writes calls.
struct Calls {
    /// The mark that opens them; `None` where nothing does.
    opening: Option<&'static str>,
    /// What follows, to the end of the last call.
    rest: String,
    /// What free text must not hold beside the mark: a pattern, for text that the parser would take for a call. Without a
    /// mark it is how text must not begin.
    taken: Option<String>,
}

/// Calls and nothing else.
pub(super) fn alone(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<String, Failure> {
    let Calls { opening, rest, .. } = calls(lark, rules)?;
    let opening = opening.map_or_else(String::new, |opening| lark.mark(opening));
    Ok(format!("{opening} {rest}"))
}

/// Free text, with calls in it where the model wants to call.
pub(super) fn within_text(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<String, Failure> {
    let Calls { opening, rest, taken } = calls(lark, rules)?;
    let Some(opening) = opening else {
        let taken = taken.unwrap_or_default();
        let text = lark.terminal(&format!("/(?s:.+)/ & ~/{taken}(?s:.*)/"));
        return Ok(format!("({rest} | {text})?"));
    };
    let any = |least: char| match &taken {
        Some(taken) => format!("/(?s:.{least})/ & ~/(?s:.*){taken}(?s:.*)/"),
        None => format!("/(?s:.{least})/"),
    };
    let before = match lark.starts_special(opening) {
        true => {
            let text = lark.terminal(&any('+'));
            format!("{text}? {}", lark.mark(opening))
        }
        false => lark.up_to(&any('*'), opening),
    };
    let called = lark.rule(&format!("{before} {rest}"));
    let text = lark.terminal(&any('+'));
    Ok(match rules.many {
        true => format!("{called}* {text}?"),
        false => format!("({called} | {text})?"),
    })
}

fn calls(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    match rules.syntax {
        ToolSyntax::Hermes => json::hermes(lark, rules),
        ToolSyntax::LlamaJson => json::llama(lark, rules),
        ToolSyntax::Mistral => json::mistral(lark, rules),
        ToolSyntax::DeepSeek => json::deepseek(lark, rules),
        ToolSyntax::Phi => json::phi(lark, rules),
        ToolSyntax::QwenXml => marked::qwen_xml(lark, rules),
        ToolSyntax::Glm => marked::glm(lark, rules),
        ToolSyntax::Pythonic => literals::pythonic(lark, rules),
        ToolSyntax::Gemma => literals::gemma(lark, rules),
        // A model that is known by its calls and not by its reasoning still writes both in channels.
        ToolSyntax::Harmony => {
            Ok(Calls { opening: None, rest: json::harmony(lark, rules)?, taken: Some("<\\|channel".into()) })
        }
    }
}

/// A rule for whichever tool is called, by what each of them is written as.
fn any_tool(
    lark: &mut Lark<'_>,
    rules: &CallRules<'_>,
    mut call: impl FnMut(&mut Lark<'_>, &Tool<'_>) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let calls: Result<Vec<String>, Failure> = rules.tools.iter().map(|tool| call(lark, tool)).collect();
    Ok(lark.rule(&calls?.join(" | ")))
}

/// One call, or several with something between them.
fn repeated(call: &str, between: &str, many: bool) -> String {
    if many { format!("{call} ({between} {call})*") } else { call.into() }
}
