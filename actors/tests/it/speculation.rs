//! Guesses from outside: a client is told the same, whatever was guessed, and sooner.

use candlewick_actors::TreeSettings;
use candlewick_engine::SpeculationLimits;
use candlewick_engine::fake::{FakeRule, Fault};
use candlewick_protocol::{GenerationRequest, StopCause};

use crate::support::*;

const TEXT: &str = "a cat and a hat and a cat and a hat and a cat and a bat and a cat and a hat. So it was.";

fn guessing() -> TreeSettings {
    let limits = SpeculationLimits { max_draft_tokens: 6, ngram_min: 2, ngram_max: 4 };
    TreeSettings { speculation: Some(limits), ..settings() }
}

fn repeats(change: impl FnOnce(&mut GenerationRequest)) -> GenerationRequest {
    let mut request = request("say it", 200);
    request.output.token_ids = true;
    change(&mut request);
    request
}

fn requests() -> Vec<GenerationRequest> {
    vec![
        repeats(|_| ()),
        repeats(|request| request.num_choices = 3),
        repeats(|request| {
            request.output.logprobs = Some(2);
            request.sampling.temperature = Some(1.0);
            request.sampling.presence_penalty = Some(0.5);
        }),
        repeats(|request| request.output.stream_interval = 5),
        repeats(|request| request.sampling.stop = vec!["bat".into()]),
        repeats(|request| request.sampling.max_tokens = Some(37)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_the_same_in_fewer_steps() {
    let mut told = Vec::new();
    for settings in [settings(), guessing()] {
        let world = World::new(FakeRule::says(TEXT), settings).await;
        let mut answers = Vec::new();
        for request in requests() {
            answers.push(world.answer(request).await);
        }
        let accepted = world.metric("vllm:spec_decode_num_accepted_tokens_total{model_name=\"fake/a\"} ");
        let drafted = world.metric("vllm:spec_decode_num_draft_tokens_total{model_name=\"fake/a\"} ");
        let num_steps = world.metric("candlewick_step_seconds_count{model_name=\"fake/a\"} ");
        assert!(accepted <= drafted);
        told.push((answers, accepted, num_steps));
        world.close().await;
    }
    let [(plain, none, many), (guessed, accepted, few)] = &told[..] else { panic!("two runs") };
    for (plain, guessed) in plain.iter().zip(guessed) {
        assert_eq!(guessed.substance(), plain.substance());
    }
    assert_eq!(plain[0].text(0), TEXT);
    assert_eq!(guessed[4].end(0).1, Some(StopCause::Text("bat".into())));
    assert_eq!(*none, 0.0);
    // How many depends on times, which a busy machine stretches.
    assert!(*accepted > 20.0 && few < many, "{accepted} tokens, {few} steps in place of {many}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_survive_crashes_and_slow_readers() {
    let expected = {
        let world = World::new(FakeRule::says(TEXT), settings()).await;
        let answer = world.answer(repeats(|_| ())).await;
        world.close().await;
        answer.substance()
    };
    // One event fits on the stream: the request is paused and granted again all the time.
    let world = World::new(FakeRule::says(TEXT), TreeSettings { stream_capacity: 1, ..guessing() }).await;
    for step in [3, 12] {
        world.factory.control.break_step(step, Fault::Panic);
    }
    let answer = world.answer(repeats(|_| ())).await;
    assert_eq!(answer.substance(), expected);
    world.close().await;
}
