//! The delimiters of a response template: where one stands, told while the text still comes.
//!
//! Patterns are in Python's words. One that an automaton can follow is decided at the earliest character at which no
//! further text could decide otherwise; one that looks around itself can be decided only when the text is complete.

use fancy_regex::Regex;
use regex_automata::nfa::thompson::{NFA, State, WhichCaptures};
use regex_automata::util::look::{Look, LookSet};
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;

/// What might yet become a delimiter is given up as text beyond this, in characters.
const MAX_CHARS: usize = 4096;
/// The automaton of a pattern may not be larger, in bytes.
const MAX_AUTOMATON_BYTES: usize = 1 << 20;

/// A mark of a response template: texts, or a pattern.
#[derive(Debug)]
pub(super) struct Delimiter {
    /// For what the pattern captures.
    regex: Regex,
    /// `None`: the pattern looks around itself.
    automaton: Option<Automaton>,
}

/// Follows a pattern character by character.
#[derive(Debug)]
pub(in super::super) struct Automaton(NFA);

/// Whether a delimiter stands at the start of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// It does not.
    No,
    /// It does, and is so many characters long.
    Yes(usize),
    /// That depends on what comes.
    Open,
}

impl Delimiter {
    /// Of a pattern in Python's words, in which `.` matches line ends too.
    pub(super) fn of_pattern(pattern: &str) -> Result<Self, String> {
        let pattern = translated(pattern);
        // `\G` is where the search begins.
        let regex = Regex::new(&format!(r"(?s)\G(?:{pattern})")).map_err(|error| error.to_string())?;
        Ok(Self { regex, automaton: Automaton::new(&pattern) })
    }

    /// Of texts, of which any counts.
    pub(super) fn of_texts(texts: &[&str]) -> Result<Self, String> {
        let mut texts = texts.to_vec();
        // Of two that could both stand, the longer.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let pattern: Vec<_> = texts.into_iter().map(|text| fancy_regex::escape(text)).collect();
        Self::of_pattern_as_it_is(&pattern.join("|"))
    }

    fn of_pattern_as_it_is(pattern: &str) -> Result<Self, String> {
        let regex = Regex::new(&format!(r"(?s)\G(?:{pattern})")).map_err(|error| error.to_string())?;
        Ok(Self { regex, automaton: Automaton::new(pattern) })
    }

    pub(super) fn automaton(&self) -> Option<&Automaton> {
        self.automaton.as_ref()
    }

    /// Whether it has named groups.
    pub(super) fn has_names(&self) -> bool {
        self.regex.capture_names().any(|name| name.is_some())
    }

    /// Its length in bytes at a place of a complete text.
    pub(super) fn at(&self, text: &str, at: usize) -> Option<usize> {
        let found = self.regex.find_from_pos(text, at).ok()??;
        Some(found.end() - found.start())
    }

    /// What its named groups captured of a text that it matches.
    pub(super) fn captures(&self, text: &str) -> Vec<(String, String)> {
        let Ok(Some(captures)) = self.regex.captures(text) else { return Vec::new() };
        let names = self.regex.capture_names().flatten();
        names.filter_map(|name| Some((name.to_owned(), captures.name(name)?.as_str().to_owned()))).collect()
    }

    /// Where a text continues behind the last place that matches; `None` if none does.
    pub(super) fn last_end(&self, text: &str) -> Option<usize> {
        let (mut at, mut end) = (0, None);
        while at <= text.len() {
            match self.at(text, at) {
                Some(len) => {
                    end = Some(at + len);
                    at += len.max(1);
                }
                None => at += 1,
            }
            while at < text.len() && !text.is_char_boundary(at) {
                at += 1;
            }
        }
        end
    }
}

impl Automaton {
    fn new(pattern: &str) -> Option<Self> {
        let config =
            NFA::config().which_captures(WhichCaptures::None).nfa_size_limit(Some(MAX_AUTOMATON_BYTES));
        let mut compiler = NFA::compiler();
        compiler.configure(config).syntax(syntax::Config::new().dot_matches_new_line(true));
        let nfa = compiler.build(pattern).ok()?;
        // The end of the text is known when it comes; other surroundings are not looked at.
        let is_plain = nfa.look_set_any().remove(Look::End) == LookSet::empty();
        is_plain.then_some(Self(nfa))
    }

    /// Whether it matches at the start of what there is; `is_over`: no more will come.
    pub(in super::super) fn run(&self, text: impl Iterator<Item = char>, is_over: bool) -> Verdict {
        let mut text = text.peekable();
        let mut threads = Threads::default();
        threads.add(&self.0, self.0.start_anchored(), is_over && text.peek().is_none());
        let mut found = None;
        let mut num_chars = 0;
        loop {
            if let Some(index) = threads.first_match(&self.0) {
                found = Some(num_chars);
                // What is less preferred than a match no longer counts.
                threads.list.truncate(index);
            }
            if threads.list.is_empty() || num_chars > MAX_CHARS {
                break;
            }
            let Some(char) = text.next() else {
                if is_over {
                    break;
                }
                return Verdict::Open;
            };
            num_chars += 1;
            let is_end = is_over && text.peek().is_none();
            let mut bytes = [0; 4];
            let bytes = char.encode_utf8(&mut bytes).as_bytes();
            for (index, byte) in bytes.iter().enumerate() {
                threads = threads.step(&self.0, *byte, is_end && index + 1 == bytes.len());
            }
        }
        found.map_or(Verdict::No, Verdict::Yes)
    }
}

/// The ways through an automaton that are still open, the preferred first.
#[derive(Default)]
struct Threads {
    list: Vec<StateID>,
    seen: Vec<StateID>,
}

impl Threads {
    /// Adds a state and what is reached from it without a character.
    fn add(&mut self, nfa: &NFA, state: StateID, is_end: bool) {
        let mut stack = vec![state];
        while let Some(state) = stack.pop() {
            if self.seen.contains(&state) {
                continue;
            }
            self.seen.push(state);
            match nfa.state(state) {
                State::Look { next, .. } if is_end => stack.push(*next),
                State::Union { alternates } => stack.extend(alternates.iter().rev()),
                State::BinaryUnion { alt1, alt2 } => stack.extend([*alt2, *alt1]),
                State::Capture { next, .. } => stack.push(*next),
                State::Fail => {}
                // The end of the text may come where there is none yet.
                State::Look { .. }
                | State::ByteRange { .. }
                | State::Sparse(_)
                | State::Dense(_)
                | State::Match { .. } => self.list.push(state),
            }
        }
    }

    fn step(&self, nfa: &NFA, byte: u8, is_end: bool) -> Self {
        let mut next = Self::default();
        for state in &self.list {
            let target = match nfa.state(*state) {
                State::ByteRange { trans } if trans.matches_byte(byte) => Some(trans.next),
                State::Sparse(transitions) => transitions.matches_byte(byte),
                State::Dense(transitions) => transitions.matches_byte(byte),
                _ => None,
            };
            if let Some(target) = target {
                next.add(nfa, target, is_end);
            }
        }
        next
    }

    fn first_match(&self, nfa: &NFA) -> Option<usize> {
        self.list.iter().position(|state| matches!(nfa.state(*state), State::Match { .. }))
    }
}

/// A pattern of Python's in the words of Rust's engines.
pub(super) fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.char_indices().peekable();
    let mut is_in_class = false;
    while let Some((at, char)) = rest.next() {
        match char {
            '\\' => match rest.next() {
                Some((_, 'Z')) => out.push_str(r"\z"),
                // Escaped without need; here they would be the borders of words.
                Some((_, char @ ('<' | '>'))) => out.push(char),
                Some((_, char)) => out.extend(['\\', char]),
                None => out.push('\\'),
            },
            '[' if is_in_class => out.push_str(r"\["),
            '&' | '~' if is_in_class => out.extend(['\\', char]),
            '[' => {
                is_in_class = true;
                out.push('[');
                if let Some((_, '^')) = rest.peek() {
                    rest.next();
                    out.push('^');
                }
                if let Some((_, ']')) = rest.peek() {
                    rest.next();
                    out.push_str(r"\]");
                }
            }
            ']' if is_in_class => {
                is_in_class = false;
                out.push(']');
            }
            '{' if !is_in_class && !is_count(&pattern[at + 1..]) => out.push_str(r"\{"),
            char => out.push(char),
        }
    }
    out
}

/// Whether what follows a brace says how often something is repeated.
fn is_count(rest: &str) -> bool {
    let Some((count, _)) = rest.split_once('}') else { return false };
    count.bytes().any(|byte| byte.is_ascii_digit())
        && count.bytes().all(|byte| byte.is_ascii_digit() || byte == b',')
}
