//! Which blocks of the KV cache hold which beginning of a text, so that a sequence that begins alike need not compute it
//! again.
//!
//! A prefix is named by the one before it and the tokens of its last block: a tree, as in SGLang's RadixAttention
//! (Zheng et al., 2023), in steps of whole blocks, as in vLLM's prefix caching. Names are compared by their tokens and
//! not by a hash of them, so that no text is ever taken for another; and a name is never given out twice, so that what
//! is left of a branch whose trunk was dropped cannot be reached, and goes when its blocks are needed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::BlockId;

/// The prefix that a block continues.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// Nothing: the text begins here. Texts under different salts share no prefix.
    Root(Option<Arc<str>>),
    /// A text of whole blocks.
    Text(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    parent: Prefix,
    token_ids: Box<[u32]>,
}

/// Prefixes and the block that each one's last tokens are in.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    entries: HashMap<Key, (BlockId, u64)>,
    keys: HashMap<BlockId, Key>,
    num_named: u64,
}

impl PrefixIndex {
    /// The block that holds these tokens after `parent`, and the name of the text that ends with them.
    pub fn find(&self, parent: &Prefix, token_ids: &[u32]) -> Option<(BlockId, Prefix)> {
        let key = Key { parent: parent.clone(), token_ids: token_ids.into() };
        self.entries.get(&key).map(|(block, name)| (*block, Prefix::Text(*name)))
    }

    /// Notes that a block holds these tokens after `parent`, and names the text that ends with them. If another block
    /// holds the same already, that one is kept.
    pub fn insert(&mut self, parent: &Prefix, token_ids: &[u32], block: BlockId) -> Prefix {
        let key = Key { parent: parent.clone(), token_ids: token_ids.into() };
        if let Some((_, name)) = self.entries.get(&key) {
            return Prefix::Text(*name);
        }
        let name = self.num_named;
        self.num_named += 1;
        self.keys.insert(block, key.clone());
        self.entries.insert(key, (block, name));
        Prefix::Text(name)
    }

    /// Whether a block holds a prefix.
    pub fn holds(&self, block: BlockId) -> bool {
        self.keys.contains_key(&block)
    }

    /// A block is about to be written to: what it held is no longer there.
    pub fn remove(&mut self, block: BlockId) {
        if let Some(key) = self.keys.remove(&block) {
            self.entries.remove(&key);
        }
    }
}
