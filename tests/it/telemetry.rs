//! What a collector of traces is told of a request, and that none is needed.

use std::process::{Child, Command};

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;

use crate::support::collector::{Collector, Wire, attribute};
use crate::support::{http, program};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Has it end as an operator would, and waits: the last spans are sent then.
fn end(mut child: Child) {
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.expect("there is a kill").success());
    assert!(child.wait().expect("it ends").success());
}

fn check(wire: Wire) {
    let collector = Collector::start(wire);
    let endpoint = format!("http://{}", collector.address);
    let protocol = if wire == Wire::Grpc { "grpc" } else { "http" };
    let (child, address) =
        program::serve(&["--no-store", "--otlp-endpoint", &endpoint, "--otlp-protocol", protocol])
            .expect("it serves");
    let body = json!({
        "model": "candlewick/ember",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0, "stream": true, "stream_options": {"include_usage": true},
    });
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let answer =
        http::request(address, "POST", "/v1/chat/completions", &[("traceparent", &traceparent)], Some(&body));
    let returned = answer.header("traceparent").expect("it takes part in the trace").to_owned();
    assert!(returned.starts_with(&format!("00-{TRACE}-")) && !returned.contains(CALLER), "{returned}");
    let chunks = answer.chunks();
    let usage = &chunks[chunks.len() - 1]["usage"];
    assert!(usage["completion_tokens"].as_u64() > Some(3), "{chunks:?}");
    end(child);

    let spans = collector.spans();
    let named = |name: &str| -> &Span {
        let found =
            spans.iter().filter(|span| span.name == name && hex(&span.trace_id) == TRACE).collect::<Vec<_>>();
        assert_eq!(
            found.len(),
            1,
            "{name} among {:?}",
            spans.iter().map(|span| &span.name).collect::<Vec<_>>()
        );
        found[0]
    };
    let server = named("POST /v1/chat/completions");
    assert_eq!(hex(&server.parent_span_id), CALLER);
    assert_eq!(attribute(server, "http.response.status_code").as_deref(), Some("200"));
    let generation = named("chat candlewick/ember");
    assert_eq!(generation.parent_span_id, server.span_id);
    for stage in ["admission", "load", "queue", "prefill", "decode"] {
        assert_eq!(named(stage).parent_span_id, generation.span_id, "{stage}");
    }
    named("stream");
    for (key, expected) in [
        ("gen_ai.operation.name", "chat".to_owned()),
        ("gen_ai.request.model", "candlewick/ember".into()),
        ("gen_ai.response.model", "candlewick/ember@main".into()),
        ("gen_ai.response.finish_reasons", "[stop]".into()),
        ("gen_ai.usage.input_tokens", usage["prompt_tokens"].to_string()),
        ("gen_ai.usage.output_tokens", usage["completion_tokens"].to_string()),
    ] {
        assert_eq!(attribute(generation, key), Some(expected), "{key}");
    }
    let bytes = collector.bytes();
    for said in ["capital", "Paris"] {
        assert!(
            !bytes.windows(said.len()).any(|window| window == said.as_bytes()),
            "{said} is in what was sent"
        );
    }
}

#[test]
fn a_request_is_told_to_a_collector_over_http() {
    check(Wire::Http);
}

#[test]
fn a_request_is_told_to_a_collector_over_grpc() {
    check(Wire::Grpc);
}

#[test]
fn a_collector_that_is_away_costs_nothing() {
    // Nobody listens at a port that was given back.
    let address = Collector::start(Wire::Http).address;
    let (child, server) =
        program::serve(&["--no-store", "--otlp-endpoint", &format!("http://{address}")]).expect("it serves");
    let body = json!({"model": "candlewick/ember", "prompt": "Hello", "max_tokens": 4});
    for _ in 0..3 {
        assert_eq!(http::post(server, "/v1/completions", &body).status, 200);
    }
    end(child);
}
