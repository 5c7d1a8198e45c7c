//! Answers read by the response template that a tokenizer ships: the fields of the message between their delimiters.
//!
//! What is told of a well-formed answer is what transformers' `parse_response` makes of it. Beyond it: a field that comes
//! again adds to what was told instead of replacing it, markup that is no call is text, and a call is told while it is
//! written wherever its arguments are JSON; other calls are told when they are complete.

mod content;
mod pattern;
mod template;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub(super) use self::pattern::{Automaton, Verdict};
pub(crate) use self::template::ResponseTemplate;

use self::content::{Json, Kind, transformed};
use self::pattern::Delimiter;
use self::template::{Field, Role};
use super::json_call::{self, Marked};
use super::literal::{self, GEMMA, Mapping};
use super::reader::{Broken, Reader};
use crate::text::template::json_text;

/// What stands between two parts of a field where the template does not say.
const JOIN: &str = "\n";

/// Gemma's quotes.
const GEMMA_QUOTES: &str = "<|\"|>";

impl ResponseTemplate {
    /// What of a rendered prompt belongs to the message that is answered. Nothing, if the prompt has no start of one.
    pub(crate) fn prompt_tail<'a>(&self, prompt: &'a str) -> &'a str {
        self.start.last_end(prompt).map_or("", |end| &prompt[end..])
    }

    /// Whether it tells calls apart.
    pub(crate) fn has_calls(&self) -> bool {
        self.fields.iter().any(|field| field.role == Role::Calls)
    }
}

/// Reads to the end of the text. `has_tools`: calls are calls; if not, their markup is text.
pub(super) async fn read(reader: &Reader, template: &ResponseTemplate, has_tools: bool) {
    let whole = if template.is_held() { Some((reader.all().await, 0)) } else { None };
    let reading = Reading { reader, template, has_tools, whole, has_told: [false; 2], goes_on: false };
    reading.run().await;
}

/// A template on its way through a text.
struct Reading<'a> {
    reader: &'a Reader,
    template: &'a ResponseTemplate,
    has_tools: bool,
    /// The text and how many bytes of it were read, where it had to be complete.
    whole: Option<(String, usize)>,
    /// Whether any answer was told, and any reasoning.
    has_told: [bool; 2],
    /// What was read last turned out to be text, and what follows is its continuation.
    goes_on: bool,
}

/// What stands at a place.
enum Stands {
    Open(usize, usize),
    Close(usize),
}

impl<'a> Reading<'a> {
    async fn run(mut self) {
        let template = self.template;
        let implicit = template.implicit.map(|index| &template.fields[index]);
        let close = implicit.and_then(|field| field.close.as_ref());
        loop {
            let mut words = self.words(implicit);
            let stands = loop {
                match self.delimiter(true, close).await {
                    Some(Stands::Close(0)) if !words.has_any => {}
                    Some(stands) => break Some(stands),
                    None => {}
                }
                if !self.word(&mut words).await {
                    break None;
                }
            };
            let space = self.close(words);
            match stands {
                None => return,
                Some(Stands::Close(len)) => drop(self.take(len).await),
                Some(Stands::Open(index, len)) => self.field(index, len, space).await,
            }
        }
    }

    /// Reads a field that is opened explicitly.
    async fn field(&mut self, index: usize, len: usize, space: String) {
        let field = &self.template.fields[index];
        if field.role == Role::Calls {
            self.reader.attempt(space);
            let opened = self.take(len).await;
            if self.calls(field, &opened).await.is_ok() {
                self.reader.end_call();
                self.reader.forget();
            } else {
                self.reader.give_up();
                self.goes_on = true;
                self.has_told[0] = true;
            }
            return;
        }
        self.take(len).await;
        self.reader.set_reasoning(field.role == Role::Reasoning);
        let mut words = self.words(Some(field));
        loop {
            if let Some(Stands::Close(len)) = self.delimiter(false, field.close.as_ref()).await {
                self.take(len).await;
                break;
            }
            if !self.word(&mut words).await {
                break;
            }
        }
        self.close(words);
        self.reader.set_reasoning(false);
    }

    async fn calls(&mut self, field: &Field, opened: &str) -> Result<(), Broken> {
        let open = field.open.as_ref().expect("a field that was opened has what opens it");
        let captures: Map<String, Value> =
            open.captures(opened).into_iter().map(|(name, text)| (name, text.into())).collect();
        match live(field) {
            // The whole text is at hand, and read by its places.
            _ if self.whole.is_some() => self.held_calls(field, captures).await,
            None => self.held_calls(field, captures).await,
            Some(live) => {
                self.live_call(live, &captures).await?;
                self.reader.end_call();
                self.reader.space().await;
                match self.delimiter(false, field.close.as_ref()).await {
                    Some(Stands::Close(len)) => drop(self.take(len).await),
                    _ => {
                        if let Some(automaton) = field.close.as_ref().and_then(Delimiter::automaton) {
                            self.reader.drop_cut(automaton);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Tells a call while it is written.
    async fn live_call(&self, live: Live<'_>, captures: &Map<String, Value>) -> Result<(), Broken> {
        let reader = self.reader;
        let Live::Arguments { name, is_gemma } = live else {
            return json_call::object(reader, Marked::Yes).await;
        };
        let name = captures.get(name).and_then(Value::as_str).ok_or(Broken)?.to_owned();
        reader.space().await;
        if is_gemma {
            reader.expect("{").await?;
            return literal::arguments(reader, &GEMMA, Mapping { colon: ":", close: "}" }, name).await;
        }
        if reader.peek().await != Some('{') {
            return Err(Broken);
        }
        reader.call(name)?;
        json_call::arguments(reader).await
    }

    /// Reads calls to their end, and tells them.
    async fn held_calls(&mut self, field: &Field, captures: Map<String, Value>) -> Result<(), Broken> {
        let mut body = String::new();
        let has_end = loop {
            if let Some(Stands::Close(len)) = self.delimiter(false, field.close.as_ref()).await {
                self.take(len).await;
                break true;
            }
            match self.next().await {
                Some(char) => body.push(char),
                None => break field.close.is_none(),
            }
        };
        // A pattern finds as much in half a text: what was cut is no call.
        if !has_end && !matches!(field.content.kind, Kind::Json(_)) {
            return Err(Broken);
        }
        let calls = self.values(field, captures, &body)?;
        if calls.iter().any(|(name, _)| !self.reader.allows(name)) {
            return Err(Broken);
        }
        for (name, arguments) in calls {
            self.reader.call(name)?;
            self.reader.arguments(&arguments);
            self.reader.end_call();
        }
        Ok(())
    }

    /// The calls of a field's text: names, and arguments as JSON text.
    fn values(
        &self,
        field: &Field,
        captures: Map<String, Value>,
        body: &str,
    ) -> Result<Vec<(String, String)>, Broken> {
        let content = field.content.parse(body)?;
        let value = match &field.transform {
            None => content,
            Some(transform) if field.transform_each => {
                let Value::Array(list) = content else { return Err(Broken) };
                let each = list.into_iter().map(|item| {
                    let Value::Object(item) = item else { return Err(Broken) };
                    transformed(transform, &captures.clone().into_iter().chain(item).collect())
                });
                each.collect::<Result<Vec<_>, _>>()?.into()
            }
            Some(transform) => {
                let mut scope = captures;
                scope.insert("content".into(), content);
                transformed(transform, &scope)?
            }
        };
        let values = if let Value::Array(list) = value { list } else { vec![value] };
        values.into_iter().map(|value| self.call(value)).collect()
    }

    /// One call, with its arguments made what the tool's schema says.
    fn call(&self, value: Value) -> Result<(String, String), Broken> {
        let Some(Value::Object(function)) = value.get("function") else { return Err(Broken) };
        let name =
            function.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).ok_or(Broken)?;
        let arguments = match function.get("arguments") {
            Some(Value::Object(arguments)) => {
                let typed = arguments.iter().map(|(key, value)| {
                    let types = self.reader.types_of(name, key);
                    (key.clone(), types.cast_value(value))
                });
                json_text(&Value::Object(typed.collect()))
            }
            Some(Value::String(text)) if serde_json::from_str::<Map<_, _>>(text).is_ok() => text.clone(),
            _ => return Err(Broken),
        };
        Ok((name.to_owned(), arguments))
    }

    /// Which delimiter stands next: of several the longest, of these an opening one, of these the first by name.
    async fn delimiter(&self, may_open: bool, close: Option<&Delimiter>) -> Option<Stands> {
        let fields = self.template.fields.iter().enumerate();
        let opens = fields.filter_map(|(index, field)| {
            let is_watched = may_open && (field.role != Role::Calls || self.has_tools);
            Some((Some(index), field.open.as_ref().filter(|_| is_watched)?))
        });
        let watched: Vec<(Option<usize>, &Delimiter)> =
            opens.chain(close.map(|close| (None, close))).collect();
        let (which, len) = match &self.whole {
            Some((text, at)) => {
                let found = watched.iter().enumerate().filter_map(|(which, (_, delimiter))| {
                    let len = delimiter.at(text, *at)?;
                    Some((which, text[*at..at + len].chars().count()))
                });
                found.reduce(|best, next| if next.1 > best.1 { next } else { best })
            }
            None => {
                let automata: Vec<&Automaton> =
                    watched.iter().filter_map(|(_, delimiter)| delimiter.automaton()).collect();
                self.reader.longest(&automata).await
            }
        }?;
        match watched[which].0 {
            // It would open the field again and again.
            Some(_) if len == 0 => None,
            Some(index) => Some(Stands::Open(index, len)),
            None => Some(Stands::Close(len)),
        }
    }

    async fn take(&mut self, num_chars: usize) -> String {
        let mut taken = String::new();
        for _ in 0..num_chars {
            taken.extend(self.next().await);
        }
        taken
    }

    async fn next(&mut self) -> Option<char> {
        let next = self.reader.next().await;
        if let (Some((_, at)), Some(char)) = (&mut self.whole, next) {
            *at += char.len_utf8();
        }
        next
    }

    /// Reads a character of words; `false` at the end of the text.
    async fn word(&mut self, words: &mut Words<'_>) -> bool {
        let is_prompt = self.reader.is_prompt().await;
        let Some(char) = self.next().await else { return false };
        words.push(self.reader, char, is_prompt);
        true
    }

    fn words(&mut self, field: Option<&'a Field>) -> Words<'a> {
        let goes_on = std::mem::take(&mut self.goes_on);
        let role = field.map_or(Role::Other, |field| field.role);
        let has_before = match role {
            Role::Answer => self.has_told[0],
            Role::Reasoning => self.has_told[1],
            Role::Calls | Role::Other => false,
        };
        let join = field.and_then(|field| field.join.as_deref()).unwrap_or(JOIN);
        Words {
            role,
            strip: field.is_none_or(|field| field.content.strip),
            before: if has_before && !goes_on { join } else { "" },
            has_any: goes_on,
            space: String::new(),
        }
    }

    /// The words are over; the space behind them, which was not told.
    fn close(&mut self, words: Words<'_>) -> String {
        match words.role {
            Role::Answer => self.has_told[0] |= words.has_any,
            Role::Reasoning => self.has_told[1] |= words.has_any,
            Role::Calls | Role::Other => {}
        }
        words.space
    }
}

/// The text of a field, told while it comes.
struct Words<'a> {
    role: Role,
    /// The space around the text is not told.
    strip: bool,
    /// What stands between earlier words and these.
    before: &'a str,
    has_any: bool,
    space: String,
}

impl Words<'_> {
    /// What the prompt holds of the field is known to the client.
    fn push(&mut self, reader: &Reader, char: char, is_prompt: bool) {
        if self.strip && char.is_whitespace() {
            if self.has_any && !is_prompt {
                self.space.push(char);
            }
            return;
        }
        let before = std::mem::take(&mut self.before);
        let space = std::mem::take(&mut self.space);
        self.has_any = true;
        if is_prompt {
            return;
        }
        let tell = match self.role {
            Role::Answer => Reader::text,
            Role::Reasoning => Reader::reasoning,
            Role::Calls | Role::Other => return,
        };
        for text in [before, &space, char.encode_utf8(&mut [0; 4])] {
            tell(reader, text);
        }
    }
}

/// How a call can be told while it is written.
enum Live<'a> {
    /// The text is the function's object, name and all.
    Object,
    /// The text is the arguments; the name was captured under this name.
    Arguments { name: &'a str, is_gemma: bool },
}

/// Whether, and how, the calls of a field can be told while they are written.
fn live(field: &Field) -> Option<Live<'_>> {
    let Kind::Json(json) = &field.content.kind else { return None };
    let is_plain = *json == Json { unquoted_keys: false, string_delims: Vec::new(), allow_non_json: false };
    let is_gemma = json.unquoted_keys
        && !json.allow_non_json
        && json.string_delims.iter().all(|(open, close)| open == GEMMA_QUOTES && close == GEMMA_QUOTES);
    if field.transform_each || !(is_plain || is_gemma) {
        return None;
    }
    match field.transform.as_ref()?.get("function")? {
        Value::String(text) if text == "{content}" && is_plain => Some(Live::Object),
        Value::Object(function) => {
            let text = |key: &str| function.get(key).and_then(Value::as_str);
            let name = text("name")?.strip_prefix('{')?.strip_suffix('}')?;
            let is_live = text("arguments") == Some("{content}") && name != "content" && !name.contains('.');
            is_live.then_some(Live::Arguments { name, is_gemma })
        }
        _ => None,
    }
}
