//! How a search goes on: some of its sequences are given up, others go on in several ways.
//!
//! Of those that go on from one sequence, the first takes over its blocks. The others share the full ones with it, which
//! nobody writes to any more, and compute anew what stood in the last: a few tokens in place of a copy. So nothing but the
//! count of holders tells a shared block from another.

use std::collections::HashMap;

use candlewick_protocol::RequestKey;

use super::Scheduler;
use super::tracked::{Ticket, Tracked};
use crate::model::BlockId;
use crate::{Branch, SequenceId};

/// A sequence that is given up, and what those that go on from it may have.
struct Parent {
    tracked: Tracked,
    /// Its block table, as it was before the first took it over.
    blocks: Vec<BlockId>,
    num_computed: usize,
}

impl Scheduler {
    /// Replaces all sequences of a request by those that its search goes on with. They keep its place in the order of
    /// favour. A parent that is not here, because a batcher crashed meanwhile, leaves nothing: all is computed anew.
    pub fn branch(&mut self, request: RequestKey, branches: Vec<Branch>) {
        let mut parents = self.take_out(request);
        let arrival = parents.values().map(|(ticket, _)| ticket.arrival).min().unwrap_or_else(|| {
            self.next_arrival += 1;
            self.next_arrival - 1
        });
        for (number, Branch { parent, child }) in (0..).zip(branches) {
            let ticket = Ticket { priority: child.priority, arrival, branch: number };
            self.tickets.insert(child.id, ticket);
            let holder = self.shares.enter(&child.share);
            let mut tracked = Tracked::new(child, holder);
            if let Some((_, parent)) = parents.get_mut(&parent) {
                self.hand_down(parent, &mut tracked);
            }
            match tracked.blocks.is_empty() {
                true => self.waiting.insert(ticket, tracked),
                false => self.running.insert(ticket, tracked),
            };
        }
        for (_, mut parent) in parents.into_values() {
            self.release(parent.tracked.give_back_blocks());
            self.shares.leave();
        }
    }

    fn take_out(&mut self, request: RequestKey) -> HashMap<SequenceId, (Ticket, Parent)> {
        let ids: Vec<SequenceId> = self.tickets.keys().copied().filter(|id| id.request == request).collect();
        let mut parents = HashMap::new();
        for id in ids {
            let ticket = self.tickets.remove(&id).expect("it was there just now");
            let tracked = self.running.remove(&ticket).or_else(|| self.waiting.remove(&ticket));
            let tracked = tracked.expect("a ticket is running or waiting");
            let (blocks, num_computed) = (tracked.blocks.clone(), tracked.num_computed);
            parents.insert(id, (ticket, Parent { tracked, blocks, num_computed }));
        }
        parents
    }

    fn hand_down(&mut self, parent: &mut Parent, child: &mut Tracked) {
        if !parent.tracked.blocks.is_empty() {
            return child.succeed(&mut parent.tracked);
        }
        let num_full = parent.num_computed / self.limits.block_size;
        child.blocks = parent.blocks[..num_full].to_vec();
        child.blocks.iter().for_each(|&block| self.blocks.hold(block));
        child.num_computed = num_full * self.limits.block_size;
    }
}
