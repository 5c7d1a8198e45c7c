//! What all chunks of an answer share, and small words that chat and completions have in common.

use std::time::{SystemTime, UNIX_EPOCH};

use candlewick_protocol::{FinishReason, RequestId, StopCause, Usage};
use sha2::{Digest, Sha256};

use crate::from_wire::ReplyOptions;
use crate::wire::chat::StopReason;
use crate::wire::usage::{self, CompletionTokensDetails, PromptTokensDetails};

/// What all chunks of an answer share.
#[derive(Debug, Clone)]
pub struct Head {
    /// Prefix and request id.
    pub id: String,
    /// Seconds since 1970, read once.
    pub created: u64,
    /// The model as the client named it; `None` takes the canonical id of the model that answers.
    model: Option<String>,
    /// Add the revision even if the client named none.
    echo_revision: bool,
    /// How to write the rest.
    pub options: ReplyOptions,
}

impl Head {
    /// The head of an answer that begins now. `pinned` names the model of a request that names none.
    pub fn now(
        prefix: &str,
        request_id: &RequestId,
        options: ReplyOptions,
        pinned: Option<String>,
        echo_revision: bool,
    ) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let model = options.model.clone().or(pinned);
        Self { id: format!("{prefix}{request_id}"), created, model, echo_revision, options }
    }

    /// The model as it is told to the client, once the canonical id of the one that answers is known.
    pub fn model(&self, canonical: &str) -> String {
        match &self.model {
            Some(name) if !self.echo_revision => name.clone(),
            _ => canonical.to_owned(),
        }
    }
}

/// Changes when the program or the model does.
pub fn fingerprint(canonical: &str) -> String {
    let digest = Sha256::new().chain_update(env!("CARGO_PKG_VERSION")).chain_update(canonical).finalize();
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("fp_{hex}")
}

/// Token counts as the wire has them.
pub fn usage(usage: &Usage) -> usage::Usage {
    usage::Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
        completion_tokens_details: CompletionTokensDetails { reasoning_tokens: usage.reasoning_tokens },
    }
}

/// `finish_reason` of chat.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// `stop_reason`.
pub fn stop_reason(cause: Option<StopCause>) -> Option<StopReason> {
    cause.map(|cause| match cause {
        StopCause::Text(text) => StopReason::Text(text),
        StopCause::Token(token) => StopReason::Token(token),
        StopCause::Repetition => StopReason::Text("repetition_detected".into()),
    })
}
