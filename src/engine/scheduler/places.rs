//! Who of those that wait is given a place, and when.

use std::collections::HashMap;

use super::Scheduler;
use super::tracked::{CachedPrefix, Ticket, Tracked};
use crate::Sequence;
use crate::model::BlockId;

impl Scheduler {
    /// The waiting sequence that is to run next, if there is one and it fits, with what the cache holds of it.
    pub(super) fn next_to_admit(&self) -> Option<(Ticket, CachedPrefix)> {
        let may_run = |tracked: &Tracked| !tracked.is_idle() && !self.awaits_sibling(tracked);
        let mut may_be_next = self.waiting.iter().filter(|(_, tracked)| may_run(tracked));
        let (ticket, tracked) = match self.shares.num_holders() {
            0 | 1 => may_be_next.next()?,
            // The first of those that come out equal is the most favoured.
            _ => {
                may_be_next.min_by(|(_, one), (_, other)| self.served(one).total_cmp(&self.served(other)))?
            }
        };
        let cached = match self.limits.prefix_caching {
            true => tracked.cached_prefix(&self.blocks, self.limits.block_size),
            false => CachedPrefix::none(None),
        };
        let num_promised = self
            .running
            .values()
            .filter(|running| !running.is_idle())
            .map(|running| self.num_blocks_for(running.num_known()).saturating_sub(running.blocks.len()));
        let num_held = cached.blocks.iter().filter(|&&block| self.blocks.num_holders(block) > 0).count();
        let num_wanted = self.num_blocks_for(tracked.num_known()) - num_held;
        let num_available = self.blocks.num_free() + self.num_blocks_of_idle(&cached.blocks);
        (num_promised.sum::<usize>() + num_wanted <= num_available).then_some((*ticket, cached))
    }

    fn served(&self, tracked: &Tracked) -> f64 {
        self.shares.served(tracked.holder)
    }

    /// Whether another choice of the same request is just reading the prompt that they share: once it has, this one need not.
    fn awaits_sibling(&self, tracked: &Tracked) -> bool {
        let Sequence { id, prompt, .. } = &tracked.sequence;
        let num_shared = prompt.len() / self.limits.block_size * self.limits.block_size;
        let reads_for_it = |running: &Tracked| {
            running.sequence.id.request == id.request
                && !running.is_idle()
                && running.num_computed < num_shared
                && running.sequence.prompt == *prompt
        };
        self.limits.prefix_caching && num_shared > 0 && self.running.values().any(reads_for_it)
    }

    /// Blocks that would be free if all that are paused or held gave theirs back, but for those that are to be kept.
    fn num_blocks_of_idle(&self, kept: &[BlockId]) -> usize {
        let mut num_idle_holders = HashMap::<BlockId, u32>::new();
        for idle in self.running.values().filter(|running| running.is_idle()) {
            idle.blocks.iter().for_each(|&block| *num_idle_holders.entry(block).or_default() += 1);
        }
        let gives_back = |(block, num): &(&BlockId, &u32)| {
            **num == self.blocks.num_holders(**block) && !kept.contains(*block)
        };
        num_idle_holders.iter().filter(gives_back).count()
    }

    /// A waiting sequence runs from now on, beginning with what the cache holds of it.
    pub(super) fn give_place(&mut self, ticket: Ticket, cached: CachedPrefix) {
        let mut tracked = self.waiting.remove(&ticket).expect("the next to admit is waiting");
        if self.limits.prefix_caching {
            self.num_prefix_queries += tracked.num_known() as u64;
            tracked.adopt(cached, &mut self.blocks, self.limits.block_size);
            self.num_prefix_hits += tracked.num_computed as u64;
        }
        self.shares.give_place(tracked.holder);
        self.running.insert(ticket, tracked);
    }
}
