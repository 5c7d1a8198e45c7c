//! The ranges of sampling's numbers, each written once: requests are refused outside them, and a model's defaults ignored.

use candlewick_protocol::Failure;

/// Where a number of the request must lie. `NaN` lies in no range.
pub(super) struct Range {
    param: &'static str,
    /// In words, for whoever got it wrong.
    text: &'static str,
    contains: fn(f32) -> bool,
}

pub(super) const TEMPERATURE: Range =
    Range { param: "temperature", text: "between 0 and 2", contains: |value| (0.0..=2.0).contains(&value) };

pub(super) const TOP_P: Range =
    Range { param: "top_p", text: "above 0 and at most 1", contains: |value| value > 0.0 && value <= 1.0 };

pub(super) const MIN_P: Range =
    Range { param: "min_p", text: "between 0 and 1", contains: |value| (0.0..=1.0).contains(&value) };

pub(super) const TYPICAL_P: Range = Range {
    param: "typical_p",
    text: "above 0 and at most 1",
    contains: |value| value > 0.0 && value <= 1.0,
};

pub(super) const FREQUENCY_PENALTY: Range = Range {
    param: "frequency_penalty",
    text: "between -2 and 2",
    contains: |value| (-2.0..=2.0).contains(&value),
};

pub(super) const PRESENCE_PENALTY: Range = Range {
    param: "presence_penalty",
    text: "between -2 and 2",
    contains: |value| (-2.0..=2.0).contains(&value),
};

pub(super) const REPETITION_PENALTY: Range = Range {
    param: "repetition_penalty",
    text: "above 0 and finite",
    contains: |value| value > 0.0 && value.is_finite(),
};

impl Range {
    /// The value as it is, or the failure that names it.
    pub fn check(&self, value: Option<f32>) -> Result<Option<f32>, Failure> {
        match value {
            Some(value) if !(self.contains)(value) => {
                let Self { param, text, .. } = self;
                Err(Failure::invalid(*param, format!("{param} is {value}; it must be {text}")))
            }
            _ => Ok(value),
        }
    }
}

/// -1 and 0 mean all.
pub(super) fn check_top_k(top_k: Option<i64>) -> Result<Option<i64>, Failure> {
    match top_k {
        Some(value) if value < -1 => Err(Failure::invalid(
            "top_k",
            format!("top_k is {value}; it must be at least 1, or 0 or -1 to keep all"),
        )),
        _ => Ok(top_k),
    }
}
