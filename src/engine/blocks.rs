//! The blocks of the paged KV cache, as numbers: which are free, which are held. Memory itself is the model's affair.
//!
//! Invariant: a block is either free or has holders, and a block with holders is handed to nobody else. Holders are
//! counted rather than flagged, because a prefix that two sequences have in common will be held by both.

use crate::BlockId;

/// The blocks of one cache.
#[derive(Debug)]
pub struct BlockPool {
    /// How many hold each block that was ever handed out; zero is free. Grows as the cache is first used.
    num_holders: Vec<u32>,
    /// Blocks that were given back, the latest last.
    returned: Vec<BlockId>,
    num_blocks: usize,
}

impl BlockPool {
    /// A pool whose blocks are all free.
    pub fn new(num_blocks: usize) -> Self {
        Self { num_holders: Vec::new(), returned: Vec::new(), num_blocks }
    }

    /// Blocks in all.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        self.num_blocks - self.num_holders.len() + self.returned.len()
    }

    /// Hands out a free block, or `None` if all are held. A block that was used before comes first, so that the cache
    /// takes no more memory than the most blocks that were ever in use at once.
    pub fn allocate(&mut self) -> Option<BlockId> {
        if let Some(block) = self.returned.pop() {
            self.num_holders[block.0 as usize] = 1;
            return Some(block);
        }
        if self.num_holders.len() == self.num_blocks {
            return None;
        }
        self.num_holders.push(1);
        Some(BlockId((self.num_holders.len() - 1) as u32))
    }

    /// One holder lets go of a block; with the last one it is free.
    ///
    /// # Panics
    /// If nobody holds it: it may belong to another sequence by then, whose cache would be overwritten.
    pub fn release(&mut self, block: BlockId) {
        let num_holders = &mut self.num_holders[block.0 as usize];
        assert!(*num_holders > 0, "block {} was given back by somebody who does not hold it", block.0);
        *num_holders -= 1;
        if *num_holders == 0 {
            self.returned.push(block);
        }
    }
}
