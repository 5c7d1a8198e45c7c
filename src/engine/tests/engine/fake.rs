//! The fake model is a measuring device: it must notice what it is there to notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use candlewick_engine::fake::{FakeControl, FakeFactory, FakeRule, FakeSource, Fault, IM_END};
use candlewick_engine::{
    BlockId, Chunk, KvCacheShape, LoadError, LoadOptions, Model, ModelFactory, ModelFiles, ModelSource,
    StepError, StepPlan, Weights,
};
use candlewick_protocol::ModelRef;
use futures::executor::block_on;

use crate::support::{id, start_model};

fn chunk(number: u64, start: usize, token_ids: &[u32], blocks: &[u32]) -> StepPlan {
    let block_table = blocks.iter().copied().map(BlockId).collect();
    let token_ids = token_ids.to_vec();
    let chunk = Chunk {
        sequence: id(number),
        token_ids,
        start,
        block_table,
        samples: Vec::new(),
        prompt_logprobs: None,
    };
    StepPlan { chunks: vec![chunk] }
}

#[track_caller]
fn check_refused(model: &mut dyn Model, plan: &StepPlan, expected: &str) {
    let Err(StepError::Plan(message)) = model.step(plan) else { panic!("it is refused") };
    assert!(message.contains(expected), "{message}");
}

#[test]
fn plans_that_would_mix_sequences_up_are_refused() {
    let mut model = start_model(FakeRule::default(), 4, 2);
    model.step(&chunk(1, 0, &[1, 2, 3], &[0, 1])).expect("it is valid");
    model.step(&chunk(1, 3, &[4], &[0, 1])).expect("it goes on");
    check_refused(&mut *model, &chunk(1, 5, &[5], &[0, 1, 2]), "does not hold #1.0's token at 4");
    check_refused(&mut *model, &chunk(1, 4, &[5], &[1, 0, 2]), "does not hold #1.0's token at 0");
    check_refused(&mut *model, &chunk(1, 4, &[5], &[0, 1]), "is to compute 4..5");
    check_refused(&mut *model, &chunk(1, 4, &[5], &[0, 1, 4]), "outside the cache");
    check_refused(&mut *model, &chunk(1, 4, &[99], &[0, 1, 2]), "token 99");

    let mut both = chunk(1, 4, &[5], &[0, 1, 2]);
    both.chunks.extend(chunk(2, 0, &[1], &[2]).chunks);
    check_refused(&mut *model, &both, "block 2 is held by #1.0 and by #2.0, and one of them writes to it");

    model.step(&chunk(2, 0, &[9], &[0])).expect("whose block it is shows only later");
    check_refused(&mut *model, &chunk(1, 4, &[5], &[0, 1, 2]), "does not hold #1.0's token at 1");
    model.step(&chunk(3, 0, &[8], &[0])).expect("whose block it is shows only later");
    check_refused(&mut *model, &chunk(2, 1, &[5], &[0]), "other tokens than #2.0's before 1");
}

fn files() -> ModelFiles {
    let source = FakeSource::new(["fake/a"]);
    let model: ModelRef = "fake/a".parse().expect("it is a name");
    let snapshot = block_on(source.resolve(&model)).expect("it is there");
    let fetch =
        |name: &str| (name.to_owned(), block_on(snapshot.fetch(name, &|_, _| ())).expect("it is there"));
    ModelFiles { files: snapshot.files().iter().map(|entry| fetch(&entry.name)).collect(), gguf: None }
}

fn weights(factory: &FakeFactory) -> Arc<dyn Weights> {
    factory.load(&files(), &LoadOptions::default(), &mut |_, _| true).expect("it loads")
}

fn start(factory: &FakeFactory) -> Box<dyn Model> {
    weights(factory).start(KvCacheShape { num_blocks: 4, block_size: 4 }).expect("it starts")
}

#[test]
fn a_model_breaks_when_it_is_told_to_and_its_successor_does_not() {
    let factory = FakeFactory::default();
    factory.control.break_step(1, Fault::Panic);
    let mut model = start(&factory);
    let plan = chunk(1, 0, &[1], &[0]);
    model.step(&plan).expect("not this one");
    assert!(catch_unwind(AssertUnwindSafe(|| model.step(&plan))).is_err());
    start(&factory).step(&plan).expect("the fault is used up");
    factory.control.break_next_step(Fault::Error);
    assert!(matches!(start(&factory).step(&plan), Err(StepError::Compute(_))));
    assert_eq!(factory.control.num_steps(), 4);
}

#[test]
fn a_poisonous_token_breaks_every_step_it_is_in() {
    let factory = FakeFactory::default();
    factory.control.poison(7, Fault::Error);
    for _ in 0..2 {
        let mut model = start(&factory);
        model.step(&chunk(1, 0, &[6], &[0])).expect("nothing is wrong with this one");
        assert!(model.step(&chunk(2, 0, &[6, 7], &[1])).is_err());
    }
}

#[test]
fn a_step_stands_at_the_gate_until_it_may_pass() {
    let factory = FakeFactory::default();
    let control: Arc<FakeControl> = factory.control.clone();
    control.step_gate.close();
    let mut model = start(&factory);
    let stepper = std::thread::spawn(move || {
        (0..3).map(|_| model.step(&chunk(1, 0, &[1], &[0])).is_ok()).collect::<Vec<_>>()
    });
    control.step_gate.wait_held();
    assert_eq!(control.num_steps(), 1, "it has not passed");
    control.step_gate.let_pass(1);
    while control.num_steps() < 2 {
        std::thread::yield_now();
    }
    control.step_gate.wait_held();
    assert!(!stepper.is_finished(), "one passed, not two");
    control.step_gate.open();
    assert_eq!(stepper.join().expect("it does not panic"), [true; 3]);
}

#[test]
fn loads_break_in_the_order_they_were_told_to() {
    let factory = FakeFactory::new(FakeRule::says("hi"));
    factory.break_next_load(Fault::Error);
    factory.break_next_load(Fault::Panic);
    let files = files();
    let mut progress = Vec::new();
    let mut load = |is_wanted: bool| {
        factory
            .load(&files, &LoadOptions::default(), &mut |done, total| {
                progress.push((done, total));
                is_wanted
            })
            .map(|weights| weights.info().family.clone())
    };
    assert!(matches!(load(true), Err(LoadError::Internal(_))));
    assert!(catch_unwind(AssertUnwindSafe(|| load(true))).is_err());
    assert!(load(false).is_err(), "nobody wants it any more");
    assert_eq!(load(true).expect("the faults are used up"), "fake");
    assert_eq!(progress.last(), Some(&(4, 4)));
    assert_eq!(factory.num_loads(), 4);
}

#[test]
fn its_source_finds_its_models_and_no_others() {
    let source = FakeSource::new(["fake/a", "fake/b@v2"]);
    let resolve = |name: &str| {
        let model: ModelRef = name.parse().expect("it is a name");
        assert!(source.serves(&model));
        block_on(source.resolve(&model)).is_ok()
    };
    assert!(resolve("fake/a") && resolve("fake/a@main") && resolve("fake/b@v2"));
    assert!(!resolve("fake/b") && !resolve("fake/c"));
    assert!(!source.serves(&"org/a".parse().expect("it is a name")));
    assert_eq!(source.list().len(), 2);
}

#[test]
fn its_tokenizer_has_a_token_for_each_byte() {
    let bytes = files().get("tokenizer.json").expect("it is there").read().expect("it is embedded");
    let tokenizer = tokenizers::Tokenizer::from_bytes(&*bytes).expect("it is a tokenizer");
    let text = "<|im_start|>é\n<|im_end|>";
    let ids = tokenizer.encode(text, true).expect("it encodes").get_ids().to_vec();
    assert_eq!(ids, [257, 0xc3, 0xa9, 10, IM_END]);
    assert_eq!(tokenizer.decode(&ids, false).expect("it decodes"), text);
}
