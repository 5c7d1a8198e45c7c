//! Compiled grammars, the most recently used ones.

use std::sync::{Arc, Mutex, PoisonError};

use super::CompiledGrammar;

/// Grammars that are kept for one model. A large schema takes a few megabytes.
const NUM_KEPT: usize = 64;

/// A bounded map from what a grammar is made of to the grammar; the least recently used goes first.
#[derive(Default)]
pub(super) struct Cache {
    /// Most recently used last. Few enough to be searched one by one.
    entries: Mutex<Vec<(String, Arc<CompiledGrammar>)>>,
}

impl Cache {
    pub(super) fn get(&self, name: &str) -> Option<Arc<CompiledGrammar>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let index = entries.iter().position(|(kept, _)| kept == name)?;
        let entry = entries.remove(index);
        let grammar = entry.1.clone();
        entries.push(entry);
        Some(grammar)
    }

    pub(super) fn put(&self, name: String, grammar: Arc<CompiledGrammar>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(kept, _)| *kept != name);
        if entries.len() == NUM_KEPT {
            entries.remove(0);
        }
        entries.push((name, grammar));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
