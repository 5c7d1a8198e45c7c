//! How the program ends, and what else signals do to it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::program::Program;
use crate::support::{eventually, http};

/// What is streamed: longer than anything that is waited for.
const NUM_TOKENS: u64 = 60;

fn serve(flags: &[&str]) -> Program {
    Program::serve(&[&["--no-store", "--failpoints"], flags].concat(), &[])
}

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "candlewick/ember", "messages": [{"role": "user", "content": "How do I use Candlewick?"}],
        "temperature": 0.8, "seed": 7, "max_tokens": NUM_TOKENS, "ignore_eos": true, "stream": true,
    });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// A rule for the thread that computes.
fn arm(program: &Program, rule: Value) {
    let mut arm = json!({"place": "stepper"});
    arm.as_object_mut().expect("an object").extend(rule.as_object().expect("an object").clone());
    assert_eq!(http::post(program.address, "/debug/failpoints", &arm).status, 204);
}

/// From its `skip`th step on the program computes nothing more until [`let_go`].
fn hold(program: &Program, skip: u64) {
    arm(program, json!({"action": "hang", "skip": skip}));
}

fn let_go(program: &Program) {
    let disarmed = http::request(program.address, "DELETE", "/debug/failpoints", &[], None);
    assert_eq!(disarmed.status, 204);
}

fn is_draining(program: &Program) -> bool {
    let ready = http::get(program.address, "/ready");
    ready.status == 503 && ready.json()["reason"].as_str().is_some_and(|why| why.contains("draining"))
}

/// What is said in data frames, and whether the last of them is `[DONE]`.
fn told(frames: http::Frames) -> (Vec<Value>, bool) {
    let data = frames
        .filter_map(|frame| frame.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned));
    let mut data: Vec<_> = data.collect();
    let is_done = data.last().is_some_and(|last| last == "[DONE]");
    data.truncate(data.len() - usize::from(is_done));
    (data.iter().map(|data| serde_json::from_str(data).expect("it is JSON")).collect(), is_done)
}

fn text(chunks: &[Value]) -> String {
    assert!(chunks.iter().all(|chunk| chunk["error"].is_null()), "{chunks:?}");
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[test]
fn a_stream_that_runs_when_the_end_is_asked_for_is_told_whole() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let program = serve(&[]);
        assert_eq!(http::get(program.address, "/ready").status, 200);
        let undisturbed = http::post(program.address, "/v1/chat/completions", &chat(json!({})));
        let (undisturbed, _) = told(undisturbed.frames());

        hold(&program, 12);
        let running = http::post(program.address, "/v1/chat/completions", &chat(json!({})));
        let mut running = running.frames();
        running.next_data().expect("it has begun");
        program.signal(signal);
        eventually("it is not ready", || is_draining(&program));
        assert_eq!(http::get(program.address, "/health").status, 200, "it is alive");

        let late = http::post(program.address, "/v1/chat/completions", &chat(json!({})));
        assert_eq!(late.status, 503);
        let error = late.json()["error"].take();
        assert_eq!(error["code"], "unavailable", "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("no more requests")), "{error}");
        assert_eq!(
            http::post(program.address, "/tokenize", &json!({"model": "candlewick/ember", "prompt": "a"}))
                .status,
            503
        );

        let_go(&program);
        let (chunks, is_done) = told(running);
        assert!(is_done, "{chunks:?}");
        assert_eq!(text(&chunks), text(&undisturbed));
        let (status, log) = program.ended();
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

#[test]
fn past_the_drain_timeout_every_stream_ends_with_a_word_of_its_kind() {
    let program = serve(&["--drain-timeout", "100ms"]);
    // A stream of these takes an hour.
    arm(&program, json!({"action": "delay", "delay_ms": 60, "skip": 8, "times": 60_000}));
    let prompt = json!({"model": "candlewick/ember", "prompt": "Hello", "max_tokens": 400, "ignore_eos": true,
        "stream": true});
    let input = json!({"model": "candlewick/ember", "input": "Hello", "max_output_tokens": 400,
        "ignore_eos": true, "stream": true});
    let bodies = [
        ("/v1/chat/completions", chat(json!({"max_tokens": 400}))),
        ("/v1/completions", prompt),
        ("/v1/responses", input),
    ];
    let mut streams = bodies.map(|(path, body)| (path, http::post(program.address, path, &body).frames()));
    for (path, stream) in &mut streams {
        assert!(stream.next_data().is_some(), "{path} has begun");
    }
    let whole = {
        let (address, body) = (program.address, chat(json!({"stream": false, "max_tokens": 400})));
        std::thread::spawn(move || http::post(address, "/v1/chat/completions", &body))
    };
    let in_flight = |program: &Program| {
        let metrics = http::get(program.address, "/metrics").text();
        let running = metrics.lines().find(|line| line.starts_with("vllm:num_requests_running"));
        running.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    eventually("all four are in flight", || in_flight(&program) >= 4.0);
    program.signal(Signal::SIGTERM);

    let [chat, completion, response] = streams.map(|(_, stream)| told(stream));
    for (chunks, is_done) in [chat, completion] {
        let error = &chunks.last().expect("there is a last word")["error"];
        assert_eq!(error["code"], "unavailable", "{chunks:?}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("shutting down")), "{error}");
        assert!(is_done, "{chunks:?}");
    }
    let (events, _) = response;
    let last = events.last().expect("there is a last word");
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    let whole = whole.join().expect("it is answered");
    assert_eq!(whole.status, 503);
    assert_eq!(whole.json()["error"]["code"], "unavailable");
    let (status, log) = program.ended();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGINT)] {
        let program = serve(&["--drain-timeout", "1h"]);
        hold(&program, 3);
        let mut running = http::post(program.address, "/v1/chat/completions", &chat(json!({}))).frames();
        running.next_data().expect("it has begun");
        program.signal(first);
        eventually("it is draining", || is_draining(&program));
        let asked = Instant::now();
        program.signal(second);
        let said: Vec<String> = std::iter::from_fn(|| running.next_data()).collect();
        assert!(said.iter().any(|frame| frame.contains("the server is shutting down")), "{said:?}");
        let (status, log) = program.ended();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("ended at once by a second signal"), "{log}");
        assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?}", asked.elapsed());
    }
}

#[test]
fn an_idle_connection_does_not_hold_the_end_back() {
    use std::io::{Read, Write};

    let program = serve(&[]);
    let mut kept = std::net::TcpStream::connect(program.address).expect("it listens");
    kept.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").expect("it is sent");
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).expect("it is answered");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let unused = std::net::TcpStream::connect(program.address).expect("it listens");
    program.signal(Signal::SIGTERM);
    let (status, log) = program.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("did not close in time"), "{log}");
    drop((kept, unused));
}

#[test]
fn a_hang_up_has_the_settings_read_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("candlewick.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("[server]\nmax_logprobs = 1\n");
    let program = serve(&["--config", file.to_str().expect("it is text")]);
    let max_logprobs = || {
        let settings = http::get(program.address, "/admin/config").json()["settings"].take();
        settings["server"]["max_logprobs"]["value"].as_u64()
    };
    assert_eq!(max_logprobs(), Some(1));
    let mut running = http::post(program.address, "/v1/chat/completions", &chat(json!({}))).frames();
    running.next_data().expect("it has begun");
    write("[server]\nmax_logprobs = 2\n");
    program.signal(Signal::SIGHUP);
    eventually("the new settings hold", || max_logprobs() == Some(2));
    write("[server]\nmax_logprobs = many\n");
    program.signal(Signal::SIGHUP);
    let (_, is_done) = told(running);
    assert!(is_done, "the stream went on");
    assert_eq!(max_logprobs(), Some(2));
    program.signal(Signal::SIGTERM);
    let (status, log) = program.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("server.max_logprobs = 2"), "{log}");
    assert!(log.contains("nothing was changed"), "{log}");
}
