//! A step plan as rows: every token of every chunk is a row, chunk after chunk, and a segment says which rows belong
//! together. A plan that names what is not there is refused here, before anything is written.

use std::collections::HashSet;

use candlewick_engine::{Chunk, KvCacheShape, StepError, StepPlan};

use crate::kernels::attention::Segment;

/// The rows of a step.
pub(crate) struct Batch<'a> {
    /// Token of each row.
    pub(crate) token_ids: Vec<u32>,
    /// Position of each row in its sequence.
    pub(crate) positions: Vec<usize>,
    /// One for each chunk, in the plan's order.
    pub(crate) segments: Vec<Segment<'a>>,
}

impl<'a> Batch<'a> {
    /// Checks the plan against vocabulary and cache, and lays it out.
    pub(crate) fn new(plan: &'a StepPlan, vocab_size: usize, cache: KvCacheShape) -> Result<Self, StepError> {
        let mut batch = Self { token_ids: Vec::new(), positions: Vec::new(), segments: Vec::new() };
        let (mut sequences, mut written) = (HashSet::new(), HashSet::new());
        for chunk in &plan.chunks {
            if !sequences.insert(chunk.sequence) {
                return Err(refuse(chunk, "it has two chunks in one step".into()));
            }
            check_tokens(chunk, vocab_size)?;
            check_blocks(chunk, cache)?;
            let block_size = cache.block_size as usize;
            let end = chunk.start + chunk.token_ids.len();
            for block in &chunk.block_table[chunk.start / block_size..end.div_ceil(block_size)] {
                if !written.insert(block.0) {
                    return Err(refuse(
                        chunk,
                        format!("block {} would be written twice in one step", block.0),
                    ));
                }
            }
            batch.segments.push(Segment {
                first_row: batch.token_ids.len(),
                num_rows: chunk.token_ids.len(),
                start: chunk.start,
                block_table: &chunk.block_table,
            });
            batch.token_ids.extend(&chunk.token_ids);
            batch.positions.extend(chunk.start..end);
        }
        Ok(batch)
    }
}

fn refuse(chunk: &Chunk, why: String) -> StepError {
    StepError::Plan(format!("sequence {}: {why}", chunk.sequence))
}

fn check_tokens(chunk: &Chunk, vocab_size: usize) -> Result<(), StepError> {
    if chunk.token_ids.is_empty() {
        return Err(refuse(chunk, "its chunk has no tokens".into()));
    }
    let scored = chunk.prompt_logprobs.as_ref().map_or(&[][..], |asked| &asked.next_token_ids);
    if scored.len() > chunk.token_ids.len() {
        let (scored, given) = (scored.len(), chunk.token_ids.len());
        return Err(refuse(
            chunk,
            format!("{scored} prompt tokens are to be scored after {given} computed ones"),
        ));
    }
    if chunk.samples.len() > chunk.token_ids.len() {
        let (sampled, given) = (chunk.samples.len(), chunk.token_ids.len());
        return Err(refuse(chunk, format!("{sampled} tokens are to be sampled after {given} computed ones")));
    }
    match chunk.token_ids.iter().chain(scored).find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(refuse(chunk, format!("token id {id} is not below the vocabulary of {vocab_size}"))),
        None => Ok(()),
    }
}

fn check_blocks(chunk: &Chunk, cache: KvCacheShape) -> Result<(), StepError> {
    let end = chunk.start + chunk.token_ids.len();
    let needed = end.div_ceil(cache.block_size as usize);
    if chunk.block_table.len() < needed {
        let given = chunk.block_table.len();
        return Err(refuse(chunk, format!("{end} tokens need {needed} blocks, and its table has {given}")));
    }
    match chunk.block_table.iter().find(|block| block.0 >= cache.num_blocks) {
        Some(block) => {
            Err(refuse(chunk, format!("block {} is not among the cache's {}", block.0, cache.num_blocks)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use candlewick_engine::{BlockId, PromptLogprobs, SequenceId};
    use candlewick_protocol::RequestKey;

    use super::*;

    const CACHE: KvCacheShape = KvCacheShape { num_blocks: 4, block_size: 2 };

    fn chunk(choice: u32, start: usize, token_ids: &[u32], blocks: &[u32]) -> Chunk {
        Chunk {
            sequence: SequenceId { request: RequestKey(1), choice },
            token_ids: token_ids.to_vec(),
            start,
            block_table: blocks.iter().map(|&block| BlockId(block)).collect(),
            samples: Vec::new(),
            prompt_logprobs: None,
        }
    }

    fn refused(chunks: Vec<Chunk>) -> String {
        match Batch::new(&StepPlan { chunks }, 10, CACHE) {
            Err(StepError::Plan(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("the plan was taken"),
        }
    }

    #[test]
    fn rows_are_chunk_after_chunk() {
        let plan = StepPlan { chunks: vec![chunk(0, 0, &[1, 2, 3], &[0, 1]), chunk(1, 5, &[4], &[1, 2, 3])] };
        let batch = Batch::new(&plan, 10, CACHE).unwrap();
        assert_eq!(batch.token_ids, [1, 2, 3, 4]);
        assert_eq!(batch.positions, [0, 1, 2, 5]);
        assert_eq!((batch.segments[1].first_row, batch.segments[1].start), (3, 5));
    }

    #[test]
    fn a_plan_that_names_what_is_not_there_is_refused() {
        assert!(refused(vec![chunk(0, 0, &[10], &[0])]).contains("token id 10"));
        assert!(refused(vec![chunk(0, 0, &[1], &[4])]).contains("block 4"));
        assert!(refused(vec![chunk(0, 2, &[1], &[0])]).contains("need 2 blocks, and its table has 1"));
        assert!(refused(vec![chunk(0, 0, &[], &[0])]).contains("no tokens"));
        assert!(refused(vec![chunk(0, 0, &[1], &[0]), chunk(0, 0, &[1], &[1])]).contains("two chunks"));
        assert!(refused(vec![chunk(0, 0, &[1], &[0]), chunk(1, 0, &[1], &[0])]).contains("written twice"));
        let mut scored = chunk(0, 0, &[1], &[0]);
        scored.prompt_logprobs = Some(PromptLogprobs { num_top: 0, next_token_ids: vec![1, 2] });
        assert!(refused(vec![scored]).contains("2 prompt tokens"));
    }
}
