//! A template's source on its way to the engine: line ends as Jinja reads them, and `{% generation %}` blocks made
//! into blocks that only scope.

/// Prepares a source for parsing.
pub(super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    replace_generation_tags(&source)
}

/// One `{% … %}` statement of a template.
pub(super) struct Statement<'a> {
    /// Offset of its `{%` within the source.
    pub(super) start: usize,
    /// Offset just after its `%}`.
    pub(super) end: usize,
    /// What stands between, without trim marks and outer space.
    pub(super) text: &'a str,
}

/// The statements of a template, in order; comments, printed expressions and raw blocks are passed over.
pub(super) fn statements(source: &str) -> Vec<Statement<'_>> {
    let mut statements = Vec::new();
    let mut at = 0;
    let mut is_raw = false;
    while let Some(open) = source[at..].find('{').map(|offset| at + offset) {
        let Some(kind) = source[open + 1..].chars().next() else { break };
        let close = match kind {
            '%' => "%}",
            '{' if !is_raw => "}}",
            '#' if !is_raw => "#}",
            _ => {
                at = open + 1;
                continue;
            }
        };
        let Some(end) = closing(source, open + 2, close, kind != '#') else { break };
        if kind == '%' {
            let text = source[open + 2..end - 2].trim_matches(['-', '+']).trim();
            match text {
                "raw" => is_raw = true,
                "endraw" => is_raw = false,
                _ if is_raw => {}
                _ => statements.push(Statement { start: open, end, text }),
            }
        }
        at = end;
    }
    statements
}

/// The offset just after `close`, which does not count within quotes.
fn closing(source: &str, start: usize, close: &str, has_quotes: bool) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut quote = None;
    let mut index = start;
    while index < bytes.len() {
        match (quote, bytes[index]) {
            (Some(_), b'\\') => index += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'\'' | b'"')) if has_quotes => quote = Some(byte),
            (None, _) if bytes[index..].starts_with(close.as_bytes()) => return Some(index + close.len()),
            _ => {}
        }
        index += 1;
    }
    None
}

/// `generation` marks what the assistant says, for training; when rendering it is a scope like `with`.
fn replace_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut copied = 0;
    for statement in statements(source) {
        let name = match statement.text {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        out.push_str(&source[copied..statement.start]);
        out.push_str(&source[statement.start..statement.end].replacen(statement.text, name, 1));
        copied = statement.end;
    }
    out.push_str(&source[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_keep_their_trim_marks() {
        let source =
            "{# {% generation %} #}{{ '{% generation %}' }}\r\n{%- generation -%}x{%+ endgeneration %}";
        let expected = "{# {% generation %} #}{{ '{% generation %}' }}\n{%- with -%}x{%+ endwith %}";
        assert_eq!(prepare(source), expected);
    }

    #[test]
    fn statements_are_found_between_quotes_comments_and_raw_text() {
        let source =
            "{% if a == '%}' %}{# it's {% x %} #}{{ \"{% y %}\" }}{% raw %}{% z %}{% endraw %}{%- endif -%}";
        let texts: Vec<&str> = statements(source).into_iter().map(|statement| statement.text).collect();
        assert_eq!(texts, ["if a == '%}'", "endif"]);
    }
}
