//! The blocks of the paged KV cache, as numbers: which are free, which are held, and what free ones still hold. Memory
//! itself is the model's affair.
//!
//! Invariants: a block is either free or has holders, and a block with holders is handed to nobody else to be written.
//! Holders are counted, because sequences that begin alike hold the blocks of that beginning together. A free block keeps
//! the prefix it holds until it is handed out again: those that are free the longest go first.

use std::collections::BTreeMap;

use crate::BlockId;
use crate::prefix::{Prefix, PrefixIndex};

/// The blocks of one cache.
#[derive(Debug)]
pub struct BlockPool {
    /// How many hold each block that was ever handed out; zero is free. Grows as the cache is first used.
    num_holders: Vec<u32>,
    /// Free blocks that hold nothing of use, the latest last.
    returned: Vec<BlockId>,
    /// Free blocks that hold a prefix, by the time they became free.
    idle: BTreeMap<u64, BlockId>,
    /// Of each block in `idle`: since when.
    idle_since: Vec<u64>,
    /// Counts the blocks that became idle: the clock of `idle`.
    now: u64,
    index: PrefixIndex,
    num_blocks: usize,
}

impl BlockPool {
    /// A pool whose blocks are all free.
    pub fn new(num_blocks: usize) -> Self {
        Self {
            num_holders: Vec::new(),
            returned: Vec::new(),
            idle: BTreeMap::new(),
            idle_since: Vec::new(),
            now: 0,
            index: PrefixIndex::default(),
            num_blocks,
        }
    }

    /// Blocks in all.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Blocks that nobody holds, those that still hold a prefix among them.
    pub fn num_free(&self) -> usize {
        self.num_blocks - self.num_holders.len() + self.returned.len() + self.idle.len()
    }

    /// How many hold a block.
    pub fn num_holders(&self, block: BlockId) -> u32 {
        self.num_holders[block.0 as usize]
    }

    /// Hands out a free block to be written, or `None` if all are held. One that holds nothing of use comes first, then
    /// one that was never used, then the one whose prefix nobody has used for the longest time.
    pub fn allocate(&mut self) -> Option<BlockId> {
        if let Some(block) = self.returned.pop() {
            self.num_holders[block.0 as usize] = 1;
            return Some(block);
        }
        if self.num_holders.len() < self.num_blocks {
            self.num_holders.push(1);
            self.idle_since.push(0);
            return Some(BlockId((self.num_holders.len() - 1) as u32));
        }
        let (_, block) = self.idle.pop_first()?;
        self.index.remove(block);
        self.num_holders[block.0 as usize] = 1;
        Some(block)
    }

    /// One holder more for a block that holds a prefix.
    pub fn hold(&mut self, block: BlockId) {
        let num_holders = &mut self.num_holders[block.0 as usize];
        if *num_holders == 0 {
            self.idle.remove(&self.idle_since[block.0 as usize]);
        }
        *num_holders += 1;
    }

    /// One holder lets go of a block; with the last one it is free.
    ///
    /// # Panics
    /// If nobody holds it: it may belong to another sequence by then, whose cache would be overwritten.
    pub fn release(&mut self, block: BlockId) {
        let num_holders = &mut self.num_holders[block.0 as usize];
        assert!(*num_holders > 0, "block {} was given back by somebody who does not hold it", block.0);
        *num_holders -= 1;
        if *num_holders > 0 {
            return;
        }
        if self.index.holds(block) {
            self.idle.insert(self.now, block);
            self.idle_since[block.0 as usize] = self.now;
            self.now += 1;
        } else {
            self.returned.push(block);
        }
    }

    /// Forgets the prefixes that nobody holds. Answers every block that is free and was ever written.
    pub fn drop_idle(&mut self) -> Vec<BlockId> {
        while let Some((_, block)) = self.idle.pop_first() {
            self.index.remove(block);
            self.returned.push(block);
        }
        self.returned.clone()
    }

    /// A block has become full: it holds these tokens after `parent`. Returns the prefix that ends with them.
    pub fn keep(&mut self, parent: &Prefix, token_ids: &[u32], block: BlockId) -> Prefix {
        self.index.insert(parent, token_ids, block)
    }

    /// The block that holds these tokens after `parent`, held or not, and the prefix that ends with them.
    pub fn find(&self, parent: &Prefix, token_ids: &[u32]) -> Option<(BlockId, Prefix)> {
        self.index.find(parent, token_ids)
    }
}
