//! Finds the end of a JSON value that arrives character by character, without understanding it.
//!
//! Brackets and quotes are matched; what stands between them is not checked, since a model's slips there are the client's
//! to see.

/// JSON nested deeper than this is refused.
const MAX_DEPTH: usize = 128;

/// How far one value has been read.
#[derive(Default)]
pub(super) struct Scan {
    /// The brackets that are open, by what closes them.
    open: Vec<char>,
    in_text: bool,
    is_escaped: bool,
}

/// What a character is to the value.
pub(super) enum Scanned {
    /// The value goes on.
    Inside,
    /// The character ends the value and belongs to it.
    Ends,
    /// The value ended before the character.
    Ended,
    /// No JSON goes on like this.
    Bad,
}

impl Scan {
    /// Whether the next character stands within quotes.
    pub(super) fn is_in_text(&self) -> bool {
        self.in_text
    }

    /// How many brackets are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Reads one character.
    pub(super) fn read(&mut self, char: char) -> Scanned {
        if self.in_text {
            match char {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                '"' => {
                    self.in_text = false;
                    return if self.open.is_empty() { Scanned::Ends } else { Scanned::Inside };
                }
                _ => {}
            }
            return Scanned::Inside;
        }
        match char {
            '"' => self.in_text = true,
            '{' => self.open.push('}'),
            '[' => self.open.push(']'),
            '}' | ']' => match self.open.pop() {
                Some(expected) if expected == char && self.open.is_empty() => return Scanned::Ends,
                Some(expected) if expected == char => {}
                Some(_) => return Scanned::Bad,
                None => return Scanned::Ended,
            },
            ',' if self.open.is_empty() => return Scanned::Ended,
            char if char.is_ascii_whitespace() && self.open.is_empty() => return Scanned::Ended,
            _ => {}
        }
        if self.open.len() > MAX_DEPTH { Scanned::Bad } else { Scanned::Inside }
    }
}
