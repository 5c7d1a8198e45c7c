//! `candlewick config check|show`: what holds, and why.

use std::fmt::Write;

use serde_json::Value;

use crate::settings_effect::effect_of;
use crate::settings_layers::{API_KEYS, Layered, Place};

/// Keys whose values are nobody's business.
const SECRETS: &[&str] = &[API_KEYS, "hub.token", "telemetry.otlp_headers"];

/// Every setting as a line of TOML, with what a change of it takes in a running server, and the place it was set at;
/// secrets only as whether they are set.
pub fn show(layered: &Layered) -> String {
    let raw = serde_json::to_value(&layered.raw).expect("settings are plain data");
    let mut text = String::new();
    for (section, values) in raw.as_object().into_iter().flatten() {
        let gap = if text.is_empty() { "" } else { "\n" };
        writeln!(text, "{gap}[{section}]").expect("a string can be written to");
        for (name, value) in values.as_object().into_iter().flatten() {
            let key = format!("{section}.{name}");
            let (value, takes) = (toml_value(&shown(&key, value)), effect_of(&key));
            let place = match layered.place(&key) {
                Place::Default => String::new(),
                place => format!("; {place}"),
            };
            writeln!(text, "{name} = {value}  # {takes}{place}").expect("a string can be written to");
        }
    }
    text
}

/// A value as it may be shown: of a secret only that there is one.
pub fn shown(key: &str, value: &Value) -> Value {
    match value {
        value if !SECRETS.contains(&key) || is_empty(value) => value.clone(),
        // The names are none.
        Value::Object(table) => table.iter().map(|(name, _)| (name.clone(), Value::from("…"))).collect(),
        _ => "…".into(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(|table| table.is_empty())
}

fn toml_value(value: &Value) -> String {
    match toml::Value::try_from(value) {
        Ok(value) => value.to_string(),
        // TOML has no null; a template variable may be one.
        Err(_) => format!("'{value}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{FlagValue, SettingsFile, Sources};

    #[test]
    fn what_is_shown_can_be_used_as_a_file() {
        let flags = vec![
            FlagValue::new("port", "9"),
            FlagValue::new("chat-template-kwargs", r#"{"a": {"b": [1, "x"]}}"#),
        ];
        let layered = Layered::read(&Sources { flags, ..Sources::default() }).expect("good");
        let text = show(&layered);
        assert!(text.contains("port = 9  # restart; flag --port\n"), "{text}");
        let file = Some(SettingsFile { path: "shown.toml".into(), text });
        let again =
            Layered::read(&Sources { file, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.raw, layered.raw);
    }

    #[test]
    fn secrets_are_not_shown() {
        let flags = vec![FlagValue::new("api-key", "hunter2")];
        let env = [("CANDLEWICK_HUB__TOKEN".into(), "hf_hunter2".into())].into();
        let layered = Layered::read(&Sources { flags, env, ..Sources::default() }).expect("good");
        let text = show(&layered);
        assert!(!text.contains("hunter2") && text.contains("api_keys = \"…\""), "{text}");
    }
}
