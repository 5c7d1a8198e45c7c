//! Reading `config.json` as transformers reads it: what a key means where it is absent is the family's to say, `null`
//! and absent are different things, and a value of the wrong kind is an error that names the key.

use candlewick_engine::LoadError;
use serde_json::Value;

/// A `config.json`.
#[derive(Clone, Copy)]
pub(crate) struct Config<'a>(pub(crate) &'a Value);

impl<'a> Config<'a> {
    /// The value of a key that is there and not `null`.
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there and `null`.
    pub(crate) fn is_null(self, key: &str) -> bool {
        self.0.get(key).is_some_and(Value::is_null)
    }

    /// A number of things, at least one.
    pub(crate) fn count(self, key: &str, default: usize) -> Result<usize, LoadError> {
        Ok(self.count_if_given(key)?.unwrap_or(default))
    }

    /// A number of things, at least one, if the key is there and not `null`.
    pub(crate) fn count_if_given(self, key: &str) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Python writes 32.0 for 32 where a config was computed.
        let whole = value
            .as_u64()
            .or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x > 0.0).map(|x| x as u64));
        match whole {
            Some(count @ 1..) if count <= u64::from(u32::MAX) => Ok(Some(count as usize)),
            _ => Err(wrong(key, "a positive whole number", value)),
        }
    }

    /// A whole number that may be zero.
    pub(crate) fn index(self, key: &str, default: usize) -> Result<usize, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value
            .as_u64()
            .map(|index| index as usize)
            .ok_or_else(|| wrong(key, "a whole number, zero or more", value))
    }

    /// A number.
    pub(crate) fn number(self, key: &str, default: f64) -> Result<f64, LoadError> {
        Ok(self.number_if_given(key)?.unwrap_or(default))
    }

    /// A number, if the key is there and not `null`.
    pub(crate) fn number_if_given(self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| wrong(key, "a number", value))
    }

    /// `true` or `false`.
    pub(crate) fn flag(self, key: &str, default: bool) -> Result<bool, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(key, "true or false", value))
    }

    /// A text.
    pub(crate) fn text(self, key: &str, default: &'a str) -> Result<&'a str, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| wrong(key, "a text", value))
    }

    /// A list, if the key is there and not `null`, with something to say for each of `at_least` layers.
    pub(crate) fn list_for_layers(
        self,
        key: &str,
        at_least: usize,
    ) -> Result<Option<&'a [Value]>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| wrong(key, "a list", value))?;
        if list.len() < at_least {
            return Err(corrupt(format!("`{key}` has {} entries for {at_least} layers", list.len())));
        }
        Ok(Some(list))
    }
}

/// The error of a key whose value is of the wrong kind.
pub(crate) fn wrong(key: &str, expected: &str, found: &Value) -> LoadError {
    corrupt(format!("`{key}` should be {expected}, and is {found}"))
}

/// The error of a config that cannot be.
pub(crate) fn corrupt(why: String) -> LoadError {
    LoadError::Corrupt { file: "config.json".into(), why }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_absent_except_where_asked() {
        let value = json!({"a": null});
        let config = Config(&value);
        assert_eq!(config.count("a", 3).unwrap(), 3);
        assert_eq!(config.count("b", 3).unwrap(), 3);
        assert!(config.is_null("a") && !config.is_null("b"));
    }

    #[test]
    fn errors_name_the_key_and_what_it_should_be() {
        let value = json!({"hidden_size": "many", "layers": 0, "layer_types": ["full_attention"]});
        let config = Config(&value);
        let said = config.count("hidden_size", 1).unwrap_err().to_string();
        assert_eq!(said, "config.json: `hidden_size` should be a positive whole number, and is \"many\"");
        assert!(config.count("layers", 1).is_err());
        let said = config.list_for_layers("layer_types", 2).unwrap_err().to_string();
        assert_eq!(said, "config.json: `layer_types` has 1 entries for 2 layers");
    }
}
