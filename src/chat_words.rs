//! What a person says to `candlewick chat` beside talking: the words after the command, and lines that begin with `!`.
//! Pure: text in, meaning out.

use serde_json::{Map, Value};

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
            if let Some((key, value)) = field(word) {
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
fn field(word: &str) -> Option<(String, Value)> {
    let (key, value) = word.split_once('=')?;
    let is_name = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !is_name {
        return None;
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
    Some((key, value))
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
    /// Not understood: why.
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
                .map(|word| field(word).ok_or(word))
                .collect::<Result<Map<_, _>, _>>()
            {
                Ok(fields) if !fields.is_empty() => Self::Set(fields),
                Ok(_) => Self::Unknown("!set wants fields, such as `!set temperature=0.2`".into()),
                Err(word) => Self::Unknown(format!("`{word}` is no field; write it as key=value")),
            },
            "status" => Self::Status,
            "exit" | "quit" => Self::Exit,
            _ => Self::Unknown(format!("there is no command !{name}")),
        })
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
            assert!(matches!(ChatCommand::parse(line), Some(ChatCommand::Unknown(_))), "{line}");
        }
    }
}
