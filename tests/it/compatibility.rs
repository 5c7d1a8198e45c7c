//! `docs/compatibility.md` is held to its word: every row of its tables is sent to a server.

use serde_json::{Map, Value, json};

use crate::support::server::TestServer;

/// A row: what is sent over the route's smallest body, and what is said of it.
struct Row {
    route: String,
    field: String,
    body: Value,
    verdict: String,
}

/// The smallest good body of a route.
fn smallest(route: &str) -> Value {
    let model = "candlewick/ember";
    match route {
        "/v1/chat/completions" => json!({
            "model": model, "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0, "max_tokens": 16
        }),
        "/v1/completions" => {
            json!({"model": model, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 8})
        }
        "/v1/responses" => {
            json!({"model": model, "input": "Hello!", "temperature": 0, "max_output_tokens": 16})
        }
        "/v1/embeddings" | "/pooling" => json!({"model": encoder("bert_embed-small"), "input": "Hello!"}),
        "/embed" => json!({"model": encoder("bert_embed-small"), "inputs": "Hello!"}),
        "/predict" => json!({"model": encoder("distilbert_cls-small"), "inputs": "Hello!"}),
        "/similarity" => {
            let inputs = json!({"source_sentence": "Hello!", "sentences": ["Bye."]});
            json!({"model": encoder("bert_embed-small"), "inputs": inputs})
        }
        "/classify" => json!({"model": encoder("distilbert_cls-small"), "input": "Hello!"}),
        "/score" => json!({"model": encoder("xlmr_rerank-small"), "text_1": "Hi", "text_2": "Hello!"}),
        "/rerank" | "/v2/rerank" => {
            json!({"model": encoder("xlmr_rerank-small"), "query": "Hi", "documents": ["Hello!", "Bye."]})
        }
        "/tokenize" => json!({"model": model, "prompt": "Hello!"}),
        "/detokenize" => json!({"model": model, "tokens": [5]}),
        other => panic!("the page has a route that this test does not know: {other}"),
    }
}

/// A checkpoint of `tests/fixtures/encoders`, by its path.
fn encoder(name: &str) -> String {
    format!("{}/tests/fixtures/encoders/{name}/checkpoint", env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md"))
        .expect("the page is there");
    let (mut rows, mut route) = (Vec::new(), String::new());
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## POST ") {
            route = heading.to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", field, body, verdict, _, ""] = cells[..]
            && body.starts_with("`{")
        {
            let field = field.split('`').nth(1).unwrap_or(field).to_owned();
            let own: Map<String, Value> = serde_json::from_str(body.trim_matches('`'))
                .unwrap_or_else(|error| panic!("what to try of `{field}` is not an object: {error}"));
            let mut body = smallest(&route);
            body.as_object_mut().expect("an object").extend(own);
            rows.push(Row { route: route.clone(), field, body, verdict: verdict.to_owned() });
        }
    }
    assert!(rows.len() > 100, "the page has lost its tables");
    rows
}

#[test]
fn every_row_is_as_the_page_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().to_str().expect("plain");
    let server = TestServer::start(&[], &[("XDG_DATA_HOME", data_dir)]);
    let mut wrong = Vec::new();
    for Row { route, field, body, verdict } in rows() {
        let answer = server.post(&route, &body);
        let status = answer.status;
        let text = answer.text();
        let is_right = match verdict.as_str() {
            "honoured" | "ignored" => status == 200 && !text.contains("\"error\":{"),
            "refused" => {
                let error: Value = serde_json::from_str(&text).unwrap_or_default();
                let names =
                    |key: &str| error["error"][key].as_str().is_some_and(|said| said.contains(&field));
                (400..500).contains(&status) && (names("param") || names("message"))
            }
            other => panic!("`{field}` is {other}; a field is honoured, ignored or refused"),
        };
        if !is_right {
            wrong.push(format!("{route} `{field}` should be {verdict}: {status} {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
