//! The calls of one choice: their numbers, their ids, and whether they are told.

use candlewick_protocol::Delta;

use super::Deltas;

/// Counts calls, and tells them.
pub(super) struct Calls {
    id_seed: u64,
    only_first: bool,
    num: u32,
    /// The call that is open, if one is: whether any of its arguments were told.
    open: Option<bool>,
}

impl Calls {
    /// `only_first`: those after the first are read and not told.
    pub(super) fn new(id_seed: u64, only_first: bool) -> Self {
        Self { id_seed, only_first, num: 0, open: None }
    }

    /// How many there were.
    pub(super) fn num(&self) -> u32 {
        self.num
    }

    /// Opens a call.
    pub(super) fn begin(&mut self, name: String, deltas: &mut Deltas) {
        let index = self.num;
        self.num += 1;
        self.open = Some(false);
        if self.is_told(index) {
            deltas.push(Delta::ToolCall { index, id: call_id(self.id_seed, index), name });
        }
    }

    /// Adds to the arguments of the call that is open.
    pub(super) fn arguments(&mut self, fragment: &str, deltas: &mut Deltas) {
        let Some(has_arguments) = &mut self.open else { return };
        if fragment.is_empty() {
            return;
        }
        *has_arguments = true;
        let index = self.num - 1;
        if self.is_told(index) {
            deltas.push(Delta::ToolArguments { index, fragment: fragment.into() });
        }
    }

    /// Closes the call that is open, if one is. Without arguments it has the empty object.
    pub(super) fn end(&mut self, deltas: &mut Deltas) {
        if self.open == Some(false) {
            self.arguments("{}", deltas);
        }
        self.open = None;
    }

    fn is_told(&self, index: u32) -> bool {
        !self.only_first || index == 0
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
