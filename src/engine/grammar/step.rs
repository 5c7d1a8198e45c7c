//! Grammars during a step: masks are computed beside the forward pass, and the tokens that came of it are taken in.

use std::sync::OnceLock;
use std::thread::available_parallelism;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{RowFailure, StepOutcome, StepPlan};

/// More threads than this have nothing to do: a mask takes some tens of microseconds, a forward pass milliseconds.
const NUM_THREADS_MAX: usize = 4;

/// Begins to compute the masks of a step on threads of their own. To be called just before the forward pass; what is not
/// ready when the sampler needs it, the sampler waits for or computes itself, so this may be left out.
pub fn begin_masks(plan: &StepPlan) {
    // The last place's mask needs those of the places before it.
    for spec in plan.chunks.iter().filter_map(|chunk| chunk.samples.last()) {
        if spec.grammar.is_some() {
            let spec = spec.clone();
            // A fault is remembered, and told to the sampler when it asks.
            threads().spawn(move || drop(spec.mask()));
        }
    }
}

/// Takes the tokens of a step into their sequences' grammars. To be called after the forward pass and off every mailbox.
/// Tokens that end their sequence are no part of a grammar, and nothing is kept of what was sampled after the end.
pub fn take_tokens(plan: &StepPlan, outcome: &mut StepOutcome) {
    for (index, chunk) in plan.chunks.iter().enumerate() {
        let Some(spec) = chunk.samples.first() else { continue };
        let (Some(grammar), Some(sampled)) = (&spec.grammar, outcome.sampled.get_mut(index)) else {
            continue;
        };
        for place in 0..sampled.len() {
            let token_id = sampled[place].token_id;
            let taken = if spec.params.is_end(token_id) { Ok(()) } else { grammar.take(token_id) };
            let is_over = spec.params.is_end(token_id) || grammar.is_complete();
            if let Err(fault) = taken {
                sampled.truncate(place);
                outcome.failed.retain(|failure| failure.chunk != index);
                outcome.failed.push(RowFailure { chunk: index, why: fault.to_string() });
                break;
            }
            if is_over {
                sampled.truncate(place + 1);
                outcome.failed.retain(|failure| failure.chunk != index);
                break;
            }
        }
    }
}

fn threads() -> &'static ThreadPool {
    static THREADS: OnceLock<ThreadPool> = OnceLock::new();
    THREADS.get_or_init(|| {
        let num_cores = available_parallelism().map_or(1, usize::from);
        ThreadPoolBuilder::new()
            .num_threads(num_cores.div_ceil(4).min(NUM_THREADS_MAX))
            .thread_name(|number| format!("grammar {number}"))
            // What broke here breaks again where the sampler asks for it, and is told there.
            .panic_handler(|_| {})
            .build()
            .expect("a few threads can be had")
    })
}
