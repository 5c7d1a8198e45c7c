//! Stop strings: found in text that arrives in pieces, across the borders of tokens.
//!
//! The stop string that is complete first wins (of several complete at the same character, the longest), whatever the
//! pieces were. Text is held back only while it is the beginning of a stop string. Each byte costs amortised constant
//! time per stop string (Knuth, Morris, Pratt 1977).

/// Looks for stop strings in the text of one choice.
pub(crate) struct StopMatcher {
    stops: Vec<Pattern>,
    keep_stop: bool,
    /// Text that may still become a stop string.
    held: String,
    is_stopped: bool,
}

/// One stop string and how much of it the text so far ends with.
struct Pattern {
    text: String,
    /// `borders[i]`: length of the longest proper border of the first `i` bytes.
    borders: Vec<usize>,
    matched: usize,
}

impl StopMatcher {
    /// `keep_stop`: the stop string stays in the text.
    pub(crate) fn new(stops: &[String], keep_stop: bool) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Pattern::new(stop)).collect();
        Self { stops, keep_stop, held: String::new(), is_stopped: false }
    }

    /// Takes more text; what is certain to be part of the output, and the stop string that ended it.
    pub(crate) fn push(&mut self, text: String) -> (String, Option<String>) {
        if self.is_stopped {
            return (String::new(), None);
        }
        if self.stops.is_empty() {
            return (text, None);
        }
        let mut all = std::mem::take(&mut self.held);
        let num_old = all.len();
        all.push_str(&text);
        for index in num_old..all.len() {
            let byte = all.as_bytes()[index];
            for stop in &mut self.stops {
                stop.advance(byte);
            }
            let complete =
                self.stops.iter().filter(|stop| stop.is_complete()).max_by_key(|stop| stop.text.len());
            if let Some(stop) = complete {
                let end = index + 1;
                all.truncate(if self.keep_stop { end } else { end - stop.text.len() });
                self.is_stopped = true;
                return (all, Some(stop.text.clone()));
            }
        }
        let num_held = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        // A held prefix begins where a stop string begins: at a character's first byte.
        self.held = all.split_off(all.len() - num_held);
        (all, None)
    }

    /// There is no more text: what was held back was no stop string.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len() + 1];
        let mut border = 0;
        for index in 1..bytes.len() {
            while border > 0 && bytes[index] != bytes[border] {
                border = borders[border];
            }
            border += usize::from(bytes[index] == bytes[border]);
            borders[index + 1] = border;
        }
        Self { text: text.into(), borders, matched: 0 }
    }

    fn advance(&mut self, byte: u8) {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.borders[self.matched];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
    }

    fn is_complete(&self) -> bool {
        self.matched == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str], keep_stop: bool) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut matcher = StopMatcher::new(&stops, keep_stop);
        let (mut out, mut stopped) = (String::new(), None);
        for piece in pieces {
            let (text, stop) = matcher.push(piece.to_string());
            out += &text;
            stopped = stopped.or(stop);
        }
        out += &matcher.finish();
        (out, stopped)
    }

    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], text: &str, stop: Option<&str>) {
        assert_eq!(run(stops, pieces, false), (text.to_string(), stop.map(Into::into)));
    }

    #[test]
    fn a_stop_string_is_cut_with_all_that_follows() {
        check(&["\n\n"], &["one", "\n", "\ntwo"], "one", Some("\n\n"));
        check(&["END"], &["theEN", "END", "more"], "theEN", Some("END"));
        check(&["é!"], &["caf", "é", "!?"], "caf", Some("é!"));
        assert_eq!(run(&["STOP"], &["a ST", "OP b"], true), ("a STOP".into(), Some("STOP".into())));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_told() {
        check(&["abcabd"], &["abcab", "cab"], "abcabcab", None);
        check(&["###"], &["##"], "##", None);
    }

    #[test]
    fn the_first_complete_stop_string_wins() {
        check(&["bcde", "cd"], &["abcdef"], "ab", Some("cd"));
        check(&["d", "bcd"], &["abcd"], "a", Some("bcd"));
    }

    #[test]
    fn text_is_held_only_while_it_could_become_a_stop_string() {
        let mut matcher = StopMatcher::new(&["</s>".into()], false);
        assert_eq!(matcher.push("a <".into()).0, "a ");
        assert_eq!(matcher.push("b </".into()).0, "<b ");
        assert_eq!(matcher.push("s".into()).0, "");
        assert_eq!(matcher.push("t".into()).0, "</st");
    }

    proptest! {
        #[test]
        fn cutting_the_text_in_pieces_changes_nothing(
            text in "[abé]{0,40}",
            stops in proptest::collection::vec("[abé]{1,4}", 0..3),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let whole = run(&stops, &[&text], false);
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            prop_assert_eq!(&run(&stops, &chars, false), &whole);
            let mut borders: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|at| text.is_char_boundary(*at)).collect();
            borders.extend([0, text.len()]);
            borders.sort_unstable();
            let pieces: Vec<&str> = borders.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&run(&stops, &pieces, false), &whole);
            // The reference: the stop string whose first occurrence ends first.
            let end = stops.iter().filter_map(|stop| text.find(stop).map(|at| (at + stop.len(), std::cmp::Reverse(stop.len())))).min();
            let expected = end.map_or(text.as_str(), |(end, std::cmp::Reverse(len))| &text[..end - len]);
            prop_assert_eq!(&whole.0, expected);
        }
    }
}
