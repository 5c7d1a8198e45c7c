//! Names of responses and of their items. An item's name holds that of its response, so that a reference to an item
//! finds it without an index, and so that a response written twice has the same names.

use uuid::Uuid;

/// Hexadecimal digits of a response's id.
const DIGITS: usize = 32;
const PREFIX: &str = "resp_";

/// Names the items of one response.
#[derive(Debug, Clone)]
pub struct ItemIds {
    digits: String,
}

impl ItemIds {
    /// A new response. Its id is ours alone: a client's own id may come twice.
    pub fn new() -> Self {
        Self { digits: Uuid::new_v4().simple().to_string() }
    }

    /// A response that has its id.
    pub fn of(response_id: &str) -> Self {
        Self { digits: response_id.strip_prefix(PREFIX).unwrap_or(response_id).to_owned() }
    }

    /// `resp_…`
    pub fn response(&self) -> String {
        format!("{PREFIX}{}", self.digits)
    }

    /// An item of the output.
    pub fn output(&self, prefix: &str, index: usize) -> String {
        format!("{prefix}_{}0{index:04x}", self.digits)
    }

    /// An item of the input.
    pub fn input(&self, prefix: &str, index: usize) -> String {
        format!("{prefix}_{}1{index:04x}", self.digits)
    }
}

/// The id of the response that an item belongs to, if the item has a name of ours.
pub fn owner_of(item_id: &str) -> Option<String> {
    let (_, rest) = item_id.split_once('_')?;
    let digits = rest.get(..DIGITS).filter(|_| rest.len() > DIGITS)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("{PREFIX}{digits}"))
}
