//! Chat templates: which one, and a conversation put into its words.
//!
//! The words are those of transformers (`apply_chat_template`), to the byte; `tests/fixtures/templates` holds what it
//! made of real templates.

mod content;
mod environment;
mod json;
mod messages;
mod methods;
mod python;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use self::json::text as json_text;

use candlewick_protocol::{ChatPrompt, ErrorKind, Failure};
use minijinja::Environment;
use serde_json::{Map, Value, json};

use self::content::ContentFormat;
use self::environment::Raised;
use self::messages::{Arguments, Shape};
use crate::{LoadError, ModelFiles};

/// The name of the template for conversations in general.
const DEFAULT: &str = "default";

/// Put behind the last message where that is continued; what follows it in the rendered text is cut.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// What a template says that takes only ids of nine letters and digits.
const SHORT_IDS: &[&str] = &["length != 9", "length == 9", "with length 9"];

/// A template's source may not be longer, in bytes; real ones stay below a tenth of it.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// A rendered prompt may not be longer, in bytes: no template needs it, and memory is finite.
const MAX_RENDERED_BYTES: usize = 256 << 20;

/// Why a template cannot be used, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct TemplateFault {
    /// Line of its source; the first is 1.
    pub line: usize,
    /// What is wrong there.
    pub why: String,
}

/// Whether a chat template can be parsed, so that a server need not wait for a model to find out.
pub fn check_chat_template(source: &str) -> Result<(), TemplateFault> {
    add(&mut environment::environment(), DEFAULT.into(), source)
}

/// What a chat template makes of a conversation, without a model: for tests and fuzzing. The text says why it makes
/// nothing of it.
pub fn render_chat_template(source: &str, prompt: &ChatPrompt) -> Result<String, String> {
    let templates = ChatTemplates::of_option(source).map_err(|error| error.to_string())?;
    templates.render(prompt, Map::new()).map_err(|failure| failure.message)
}

fn add(env: &mut Environment<'static>, name: String, source: &str) -> Result<(), TemplateFault> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(TemplateFault { line: 1, why: format!("it is longer than {MAX_SOURCE_BYTES} bytes") });
    }
    env.add_template_owned(name, source::prepare(source)).map_err(|error| TemplateFault {
        line: error.line().unwrap_or(1),
        why: match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        },
    })
}

/// The chat templates of one model.
pub(crate) struct ChatTemplates {
    env: Environment<'static>,
    templates: Vec<Template>,
}

/// One template, and what is known of it before it runs.
struct Template {
    name: String,
    source: String,
    format: ContentFormat,
    /// It refuses ids of calls that are not nine letters and digits, as Mistral's do.
    wants_short_ids: bool,
    /// Why it cannot run at all.
    broken: Option<String>,
}

impl ChatTemplates {
    /// The template given in place of the repository's.
    pub(crate) fn of_option(source: &str) -> Result<Self, LoadError> {
        let templates = Self::new([(DEFAULT.into(), source.into())].into());
        match &templates.templates[0].broken {
            Some(why) => Err(LoadError::Corrupt { file: "--chat-template".into(), why: why.clone() }),
            None => Ok(templates),
        }
    }

    /// The template that a request brings.
    pub(crate) fn of_request(source: &str) -> Result<Self, Failure> {
        let templates = Self::new([(DEFAULT.into(), source.into())].into());
        match &templates.templates[0].broken {
            Some(why) => {
                Err(Failure::invalid("chat_template", format!("chat_template cannot be parsed: {why}")))
            }
            None => Ok(templates),
        }
    }

    /// Reads the templates of a repository; `None` if it has none. Files win over `tokenizer_config.json`, as in
    /// transformers 5.
    pub(crate) fn load(files: &ModelFiles) -> Result<Option<Self>, LoadError> {
        let mut found: Vec<(String, String)> = Vec::new();
        if let Some(source) = files.text("chat_template.jinja")? {
            found.push((DEFAULT.into(), source));
        }
        for file in files.files.keys() {
            let name =
                file.strip_prefix("additional_chat_templates/").and_then(|name| name.strip_suffix(".jinja"));
            let Some(name) = name else { continue };
            found.extend(files.text(file)?.map(|source| (name.into(), source)));
        }
        for file in ["chat_template.json", "tokenizer_config.json"] {
            if found.is_empty()
                && let Some(config) = files.json(file)?
            {
                found = named_sources(&config["chat_template"]);
            }
        }
        Ok((!found.is_empty()).then(|| Self::new(found)))
    }

    fn new(found: Vec<(String, String)>) -> Self {
        let mut env = environment::environment();
        let mut templates = Vec::new();
        for (name, source) in found {
            let broken = add(&mut env, name.clone(), &source).err().map(|fault| fault.to_string());
            if let Some(why) = &broken {
                tracing::warn!(template = name, why, "a chat template cannot be parsed");
            }
            let format = if broken.is_none() { content::detect(&source) } else { ContentFormat::Text };
            let wants_short_ids = SHORT_IDS.iter().any(|sign| source.contains(sign));
            templates.push(Template { name, source, format, wants_short_ids, broken });
        }
        Self { env, templates }
    }

    /// Whether any of the templates mentions a text.
    pub(crate) fn mention(&self, text: &str) -> bool {
        self.templates.iter().any(|template| template.source.contains(text))
    }

    /// Renders a conversation. `variables` are the special tokens and the server's template arguments.
    pub(crate) fn render(
        &self,
        prompt: &ChatPrompt,
        variables: Map<String, Value>,
    ) -> Result<String, Failure> {
        let template = self.choose(prompt)?;
        let rendered = self.render_with(template, prompt, variables.clone(), Arguments::Object);
        let has_calls = prompt.messages.iter().any(|message| !message.tool_calls.is_empty());
        match rendered {
            // Templates such as DeepSeek's put the arguments between two texts, which takes a text.
            Err(Refusal::Failed(_)) if has_calls => {
                self.render_with(template, prompt, variables, Arguments::Text).or(rendered)
            }
            rendered => rendered,
        }
        .map_err(Refusal::into_failure)
    }

    fn render_with(
        &self,
        template: &Template,
        prompt: &ChatPrompt,
        variables: Map<String, Value>,
        arguments: Arguments,
    ) -> Result<String, Refusal> {
        let shape = Shape {
            format: template.format,
            arguments,
            knows_developer: template.source.contains("developer"),
            short_ids: template.wants_short_ids,
        };
        let mut messages = messages::values(&prompt.messages, shape);
        let continued = match prompt.continue_final_message {
            true => Some(mark_continued(&mut messages, template).map_err(Refusal::Said)?),
            false => None,
        };
        let mut context = variables;
        context.extend(prompt.template_kwargs.clone());
        context.insert("messages".into(), Value::Array(messages));
        let mut list = |name: &str, values: Option<Vec<Value>>| match values {
            Some(values) => drop(context.insert(name.into(), Value::Array(values))),
            None => drop(context.entry(name).or_insert(Value::Null)),
        };
        list("tools", (!prompt.tools.is_empty()).then(|| prompt.tools.clone()));
        list("documents", prompt.documents.clone());
        let opens_turn = prompt.add_generation_prompt && !prompt.continue_final_message;
        context.insert("add_generation_prompt".into(), json!(opens_turn));

        let rendered = self.run(template, context)?;
        match continued {
            Some(text) => cut_continued(rendered, &text).map_err(Refusal::Said),
            None => Ok(rendered),
        }
    }

    fn choose(&self, prompt: &ChatPrompt) -> Result<&Template, Failure> {
        let named = |name: &str| self.templates.iter().find(|template| template.name == name);
        let for_tools = if prompt.tools.is_empty() { None } else { named("tool_use") };
        let for_documents = if prompt.documents.is_none() { None } else { named("rag") };
        let only = if self.templates.len() == 1 { self.templates.first() } else { None };
        let template = for_tools.or(for_documents).or_else(|| named(DEFAULT)).or(only).ok_or_else(|| {
            let names: Vec<&str> = self.templates.iter().map(|template| template.name.as_str()).collect();
            let message = format!(
                "this model has chat templates for {} and none for conversations in general; start the server with --chat-template to give it one",
                names.join(", ")
            );
            Failure::new(ErrorKind::Unsupported, message).with_param("messages")
        })?;
        match &template.broken {
            Some(why) => {
                let message = format!(
                    "this model's chat template cannot be parsed ({why}); start the server with --chat-template to give it another"
                );
                Err(Failure::new(ErrorKind::Unsupported, message).with_param("messages"))
            }
            None => Ok(template),
        }
    }

    fn run(&self, template: &Template, context: Map<String, Value>) -> Result<String, Refusal> {
        let compiled =
            self.env.get_template(&template.name).expect("templates that are not broken were added");
        let mut out = Limited { bytes: Vec::new() };
        let context = minijinja::Value::from(minijinja::value::Serde(context));
        // minijinja 3.0 indexes out of bounds for some slices (`''[::-1]`), and a template is a stranger's.
        let run = std::panic::AssertUnwindSafe(|| compiled.render_captured_to(context, &mut out).map(drop));
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => Ok(String::from_utf8(out.bytes).expect("templates write text")),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => {
                let message =
                    "the model's chat template failed on this conversation: the template engine broke";
                Err(Refusal::Said(Failure::invalid("messages", message)))
            }
        }
    }
}

/// Why a conversation was not rendered.
enum Refusal {
    /// The template says so, or there is nothing else to try.
    Said(Failure),
    /// The template came upon a value that it cannot deal with.
    Failed(Failure),
}

impl Refusal {
    fn into_failure(self) -> Failure {
        match self {
            Self::Said(failure) | Self::Failed(failure) => failure,
        }
    }
}

/// A sink that refuses more than [`MAX_RENDERED_BYTES`].
struct Limited {
    bytes: Vec<u8>,
}

impl std::io::Write for Limited {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + more.len() > MAX_RENDERED_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A `chat_template` of a config: one text, a list of `{name, template}`, or names with texts.
fn named_sources(value: &Value) -> Vec<(String, String)> {
    let pair = |name: &str, source: &Value| Some((name.to_owned(), source.as_str()?.to_owned()));
    match value {
        Value::String(source) => vec![(DEFAULT.into(), source.clone())],
        Value::Array(list) => {
            list.iter().filter_map(|item| pair(item["name"].as_str()?, &item["template"])).collect()
        }
        Value::Object(map) => map.iter().filter_map(|(name, source)| pair(name, source)).collect(),
        _ => Vec::new(),
    }
}

/// What a failed rendering means to the client: the template's own words where it raised, else what went wrong.
fn failure(error: &minijinja::Error) -> Refusal {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Raised(words)) = inner.downcast_ref::<Raised>() {
            let message = format!("the model's chat template refuses this conversation: {words}");
            return Refusal::Said(Failure::invalid("messages", message));
        }
        cause = inner.source();
    }
    let message = match error.kind() {
        minijinja::ErrorKind::OutOfFuel => {
            let message = "the model's chat template took too long on this conversation";
            return Refusal::Said(Failure::invalid("messages", message));
        }
        _ => format!("the model's chat template failed on this conversation: {error}"),
    };
    Refusal::Failed(Failure::invalid("messages", message))
}

/// Marks the end of the last message's text, and gives that text.
fn mark_continued(messages: &mut [Value], template: &Template) -> Result<String, Failure> {
    let refuse = |why: &str| Err(Failure::invalid("continue_final_message", why));
    if !template.source.contains("content") {
        return refuse("the model's chat template shows no content that could be continued");
    }
    let last = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match last {
        Some(Value::Array(parts)) => parts.last_mut().and_then(|part| part.get_mut("text")),
        other => other,
    };
    let Some(Value::String(text)) = text else {
        return refuse("the final message has no text to continue");
    };
    let original = text.clone();
    text.push_str(CONTINUE_TAG);
    Ok(original)
}

/// Cuts a rendered prompt after the text that is continued.
fn cut_continued(mut rendered: String, text: &str) -> Result<String, Failure> {
    let tag = CONTINUE_TAG.trim_end();
    let (Some(at), true) = (rendered.rfind(tag), rendered.contains(text.trim_matches(python::is_space)))
    else {
        let why = "the final message does not appear in the prompt as it was sent: the model's chat template changes it, so it cannot be continued";
        return Err(Failure::invalid("continue_final_message", why));
    };
    let keeps_space = rendered[at..].starts_with(CONTINUE_TAG);
    rendered.truncate(at);
    if !keeps_space {
        // The template trims the message, so the space before the tag is the message's own.
        rendered.truncate(rendered.trim_end_matches(python::is_space).len());
    }
    Ok(rendered)
}
