//! What a template expects of a message's content: one text, or a list of parts.
//!
//! Found as vLLM finds it: a template that loops over `message.content` wants parts. vLLM walks Jinja's syntax tree;
//! this reads the statements, and follows `set` and macro arguments as well.

use super::source::statements;

/// The form in which a template takes content that came as parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentFormat {
    /// One text: parts are joined by line ends.
    Text,
    /// A list of parts. `accepts_text`: plain text is taken too, as it is.
    Parts {
        /// Whether the template asks what kind of content it has.
        accepts_text: bool,
    },
}

/// More statements than any real template has: no more are looked at, since a template is a stranger's.
const MAX_STATEMENTS: usize = 2000;

/// How often names are followed to the names that they are given to.
const MAX_ROUNDS: usize = 4;

/// What a template expects.
pub(super) fn detect(source: &str) -> ContentFormat {
    let statements: Vec<&str> =
        statements(source).into_iter().take(MAX_STATEMENTS).map(|statement| statement.text).collect();
    let mut conversations = vec!["messages".to_owned()];
    let mut messages: Vec<String> = Vec::new();
    let mut contents: Vec<String> = Vec::new();
    // Names may be used above their definition (macros), so again while something is new.
    for _ in 0..MAX_ROUNDS {
        let num_known = conversations.len() + messages.len() + contents.len();
        for text in &statements {
            if let Some((name, value)) = assignment(text) {
                if is_content(value, &messages, &conversations) || is_access(value, &contents) {
                    add(&mut contents, name);
                } else if is_access(value, &conversations) {
                    add(&mut conversations, name);
                }
            } else if let Some((name, iterated)) = for_loop(text)
                && is_access(iterated, &conversations)
            {
                add(&mut messages, name);
            } else if let Some((macro_name, parameters)) = macro_head(text) {
                for arguments in calls(source, macro_name) {
                    for (parameter, argument) in parameters.iter().zip(arguments) {
                        if is_content(argument, &messages, &conversations) || is_access(argument, &contents) {
                            add(&mut contents, parameter);
                        }
                    }
                }
            }
        }
        if num_known == conversations.len() + messages.len() + contents.len() {
            break;
        }
    }
    let wants_parts = statements.iter().filter_map(|text| for_loop(text)).any(|(_, iterated)| {
        is_content(iterated, &messages, &conversations) || is_access(iterated, &contents)
    });
    let asks =
        [" is string", " is not string", " is mapping", " is iterable", " is not iterable", " is sequence"];
    match wants_parts {
        true => ContentFormat::Parts { accepts_text: asks.iter().any(|test| source.contains(test)) },
        false => ContentFormat::Text,
    }
}

fn add(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

/// `set name = value`.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.strip_prefix("set ")?.split_once('=')?;
    Some((name.trim(), value.trim()))
}

/// `for name in iterated`.
fn for_loop(text: &str) -> Option<(&str, &str)> {
    let (name, iterated) = text.strip_prefix("for ")?.split_once(" in ")?;
    Some((name.trim(), iterated.trim()))
}

/// `macro name(parameters)`.
fn macro_head(text: &str) -> Option<(&str, Vec<&str>)> {
    let (name, parameters) = text.strip_prefix("macro ")?.split_once('(')?;
    let parameters = parameters.trim_end().trim_end_matches(')').split(',');
    Some((
        name.trim(),
        parameters.map(|parameter| parameter.split('=').next().unwrap_or_default().trim()).collect(),
    ))
}

/// The arguments of each call of a macro.
fn calls<'a>(source: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let open = format!("{name}(");
    let ends = source.match_indices(&open).map(|(at, found)| at + found.len());
    ends.filter_map(|start| Some(source[start..].split_once(')')?.0.split(',').map(str::trim).collect()))
        .collect()
}

/// `name`, and what may follow it without being something else: a filter, a slice, a condition, the end.
fn is_access(value: &str, names: &[String]) -> bool {
    names.iter().any(|name| value.strip_prefix(name.as_str()).is_some_and(ends_access))
}

fn ends_access(rest: &str) -> bool {
    let rest = rest.trim_start();
    rest.is_empty()
        || rest.starts_with('|')
        || rest.starts_with("if ")
        || rest.starts_with("recursive")
        || is_slice(rest)
}

fn is_slice(rest: &str) -> bool {
    rest.starts_with('[') && rest.split_once(']').is_some_and(|(inner, _)| inner.contains(':'))
}

/// `message.content` or `message['content']`, where `message` is a loop's or `messages[…]`.
fn is_content(value: &str, messages: &[String], conversations: &[String]) -> bool {
    let of_loop = messages.iter().filter_map(|name| value.strip_prefix(name.as_str()));
    let of_index = conversations
        .iter()
        .filter_map(|name| Some(value.strip_prefix(name.as_str())?.strip_prefix('[')?.split_once(']')?.1));
    of_loop.chain(of_index).any(|rest| {
        [".content", "['content']", "[\"content\"]"]
            .iter()
            .any(|access| rest.strip_prefix(access).is_some_and(ends_access))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_over_content_wants_parts() {
        let strict = ContentFormat::Parts { accepts_text: false };
        let lenient = ContentFormat::Parts { accepts_text: true };
        for (source, format) in [
            ("{% for m in messages %}{{ m.content }}{% endfor %}", ContentFormat::Text),
            (
                "{% for m in messages %}{% for p in m['content'] %}{{ p.text }}{% endfor %}{% endfor %}",
                strict,
            ),
            (
                "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content if p.text %}{% endfor %}{% endif %}{% endfor %}",
                lenient,
            ),
            (
                "{% set rest = messages[1:] %}{%- for m in rest %}{%- set c = m['content'] -%}{% for p in c | list %}{% endfor %}{% endfor %}",
                strict,
            ),
            (
                "{% macro show(content, n=1) %}{% for p in content %}{% endfor %}{% endmacro %}{% for m in messages %}{{ show(m.content, 2) }}{% endfor %}",
                strict,
            ),
            (
                "{% for m in messages %}{% for w in m.content.split(' ') %}{% endfor %}{% endfor %}",
                ContentFormat::Text,
            ),
            (
                "{% for m in messages %}{% for t in m.tool_calls %}{% endfor %}{% endfor %}",
                ContentFormat::Text,
            ),
        ] {
            assert_eq!(detect(source), format, "{source}");
        }
    }
}
