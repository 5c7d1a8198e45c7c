//! What a line of the log has in it.

use serde_json::{Value, json};

use crate::support::http;
use crate::support::program::Program;
use crate::support::server::chat_body;

#[test]
fn a_quiet_log_still_tells_whose_request_failed() {
    for format in ["text", "json"] {
        let program = Program::serve(&["--no-store", "--log-level", "warning", "--log-format", format], &[]);
        let body = chat_body("candlewick/ember", "Hello", json!({}));
        let headers = [("x-request-id", "mine-42"), ("x-request-timeout", "0.000001")];
        let answer = http::request(program.address, "POST", "/v1/chat/completions", &headers, Some(&body));
        assert_eq!(answer.status, 504);
        program.signal(nix::sys::signal::Signal::SIGTERM);
        let (_, log) = program.ended();
        let line = log.lines().find(|line| line.contains("request failed")).expect("it is logged");
        assert!(line.contains("mine-42") && line.contains("504"), "{line}");
        if format == "json" {
            let parsed: Value = serde_json::from_str(line).expect("a line is an object");
            assert!(parsed["message"].as_str().is_some_and(|text| text.contains("passed")), "{line}");
            assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
        }
    }
}
