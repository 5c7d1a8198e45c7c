//! A client's own words in the text of an error: enough of them to be recognised, never all of them.

use std::borrow::Cow;

/// Most characters of a client's value that an error text shows.
const SHOWN_CHARS_MAX: usize = 100;

/// A text as an error may show it: cut, with an ellipsis for the rest, if it is long.
pub fn clipped(text: &str) -> Cow<'_, str> {
    clipped_at(text, SHOWN_CHARS_MAX)
}

/// [`clipped`], in quotes and with control characters escaped.
pub fn quoted(text: &str) -> String {
    format!("{:?}", clipped(text))
}

/// A text of at most `chars_max` characters, and an ellipsis if there were more.
pub fn clipped_at(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_texts_are_cut_and_never_within_a_character() {
        assert_eq!(quoted("a \"b\"\n"), r#""a \"b\"\n""#);
        let fits = "é".repeat(SHOWN_CHARS_MAX);
        assert_eq!(clipped(&fits), fits);
        assert_eq!(clipped(&format!("{fits}é")), format!("{fits}…"));
    }
}
