//! What docs/reliability.md promises and shows, tried on the program.

use serde_json::{Value, json};

use crate::support::{http, program};

const FLAGS: &[&str] = &["--no-store", "--failpoints"];

fn streamed_text(address: std::net::SocketAddr, body: &Value) -> String {
    let chunks = http::post(address, "/v1/chat/completions", body).chunks();
    assert!(chunks.iter().all(|chunk| chunk["error"].is_null()), "{chunks:?}");
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[test]
fn the_engine_is_killed_in_the_middle_of_an_answer_and_the_text_goes_on() {
    let (mut child, address) = program::serve(FLAGS).expect("it serves");
    let body = json!({
        "model": "candlewick/ember",
        "messages": [{"role": "user", "content": "How do I use Candlewick?"}],
        "temperature": 0.8, "seed": 7, "max_tokens": 60, "ignore_eos": true, "stream": true,
    });
    let undisturbed = streamed_text(address, &body);
    for action in ["panic", "error", "kill"] {
        let rule = json!({"place": "stepper", "action": action, "skip": 12});
        assert_eq!(http::post(address, "/debug/failpoints", &rule).status, 204);
        assert_eq!(streamed_text(address, &body), undisturbed, "{action}");
    }
    let metrics = http::get(address, "/metrics").text();
    let restarts = "candlewick_batcher_restarts_total{model_name=\"candlewick/ember\"} 3";
    assert!(metrics.lines().any(|line| line == restarts), "{metrics}");
    child.kill().expect("it is alive");
    child.wait().expect("it is dead");
}

/// Candle's pools are shared by the process, and one panic in them is the end of them. Whoever uses one starts its threads, which
/// are called as the thread that started them: a stepper's. So there is one stepper to one model, unless plain candle computes,
/// which shows that this would be seen.
#[cfg(target_os = "linux")]
#[test]
fn nothing_that_serves_computes_on_threads_that_a_panic_would_poison() {
    assert_eq!(num_steppers_and_strangers(&["--no-store"]), (1, Vec::new()));
    let several = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let (num_steppers, _) = num_steppers_and_strangers(&["--no-store", "--kernels", "reference"]);
    assert!(num_steppers > 1 || !several, "candle's threads are not seen");
}

/// After every kind of work: threads that are called steppers, and those whose name nobody here gives.
#[cfg(target_os = "linux")]
fn num_steppers_and_strangers(flags: &[&str]) -> (usize, Vec<String>) {
    const OURS: [&str; 6] =
        ["compute-", "stepper ", "grammar ", "tokio-rt-worker", "actix-server ", "actix-rt"];
    let (mut child, address) = program::serve(flags).expect("it serves");
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}},
        "required": ["city"]});
    let kinds = [
        json!({}),
        json!({"logprobs": true, "top_logprobs": 3, "n": 3, "temperature": 1}),
        json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}],
            "tool_choice": "required"}),
        json!({"use_beam_search": true, "n": 2}),
    ];
    for kind in kinds {
        let mut body = json!({"model": "candlewick/ember", "messages": [{"role": "user", "content": "Hello!"}],
            "temperature": 0, "max_tokens": 40});
        body.as_object_mut().expect("an object").extend(kind.as_object().expect("an object").clone());
        let answer = http::post(address, "/v1/chat/completions", &body);
        let status = answer.status;
        assert_eq!(status, 200, "{}", answer.text());
    }
    let (mut num_steppers, mut strangers) = (0, Vec::new());
    for task in std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("it is alive") {
        let task = task.expect("it can be read");
        let is_main = task.file_name().to_str() == Some(&child.id().to_string());
        // One that has ended meanwhile is nobody's.
        let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else { continue };
        num_steppers += usize::from(name.starts_with("stepper "));
        if !is_main && !OURS.iter().any(|ours| name.starts_with(ours)) {
            strangers.push(name);
        }
    }
    child.kill().expect("it is alive");
    child.wait().expect("it is dead");
    (num_steppers, strangers)
}

/// The table of what `transformers serve` gets wrong names a test for each row, and so does that of what is defended; each
/// is there.
#[test]
fn tests_that_the_pages_name_are_there() {
    assert_eq!(num_rows_with_tests("docs/reliability.md"), 18, "a row for each fault");
    assert!(num_rows_with_tests("docs/security.md") >= 30, "a row for each defence");
}

fn num_rows_with_tests(page: &str) -> usize {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join(page)).expect("the page is there");
    let mut num_rows = 0;
    for line in page.lines().filter(|line| line.starts_with("| ") && line.contains("::")) {
        num_rows += 1;
        let tests = line.split('`').filter(|part| part.contains("::"));
        for test in tests {
            let (file, name) = test.split_once("::").expect("it was found by that");
            let text =
                std::fs::read_to_string(root.join(file)).unwrap_or_else(|_| panic!("no {file}: {line}"));
            assert!(text.contains(&format!("fn {name}(")), "no {name} in {file}: {line}");
        }
    }
    num_rows
}
