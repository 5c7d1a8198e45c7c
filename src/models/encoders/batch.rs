//! Texts as rows: every token of every text is a row, text after text.

use std::ops::Range;

use candlewick_engine::encode::EncodePlan;
use candlewick_engine::{BlockId, StepError};

use crate::kernels::attention::Segment;
use crate::kernels::lanes::LANES;

/// Tokens in a block of the keys and values of one layer: whole registers, and little is left empty by short texts.
pub(super) const BLOCK_SIZE: usize = LANES;

/// The rows of a pass.
pub(super) struct TextBatch {
    /// Token of each row.
    pub(super) token_ids: Vec<u32>,
    /// Type of each row's token.
    pub(super) type_ids: Vec<u32>,
    /// Position of each row in its text.
    pub(super) positions: Vec<usize>,
    /// The rows of each text.
    pub(super) texts: Vec<Range<usize>>,
    /// All blocks, text after text.
    blocks: Vec<BlockId>,
    /// The blocks of each text.
    tables: Vec<Range<usize>>,
}

impl TextBatch {
    /// Checks the plan against what the encoder has tables for, and lays it out.
    pub(super) fn new(
        plan: &EncodePlan,
        vocab_size: usize,
        num_types: usize,
        max_tokens: usize,
    ) -> Result<Self, StepError> {
        let mut batch = Self {
            token_ids: Vec::new(),
            type_ids: Vec::new(),
            positions: Vec::new(),
            texts: Vec::new(),
            blocks: Vec::new(),
            tables: Vec::new(),
        };
        for text in &plan.texts {
            let (ids, types) = (&text.input.token_ids, &text.input.type_ids);
            let refuse = |why: String| StepError::Plan(format!("text {}: {why}", text.id));
            if ids.is_empty() || ids.len() > max_tokens {
                let len = ids.len();
                return Err(refuse(format!("it has {len} tokens, and the encoder takes 1 to {max_tokens}")));
            }
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(refuse(format!("token id {id} is not below the vocabulary of {vocab_size}")));
            }
            if !types.is_empty() && types.len() != ids.len() {
                return Err(refuse(format!("it has {} tokens and {} types", ids.len(), types.len())));
            }
            let first = batch.token_ids.len();
            batch.token_ids.extend(ids);
            // Families without types are given them all the same by some tokenizers.
            let typed = types.iter().map(|&kind| kind.min(num_types.saturating_sub(1) as u32));
            batch.type_ids.extend(typed);
            batch.type_ids.resize(batch.token_ids.len(), 0);
            batch.positions.extend(0..ids.len());
            batch.texts.push(first..batch.token_ids.len());
            let first_block = batch.blocks.len();
            let end_block = first_block + ids.len().div_ceil(BLOCK_SIZE);
            batch.blocks.extend((first_block as u32..end_block as u32).map(BlockId));
            batch.tables.push(first_block..end_block);
        }
        Ok(batch)
    }

    /// Blocks that its keys and values take in one layer.
    pub(super) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens of the longest text.
    pub(super) fn longest(&self) -> usize {
        self.texts.iter().map(ExactSizeIterator::len).max().unwrap_or(0)
    }

    /// One for each text.
    pub(super) fn segments(&self) -> Vec<Segment<'_>> {
        let texts = self.texts.iter().zip(&self.tables);
        texts
            .map(|(rows, blocks)| Segment {
                first_row: rows.start,
                num_rows: rows.len(),
                start: 0,
                block_table: &self.blocks[blocks.clone()],
            })
            .collect()
    }
}
