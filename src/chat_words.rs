//! What a person says to `candlewick chat` beside talking: the words after the command, and lines that begin with `!`.
//! Pure: text in, meaning out.

use serde_json::{Map, Value};

use crate::settings_layers::nearest;

/// The server that is looked for when none is named.
pub const DEFAULT_SERVER_HOST: &str = "http://localhost";

/// What the words of the command line mean.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatWords {
    /// The model to talk to.
    pub model: Option<String>,
    /// Address of the server, without `/v1` and without a slash at the end.
    pub url: Option<String>,
    /// Fields of the request.
    pub fields: Map<String, Value>,
}

impl ChatWords {
    /// Tells model, address and fields apart by their look.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for word in words {
            if let Some((key, value)) = field(word)? {
                parsed.fields.insert(key, value);
            } else if let Some(url) = address(word) {
                if let Some(first) = parsed.url.replace(url) {
                    return Err(format!("two servers are named, `{first}` and `{word}`; talk to one"));
                }
            } else if let Some(first) = parsed.model.replace(word.clone()) {
                return Err(format!(
                    "two models are named, `{first}` and `{word}`; an address begins with `http://`, a request field is \
                     written `key=value`"
                ));
            }
        }
        Ok(parsed)
    }
}

/// `http://…`, or `host:port`; a `/v1` at the end is what other tools want and is dropped.
fn address(word: &str) -> Option<String> {
    let is_host_port = word.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (host == "localhost" || host.contains('.')) && !host.contains('/')
    });
    let url = match word {
        _ if word.starts_with("http://") || word.starts_with("https://") => word.to_owned(),
        _ if is_host_port => format!("http://{word}"),
        _ => return None,
    };
    let url = url.trim_end_matches('/');
    Some(url.strip_suffix("/v1").unwrap_or(url).trim_end_matches('/').into())
}

/// `key=value`; the value is JSON where it can be read as such, else text. The names of `transformers` are understood.
/// Fields that a talk in a terminal has no use for are refused.
fn field(word: &str) -> Result<Option<(String, Value)>, String> {
    let Some((key, value)) = word.split_once('=') else { return Ok(None) };
    let is_name = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !is_name {
        return Ok(None);
    }
    let key = match key.replace('-', "_").as_str() {
        "max_new_tokens" => "max_tokens".into(),
        key => key.to_owned(),
    };
    let value = match value {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into())),
    };
    match unfit(&key, &value) {
        Some(why) => Err(format!("`{word}` cannot be set here: {why}")),
        None => Ok(Some((key, value))),
    }
}

/// Why a field cannot be part of a talk. Null takes a field back, which is always fine.
fn unfit(key: &str, value: &Value) -> Option<&'static str> {
    match (key, value) {
        (_, Value::Null) => None,
        ("n", value) if value.as_f64() != Some(1.0) => Some("a talk goes on from one answer"),
        ("stream", value) if *value != Value::Bool(true) => Some("answers are shown as they come"),
        ("messages", _) => Some("the messages are what is said"),
        _ => None,
    }
}

/// Fields of a chat request that mean something to a server of ours.
const KNOWN_FIELDS: &[&str] = &[
    "add_generation_prompt",
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "cache_salt",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "echo",
    "frequency_penalty",
    "generation_config",
    "ignore_eos",
    "include_reasoning",
    "include_stop_str_in_output",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "min_p",
    "min_tokens",
    "model",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "priority",
    "reasoning_effort",
    "repetition_penalty",
    "request_id",
    "response_format",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "seed",
    "skip_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
];

/// A line for each field that is not known here, which is sent all the same: another server may know it.
pub fn doubts(fields: &Map<String, Value>) -> Vec<String> {
    let known: Vec<String> = KNOWN_FIELDS.iter().map(|name| (*name).to_owned()).collect();
    let strange = fields.iter().filter(|(key, value)| !value.is_null() && !known.contains(key));
    strange
        .map(|(key, _)| match nearest(key, &known) {
            Some(name) => format!("`{key}` is no field that is known here; did you mean `{name}`?"),
            None => format!("`{key}` is no field that is known here; it is sent all the same"),
        })
        .collect()
}

/// A line that begins with `!`.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatCommand {
    /// What can be said.
    Help,
    /// Forget the conversation.
    Clear,
    /// Write the conversation to a file.
    Save(Option<String>),
    /// Change request fields; a field set to null is taken back.
    Set(Map<String, Value>),
    /// Model, server, fields, length of the conversation.
    Status,
    /// Leave.
    Exit,
    /// Not understood, or refused: why, and where to read on.
    Unknown(String),
}

/// What `!help` prints.
pub const HELP: &str = "\
!help              this list
!clear             forget the conversation and begin anew
!save [FILE]       write the conversation to a JSON file
!set key=value …   change request fields, such as temperature=0.2 or max_tokens=100; key=null takes one back
!status            model, server, request fields, length of the conversation
!exit              leave (so does Ctrl-D)
Ctrl-C stops an answer.";

impl ChatCommand {
    /// Reads a line; `None` if it is not a command.
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix('!')?;
        let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let rest = rest.trim();
        Some(match name {
            "help" => Self::Help,
            "clear" => Self::Clear,
            "save" => Self::Save((!rest.is_empty()).then(|| rest.into())),
            "set" => match rest
                .split_whitespace()
                .map(|word| {
                    field(word)?.ok_or_else(|| format!("`{word}` is no field; write it as key=value"))
                })
                .collect::<Result<Map<_, _>, _>>()
            {
                Ok(fields) if !fields.is_empty() => Self::Set(fields),
                Ok(_) => Self::unknown("!set wants fields, such as `!set temperature=0.2`"),
                Err(why) => Self::unknown(&why),
            },
            "status" => Self::Status,
            "exit" | "quit" => Self::Exit,
            _ => Self::unknown(&format!("there is no command !{name}")),
        })
    }

    fn unknown(why: &str) -> Self {
        Self::Unknown(format!("{why}; !help lists the commands"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(line: &str) -> Result<ChatWords, String> {
        ChatWords::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_told_apart_by_their_look() {
        let parsed =
            words("temperature=0.5 http://gpu:8000/v1/ org/m@dev:q.gguf max_new_tokens=9 stop=[\"a\"]")
                .expect("good");
        assert_eq!(parsed.model.as_deref(), Some("org/m@dev:q.gguf"));
        assert_eq!(parsed.url.as_deref(), Some("http://gpu:8000"));
        assert_eq!(Value::Object(parsed.fields), json!({"temperature": 0.5, "max_tokens": 9, "stop": ["a"]}));
        assert_eq!(words("localhost:9000").expect("good").url.as_deref(), Some("http://localhost:9000"));
        assert_eq!(words("./folder").expect("good").model.as_deref(), Some("./folder"));
        assert!(words("a/b c/d").unwrap_err().contains("two models"));
        assert!(words("http://a http://b").unwrap_err().contains("two servers"));
    }

    #[test]
    fn values_are_json_or_text() {
        let fields = words("a=True b=None c=hello d=1 e-f=false").expect("good").fields;
        assert_eq!(Value::Object(fields), json!({"a": true, "b": null, "c": "hello", "d": 1, "e_f": false}));
    }

    #[test]
    fn commands_are_read_and_unknown_ones_are_told() {
        assert_eq!(ChatCommand::parse("hello!"), None);
        assert_eq!(ChatCommand::parse(" !exit "), Some(ChatCommand::Exit));
        assert_eq!(
            ChatCommand::parse("!save my file.json"),
            Some(ChatCommand::Save(Some("my file.json".into())))
        );
        assert_eq!(ChatCommand::parse("!save"), Some(ChatCommand::Save(None)));
        let Some(ChatCommand::Set(fields)) = ChatCommand::parse("!set seed=1 temperature=0") else {
            panic!("not a !set")
        };
        assert_eq!(Value::Object(fields), json!({"seed": 1, "temperature": 0}));
        for line in ["!set", "!set seed", "!sav", "!"] {
            let Some(ChatCommand::Unknown(why)) = ChatCommand::parse(line) else {
                panic!("{line} is understood")
            };
            assert!(why.ends_with("; !help lists the commands") && why.lines().count() == 1, "{why}");
        }
    }

    #[test]
    fn fields_that_would_break_the_talk_are_refused() {
        for word in ["n=2", "stream=false", "messages=[]"] {
            let Some(ChatCommand::Unknown(why)) = ChatCommand::parse(&format!("!set {word}")) else {
                panic!("{word} is taken")
            };
            assert!(why.contains(word), "{why}");
            assert!(words(word).unwrap_err().contains(word), "also at the start");
        }
        for word in ["n=1", "n=null", "stream=true"] {
            assert!(
                matches!(ChatCommand::parse(&format!("!set {word}")), Some(ChatCommand::Set(_))),
                "{word}"
            );
        }
    }

    #[test]
    fn a_field_that_nobody_knows_is_doubted() {
        let fields = words("temprature=0.5 seed=1 zzz=2 qqq=None").expect("good").fields;
        let doubts = doubts(&fields);
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(doubts[0].contains("did you mean `temperature`?"), "{doubts:?}");
        assert!(doubts[1].contains("`zzz`"), "{doubts:?}");
    }
}
