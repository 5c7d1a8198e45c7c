//! A scheduler with a fake model under it, and short ways to write sequences down.

use std::sync::Arc;

use candlewick_engine::fake::{FakeControl, FakeRule, FakeWeights};
use candlewick_engine::{
    GenerationDefaults, KvCacheShape, Model, ModelInfo, News, ResolveLimits, SamplingParams, Scheduler,
    SchedulerLimits, Sequence, SequenceId, StepPlan, Weights,
};
use candlewick_protocol::{RequestKey, SamplingOptions};

/// Token ids of these tests are below this; the last one is the end-of-sequence token.
pub const VOCAB_SIZE: u32 = 32;
pub const EOS: u32 = VOCAB_SIZE - 1;

pub fn id(number: u64) -> SequenceId {
    SequenceId { request: RequestKey(number), choice: 0 }
}

/// Greedy, at most so many tokens, unless changed.
pub fn params(max_tokens: u32, change: impl FnOnce(&mut SamplingParams)) -> Arc<SamplingParams> {
    let options = SamplingOptions {
        max_tokens: Some(max_tokens),
        temperature: Some(0.0),
        ..SamplingOptions::default()
    };
    let limits = ResolveLimits {
        num_prompt_tokens: 0,
        max_model_len: 1000,
        vocab_size: VOCAB_SIZE as usize,
        random_seed: 0,
    };
    let mut params = SamplingParams::resolve(&options, &GenerationDefaults::default(), None, limits)
        .expect("they are good");
    change(&mut params);
    Arc::new(params)
}

/// A sequence of so many prompt tokens that is to generate so many more, none of them an end.
pub fn sequence(number: u64, num_prompt_tokens: usize, max_tokens: u32) -> Sequence {
    Sequence {
        id: id(number),
        prompt: (0..num_prompt_tokens).map(|position| (number as u32 + position as u32) % EOS).collect(),
        output: Vec::new(),
        params: params(max_tokens, |_| ()),
        grammar: None,
        priority: 0,
        share: Default::default(),
        prompt_logprobs: None,
        cache_salt: None,
        holds: false,
    }
}

pub fn start_model(rule: FakeRule, num_blocks: usize, block_size: usize) -> Box<dyn Model> {
    let info = ModelInfo {
        family: "fake".into(),
        max_position_embeddings: 1000,
        vocab_size: VOCAB_SIZE as usize,
        num_parameters: 0,
        weight_bytes: 0,
        kv_bytes_per_token: 0,
        encoder: None,
    };
    let weights = FakeWeights { info, rule, control: Arc::<FakeControl>::default() };
    let cache = KvCacheShape { num_blocks: num_blocks as u32, block_size: block_size as u32 };
    weights.start(cache).expect("fake models start")
}

/// A scheduler and the model that it plans for.
pub struct Engine {
    pub scheduler: Scheduler,
    pub model: Box<dyn Model>,
}

impl Engine {
    pub fn new(limits: SchedulerLimits) -> Self {
        Self::with_rule(limits, FakeRule::Hash(0..EOS))
    }

    pub fn with_rule(limits: SchedulerLimits, rule: FakeRule) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            model: start_model(rule, limits.num_blocks, limits.block_size),
        }
    }

    /// One whole step: its plan and its news.
    pub fn step(&mut self) -> (StepPlan, Vec<News>) {
        let plan = self.scheduler.plan().expect("there is something to compute");
        let news = self.finish(&plan);
        (plan, news)
    }

    /// Computes and applies a plan.
    pub fn finish(&mut self, plan: &StepPlan) -> Vec<News> {
        let outcome = self.model.step(plan).expect("the plan is valid");
        self.scheduler.apply(plan, outcome)
    }

    /// Steps until there is nothing to compute; all news.
    pub fn run(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        while let Some(plan) = self.scheduler.plan() {
            news.extend(self.finish(&plan));
        }
        news
    }
}

/// A plan in brief: `7:3..5` computes tokens 3 and 4 of sequence 7; a star says that it samples,
/// and `+2` that it computes two guesses besides.
pub fn brief(plan: &StepPlan) -> Vec<String> {
    let chunk = |chunk: &candlewick_engine::Chunk| {
        let num_drafted = chunk.draft().len();
        let end = chunk.start + chunk.token_ids.len() - num_drafted;
        let star = if chunk.samples.is_empty() { "" } else { "*" };
        let draft = if num_drafted > 0 { format!("+{num_drafted}") } else { String::new() };
        format!("{}:{}..{end}{star}{draft}", chunk.sequence.request.0, chunk.start)
    };
    plan.chunks.iter().map(chunk).collect()
}

/// The tokens that a sequence was told, in order.
pub fn tokens_of(number: u64, news: &[News]) -> Vec<u32> {
    let token = |news: &News| match news {
        News::Sampled { sequence, token, .. } if *sequence == id(number) => Some(token.token_id),
        _ => None,
    };
    news.iter().filter_map(token).collect()
}
