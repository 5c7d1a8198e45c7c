//! From what a client sent to what the model sees: the four kinds of prompt.

use std::sync::Arc;

use candlewick_protocol::{
    ChatPrompt, Content, ContentPart, ErrorKind, FailPlace, Failure, Prompt, ToolChoice, TruncationSide,
};

use serde_json::Value;

use super::output::ReasoningSyntax;
use super::template::ChatTemplates;
use super::{OutputFormat, PreparedPrompt, TextProcessor};

/// The variables by which templates turn reasoning on and off: Qwen's and most others', and that of DeepSeek and Granite.
const THINKING_SWITCHES: &[&str] = &["enable_thinking", "thinking"];

impl TextProcessor {
    /// Renders and tokenises a prompt. Blocks for as long as the text is long; the failure names the field at fault.
    pub fn prepare(&self, prompt: &Prompt) -> Result<PreparedPrompt, Failure> {
        match prompt {
            Prompt::Chat(chat) => self.prepare_chat(chat),
            Prompt::Text { text, add_special_tokens } => self.finish_prompt(
                self.encode(text, *add_special_tokens)?,
                text.clone(),
                OutputFormat::default(),
                "prompt",
            ),
            Prompt::Infill { prefix, suffix } => self.prepare_infill(prefix, suffix),
            Prompt::Tokens(ids) => self.prepare_tokens(ids),
        }
    }

    /// A prompt with no more than so many tokens, cut at one end.
    pub fn truncated(
        &self,
        prompt: PreparedPrompt,
        num_tokens: usize,
        side: TruncationSide,
    ) -> PreparedPrompt {
        let ids = &prompt.token_ids;
        if ids.len() <= num_tokens {
            return prompt;
        }
        let kept = match side {
            TruncationSide::Left => &ids[ids.len() - num_tokens..],
            TruncationSide::Right => &ids[..num_tokens],
        };
        PreparedPrompt {
            text: self.tokenizer.decode(kept, false),
            token_ids: Arc::from(kept),
            output: prompt.output,
        }
    }

    fn prepare_chat(&self, chat: &ChatPrompt) -> Result<PreparedPrompt, Failure> {
        let text = self.render(chat)?;
        let ids = self.encode(&text, chat.add_special_tokens)?;
        let has_tools = !chat.tools.is_empty() && chat.tool_choice != ToolChoice::None;
        // Calls that a grammar sees to are written in the markup of a family, and read by its parser.
        let is_held = self.holds_calls(chat);
        let output = OutputFormat {
            parse_reasoning: self.reasoning_syntax.is_some(),
            starts_in_reasoning: self
                .reasoning_syntax
                .is_some_and(|syntax| ends_in_reasoning(&text, chat, syntax)),
            parse_tool_calls: has_tools
                && match &self.response_template {
                    Some(template) if !is_held => template.has_calls(),
                    _ => self.tool_syntax.is_some() || chat.tool_choice.is_forced(),
                },
            only_first_tool_call: !chat.parallel_tool_calls,
            call_id_seed: 0,
            tools: Arc::from(chat.tools.as_slice()),
            allowed_tools: allowed_tools(&chat.tool_choice),
            prompt_tail: self
                .response_template
                .as_ref()
                .filter(|_| !is_held)
                .map(|template| template.prompt_tail(&text).into()),
            is_call_forced: matches!(chat.tool_choice, ToolChoice::Function(_)),
        };
        self.finish_prompt(ids, text, output, "messages")
    }

    /// A conversation in the words of the model's template.
    pub(super) fn render(&self, chat: &ChatPrompt) -> Result<String, Failure> {
        let struck = self.failpoints.strike(FailPlace::Template);
        struck.map_err(|why| Failure::new(ErrorKind::Internal, why))?;
        if chat.messages.is_empty() {
            return Err(Failure::invalid(
                "messages",
                "there are no messages; a conversation has at least one",
            ));
        }
        let own = chat.chat_template.as_deref().map(ChatTemplates::of_request).transpose()?;
        let Some(templates) = own.as_ref().or(self.templates.as_deref()) else {
            let message = "this model has no chat template, so it cannot be given messages; start the server with \
                           --chat-template, or use /v1/completions with a prompt of your own";
            return Err(Failure::invalid("messages", message));
        };
        let mut variables = self.tokenizer.named_tokens().clone();
        variables.extend(self.options.template_kwargs.clone());
        // A request that says how hard to think says whether to: over the server's setting, under its own variables.
        if let Some(effort) = chat.template_kwargs.get("reasoning_effort").and_then(Value::as_str) {
            for switch in THINKING_SWITCHES {
                variables.insert((*switch).to_owned(), Value::Bool(effort != "none"));
            }
        }
        templates.render(chat, variables)
    }

    fn prepare_infill(&self, prefix: &str, suffix: &str) -> Result<PreparedPrompt, Failure> {
        let Some(infill) = &self.infill else {
            let message = "this model has no fill-in-the-middle tokens, so it cannot be given a suffix; leave `suffix` out";
            return Err(Failure::new(ErrorKind::Unsupported, message).with_param("suffix"));
        };
        let ids = infill.ids(&self.tokenizer, prefix, suffix).map_err(|error| internal(&error))?;
        let first = self.first_token()?;
        let ids = first.into_iter().chain(ids).collect();
        self.finish_prompt(ids, prefix.to_owned(), OutputFormat::default(), "prompt")
    }

    fn prepare_tokens(&self, ids: &[u32]) -> Result<PreparedPrompt, Failure> {
        let bound = self.vocab_size();
        if let Some(id) = ids.iter().find(|id| **id as usize >= bound) {
            let message = format!("token id {id} is not in this model's vocabulary of {bound} tokens");
            return Err(Failure::invalid("prompt", message));
        }
        let text = self.tokenizer.decode(ids, false);
        self.finish_prompt(ids.to_vec(), text, OutputFormat::default(), "prompt")
    }

    fn finish_prompt(
        &self,
        ids: Vec<u32>,
        text: String,
        output: OutputFormat,
        param: &str,
    ) -> Result<PreparedPrompt, Failure> {
        if ids.is_empty() {
            let message = "the prompt has no tokens, and this model has no token to begin with; send at least one character";
            return Err(Failure::invalid(param, message));
        }
        Ok(PreparedPrompt { token_ids: Arc::from(ids), text, output })
    }

    /// The token that the tokenizer puts before every text, if it does.
    fn first_token(&self) -> Result<Option<u32>, Failure> {
        let ids = self.encode("", true)?;
        Ok(ids.first().copied().filter(|id| Some(*id) == self.tokenizer.named_id("bos_token")))
    }

    pub(super) fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Failure> {
        let struck = self.failpoints.strike(FailPlace::Tokenizer);
        struck.map_err(|why| tokenizer_broken(&why))?;
        self.tokenizer.encode(text, add_special_tokens).map_err(|error| internal(&error))
    }
}

pub(super) fn internal(error: &tokenizers::Error) -> Failure {
    tokenizer_broken(&error.to_string())
}

pub(super) fn tokenizer_broken(why: &str) -> Failure {
    Failure::new(ErrorKind::Internal, format!("the tokenizer failed: {why}"))
}

/// The names that a call may have, where the choice sets limits.
fn allowed_tools(choice: &ToolChoice) -> Option<Arc<[String]>> {
    match choice {
        ToolChoice::Auto | ToolChoice::None | ToolChoice::Required => None,
        ToolChoice::Function(name) => Some(Arc::from([name.clone()])),
        ToolChoice::Allowed { names, .. } => Some(Arc::from(names.as_slice())),
    }
}

/// Whether the model goes on with reasoning: the template ends with an opening tag, or the message that is continued has
/// one. A channel is opened by the model itself.
fn ends_in_reasoning(rendered: &str, chat: &ChatPrompt, syntax: ReasoningSyntax) -> bool {
    let ReasoningSyntax::Tags(tags) = syntax else { return false };
    if rendered.trim_end().ends_with(tags.open) {
        return true;
    }
    let last = chat.messages.last().and_then(|message| message.content.as_ref());
    let continued = match last {
        Some(Content::Text(text)) if chat.continue_final_message => text.as_str(),
        Some(Content::Parts(parts)) if chat.continue_final_message => match parts.last() {
            Some(ContentPart::Text { text }) => text,
            None => "",
        },
        _ => "",
    };
    continued
        .rfind(tags.open)
        .is_some_and(|open| continued.rfind(tags.close).is_none_or(|close| close < open))
}
