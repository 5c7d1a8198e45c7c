//! Which tokens are computed next. There is no prefill phase and no decode phase: a sequence has tokens known and tokens
//! computed, and each step lets the second catch up with the first, within a budget of tokens and blocks.
//!
//! The idea is that of vLLM's `v1/core/sched/scheduler.py`. The rules:
//!
//! - Sequences are favoured by priority, then by arrival: their [`Ticket`]s are ordered so, and a sequence keeps its
//!   ticket through preemption and pause. That order alone decides whose blocks are taken, and who is admitted first
//!   among those of one holder; whose turn it is among several holders is decided by what each has had (`shares.rs`).
//! - Within a step, sequences that decode come first, one token each; then those partly prefilled; then waiting ones.
//!   More sequences than there are tokens in a step never run, less one: so neither do long prompts hold up decoding, nor
//!   does decoding hold up prompts. Where a latency is wished for, a step that decodes has only so many tokens of prompts
//!   as fit within it, by the time that steps have taken; but always some.
//! - A waiting sequence is admitted if all its tokens fit beside what running ones are yet to compute; nobody overtakes it
//!   while it does not fit. Blocks are taken as they are first written.
//! - A sequence that begins with tokens that are in the cache, computed for whomever, takes those blocks and computes the
//!   rest. Only whole blocks are shared, so that no block that is shared is ever written.
//!   A choice of a request waits while another choice of it reads the prompt that they share.
//! - A running sequence that is short of blocks takes those of paused ones, then those of the least favoured, which wait
//!   again and recompute. The most favoured can so always go on, and everybody is the most favoured in the end.
//!
//! - What a step has left, of tokens and of free blocks, may go to guesses at what comes next (`speculation`). Blocks that only
//!   wrong guesses were written to are given back at once.
//! - A sequence of a search is held after each token, like one that is paused, until the search says how it goes on
//!   (`branch.rs`): those that go on from one sequence share its full blocks.
//!
//! Invariants: `running` hold blocks and `waiting` do not; no block that is not full has two holders; blocks change hands
//! only in `plan`, and from one that is held to those that go on from it.
//! There is no `plan` between a `plan` and its `apply`, so blocks that a step in flight writes to are handed to nobody
//! else before it is over, even if their sequence is cancelled meanwhile.

mod branch;
mod drafting;
mod guesses;
mod places;
mod shares;
mod tracked;
mod workload;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::blocks::BlockPool;
use crate::pace::Pace;
use crate::speculation::SpeculationLimits;
use crate::{BlockId, SampledToken, Sequence, SequenceEnd, SequenceId, StepOutcome, StepPlan, TokenScore};
use guesses::Speculating;
use shares::Shares;
use tracked::{Ticket, Tracked};
pub use workload::{SequenceWork, Workload};

/// What a scheduler must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most sequences with tokens in flight. No more run than `max_step_tokens` less one, whatever is said here.
    pub max_running: usize,
    /// Most tokens computed in one step.
    pub max_step_tokens: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks in the cache.
    pub num_blocks: usize,
    /// Share what sequences that begin alike have in common, also with those that are gone.
    pub prefix_caching: bool,
    /// How long a step in which somebody decodes should take at most; `None` if it does not matter.
    pub max_inter_token: Option<Duration>,
    /// Guess what sequences will say.
    pub speculation: Option<SpeculationLimits>,
}

/// What a step meant for one sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// The prompt's scores are complete: one for each prompt token but the first.
    PromptScored {
        /// Whose prompt.
        sequence: SequenceId,
        /// One for each prompt token but the first.
        scores: Vec<TokenScore>,
    },
    /// A token was generated; with `end` it was the last, and the sequence is gone.
    Sampled {
        /// Whose token.
        sequence: SequenceId,
        /// The token.
        token: SampledToken,
        /// Why the sequence is complete, if it is.
        end: Option<SequenceEnd>,
    },
    /// A sequence that was to generate nothing (`max_tokens` 0) is complete.
    Complete {
        /// Which.
        sequence: SequenceId,
    },
    /// A sequence cannot go on, and is gone.
    Failed {
        /// Which.
        sequence: SequenceId,
        /// What is told to whoever asked.
        why: String,
    },
}

/// How busy a scheduler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCounts {
    /// Sequences that hold blocks.
    pub num_running: usize,
    /// Sequences that wait for a place, paused ones without blocks included.
    pub num_waiting: usize,
    /// Sequences whose reader is slow.
    pub num_paused: usize,
    /// Blocks in use.
    pub num_blocks_used: usize,
    /// Blocks in all.
    pub num_blocks: usize,
    /// Sequences that had to give their blocks back, since the start.
    pub num_preemptions: u64,
    /// Tokens of sequences that were looked up in the cache when they were given a place, since the start.
    pub num_prefix_queries: u64,
    /// Those of them that were there.
    pub num_prefix_hits: u64,
    /// Times that the next tokens of a sequence were guessed and computed, since the start.
    pub num_drafts: u64,
    /// Tokens of those guesses.
    pub num_draft_tokens: u64,
    /// Those of them that were right.
    pub num_accepted_tokens: u64,
}

/// Pure state: sequences and blocks in, plans out. No clock, no thread, no tensor.
pub struct Scheduler {
    limits: SchedulerLimits,
    blocks: BlockPool,
    /// Sequences that hold blocks, the most favoured first.
    running: BTreeMap<Ticket, Tracked>,
    /// Sequences that hold none, the most favoured first.
    waiting: BTreeMap<Ticket, Tracked>,
    tickets: HashMap<SequenceId, Ticket>,
    /// What was computed for whom.
    shares: Shares,
    /// Number of the next arrival.
    next_arrival: u64,
    /// Whose chunks the step in flight has, in the plan's order. A ticket is never given out twice, so what the step
    /// says of a sequence that was cancelled is not taken for its successor of the same name.
    in_flight: Vec<Ticket>,
    num_preemptions: u64,
    num_prefix_queries: u64,
    num_prefix_hits: u64,
    /// How long steps take.
    pace: Pace,
    speculation: Option<Speculating>,
}

/// A plan in the making.
struct Outline {
    num_tokens_left: usize,
    grants: Vec<Grant>,
}

/// Who computes how much.
struct Grant {
    ticket: Ticket,
    num_tokens: usize,
    /// Guesses that are computed behind them.
    draft: Vec<u32>,
}

/// One token of each step is left for prompts, however many sequences decode.
fn num_places(max_running: usize, max_step_tokens: usize) -> usize {
    max_running.min(max_step_tokens - 1).max(1)
}

impl Scheduler {
    /// A scheduler with nothing to do.
    ///
    /// # Panics
    /// If a limit is zero.
    pub fn new(limits: SchedulerLimits) -> Self {
        let SchedulerLimits { max_running, max_step_tokens, block_size, num_blocks, .. } = limits;
        assert!(
            max_running > 0 && max_step_tokens > 0 && block_size > 0 && num_blocks > 0,
            "nothing can ever run within {limits:?}"
        );
        Self {
            limits: SchedulerLimits { max_running: num_places(max_running, max_step_tokens), ..limits },
            blocks: BlockPool::new(num_blocks),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tickets: HashMap::new(),
            shares: Shares::default(),
            next_arrival: 0,
            in_flight: Vec::new(),
            num_preemptions: 0,
            num_prefix_queries: 0,
            num_prefix_hits: 0,
            pace: Pace::new(),
            speculation: limits.speculation.map(Speculating::new),
        }
    }

    /// Other limits on what a step holds, from the next plan on. Sequences beyond a lower one go on as others leave.
    pub fn set_limits(
        &mut self,
        max_running: usize,
        max_step_tokens: usize,
        max_inter_token: Option<Duration>,
    ) {
        assert!(max_running > 0 && max_step_tokens > 0, "nothing could ever run");
        self.limits.max_running = num_places(max_running, max_step_tokens);
        self.limits.max_step_tokens = max_step_tokens;
        self.limits.max_inter_token = max_inter_token;
    }

    /// Whether a sequence of so many tokens, prompt and output, could ever run here.
    pub fn can_ever_fit(&self, num_tokens: usize) -> bool {
        self.num_blocks_for(num_tokens) <= self.blocks.num_blocks()
    }

    /// Takes a sequence in. It waits until a plan includes it. One of the same name that is here already is forgotten.
    ///
    /// # Panics
    /// If prompt and `max_tokens` together can never fit (see `can_ever_fit`), or the prompt is empty.
    pub fn admit(&mut self, sequence: Sequence) {
        let num_tokens_max =
            sequence.prompt.len() + sequence.output.len().max(sequence.params.max_tokens as usize);
        assert!(!sequence.prompt.is_empty(), "sequence {} has an empty prompt", sequence.id);
        assert!(
            self.can_ever_fit(num_tokens_max),
            "sequence {} may grow to {num_tokens_max} tokens, which never fit",
            sequence.id
        );
        self.cancel(sequence.id);
        let ticket = Ticket { priority: sequence.priority, arrival: self.next_arrival, branch: 0 };
        self.next_arrival += 1;
        self.tickets.insert(sequence.id, ticket);
        let holder = self.shares.enter(&sequence.share);
        self.waiting.insert(ticket, Tracked::new(sequence, holder));
    }

    /// Forgets a sequence and frees its blocks; `false` if it is not here. Safe while a step with it is in flight: what
    /// that step says of it is then ignored.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let Some(ticket) = self.tickets.get(&id).copied() else { return false };
        self.remove(ticket);
        true
    }

    /// Stops planning a sequence whose reader is slow. It keeps its place, and its blocks until others need them.
    pub fn pause(&mut self, id: SequenceId) {
        self.set_paused(id, true);
    }

    /// Plans a paused sequence again.
    pub fn resume(&mut self, id: SequenceId) {
        self.set_paused(id, false);
    }

    /// The next step, or `None` if there is nothing to compute. Must be followed by `apply` before the next `plan`.
    pub fn plan(&mut self) -> Option<StepPlan> {
        assert!(self.in_flight.is_empty(), "a step was planned before the one in flight was applied");
        let mut outline = Outline { num_tokens_left: self.limits.max_step_tokens, grants: Vec::new() };

        let active =
            self.running.iter().filter(|(_, tracked)| !tracked.is_idle()).take(self.limits.max_running);
        let (decoding, prefilling): (Vec<_>, Vec<_>) = active
            .map(|(ticket, tracked)| (*ticket, tracked.num_missing()))
            .partition(|(_, missing)| *missing == 1);
        let mut num_places = self.limits.max_running - decoding.len() - prefilling.len();
        for (ticket, _) in decoding {
            self.grant(ticket, &mut outline);
        }
        let num_kept = self.keep_from_prompts(&mut outline);
        for (ticket, _) in prefilling {
            self.grant(ticket, &mut outline);
        }
        while num_places > 0 && outline.num_tokens_left > 0 {
            let Some((ticket, cached)) = self.next_to_admit() else { break };
            self.give_place(ticket, cached);
            self.grant(ticket, &mut outline);
            num_places -= 1;
        }

        outline.num_tokens_left += num_kept;
        self.add_guesses(&mut outline);

        let Outline { grants, .. } = outline;
        if grants.is_empty() {
            return None;
        }
        self.in_flight = grants.iter().map(|grant| grant.ticket).collect();
        let chunk = |grant: &Grant| self.running[&grant.ticket].chunk(grant.num_tokens, &grant.draft);
        Some(StepPlan { chunks: grants.iter().map(chunk).collect() })
    }

    /// Takes in what came of the plan: tokens become known, sequences end, blocks are freed.
    ///
    /// # Panics
    /// If the outcome is not of this plan: an entry too few, or no token where one was asked for.
    pub fn apply(&mut self, plan: &StepPlan, outcome: StepOutcome) -> Vec<News> {
        let in_flight = std::mem::take(&mut self.in_flight);
        assert_eq!(plan.chunks.len(), in_flight.len(), "the plan applied is the one in flight");
        assert_eq!(plan.chunks.len(), outcome.sampled.len(), "the model answers for each chunk");
        assert_eq!(plan.chunks.len(), outcome.prompt_scores.len(), "the model gives scores for each chunk");

        let mut news = Vec::new();
        let mut failed: HashMap<usize, String> =
            outcome.failed.into_iter().map(|failure| (failure.chunk, failure.why)).collect();
        let answers = outcome.sampled.into_iter().zip(outcome.prompt_scores).enumerate();
        for ((ticket, chunk), (index, (sampled, scores))) in
            in_flight.into_iter().zip(&plan.chunks).zip(answers)
        {
            // Nobody is preempted between plan and apply: one who is not running was cancelled.
            let Some(tracked) = self.running.get_mut(&ticket) else { continue };
            let failure = failed.remove(&index);
            assert!(
                chunk.samples.is_empty() || !sampled.is_empty() || failure.is_some(),
                "a model samples where it is asked to"
            );
            if let Some(speculating) = &mut self.speculation {
                speculating.learn(tracked, chunk.draft().len(), &sampled);
            }
            let mut is_over = tracked.advance(chunk, sampled, scores, &mut news);
            if let Some(why) = failure.filter(|_| !is_over) {
                news.push(News::Failed { sequence: chunk.sequence, why });
                is_over = true;
            }
            if self.limits.prefix_caching {
                tracked.keep_full_blocks(&mut self.blocks, self.limits.block_size);
            }
            tracked.give_back_unused(&mut self.blocks, self.limits.block_size);
            if is_over {
                self.remove(ticket);
            }
        }
        news
    }

    /// A step took so long.
    pub fn note_time(&mut self, plan: &StepPlan, elapsed: Duration) {
        self.pace.note(plan.num_tokens(), elapsed);
        if let Some(speculating) = &mut self.speculation {
            speculating.note_time(plan, elapsed);
        }
    }

    /// Forgets what is kept of prefixes that nobody holds: memory is short. Answers the blocks that are free and may hold
    /// something, whose memory can go back to the system. Not while a step is in flight, which may still write to them.
    pub fn drop_prefixes(&mut self) -> Vec<BlockId> {
        self.blocks.drop_idle()
    }

    /// How busy it is.
    pub fn counts(&self) -> SchedulerCounts {
        let of_guesses = |count: fn(&Speculating) -> u64| self.speculation.as_ref().map_or(0, count);
        SchedulerCounts {
            num_running: self.running.len(),
            num_waiting: self.waiting.len(),
            num_paused: self.running.values().chain(self.waiting.values()).filter(|t| t.is_paused).count(),
            num_blocks_used: self.blocks.num_blocks() - self.blocks.num_free(),
            num_blocks: self.blocks.num_blocks(),
            num_preemptions: self.num_preemptions,
            num_prefix_queries: self.num_prefix_queries,
            num_prefix_hits: self.num_prefix_hits,
            num_drafts: of_guesses(|guesses| guesses.num_drafts),
            num_draft_tokens: of_guesses(|guesses| guesses.num_draft_tokens),
            num_accepted_tokens: of_guesses(|guesses| guesses.num_accepted_tokens),
        }
    }

    /// Every sequence that is here, in no particular order.
    pub fn sequences(&self) -> Vec<SequenceId> {
        self.tickets.keys().copied().collect()
    }

    /// Lets a running sequence compute as many of its missing tokens as the step has left, and gives it the blocks they
    /// need. Where blocks are short, those of less favoured sequences are taken; if that is not enough, it computes what
    /// fits, or nothing in this step.
    fn grant(&mut self, ticket: Ticket, outline: &mut Outline) {
        // It may have been preempted for the sake of a more favoured one in this very plan.
        let Some(tracked) = self.running.get(&ticket) else { return };
        let num_held = tracked.blocks.len();
        let num_computed = tracked.num_computed;
        let num_tokens = tracked.num_missing().min(outline.num_tokens_left);

        let num_wanted = self.num_blocks_for(num_computed + num_tokens).saturating_sub(num_held);
        while self.blocks.num_free() < num_wanted {
            let Some(victim) = self.victim_for(ticket) else { break };
            self.preempt(victim, outline);
        }
        let num_new = num_wanted.min(self.blocks.num_free());
        let num_tokens = num_tokens.min((num_held + num_new) * self.limits.block_size - num_computed);
        if num_tokens == 0 {
            return;
        }
        let new_blocks = (0..num_new).map(|_| self.blocks.allocate().expect("so many blocks are free"));
        let tracked = self.running.get_mut(&ticket).expect("it is running");
        tracked.blocks.extend(new_blocks);
        self.shares.charge(tracked.holder, num_tokens);
        outline.num_tokens_left -= num_tokens;
        outline.grants.push(Grant { ticket, num_tokens, draft: Vec::new() });
    }

    /// Where somebody decodes and a latency is wished for, prompts get less than the step has left: how much less.
    fn keep_from_prompts(&self, outline: &mut Outline) -> usize {
        let (num_left, num_decoding) = (outline.num_tokens_left, outline.grants.len());
        if let Some(elapsed_max) = self.limits.max_inter_token.filter(|_| num_decoding > 0 && num_left > 0) {
            outline.num_tokens_left = self.pace.num_beside(num_decoding, elapsed_max, num_left);
        }
        num_left - outline.num_tokens_left
    }

    /// Whose blocks a sequence may take: the least favoured of the paused or held, else the least favoured of all that are less
    /// favoured than itself.
    fn victim_for(&self, ticket: Ticket) -> Option<Ticket> {
        let paused =
            self.running.iter().rev().find(|(_, tracked)| tracked.is_idle()).map(|(ticket, _)| *ticket);
        paused.or_else(|| self.running.last_key_value().map(|(last, _)| *last).filter(|last| *last > ticket))
    }

    /// Takes a sequence's blocks away. It waits again, with its tokens known and none computed.
    fn preempt(&mut self, ticket: Ticket, outline: &mut Outline) {
        let mut tracked = self.running.remove(&ticket).expect("victims are running");
        self.release(tracked.give_back_blocks());
        let holder = tracked.holder;
        self.waiting.insert(ticket, tracked);
        self.num_preemptions += 1;
        if let Some(index) = outline.grants.iter().position(|grant| grant.ticket == ticket) {
            let num_tokens = outline.grants.remove(index).num_tokens;
            outline.num_tokens_left += num_tokens;
            self.shares.refund(holder, num_tokens);
        }
    }

    fn remove(&mut self, ticket: Ticket) {
        let tracked = self.running.remove(&ticket).or_else(|| self.waiting.remove(&ticket));
        let mut tracked = tracked.expect("a ticket is running or waiting");
        self.tickets.remove(&tracked.sequence.id);
        self.shares.leave();
        self.release(tracked.give_back_blocks());
    }

    /// The last block first: of what stays in the cache, the beginning of a text is of use the longest.
    fn release(&mut self, blocks: Vec<BlockId>) {
        blocks.into_iter().rev().for_each(|block| self.blocks.release(block));
    }

    fn set_paused(&mut self, id: SequenceId, is_paused: bool) {
        let Some(ticket) = self.tickets.get(&id) else { return };
        let tracked = self.running.get_mut(ticket).or_else(|| self.waiting.get_mut(ticket));
        tracked.expect("a ticket is running or waiting").is_paused = is_paused;
    }

    fn num_blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.limits.block_size)
    }
}
