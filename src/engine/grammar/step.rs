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
    for spec in plan.chunks.iter().filter_map(|chunk| chunk.sample.as_ref()) {
        let Some(grammar) = spec.grammar.clone() else { continue };
        let num_generated = spec.num_generated;
        // A fault is remembered, and told to the sampler when it asks.
        threads().spawn(move || drop(grammar.mask(num_generated)));
    }
}

/// Takes the tokens of a step into their sequences' grammars. To be called after the forward pass and off every mailbox.
/// Tokens that end their sequence are no part of a grammar.
pub fn take_tokens(plan: &StepPlan, outcome: &mut StepOutcome) {
    for (index, chunk) in plan.chunks.iter().enumerate() {
        let Some(spec) = &chunk.sample else { continue };
        let (Some(grammar), Some(Some(token))) = (&spec.grammar, outcome.sampled.get(index)) else {
            continue;
        };
        if spec.params.is_end(token.token_id) {
            continue;
        }
        if let Err(fault) = grammar.take(token.token_id) {
            outcome.sampled[index] = None;
            outcome.failed.push(RowFailure { chunk: index, why: fault.to_string() });
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
