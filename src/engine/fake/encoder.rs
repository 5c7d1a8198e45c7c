//! An encoder without weights: a text's vector follows from its tokens and from nothing else.

use std::sync::Arc;

use super::{FakeControl, hash_tokens};
use crate::StepError;
use crate::encode::{EncodePlan, EncodeTask, Encoded, Encoder};

/// Elements of its vectors.
pub const FAKE_DIMENSIONS: usize = 8;

/// A fake encoder at work.
pub(super) struct FakeEncoder {
    pub(super) control: Arc<FakeControl>,
}

impl Encoder for FakeEncoder {
    fn encode(&mut self, plan: &EncodePlan) -> Result<Vec<Encoded>, StepError> {
        self.control.before_pass(plan)?;
        let encoded = plan.texts.iter().map(|text| {
            let width = match text.task {
                EncodeTask::Embed { dimensions, .. } => dimensions.unwrap_or(FAKE_DIMENSIONS),
                EncodeTask::EmbedTokens { .. } | EncodeTask::Classify => {
                    return Err(StepError::Plan(format!("{} wants what no fake encoder does", text.id)));
                }
            };
            let mut values = fake_vector(&text.input.token_ids);
            values.truncate(width);
            Ok(Encoded { values, width })
        });
        encoded.collect()
    }
}

/// The vector of a text.
pub fn fake_vector(token_ids: &[u32]) -> Vec<f32> {
    let hash = hash_tokens(token_ids.iter().copied());
    hash.to_le_bytes().iter().map(|&byte| f32::from(byte) / 255.0).collect()
}
