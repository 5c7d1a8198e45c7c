//! The EBNF that GGML's programs read (`root ::= …`), as Lark.
//!
//! Source: `grammars/README.md` of llama.cpp. Rules get numbers for names, since Lark has its own ideas of what a name is.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use super::lark::literal;

/// The rule that an answer is.
const ROOT: &str = "root";

/// Whether a grammar is written in this notation.
pub(super) fn is_ebnf(text: &str) -> bool {
    text.contains("::=")
}

/// The same grammar in Lark.
///
/// # Errors
/// What cannot be read.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let tokens = tokens(text)?;
    let is_head = |index: usize| {
        matches!(tokens.get(index), Some(Token::Name(_))) && tokens.get(index + 1) == Some(&Token::Is)
    };
    let heads: Vec<usize> = (0..tokens.len()).filter(|index| is_head(*index)).collect();
    if heads.first() != Some(&0) {
        return Err("the grammar does not begin with a rule (`name ::= …`)".into());
    }
    let mut names = HashMap::new();
    for head in &heads {
        let Token::Name(name) = &tokens[*head] else { continue };
        let short = if name == ROOT { "start".into() } else { format!("r{}", names.len()) };
        if names.insert(name.as_str(), short).is_some() {
            return Err(format!("the grammar has two rules of the name `{name}`"));
        }
    }
    if !names.contains_key(ROOT) {
        return Err(format!("the grammar has no rule `{ROOT}`"));
    }
    let mut lark = String::new();
    for (number, head) in heads.iter().enumerate() {
        let Token::Name(name) = &tokens[*head] else { continue };
        let end = heads.get(number + 1).copied().unwrap_or(tokens.len());
        let body: Result<Vec<String>, String> =
            tokens[head + 2..end].iter().map(|token| token.in_lark(&names)).collect();
        let body = body?.concat();
        lark.push_str(&format!("{}: {}\n", names[name.as_str()], body.trim()));
    }
    Ok(lark)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Is,
    Text(String),
    /// A class of characters: what it holds, and whether it is what is not in it.
    Class(Vec<(char, char)>, bool),
    Any,
    /// Brackets, bars and quantifiers: the same in both.
    Same(String),
}

impl Token {
    fn in_lark(&self, names: &HashMap<&str, String>) -> Result<String, String> {
        Ok(match self {
            Self::Name(name) => {
                let short = names.get(name.as_str());
                format!(" {}", short.ok_or_else(|| format!("the grammar has no rule `{name}`"))?)
            }
            Self::Is => return Err("`::=` stands in the middle of a rule".into()),
            Self::Text(text) => format!(" {}", literal(text)),
            Self::Class(ranges, is_negated) => {
                let mut class = String::from(if *is_negated { " /[^" } else { " /[" });
                for (from, to) in ranges {
                    class.push_str(&format!("\\u{{{:x}}}-\\u{{{:x}}}", u32::from(*from), u32::from(*to)));
                }
                class + "]/"
            }
            Self::Any => " /(?s:.)/".into(),
            Self::Same(sign) if matches!(sign.as_str(), "(" | "|") => format!(" {sign}"),
            Self::Same(sign) => sign.clone(),
        })
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            char if char.is_whitespace() => {}
            '#' => while chars.next_if(|char| *char != '\n').is_some() {},
            '"' => tokens.push(Token::Text(quoted(&mut chars)?)),
            '[' => tokens.push(class(&mut chars)?),
            '.' => tokens.push(Token::Any),
            '(' | ')' | '|' | '*' | '+' | '?' => tokens.push(Token::Same(char.into())),
            '{' => tokens.push(Token::Same(counts(&mut chars)?)),
            ':' => {
                if chars.next() != Some(':') || chars.next() != Some('=') {
                    return Err("a `:` in the grammar is not part of `::=`".into());
                }
                tokens.push(Token::Is);
            }
            char if is_name(char) => {
                let mut name = String::from(char);
                name.extend(std::iter::from_fn(|| chars.next_if(|char| is_name(*char))));
                tokens.push(Token::Name(name));
            }
            other => return Err(format!("the grammar cannot be read at `{other}`")),
        }
    }
    Ok(tokens)
}

fn is_name(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '-' | '_')
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut text = String::new();
    loop {
        match chars.next() {
            Some('"') => return Ok(text),
            Some('\\') => text.push(escaped(chars)?),
            Some(char) => text.push(char),
            None => return Err("a text in the grammar has no closing quotes".into()),
        }
    }
}

fn class(chars: &mut Peekable<Chars<'_>>) -> Result<Token, String> {
    let is_negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match chars.next() {
            Some(']') if !ranges.is_empty() => return Ok(Token::Class(ranges, is_negated)),
            Some('\\') => escaped(chars)?,
            Some(char) if char != ']' => char,
            _ => return Err("a class of characters in the grammar is empty or not closed".into()),
        };
        let mut ahead = chars.clone();
        // A dash before the closing bracket is a dash.
        if ahead.next() != Some('-') || ahead.peek() == Some(&']') {
            ranges.push((from, from));
            continue;
        }
        chars.next();
        let to = match chars.next() {
            Some('\\') => escaped(chars)?,
            Some(char) => char,
            None => return Err("a class of characters in the grammar is not closed".into()),
        };
        if to < from {
            return Err(format!("the range `{from}-{to}` in the grammar is the wrong way round"));
        }
        ranges.push((from, to));
    }
}

fn counts(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let counts: String = std::iter::from_fn(|| chars.next_if(|char| *char != '}')).collect();
    let is_count = |char: char| char.is_ascii_digit() || matches!(char, ',' | ' ');
    if chars.next().is_none() || counts.is_empty() || !counts.chars().all(is_count) {
        return Err("a count in the grammar must be `{m}`, `{m,}` or `{m,n}`".into());
    }
    Ok(format!("{{{}}}", counts.replace(' ', "")))
}

fn escaped(chars: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    let kind = chars.next().ok_or("a backslash ends the grammar")?;
    let num_digits = match kind {
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other => return Ok(other),
    };
    let digits: String = chars.by_ref().take(num_digits).collect();
    let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == num_digits);
    code.and_then(char::from_u32).ok_or_else(|| format!("`\\{kind}{digits}` in the grammar is no character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_texts_and_classes_are_said_in_lark() {
        let lark =
            to_lark("root ::= \"a\\n\" (item-1 | .)* # a comment\nitem-1 ::= [^\\]a-z-]{2,3}\n").unwrap();
        let class = r"/[^\u{5d}-\u{5d}\u{61}-\u{7a}\u{2d}-\u{2d}]/{2,3}";
        assert_eq!(lark, format!("start: \"a\\n\" ( r1 | /(?s:.)/)*\nr1: {class}\n"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (grammar, why) in [
            ("root ::= item", "no rule `item`"),
            ("item ::= \"a\"", "no rule `root`"),
            ("root ::= \"a", "closing quotes"),
            ("root ::= [z-a]", "wrong way round"),
            ("root ::= \"a\"\nroot ::= \"b\"", "two rules"),
        ] {
            let told = to_lark(grammar).unwrap_err();
            assert!(told.contains(why), "{grammar}: {told}");
        }
    }
}
