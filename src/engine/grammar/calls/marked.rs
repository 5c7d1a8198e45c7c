//! Calls whose arguments stand one by one between marks: Qwen's XML and GLM.

use candlewick_protocol::Failure;

use super::fields::{Arguments, Text, arguments};
use super::{CallRules, Calls, Tool, any_tool, repeated};
use crate::grammar::lark::{Lark, literal};

/// The names that arguments may have where the schema does not say.
const ANY_NAME: &str = "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/";

/// How one argument is written.
struct Markup {
    /// Before its name.
    open: &'static str,
    /// Between name and value.
    middle: &'static str,
    /// Behind the value.
    close: &'static str,
    /// What the parser would take for that, as a pattern.
    taken: &'static str,
}

const QWEN: Markup = Markup {
    open: "<parameter=",
    middle: ">\n",
    close: "\n</parameter>\n",
    taken: r"<\/parameter>|\n<parameter=|\n<\/function>",
};

const GLM: Markup = Markup {
    open: "<arg_key>",
    middle: "</arg_key>\n<arg_value>",
    close: "</arg_value>\n",
    taken: r"<\/arg_value>",
};

pub(super) fn qwen_xml(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let call = any_tool(lark, rules, |lark, tool| {
        let head = literal(&format!("\n<function={}>\n", tool.name));
        Ok(format!("{head} {} {}", parameters(lark, tool, &QWEN)?, literal("</function>\n")))
    })?;
    let call = lark.rule(&format!("{call} {}", lark.mark("</tool_call>")));
    let rest = repeated(&call, &lark.mark("\n<tool_call>"), rules.many);
    Ok(Calls { opening: Some("<tool_call>"), rest, taken: Some("<function=".into()) })
}

pub(super) fn glm(lark: &mut Lark<'_>, rules: &CallRules<'_>) -> Result<Calls, Failure> {
    let call = any_tool(lark, rules, |lark, tool| {
        let head = literal(&format!("{}\n", tool.name));
        Ok(format!("{head} {}", parameters(lark, tool, &GLM)?))
    })?;
    let call = lark.rule(&format!("{call} {}", lark.mark("</tool_call>")));
    let rest = repeated(&call, &lark.mark("\n<tool_call>"), rules.many);
    Ok(Calls { opening: Some("<tool_call>"), rest, taken: None })
}

/// The arguments in the schema's order; those that are not required may be left out.
fn parameters(lark: &mut Lark<'_>, tool: &Tool<'_>, markup: &Markup) -> Result<String, Failure> {
    let fields = match arguments(tool)? {
        Arguments::Fields(fields) => fields,
        Arguments::Open => {
            let name = lark.terminal(ANY_NAME);
            let value = Text::any().up_to(lark, markup.close, markup.taken);
            let field = format!("{} {name} {} {value}", lark.mark(markup.open), lark.mark(markup.middle));
            return Ok(format!("({field})*"));
        }
    };
    let mut parts = Vec::new();
    for field in &fields {
        let close = lark.mark(markup.close);
        let value = field.value(lark, "", markup.close, markup.taken, &close)?;
        let head = lark.mark(&format!("{}{}{}", markup.open, field.name, markup.middle));
        let part = lark.rule(&format!("{head} {value}"));
        parts.push(if field.is_required { part } else { format!("{part}?") });
    }
    Ok(parts.join(" "))
}
