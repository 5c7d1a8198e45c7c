//! From a request to its grammar: what of it is to be guaranteed.

use std::sync::Arc;

use candlewick_protocol::{ChatPrompt, Constraint, Failure, Prompt, ToolChoice};
use serde_json::Value;

use super::CompiledGrammar;
use super::answer::{Answer, Reasoning};
use super::calls::{CallRules, Tool};
use super::schema::Strictness;
use crate::text::output::ToolSyntax;
use crate::text::{PreparedPrompt, TextProcessor};

impl TextProcessor {
    /// The grammar that a request's answers keep to; `None` if they are free. Compiles, so it blocks.
    ///
    /// # Errors
    /// What the request asks for and cannot be guaranteed, by the field that asks for it.
    pub fn grammar(
        &self,
        prompt: &Prompt,
        constraint: Option<&Constraint>,
        prepared: &PreparedPrompt,
    ) -> Result<Option<Arc<CompiledGrammar>>, Failure> {
        let chat = match prompt {
            Prompt::Chat(chat) => Some(chat),
            Prompt::Text { .. } | Prompt::Infill { .. } | Prompt::Tokens(_) => None,
        };
        let calls = chat.and_then(|chat| self.call_rules(chat, constraint.is_some()));
        if constraint.is_none() && calls.is_none() {
            return Ok(None);
        }
        let syntax = self.reasoning_syntax.filter(|_| prepared.output.parse_reasoning);
        let answer = Answer {
            reasoning: Reasoning::of(syntax, &prepared.text, prepared.output.starts_in_reasoning),
            form: constraint,
            calls_are_optional: chat.is_some_and(|chat| !chat.tool_choice.is_forced()),
            calls,
        };
        let param = constraint.map_or("tools", |constraint| constraint.param.as_str());
        self.grammars.get(answer.name(), param, |tokenizer| answer.grammar(tokenizer)).map(Some)
    }

    /// Whether a grammar sees to a conversation's calls, whatever its answers are held to beside.
    pub(crate) fn holds_calls(&self, chat: &ChatPrompt) -> bool {
        self.call_rules(chat, false).is_some()
    }

    /// Which calls a grammar is to see to. Where the model decides whether it calls, it sees to them only if arguments
    /// are to be exact or the text beside them is held to a form.
    fn call_rules<'a>(&self, chat: &'a ChatPrompt, has_form: bool) -> Option<CallRules<'a>> {
        let tools = chat.tools.iter().enumerate().filter_map(tool);
        let mut tools: Vec<Tool<'a>> = match &chat.tool_choice {
            ToolChoice::None => return None,
            choice => tools.filter(|tool| choice.allows(tool.name)).collect(),
        };
        let syntax = if !chat.tool_choice.is_forced() {
            let is_exact = |tool: &Tool<'_>| tool.strictness == Strictness::Exact;
            self.tool_syntax.filter(|_| has_form || tools.iter().any(is_exact))?
        } else {
            self.tool_syntax.unwrap_or(ToolSyntax::FALLBACK)
        };
        let is_named = matches!(chat.tool_choice, ToolChoice::Function(_));
        tools.dedup_by(|tool, earlier| tool.name == earlier.name);
        (!tools.is_empty()).then_some(CallRules {
            syntax,
            tools,
            many: chat.parallel_tool_calls && !is_named,
        })
    }
}

/// A tool as the client sent it.
fn tool((index, tool): (usize, &Value)) -> Option<Tool<'_>> {
    let function = tool.get("function").unwrap_or(tool);
    let is_strict = function["strict"] == Value::Bool(true);
    Some(Tool {
        name: function["name"].as_str()?,
        parameters: function.get("parameters").filter(|parameters| !parameters.is_null()),
        strictness: if is_strict { Strictness::Exact } else { Strictness::Lenient },
        path: format!("tools.{index}.function.parameters"),
    })
}
