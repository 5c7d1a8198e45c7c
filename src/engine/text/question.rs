//! Questions about text: which tokens it is, and which text tokens are.

use candlewick_protocol::{Failure, LocatedToken, Prompt, TextOutput, TextTask};

use super::TextProcessor;
use super::prompt::internal;

impl TextProcessor {
    /// Answers a question. Blocks for as long as the text is long; the failure names the field at fault.
    pub fn answer(&self, task: &TextTask) -> Result<TextOutput, Failure> {
        match task {
            TextTask::Encode { prompt, add_special_tokens } => {
                let ids = match prompt {
                    Prompt::Text { text, .. } => self.encode(text, *add_special_tokens)?,
                    Prompt::Chat(chat) => self.encode(&self.render(chat)?, *add_special_tokens)?,
                    Prompt::Infill { .. } | Prompt::Tokens(_) => self.prepare(prompt)?.token_ids.to_vec(),
                };
                let spelled = ids.into_iter().map(|id| (id, self.tokenizer.token(id).unwrap_or_default()));
                Ok(TextOutput::Encoded(spelled.collect()))
            }
            TextTask::Locate { texts, add_special_tokens } => {
                let located = texts.iter().map(|text| self.locate(text, *add_special_tokens));
                located.collect::<Result<_, _>>().map(TextOutput::Located)
            }
            TextTask::Decode { lists, skip_special_tokens, param } => {
                let bound = self.vocab_size();
                if let Some(id) = lists.iter().flatten().find(|id| **id as usize >= bound) {
                    let message =
                        format!("token id {id} is not in this model's vocabulary of {bound} tokens");
                    return Err(Failure::invalid(param, message));
                }
                let text = |ids: &Vec<u32>| self.tokenizer.decode(ids, *skip_special_tokens);
                Ok(TextOutput::Decoded(lists.iter().map(text).collect()))
            }
        }
    }

    fn locate(&self, text: &str, add_special_tokens: bool) -> Result<Vec<LocatedToken>, Failure> {
        let encoding = self.tokenizer.locate(text, add_special_tokens).map_err(|error| internal(&error))?;
        // Where each character begins, and where the text ends.
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets());
        let tokens = tokens.zip(encoding.get_special_tokens_mask());
        let located = tokens.map(|(((id, token), (start, stop)), special)| {
            let special = *special == 1;
            let text = match (special, starts.get(*start).zip(starts.get(*stop))) {
                (false, Some((start, stop))) => text.get(*start..*stop).unwrap_or_default().to_owned(),
                _ => token.clone(),
            };
            LocatedToken { id: *id, text, special, span: (!special).then_some((*start, *stop)) }
        });
        Ok(located.collect())
    }
}
