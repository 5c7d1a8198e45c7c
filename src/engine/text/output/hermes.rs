//! Tool calls as Hermes and Qwen write them: `<tool_call>` JSON `</tool_call>`, as often as the model likes.
//!
//! The JSON is an object with `name` and `arguments` in either order. A call is announced when its name is known, and the
//! text of its arguments is told as the model writes it. What turns out to be no call before it was announced is text,
//! tags and all; what breaks off later is closed as it is. Nothing that the model wrote is lost, but for the markup and
//! the space around it.

use candlewick_protocol::Delta;

use super::json_scan::{Scan, Scanned};
use super::{Deltas, partial_tag};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

/// Tells tool calls from text.
pub(super) struct HermesParser {
    call_id_seed: u64,
    only_first: bool,
    num_calls: u32,
    state: State,
}

enum State {
    /// Text. Held back: space, and what may be the beginning of the opening tag.
    Content { held: String },
    /// Within a call.
    Call(Call),
    /// After a call: space is dropped.
    Closed,
}

/// A call that is being read.
struct Call {
    /// All of it, with the space before it, as long as it may turn out to be text.
    raw: String,
    place: Place,
    /// The key or value being read: keys and names, and arguments that are not told piece by piece.
    text: String,
    field: Field,
    scan: Scan,
    /// How much of the closing tag was read.
    num_close: usize,
    is_announced: bool,
    has_arguments: bool,
    /// Arguments that wait for the name.
    waiting: String,
}

/// Where in the call's JSON the next character stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    BeforeObject,
    BeforeKey,
    Key,
    BeforeColon,
    BeforeValue,
    Value,
    AfterValue,
    AfterObject,
    Closing,
}

/// What a value is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    /// Arguments that are an object, told as they come.
    Arguments,
    /// Arguments in another form: a text that holds JSON, or `null`.
    OtherArguments,
    Other,
}

/// What became of a character.
enum Read {
    Taken,
    /// The call is complete.
    Closed,
    /// No call goes on like this. `usize`: how many bytes before the character were not part of the call either.
    Bad(usize),
}

impl HermesParser {
    pub(super) fn new(call_id_seed: u64, only_first: bool) -> Self {
        Self { call_id_seed, only_first, num_calls: 0, state: State::Content { held: String::new() } }
    }

    /// How many calls were announced.
    pub(super) fn num_calls(&self) -> u32 {
        self.num_calls
    }

    /// Takes more text.
    pub(super) fn push(&mut self, text: &str, deltas: &mut Deltas) {
        let mut rest = text.to_owned();
        while !rest.is_empty() {
            rest = self.step(rest, deltas);
        }
    }

    /// There is no more text.
    pub(super) fn finish(&mut self, deltas: &mut Deltas) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Content { held } => deltas.push(Delta::Text(held)),
            State::Call(call) if call.is_announced => self.close(call, deltas),
            State::Call(call) => deltas.push(Delta::Text(call.raw)),
            State::Closed => {}
        }
    }

    /// Reads on to the next change of state; what is left of the text.
    fn step(&mut self, text: String, deltas: &mut Deltas) -> String {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Content { mut held } => {
                held.push_str(&text);
                match held.find(OPEN) {
                    Some(at) => {
                        let rest = held.split_off(at + OPEN.len());
                        let start = held[..at].trim_end().len();
                        self.state = State::Call(Call::new(held.split_off(start)));
                        deltas.push(Delta::Text(held));
                        rest
                    }
                    None => {
                        let certain = held[..held.len() - partial_tag(&held, OPEN)].trim_end().len();
                        let rest = held.split_off(certain);
                        deltas.push(Delta::Text(held));
                        self.state = State::Content { held: rest };
                        String::new()
                    }
                }
            }
            State::Closed => {
                let rest = text.trim_start();
                if !rest.is_empty() {
                    self.state = State::Content { held: String::new() };
                }
                rest.to_owned()
            }
            State::Call(call) => self.step_call(call, text, deltas),
        }
    }

    fn step_call(&mut self, mut call: Call, text: String, deltas: &mut Deltas) -> String {
        let mut fragment = String::new();
        for (at, char) in text.char_indices() {
            match call.read(char, &mut fragment) {
                Read::Taken => {
                    if call.take_name() {
                        self.announce(&mut call, deltas);
                    }
                }
                Read::Closed if call.is_announced => {
                    self.tell_arguments(&mut call, fragment, deltas);
                    self.close(call, deltas);
                    return text[at + char.len_utf8()..].to_owned();
                }
                Read::Closed => {
                    // An object without a name.
                    deltas.push(Delta::Text(call.raw + char.encode_utf8(&mut [0; 4])));
                    self.state = State::Content { held: String::new() };
                    return text[at + char.len_utf8()..].to_owned();
                }
                Read::Bad(num_before) => {
                    self.state = State::Content { held: String::new() };
                    if call.is_announced {
                        self.tell_arguments(&mut call, fragment, deltas);
                        self.finish_arguments(&mut call, deltas);
                    } else {
                        call.raw.truncate(call.raw.len() - num_before);
                        deltas.push(Delta::Text(call.raw));
                    }
                    return CLOSE[..num_before].to_owned() + &text[at..];
                }
            }
            if !call.is_announced {
                call.raw.push(char);
            }
        }
        self.tell_arguments(&mut call, fragment, deltas);
        self.state = State::Call(call);
        String::new()
    }

    fn announce(&mut self, call: &mut Call, deltas: &mut Deltas) {
        let index = self.num_calls;
        self.num_calls += 1;
        call.is_announced = true;
        call.raw.clear();
        if self.is_told(index) {
            deltas.push(Delta::ToolCall {
                index,
                id: call_id(self.call_id_seed, index),
                name: std::mem::take(&mut call.text),
            });
        }
        let waiting = std::mem::take(&mut call.waiting);
        self.tell_arguments(call, waiting, deltas);
    }

    fn tell_arguments(&mut self, call: &mut Call, fragment: String, deltas: &mut Deltas) {
        if !call.is_announced {
            call.waiting.push_str(&fragment);
            return;
        }
        let index = self.num_calls - 1;
        if self.is_told(index) {
            deltas.push(Delta::ToolArguments { index, fragment });
        }
    }

    /// An announced call without arguments has none: an empty object. Arguments that broke off stay as they are.
    fn finish_arguments(&mut self, call: &mut Call, deltas: &mut Deltas) {
        let rest = match call.field {
            Field::OtherArguments => std::mem::take(&mut call.text),
            _ if !call.has_arguments => "{}".to_owned(),
            _ => String::new(),
        };
        self.tell_arguments(call, rest, deltas);
    }

    fn close(&mut self, mut call: Call, deltas: &mut Deltas) {
        self.finish_arguments(&mut call, deltas);
        self.state = State::Closed;
    }

    fn is_told(&self, index: u32) -> bool {
        !self.only_first || index == 0
    }
}

impl Call {
    fn new(raw: String) -> Self {
        Self {
            raw,
            place: Place::BeforeObject,
            text: String::new(),
            field: Field::Other,
            scan: Scan::default(),
            num_close: 0,
            is_announced: false,
            has_arguments: false,
            waiting: String::new(),
        }
    }

    /// Reads one character; arguments are added to `fragment`.
    fn read(&mut self, char: char, fragment: &mut String) -> Read {
        if self.place == Place::Closing {
            return self.read_close(char);
        }
        if char == '<' && !self.scan.is_in_text() && self.place != Place::Key {
            self.num_close = 1;
            self.place = Place::Closing;
            return Read::Taken;
        }
        match self.place {
            Place::Value => return self.read_value(char, fragment),
            Place::Key => match self.scan.read(char) {
                Scanned::Inside => self.text.push(char),
                Scanned::Ends => self.place = Place::BeforeColon,
                _ => return Read::Bad(0),
            },
            _ if char.is_ascii_whitespace() => {}
            Place::BeforeObject if char == '{' => self.place = Place::BeforeKey,
            Place::BeforeKey if char == '"' => self.begin(Place::Key, char),
            Place::BeforeKey | Place::AfterValue if char == '}' => self.place = Place::AfterObject,
            Place::BeforeColon if char == ':' => self.place = Place::BeforeValue,
            Place::BeforeValue => return self.begin_value(char, fragment),
            Place::AfterValue if char == ',' => self.place = Place::BeforeKey,
            // Models close one bracket too many now and then.
            Place::AfterObject if char == '}' => {}
            _ => return Read::Bad(0),
        }
        Read::Taken
    }

    fn begin(&mut self, place: Place, char: char) {
        self.place = place;
        self.text.clear();
        self.scan = Scan::default();
        self.scan.read(char);
    }

    fn begin_value(&mut self, char: char, fragment: &mut String) -> Read {
        self.field = match self.text.as_str() {
            "name" if !self.is_announced && char == '"' => Field::Name,
            "name" => return Read::Bad(0),
            "arguments" | "parameters" if self.has_arguments => Field::Other,
            "arguments" | "parameters" => {
                self.has_arguments = true;
                if matches!(char, '{' | '[') { Field::Arguments } else { Field::OtherArguments }
            }
            _ => Field::Other,
        };
        self.place = Place::Value;
        self.text.clear();
        self.scan = Scan::default();
        self.read_value(char, fragment)
    }

    fn read_value(&mut self, char: char, fragment: &mut String) -> Read {
        let scanned = self.scan.read(char);
        if let Scanned::Inside | Scanned::Ends = scanned {
            match self.field {
                Field::Arguments => fragment.push(char),
                Field::Name | Field::OtherArguments => self.text.push(char),
                Field::Other => {}
            }
        }
        match scanned {
            Scanned::Inside => return Read::Taken,
            Scanned::Bad => return Read::Bad(0),
            Scanned::Ends | Scanned::Ended => self.place = Place::AfterValue,
        }
        match self.field {
            Field::Name => match serde_json::from_str::<String>(&self.text) {
                // The field stays: `take_name` looks for it.
                Ok(name) if !name.is_empty() => self.text = name,
                _ => return Read::Bad(0),
            },
            Field::OtherArguments => {
                fragment.push_str(&plain_arguments(&self.text));
                self.field = Field::Other;
            }
            Field::Arguments | Field::Other => self.field = Field::Other,
        }
        if let Scanned::Ended = scanned { self.read(char, fragment) } else { Read::Taken }
    }

    /// Whether the name has just become known; it is in `text`.
    fn take_name(&mut self) -> bool {
        let is_known = self.field == Field::Name && self.place == Place::AfterValue && !self.is_announced;
        if is_known {
            self.field = Field::Other;
        }
        is_known
    }

    fn read_close(&mut self, char: char) -> Read {
        if !CLOSE[self.num_close..].starts_with(char) {
            return Read::Bad(self.num_close);
        }
        self.num_close += 1;
        if self.num_close == CLOSE.len() { Read::Closed } else { Read::Taken }
    }
}

/// Arguments that are not an object: a text that holds one is unpacked, `null` is none, anything else stays.
fn plain_arguments(value: &str) -> String {
    match serde_json::from_str(value) {
        Ok(serde_json::Value::String(inner)) => inner,
        Ok(serde_json::Value::Null) => "{}".into(),
        _ => value.into(),
    }
}

/// `call_` and 24 hexadecimal digits, of the seed and the call's index.
fn call_id(seed: u64, index: u32) -> String {
    let high = mix(seed ^ mix(u64::from(index)));
    let low = mix(high ^ seed);
    format!("call_{high:016x}{:08x}", low >> 32)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
