//! What an operator sees of requests that are not answered, of loads, and of where models stand.

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::{FakeFactory, FakeRule, Fault};
use candlewick_protocol::GenerationRequest;

use crate::support::*;

fn failures(kind: &str) -> String {
    format!("candlewick_request_failures_total{{kind=\"{kind}\",model_name=\"fake/a\"}} ")
}

fn ended(reason: &str) -> String {
    format!("vllm:request_success_total{{finished_reason=\"{reason}\",model_name=\"fake/a\"}} ")
}

fn of_a(name: &str) -> String {
    format!("{name}{{model_name=\"fake/a\"}} ")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_two_choices_is_one_request_and_two_ends() {
    let world = World::letters().await;
    let both = GenerationRequest { num_choices: 2, ..request("hi there", 6) };
    let usage = world.answer(both).await.usage();
    assert_eq!(usage.completion_tokens, 12);
    for (name, value) in [
        ("vllm:generation_tokens_total", 12.0),
        ("vllm:prompt_tokens_total", usage.prompt_tokens as f64),
        ("vllm:request_prompt_tokens_sum", usage.prompt_tokens as f64),
        ("vllm:request_generation_tokens_sum", 12.0),
        ("vllm:request_generation_tokens_count", 1.0),
        ("vllm:request_max_num_generation_tokens_sum", 6.0),
        ("vllm:request_params_n_sum", 2.0),
        ("vllm:request_params_max_tokens_sum", 6.0),
        ("vllm:e2e_request_latency_seconds_count", 1.0),
        ("vllm:request_time_per_output_token_seconds_count", 1.0),
    ] {
        assert_eq!(world.metric(&of_a(name)), value, "{name}");
    }
    assert_eq!(world.metric(&ended("length")), 2.0);
    eventually("it runs no more", || world.metric(&of_a("vllm:num_requests_running")) == 0.0).await;
    assert_eq!([failures("cancelled"), failures("internal")].map(|kind| world.metric(&kind)), [0.0, 0.0]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_told_as_such() {
    let world = World::letters().await;
    let mut stream = world.submit(request("hi", 1000)).await;
    read_started(&mut stream).await;
    drop(stream);
    eventually("it is counted", || world.metric(&failures("cancelled")) == 1.0).await;
    assert_eq!((world.metric(&ended("abort")), world.metric(&ended("error"))), (1.0, 0.0));
    assert_eq!(world.metric(&of_a("vllm:e2e_request_latency_seconds_count")), 0.0, "it had no end");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_finds_no_place_is_told_by_its_model() {
    let settings = TreeSettings { max_running: 1, max_queued: 0, ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    world.factory.control.step_gate.close();
    let first = world.submit(request("one", 5)).await;
    world.factory.control.step_gate.wait_held();
    assert!(world.gateway.submit(request("two", 5)).await.is_err());
    assert_eq!(world.metric(&failures("overloaded")), 1.0);
    world.factory.control.step_gate.open();
    read_all(1, first).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_nowhere_leaves_no_series() {
    let world = World::new(
        FakeRule::default(),
        TreeSettings { load_failure_ttl: std::time::Duration::ZERO, ..settings() },
    )
    .await;
    for name in ["nobody/one", "nobody/two"] {
        let mut nowhere = request("hi", 5);
        nowhere.model = Some(model(name));
        world.answer(nowhere).await.failure();
    }
    world.answer(request("hi", 5)).await;
    eventually("they are forgotten", || !world.gateway.metrics_text().contains("nobody")).await;
    assert_eq!(world.metric(&of_a("vllm:generation_tokens_total")), 5.0, "who answers is not");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_model_stands_and_what_it_holds() {
    let world = World::letters().await;
    let state = |state: &str| {
        let series = format!("candlewick_model_state{{model_name=\"fake/a\",state=\"{state}\"}} ");
        world.metric_if_told(&series)
    };
    assert_eq!(state("ready"), None);
    world.factory.load_gate.close();
    let load = world.gateway.load(model("fake/a"));
    world.factory.load_gate.wait_held();
    assert_eq!((state("loading"), state("ready")), (Some(1.0), Some(0.0)));
    world.factory.load_gate.open();
    drain(load).await;
    assert_eq!((state("loading"), state("ready")), (Some(0.0), Some(1.0)));
    assert_eq!(world.metric(&of_a("candlewick_model_load_seconds_count")), 1.0);
    assert!(world.metric(&of_a("candlewick_kv_cache_bytes")) > 0.0);
    assert!(world.gateway.metrics_text().contains("vllm:cache_config_info{block_size=\"4\""));

    world.factory.control.break_step(0, Fault::Panic);
    world.answer(request("hi", 5)).await;
    assert_eq!((state("ready"), state("degraded")), (Some(0.0), Some(1.0)));

    world.gateway.unload(&model("fake/a"), true).await.expect("it is there");
    assert_eq!((state("ready"), state("degraded")), (None, None));
    assert!(!world.gateway.metrics_text().contains("vllm:cache_config_info{"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_is_counted() {
    let factory = FakeFactory::new(FakeRule::default());
    factory.break_next_load(Fault::Error);
    let world = World::of(factory, settings()).await;
    world.load("fake/a").await;
    assert_eq!(world.metric(&of_a("candlewick_model_load_failures_total")), 1.0);
    let failed = "candlewick_model_state{model_name=\"fake/a\",state=\"failed\"} ";
    assert_eq!(world.metric(failed), 1.0);
    world.load("fake/a").await;
    assert_eq!(world.metric(&of_a("candlewick_model_load_seconds_count")), 1.0, "the next one succeeds");
    world.close().await;
}
