//! How a vocabulary spells text: what the decoder of a `tokenizer.json` makes of one token.
//!
//! The decoders that generative models use work token by token, with little memory between tokens; those are read here
//! into a form that needs no second look at earlier tokens. What does not fit is [`Scheme::Whole`].

use std::sync::LazyLock;

use serde_json::Value;
use tokenizers::Tokenizer;

/// The decoder of a tokenizer, as far as one token is concerned.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pieces {
    pub(crate) scheme: Scheme,
    /// What is replaced within each token (`▁` by a space).
    replacements: Vec<(String, String)>,
    /// Tokens like `<0xE2>` stand for one byte.
    byte_fallback: bool,
}

/// How the pieces of tokens become text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scheme {
    /// Each character of a token stands for one byte (GPT-2's table).
    ByteLevel,
    /// Pieces follow one another.
    Plain {
        /// The character cut from the start of the whole text.
        strip: char,
        /// How many of it at most.
        strip_start: usize,
        /// The mark that becomes a space (Metaspace), and whether the first token loses it instead.
        metaspace: Option<(char, bool)>,
    },
    /// No decoder: tokens with a space between them.
    Spaced,
    /// WordPiece: a space before each token but the first, unless it begins with this prefix.
    WordPiece {
        /// The mark of a token that continues a word.
        prefix: String,
    },
    /// Only the tokenizer itself can tell, given all tokens.
    Whole,
}

/// What one token adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Text.
    Text(String),
    /// One byte, which with its neighbours may make a character.
    Byte(u8),
}

impl Pieces {
    /// Reads the decoder of a tokenizer.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Self {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or(Value::Null);
        Self::from_json(&decoder)
    }

    fn from_json(decoder: &Value) -> Self {
        let steps: Vec<&Value> = match decoder["type"].as_str() {
            Some("Sequence") => {
                decoder["decoders"].as_array().map(|steps| steps.iter().collect()).unwrap_or_default()
            }
            Some(_) => vec![decoder],
            None => return Self { scheme: Scheme::Spaced, replacements: Vec::new(), byte_fallback: false },
        };
        let mut pieces = Self {
            scheme: Scheme::Plain { strip: ' ', strip_start: 0, metaspace: None },
            replacements: Vec::new(),
            byte_fallback: false,
        };
        let whole = || Self { scheme: Scheme::Whole, replacements: Vec::new(), byte_fallback: false };
        let (mut fused, mut alone) = (false, true);
        for step in &steps {
            let is_only = steps.len() == 1;
            let Scheme::Plain { strip, strip_start, metaspace } = &mut pieces.scheme else { return whole() };
            match step["type"].as_str() {
                Some("ByteLevel") if is_only => pieces.scheme = Scheme::ByteLevel,
                Some("WordPiece") if is_only && step["cleanup"] == false => {
                    let Some(prefix) = step["prefix"].as_str() else { return whole() };
                    pieces.scheme = Scheme::WordPiece { prefix: prefix.into() };
                }
                Some("Replace") if alone && metaspace.is_none() => {
                    let (Some(from), Some(to)) =
                        (step["pattern"]["String"].as_str(), step["content"].as_str())
                    else {
                        return whole();
                    };
                    pieces.replacements.push((from.into(), to.into()));
                }
                Some("Metaspace") if alone && metaspace.is_none() => {
                    let Some(mark) = step["replacement"].as_str().and_then(|mark| mark.chars().next()) else {
                        return whole();
                    };
                    *metaspace = Some((mark, step["prepend_scheme"] != "never"));
                }
                Some("ByteFallback") if alone => {
                    pieces.byte_fallback = true;
                    alone = false;
                }
                Some("Fuse") => (fused, alone) = (true, false),
                Some("Strip") if fused && step["stop"] == 0 && *strip_start == 0 => {
                    let Some(content) = step["content"].as_str().and_then(|content| content.chars().next())
                    else {
                        return whole();
                    };
                    (*strip, *strip_start) = (content, step["start"].as_u64().unwrap_or(0) as usize);
                }
                _ => return whole(),
            }
        }
        pieces
    }

    /// What a token adds to a text. `is_first`: no token comes before it.
    pub(crate) fn piece(&self, token: &str, is_first: bool) -> Piece {
        let mut text = token.to_owned();
        for (from, to) in &self.replacements {
            text = text.replace(from, to);
        }
        match &self.scheme {
            Scheme::Plain { metaspace: Some((mark, first_loses)), .. } => {
                let space = if is_first && *first_loses { "" } else { " " };
                text = text.replace(*mark, space);
            }
            Scheme::Spaced if !is_first => text.insert(0, ' '),
            Scheme::WordPiece { prefix } if !is_first => match text.strip_prefix(prefix.as_str()) {
                Some(rest) => text = rest.to_owned(),
                None => text.insert(0, ' '),
            },
            _ => {}
        }
        match byte_of(&text) {
            Some(byte) if self.byte_fallback => Piece::Byte(byte),
            _ => Piece::Text(text),
        }
    }

    /// The exact bytes of a token in the middle of a text.
    pub(crate) fn bytes(&self, token: &str) -> Vec<u8> {
        match &self.scheme {
            Scheme::ByteLevel => byte_level(token),
            Scheme::Spaced | Scheme::Whole => token.as_bytes().to_vec(),
            _ => match self.piece(token, false) {
                Piece::Text(text) => text.into_bytes(),
                Piece::Byte(byte) => vec![byte],
            },
        }
    }
}

/// `<0xE2>` → 0xE2.
fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// The bytes that a byte-level token stands for; one with a character outside the table stands for itself.
pub(crate) fn byte_level(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(|char| *BYTE_OF_CHAR.get(char as usize)?).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's table, reversed: printable Latin-1 stands for itself, other bytes for the characters from U+0100 on.
static BYTE_OF_CHAR: LazyLock<Vec<Option<u8>>> = LazyLock::new(|| {
    let mut table = vec![None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255_u8 {
        let is_printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let char = if is_printable { byte as usize } else { next };
        next += usize::from(!is_printable);
        table[char] = Some(byte);
    }
    table
});
