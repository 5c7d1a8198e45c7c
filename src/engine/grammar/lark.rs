//! Writes grammars in llguidance's dialect of Lark: rules and terminals get names, texts get quotes, and marks of the
//! model become its special tokens where they are some.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};

use crate::text::tokenizer::ModelTokenizer;

/// A grammar in the making.
pub(super) struct Lark<'a> {
    tokenizer: &'a ModelTokenizer,
    lines: String,
    num_names: usize,
    nested: Vec<GrammarWithLexer>,
}

/// The name of the terminal for text of any length, none included.
const ANY_TEXT: &str = "/(?s:.*)/";

impl<'a> Lark<'a> {
    pub(super) fn new(tokenizer: &'a ModelTokenizer) -> Self {
        Self { tokenizer, lines: String::new(), num_names: 0, nested: Vec::new() }
    }

    /// Whether the vocabulary has a token of this content.
    pub(super) fn has_token(&self, token: &str) -> bool {
        self.tokenizer.id(token).is_some()
    }

    /// A rule; its name.
    pub(super) fn rule(&mut self, body: &str) -> String {
        let name = self.name("r");
        self.line(&name, body);
        name
    }

    /// A terminal: what one regular expression matches, with `&` and `~`; its name.
    pub(super) fn terminal(&mut self, body: &str) -> String {
        let name = self.name("T");
        self.line(&name, body);
        name
    }

    /// What a terminal's body matches, up to the first occurrence of a text, which belongs to it; the rule's name.
    pub(super) fn up_to(&mut self, body: &str, end: &str) -> String {
        let terminal = self.terminal(body);
        let name = self.name("r");
        self.line(&format!("{name}[suffix={}]", literal(end)), &terminal);
        name
    }

    /// Any text, without special tokens; may be empty.
    pub(super) fn any_text(&mut self) -> String {
        format!("{}?", self.terminal("/(?s:.+)/"))
    }

    /// Text that does not contain a mark, and the mark behind it.
    pub(super) fn text_up_to(&mut self, mark: &str) -> String {
        if self.starts_special(mark) {
            let text = self.any_text();
            return format!("{text} {}", self.mark(mark));
        }
        // The first character that is special ends what can be told apart by text alone.
        self.up_to(ANY_TEXT, mark)
    }

    /// A grammar of its own, which is named by what is returned.
    pub(super) fn nested(&mut self, grammar: GrammarWithLexer) -> String {
        let name = self.name("g");
        let reference = format!("@{name}");
        self.nested.push(GrammarWithLexer { name: Some(name), ..grammar });
        reference
    }

    /// Marks and text: its special tokens as tokens, the rest letter by letter.
    pub(super) fn mark(&self, text: &str) -> String {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(char) = rest.chars().next() {
            if let Some((id, length)) = self.special_at(rest) {
                parts.extend((!plain.is_empty()).then(|| literal(&std::mem::take(&mut plain))));
                parts.push(format!("<[{id}]>"));
                rest = &rest[length..];
            } else {
                plain.push(char);
                rest = &rest[char.len_utf8()..];
            }
        }
        parts.extend((!plain.is_empty()).then(|| literal(&plain)));
        parts.join(" ")
    }

    /// Whether a mark begins with a special token: then no text can be taken for it.
    pub(super) fn starts_special(&self, mark: &str) -> bool {
        self.special_at(mark).is_some()
    }

    /// The whole grammar, beginning with what `start` says.
    pub(super) fn finish(mut self, start: &str) -> TopLevelGrammar {
        self.line("start", start);
        let mut grammars = vec![GrammarWithLexer::from_lark(self.lines)];
        grammars.append(&mut self.nested);
        TopLevelGrammar { grammars, max_tokens: None }
    }

    /// The special token that a text begins with, the longest if there are several, and its length.
    fn special_at(&self, text: &str) -> Option<(u32, usize)> {
        let specials = self.tokenizer.special_tokens();
        let found = specials.iter().filter(|(_, content)| text.starts_with(content.as_str()));
        found.max_by_key(|(_, content)| content.len()).map(|(id, content)| (*id, content.len()))
    }

    fn name(&mut self, kind: &str) -> String {
        self.num_names += 1;
        format!("{kind}{}", self.num_names)
    }

    fn line(&mut self, head: &str, body: &str) {
        self.lines.push_str(&format!("{head}: {body}\n"));
    }
}

/// A text in quotes, as Lark has it.
pub(super) fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// One of these texts, which are not empty.
pub(super) fn one_of<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(literal).collect();
    format!("({})", texts.join(" | "))
}
