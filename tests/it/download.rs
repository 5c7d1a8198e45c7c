//! From the Hub to an answer: a model is downloaded while the server serves, resumed when the line breaks, and told of.

use serde_json::{Value, json};

use crate::hub::{Repo, TestHub};
use crate::support::server::{TestServer, fixtures};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The tiny Qwen2 checkpoint, as a repository of a Hub.
fn tiny() -> Repo {
    let snapshots = fixtures().join("hub/models--acme--tiny-qwen2/snapshots");
    let snapshot =
        std::fs::read_dir(snapshots).expect("snapshots").next().expect("one").expect("readable").path();
    let files = std::fs::read_dir(snapshot).expect("files").map(|file| file.expect("readable"));
    files.fold(Repo::new(COMMIT), |repo, file| {
        let name = file.file_name().into_string().expect("plain");
        let etag = format!("{:040x}", name.len());
        repo.file(&name, &etag, std::fs::read(file.path()).expect("readable"))
    })
}

struct Online {
    server: TestServer,
    hub: TestHub,
    _cache: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn online() -> Online {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let hub = runtime.block_on(TestHub::start([("acme/tiny", tiny())]));
    let cache = tempfile::tempdir().expect("a folder");
    let endpoint = hub.endpoint();
    let env = [("HF_HUB_CACHE", cache.path().to_str().expect("plain")), ("HF_ENDPOINT", endpoint.as_str())];
    Online { server: TestServer::start(&[], &env), hub, _cache: cache, _runtime: runtime }
}

fn answer(server: &TestServer) -> Value {
    server.chat("acme/tiny", "Hello", json!({}))["choices"][0]["message"]["content"].clone()
}

#[test]
fn a_download_is_told_in_bytes_and_the_model_answers() {
    let Online { server, hub, .. } = &online();
    let frames = server.post("/load_model", &json!({"model": "acme/tiny"})).chunks();
    let stage =
        |name: &str| frames.iter().filter(|frame| frame["stage"] == name).cloned().collect::<Vec<_>>();
    let last = stage("download").pop().expect("something was downloaded");
    assert_eq!(last["progress"]["current"], last["progress"]["total"]);
    assert_eq!(last["progress"]["current"], json!(hub.bytes_sent("model.safetensors")));
    assert!(!stage("weights").is_empty());
    assert_eq!(frames.last().expect("a last word")["status"], "ready");
    assert_eq!(answer(server), "Hi there! How can I help you today?");
    assert!(server.get("/v1/models").text().contains("acme/tiny"), "what was downloaded is listed");
}

#[test]
fn a_line_that_breaks_costs_no_byte_twice() {
    let Online { server, hub, .. } = &online();
    hub.break_after("model.safetensors", 50_000);
    assert_eq!(answer(server), "Hi there! How can I help you today?");
    let snapshots = fixtures().join("hub/models--acme--tiny-qwen2/snapshots");
    let snapshot =
        std::fs::read_dir(snapshots).expect("snapshots").next().expect("one").expect("readable").path();
    let size = std::fs::metadata(snapshot.join("model.safetensors")).expect("weights").len();
    assert_eq!(hub.bytes_sent("model.safetensors"), size);
}

#[test]
fn health_and_other_models_are_there_while_a_download_stands_still() {
    let Online { server, hub, .. } = &online();
    let gate = hub.hold_after("model.safetensors", 10_000);
    let load = server.post("/load_model", &json!({"model": "acme/tiny"}));
    let mut frames = load.frames();
    assert!(frames.by_ref().any(|frame| frame.contains("\"download\"")));
    assert_eq!(server.get("/health").status, 200);
    let ember = server.chat("candlewick/ember", "hi", json!({}));
    assert!(ember["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()));
    gate.open();
    assert!(frames.last().is_some_and(|frame| frame.contains("\"ready\"")));
}

#[test]
fn what_the_hub_refuses_is_told_with_what_to_do() {
    let Online { server, hub, .. } = &online();
    hub.put("acme/gated", tiny().gated_for("hf_right"));
    let refused = server.post("/v1/completions", &json!({"model": "acme/gated", "prompt": "x"}));
    assert_eq!(refused.status, 403);
    let message = refused.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("HF_TOKEN"), "{message}");
    let unknown = server.post("/v1/completions", &json!({"model": "acme/nothing", "prompt": "x"}));
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_gguf_file_that_cannot_be_served_is_refused_by_its_header() {
    let Online { server, hub, .. } = &online();
    let mut file = std::fs::read(fixtures().join("gguf/qwen2-f16.gguf")).expect("readable");
    let name = b"blk.1.ffn_up.weight";
    let at = file.windows(name.len()).position(|window| window == name).expect("a tensor") + name.len();
    // Behind the name: how many dimensions, the two, and how it is stored.
    file[at + 20] = 16;
    file.resize(3 << 20, 0);
    hub.put("acme/odd", Repo::new(COMMIT).file("m.gguf", "0dd", file));
    let refused = server.post("/v1/completions", &json!({"model": "acme/odd", "prompt": "x"}));
    let status = refused.status;
    let message = refused.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(status >= 400, "{status}");
    assert!(message.contains("m.gguf: tensor blk.1.ffn_up.weight is stored as IQ2_XXS"), "{message}");
    assert!(hub.bytes_sent("m.gguf") < 1 << 20, "{} bytes were fetched", hub.bytes_sent("m.gguf"));
}
