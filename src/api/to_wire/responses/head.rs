//! What must be known of a request to write its response, at once or after a restart. It is kept with the response.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::responses::Echo;

/// See the module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ResponseHead {
    /// What the response repeats of its request.
    pub echo: Echo,
    /// Report tokens and how likely they were.
    pub logprobs: bool,
    /// Write those tokens as `token_id:N`.
    pub tokens_as_token_ids: bool,
    /// Leave reasoning out of the answer.
    pub hide_reasoning: bool,
}

impl ResponseHead {
    /// As it is kept.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a head is text, numbers and JSON")
    }

    /// As it was kept. One that an older version kept may lack what is new, and is then told as far as it goes.
    pub fn of(value: &Value) -> Self {
        serde_json::from_value(value.clone()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the head of a stored response cannot be read");
            Self::default()
        })
    }
}
