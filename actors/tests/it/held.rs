//! Answers that are held to a form: in a batch, over a crash, and where nothing may follow.

use candlewick_engine::fake::Fault;
use candlewick_protocol::{Constraint, ErrorKind, FinishReason, GenerationRequest, OutputForm};
use serde_json::{Value, json};

use crate::support::*;

fn held(form: OutputForm) -> GenerationRequest {
    let constraint = Constraint { form, param: "response_format".into() };
    GenerationRequest { constraint: Some(constraint), ..request("a prompt", 400) }
}

fn schema() -> Value {
    let number = json!({"type": "integer", "minimum": 0, "maximum": 99999});
    json!({"type": "object", "properties": {"a": number, "b": {"enum": ["x", "y"]}, "c": number},
           "required": ["a", "b", "c"], "additionalProperties": false})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_keeps_to_its_form_and_ends_with_it() {
    let world = World::letters().await;
    let answer = world.answer(held(OutputForm::json(schema()))).await;
    let value: Value = serde_json::from_str(&answer.text(0)).expect("JSON");
    assert!(value["a"].is_u64() && value["c"].is_u64() && ["x", "y"].contains(&value["b"].as_str().unwrap()));
    assert_eq!(answer.end(0), (FinishReason::Stop, None));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_a_crash_is_the_answer_without_one() {
    let calm = World::letters().await;
    let undisturbed = calm.answer(held(OutputForm::json(schema()))).await;
    calm.close().await;
    for step in [1, 9] {
        let world = World::letters().await;
        world.factory.control.break_step(step, Fault::Panic);
        let answer = world.answer(held(OutputForm::json(schema()))).await;
        assert_eq!(answer.substance(), undisturbed.substance());
        assert_eq!(world.metric("candlewick_batcher_restarts_total{model_name=\"fake/a\"} "), 1.0);
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_limit_cuts_an_answer_it_is_told_as_far_as_it_came() {
    let world = World::letters().await;
    let mut short = held(OutputForm::json(schema()));
    short.sampling.max_tokens = Some(5);
    let answer = world.answer(short).await;
    assert!(answer.text(0).starts_with('{') && answer.text(0).len() <= 5, "{}", answer.text(0));
    assert_eq!(answer.end(0), (FinishReason::Length, None));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_which_nothing_may_follow_fails_and_its_neighbour_does_not() {
    let world = World::letters().await;
    world.factory.control.step_gate.close();
    // Nothing but the end, and the end is ignored.
    let mut stuck = held(OutputForm::Choice(vec![String::new()]));
    stuck.sampling.ignore_eos = true;
    let stuck = world.submit(stuck).await;
    let neighbour = world.submit(request("hi", 30)).await;
    world.factory.control.step_gate.open();
    let (stuck, neighbour) = tokio::join!(read_all(1, stuck), read_all(1, neighbour));
    let failure = stuck.failure();
    assert_eq!(failure.kind, ErrorKind::InvalidRequest);
    assert!(failure.message.contains("no token may come"), "{failure}");
    assert_eq!(neighbour.text(0).len(), 30);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_cannot_be_guaranteed_fails_before_it_begins() {
    let world = World::letters().await;
    let answer = world.answer(held(OutputForm::json(json!({"not": {}})))).await;
    assert_eq!(answer.failure().param.as_deref(), Some("response_format.not"));
    world.close().await;
}
