//! Numbers as Python reads them, told as JSON: `+3`, `007`, `1_000`, `.5`, `2.`.
//!
//! What is a JSON number already stays as it is written.

/// A whole number, of any size.
pub(super) fn integer(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits: String = digits.chars().filter(|char| *char != '_').collect();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    Some(match (text.starts_with('-'), digits.is_empty()) {
        (_, true) => "0".into(),
        (true, false) => format!("-{digits}"),
        (false, false) => digits.into(),
    })
}

/// A whole number, perhaps with a fraction of zeros.
pub(super) fn whole(text: &str) -> Option<String> {
    integer(text).or_else(|| {
        let number: f64 = text.trim().parse().ok()?;
        (number.is_finite() && number.fract() == 0.0).then(|| format!("{number:.0}"))
    })
}

/// A number that is finite.
pub(super) fn number(text: &str) -> Option<String> {
    let text = text.trim();
    if serde_json::from_str::<serde_json::Number>(text).is_ok() {
        return Some(text.into());
    }
    integer(text).or_else(|| {
        let number: f64 = text.replace('_', "").parse().ok()?;
        serde_json::Number::from_f64(number).map(|number| number.to_string())
    })
}
