//! The scheduler under random traffic: whatever comes and goes, each sequence gets the tokens of its solo run, ends once,
//! and no block is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use candlewick_engine::fake::{FakeRule, hash_tokens};
use candlewick_engine::{
    News, SampleSpec, SchedulerLimits, Sequence, SequenceEnd, SequenceId, SpeculationLimits, StepPlan,
};
use proptest::prelude::*;

use crate::support::{EOS, Engine, VOCAB_SIZE, id, params};

/// All tokens may come, the end included.
const RULE: Range<u32> = 0..VOCAB_SIZE;
/// Few tokens may come, so that guesses are right now and then.
const NARROW_RULE: Range<u32> = VOCAB_SIZE - 5..VOCAB_SIZE;

#[derive(Debug, Clone)]
enum Act {
    Admit {
        num_prompt_tokens: usize,
        max_tokens: u32,
        priority: i32,
        is_scored: bool,
        seed: Option<u64>,
    },
    /// Of those alive, by index modulo their number.
    Cancel(usize),
    Pause(usize),
    Resume(usize),
}

#[derive(Debug, Clone)]
enum Event {
    Act(Act),
    /// A step, and what happens while it is in flight.
    Step(Vec<Act>),
    /// The batcher and its model are lost; survivors are admitted again.
    Crash,
}

fn acts() -> impl Strategy<Value = Act> {
    let admit = (1..40usize, 0..20u32, -1..=1i32, any::<bool>(), prop::option::of(any::<u64>())).prop_map(
        |(num_prompt_tokens, max_tokens, priority, is_scored, seed)| Act::Admit {
            num_prompt_tokens,
            max_tokens,
            priority,
            is_scored,
            seed,
        },
    );
    prop_oneof![
        4 => admit,
        1 => any::<usize>().prop_map(Act::Cancel),
        2 => any::<usize>().prop_map(Act::Pause),
        2 => any::<usize>().prop_map(Act::Resume),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        30 => acts().prop_map(Event::Act),
        60 => prop::collection::vec(acts(), 0..2).prop_map(Event::Step),
        1 => Just(Event::Crash),
    ];
    prop::collection::vec(event, 0..150)
}

/// At least as many tokens of cache as the longest sequence has: 39 + 19.
fn limits() -> impl Strategy<Value = SchedulerLimits> {
    let speculation = prop::option::of((0..6usize, 1..3usize).prop_map(|(max_draft_tokens, ngram_min)| {
        SpeculationLimits { max_draft_tokens, ngram_min, ngram_max: 3 }
    }));
    (1..8usize, 1..32usize, 1..9usize, 0..30usize, any::<bool>(), speculation).prop_map(
        |(max_running, max_step_tokens, block_size, spare, prefix_caching, speculation)| SchedulerLimits {
            max_running,
            max_step_tokens,
            block_size,
            num_blocks: 58usize.div_ceil(block_size) + spare,
            prefix_caching,
            max_inter_token: None,
            speculation,
        },
    )
}

/// A sequence as its client sees it.
struct Client {
    /// As it was first admitted.
    sequence: Sequence,
    received: Vec<u32>,
    num_scores: Option<usize>,
    end: Option<SequenceEnd>,
    is_ended: bool,
    is_paused: bool,
    /// Tokens that the scheduler has planned of it since it last began from the start.
    num_computed: usize,
}

impl Client {
    fn known(&self) -> Vec<u32> {
        self.sequence.prompt.iter().chain(&self.received).copied().collect()
    }

    /// What it would be told if it were alone, by the rule and nothing else.
    fn expected(&self, rule: &FakeRule) -> (Vec<u32>, Option<SequenceEnd>) {
        let params = &self.sequence.params;
        let mut output = Vec::new();
        for num_generated in 0..params.max_tokens {
            let hash = hash_tokens(self.sequence.prompt.iter().chain(&output).copied());
            let spec =
                SampleSpec { params: params.clone(), choice: 0, num_generated, ..SampleSpec::default() };
            output.push(rule.next(hash, &spec));
            if output.ends_with(&[EOS]) {
                return (output, Some(SequenceEnd::Eos));
            }
        }
        let end = (!output.is_empty()).then_some(SequenceEnd::Length);
        (output, end)
    }
}

struct Traffic {
    limits: SchedulerLimits,
    rule: FakeRule,
    engine: Engine,
    clients: BTreeMap<SequenceId, Client>,
    num_admitted: u64,
}

impl Traffic {
    fn new(limits: SchedulerLimits) -> Self {
        let rule = FakeRule::Hash(if limits.speculation.is_some() { NARROW_RULE } else { RULE });
        let engine = Engine::with_rule(limits, rule.clone());
        Self { limits, rule, engine, clients: BTreeMap::new(), num_admitted: 0 }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Admit { num_prompt_tokens, max_tokens, priority, is_scored, seed } => {
                self.num_admitted += 1;
                let params = params(max_tokens, |params| {
                    params.eos_token_ids = vec![EOS];
                    if let Some(seed) = seed {
                        (params.temperature, params.seed) = (1.0, seed);
                    }
                });
                let sequence = Sequence {
                    id: id(self.num_admitted),
                    // Of a few families, so that many begin alike.
                    prompt: (0..num_prompt_tokens as u32)
                        .map(|p| (self.num_admitted as u32 % 3 * 7 + p * p) % EOS)
                        .collect(),
                    output: Vec::new(),
                    params,
                    grammar: None,
                    priority,
                    share: Default::default(),
                    prompt_logprobs: is_scored.then_some(1),
                    cache_salt: self.num_admitted.is_multiple_of(4).then(|| "salt".into()),
                    holds: false,
                };
                self.engine.scheduler.admit(sequence.clone());
                let client = Client {
                    sequence,
                    received: Vec::new(),
                    num_scores: None,
                    end: None,
                    is_ended: false,
                    is_paused: false,
                    num_computed: 0,
                };
                self.clients.insert(client.sequence.id, client);
            }
            Act::Cancel(index) => {
                if let Some(id) = self.pick(index) {
                    assert!(self.engine.scheduler.cancel(id));
                    let client = self.clients.remove(&id).expect("it is alive");
                    assert!(client.expected(&self.rule).0.starts_with(&client.received));
                }
            }
            Act::Pause(index) => self.set_paused(index, true),
            Act::Resume(index) => self.set_paused(index, false),
        }
    }

    fn pick(&self, index: usize) -> Option<SequenceId> {
        let alive: Vec<_> = self.alive().collect();
        (!alive.is_empty()).then(|| alive[index % alive.len()])
    }

    fn alive(&self) -> impl Iterator<Item = SequenceId> {
        self.clients.iter().filter(|(_, client)| !client.is_ended).map(|(id, _)| *id)
    }

    fn set_paused(&mut self, index: usize, is_paused: bool) {
        let Some(id) = self.pick(index) else { return };
        self.clients.get_mut(&id).expect("it is alive").is_paused = is_paused;
        if is_paused { self.engine.scheduler.pause(id) } else { self.engine.scheduler.resume(id) }
    }

    /// One step, with what happens meanwhile; `false` if there was nothing to compute.
    fn step(&mut self, meanwhile: &[Act]) -> bool {
        let Some(plan) = self.engine.scheduler.plan() else {
            assert!(self.alive().all(|id| self.clients[&id].is_paused), "there was something to compute");
            meanwhile.iter().for_each(|act| self.act(act));
            return false;
        };
        self.check_plan(&plan);
        meanwhile.iter().for_each(|act| self.act(act));
        // The fake model refuses blocks in two tables, and caches that do not hold the tokens they should.
        for news in self.engine.finish(&plan) {
            self.take(news);
        }
        self.check_counts();
        true
    }

    fn check_plan(&mut self, plan: &StepPlan) {
        let SchedulerLimits { max_running, max_step_tokens, block_size, prefix_caching, .. } = self.limits;
        assert!(plan.num_tokens() <= max_step_tokens);
        assert!((1..=max_running).contains(&plan.chunks.len()));
        let names: BTreeSet<_> = plan.chunks.iter().map(|chunk| chunk.sequence).collect();
        assert_eq!(names.len(), plan.chunks.len(), "one chunk a sequence");
        for chunk in &plan.chunks {
            let client = self.clients.get_mut(&chunk.sequence).expect("only those who are here are planned");
            let (draft, table_end) = (chunk.draft().len(), chunk.start + chunk.token_ids.len());
            let end = table_end - draft;
            assert!(!client.is_ended && !client.is_paused);
            let goes_on = chunk.start == client.num_computed;
            let begins = chunk.start == 0 || (prefix_caching && chunk.start % block_size == 0);
            assert!(goes_on || begins, "it goes on, or begins again after what is cached");
            assert_eq!(chunk.token_ids[..end - chunk.start], client.known()[chunk.start..end]);
            assert_eq!(chunk.block_table.len(), table_end.div_ceil(block_size), "just the blocks it needs");
            client.num_computed = end;
            let is_left = client.received.len() < client.sequence.params.max_tokens as usize;
            assert!(client.received.len() + draft < client.sequence.params.max_tokens.max(1) as usize);
            assert_eq!(!chunk.samples.is_empty(), end == client.known().len() && is_left);
            if let Some(spec) = chunk.samples.first() {
                assert_eq!(spec.num_generated as usize, client.received.len());
            }
        }
    }

    fn check_counts(&self) {
        let counts = self.engine.scheduler.counts();
        let mut here = self.engine.scheduler.sequences();
        here.sort();
        assert!(here.iter().copied().eq(self.alive()));
        assert_eq!(counts.num_running + counts.num_waiting, here.len());
        assert_eq!(counts.num_paused, self.alive().filter(|id| self.clients[id].is_paused).count());
        assert!(counts.num_blocks_used >= counts.num_running, "who runs holds blocks");
        assert_eq!(counts.num_blocks_used == 0, counts.num_running == 0, "and nobody else does");
    }

    fn take(&mut self, news: News) {
        let (News::PromptScored { sequence, .. }
        | News::Sampled { sequence, .. }
        | News::Complete { sequence }
        | News::Failed { sequence, .. }) = &news;
        let client = self.clients.get_mut(sequence).expect("there is no news of those who left");
        assert!(!client.is_ended, "nothing comes after the end");
        match news {
            News::PromptScored { scores, .. } => {
                assert_eq!(client.num_scores.replace(scores.len()), None, "a prompt is scored once");
                assert!(client.received.is_empty(), "before the first token");
            }
            News::Sampled { token, end, .. } => {
                client.received.push(token.token_id);
                // Guesses that were right are computed.
                client.num_computed = client.sequence.prompt.len() + client.received.len() - 1;
                (client.end, client.is_ended) = (end, end.is_some());
            }
            News::Complete { .. } => client.is_ended = true,
            News::Failed { why, .. } => panic!("{why}"),
        }
    }

    fn crash(&mut self) {
        self.engine = Engine::with_rule(self.limits, self.rule.clone());
        for client in self.clients.values_mut().filter(|client| !client.is_ended) {
            client.num_computed = 0;
            let sequence = Sequence { output: client.received.clone(), ..client.sequence.clone() };
            self.engine.scheduler.admit(sequence);
            if client.is_paused {
                self.engine.scheduler.pause(client.sequence.id);
            }
        }
    }

    /// Nothing more comes, and nobody is slow: all end, within a bound that a starved sequence would not keep.
    fn finish(&mut self) {
        for id in self.alive().collect::<Vec<_>>() {
            self.clients.get_mut(&id).expect("it is alive").is_paused = false;
            self.engine.scheduler.resume(id);
        }
        // Each step brings the most favoured one that runs forward by a token, and it is never preempted.
        let length =
            |client: &Client| client.sequence.prompt.len() + client.sequence.params.max_tokens as usize + 1;
        let num_steps_max = self.clients.values().map(length).sum::<usize>();
        let num_steps = (0..=num_steps_max).take_while(|_| self.step(&[])).count();
        assert!(num_steps <= num_steps_max, "somebody starves");
        for client in self.clients.values() {
            assert!(client.is_ended);
            assert_eq!(
                (client.received.clone(), client.end),
                client.expected(&self.rule),
                "the tokens of its solo run"
            );
            let num_scores = client.sequence.prompt_logprobs.map(|_| client.sequence.prompt.len() - 1);
            assert_eq!(client.num_scores, num_scores);
        }
        let counts = self.engine.scheduler.counts();
        assert_eq!((counts.num_blocks_used, counts.num_running, counts.num_waiting), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_and_goes_everyone_gets_the_tokens_of_their_solo_run(limits in limits(), events in events()) {
        let mut traffic = Traffic::new(limits);
        for event in &events {
            match event {
                Event::Act(act) => traffic.act(act),
                Event::Step(meanwhile) => drop(traffic.step(meanwhile)),
                Event::Crash => traffic.crash(),
            }
        }
        traffic.finish();
    }
}
