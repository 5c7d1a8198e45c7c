//! Many streams at once, a third of them left early: the others are complete and what they would have been alone, and
//! nothing remains.

use serde_json::json;

use crate::support::eventually;
use crate::support::server::{TestServer, chat_body};

const NUM_STREAMS: usize = 64;

#[test]
fn survivors_are_identical_to_their_solo_runs() {
    let server = TestServer::start(
        &[("max-running", "24"), ("max-queued", "64"), ("cb-num-blocks", "160")],
        &[("HF_HUB_CACHE", "/nonexistent"), ("HF_HUB_OFFLINE", "1")],
    );
    let questions =
        ["Tell me a story", "Who are you?", "What is the capital of Peru?", "hi", "Count from 1 to 20"];
    let extra = |i: usize| json!({"max_tokens": 8 + i % 40, "stream": true});
    let run = |i: usize| {
        let body = chat_body("candlewick/ember", questions[i % questions.len()], extra(i));
        let answer = server.post("/v1/chat/completions", &body);
        assert_eq!(answer.status, 200);
        let mut text = String::new();
        let mut frames = answer.frames();
        let mut num_frames = 0;
        while let Some(frame) = frames.next_data() {
            let data = frame.strip_prefix("data: ").expect("a data frame");
            if data == "[DONE]" {
                return Some(text);
            }
            let chunk: serde_json::Value = serde_json::from_str(data).expect("frames are JSON");
            assert!(chunk["error"].is_null(), "{chunk}");
            text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
            num_frames += 1;
            if i.is_multiple_of(3) && num_frames > i % 7 {
                return None; // leaves in the middle
            }
        }
        panic!("the stream broke off");
    };
    let solo: Vec<Option<String>> =
        (0..NUM_STREAMS).map(|i| if i.is_multiple_of(3) { None } else { run(i) }).collect();
    let together: Vec<Option<String>> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..NUM_STREAMS).map(|i| scope.spawn(move || run(i))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no stream fails")).collect()
    });
    assert_eq!(together, solo);
    eventually("no request is left", || server.gateway().num_in_flight() == 0);
    eventually("no block is left", || server.metric("vllm:kv_cache_usage_perc") == 0.0);
    assert_eq!(server.metric("vllm:num_requests_running"), 0.0);
}
