//! Settings that change while the server runs: what is in flight is not touched, what comes after goes by the new ones,
//! and what is wrong changes nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candlewick_actors::ReloadOutcome;
use serde_json::{Value, json};

use crate::support::server::{TestServer, chat_body};
use crate::support::{eventually, http};

const EMBER: &str = "candlewick/ember";

/// A folder with a settings file in it, and the server that goes by it.
struct Configured {
    file: PathBuf,
    _folder: tempfile::TempDir,
    server: TestServer,
}

impl Configured {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("candlewick.toml");
        std::fs::write(&file, text).expect("written");
        Self { server: TestServer::watching(&file), file, _folder: folder }
    }

    fn rewrite(&self, text: &str) -> ReloadOutcome {
        std::fs::write(&self.file, text).expect("written");
        self.server.reload()
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> http::Answer {
        http::request(self.server.address(), "GET", path, headers, None)
    }

    /// Answers that were begun since the start, whether or not they have ended.
    fn num_begun(&self) -> f64 {
        let text = self.get("/metrics", &[("authorization", "Bearer sk-a")]).text();
        let counts = text.lines().filter(|line| line.starts_with("vllm:time_to_first_token_seconds_count{"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn ask(&self, body: &Value, key: &str) -> http::Answer {
        let headers = [("authorization", key)];
        http::request(self.server.address(), "POST", "/v1/chat/completions", &headers, Some(body))
    }

    fn setting(&self, section: &str, name: &str) -> Value {
        self.get("/admin/config", &[]).json()["settings"][section][name].take()
    }
}

/// The text of a stream that ends as it should.
fn streamed(answer: http::Answer) -> String {
    assert_eq!(answer.status, 200);
    let mut frames = answer.frames();
    let mut text = String::new();
    while let Some(frame) = frames.next_data() {
        let data = frame.strip_prefix("data: ").expect("a data frame");
        if data == "[DONE]" {
            return text;
        }
        let chunk: Value = serde_json::from_str(data).expect("frames are JSON");
        assert!(chunk["error"].is_null(), "{chunk}");
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    panic!("the stream broke off");
}

/// Good settings of many kinds; every one of them lets `sk-a` in.
fn variant(i: usize) -> String {
    let pick = |choices: [&str; 3]| choices[i % 3].to_owned();
    format!(
        "[server]\napi_keys = [\"alice sk-a weight={}\", \"extra sk-{i}\"]\nenable_cors = {}\nkeep_alive = \"{}\"\nmax_body = \"{}MiB\"\n\
         drain_timeout = \"{}s\"\nreasoning_field = \"{}\"\nstrict_fields = {}\n\
         [models]\nmodel_timeout = \"{}\"\ndefault_seed = {i}\nsampling_defaults = {{ temperature = {}, top_k = {} }}\n\
         reasoning = \"{}\"\nchat_template = {:?}\nchat_template_kwargs = {{ depth = {i} }}\naliases = {{ other = \"{EMBER}\" }}\n\
         [engine]\nmax_running = {}\nmax_queued = {}\nmax_batch_tokens = {}\nstream_capacity = {}\n\
         [log]\nlevel = \"{}\"\n",
        1 + i % 3,
        i.is_multiple_of(2),
        pick(["1s", "50ms", "3s"]),
        1 + i % 4,
        1 + i % 9,
        pick(["both", "reasoning", "reasoning_content"]),
        i % 2 == 1,
        pick(["1ms", "1s", "never"]),
        pick(["0", "0.7", "1.5"]),
        1 + i % 5,
        pick(["auto", "on", "off"]),
        pick([
            "",
            "{{ messages[0].content }} {{ depth }}",
            "{% for m in messages %}{{ m.content }}{% endfor %}"
        ]),
        pick(["1", "7", "64"]),
        pick(["64", "200", "999"]),
        pick(["16", "512", "33"]),
        pick(["1", "64", "5"]),
        pick(["error", "info", "warn"]),
    )
}

#[test]
fn running_streams_are_what_they_would_have_been() {
    const NUM_STREAMS: usize = 32;
    // All run at once.
    let configured = Configured::start(&variant(2));
    let body = |i: usize| {
        let extra = json!({
            "stream": true, "seed": i, "temperature": 1.0, "top_k": 0, "max_tokens": 200 + i, "ignore_eos": true
        });
        let mut body = chat_body(EMBER, "Tell me a story", extra);
        if i.is_multiple_of(4) {
            body["stop"] = json!(["zebra"]);
        }
        body
    };
    let alone: Vec<String> =
        (0..NUM_STREAMS).map(|i| streamed(configured.ask(&body(i), "Bearer sk-a"))).collect();

    let is_over = AtomicBool::new(false);
    let run = |i: usize| streamed(configured.ask(&body(i), "Bearer sk-a"));
    let (together, num_changes) = std::thread::scope(|scope| {
        let run = &run;
        let readers: Vec<_> = (0..NUM_STREAMS).map(|i| scope.spawn(move || run(i))).collect();
        // One that is not begun would go by the new settings.
        eventually("all have said something", || configured.num_begun() == 2.0 * NUM_STREAMS as f64);
        let rewriting = scope.spawn(|| {
            let mut num_changes = 0;
            while !is_over.load(Ordering::Relaxed) {
                num_changes += 1;
                assert_eq!(configured.rewrite(&variant(num_changes)), ReloadOutcome::Changed);
                // A mistake in between is of no consequence either.
                assert_eq!(configured.rewrite("[server]\nport = \"eight\"\n"), ReloadOutcome::Refused);
            }
            num_changes
        });
        let together: Vec<String> =
            readers.into_iter().map(|reader| reader.join().expect("no stream fails")).collect();
        is_over.store(true, Ordering::Relaxed);
        (together, rewriting.join().expect("every change is taken"))
    });
    assert_eq!(together, alone);
    assert!(num_changes >= 3, "{num_changes} changes");
    eventually("no request is left", || configured.server.gateway().num_in_flight() == 0);
}

#[test]
fn what_comes_after_a_change_goes_by_it() {
    let configured = Configured::start("[server]\napi_keys = [\"alice sk-a\"]\n");
    let models = |key: &str| configured.get("/v1/models", &[("authorization", key)]).status;
    assert_eq!((models("Bearer sk-a"), models("Bearer sk-b")), (200, 401));
    let changed = "[server]\napi_keys = [\"bob sk-b\"]\nmax_body = \"1KiB\"\nallowed_origins = [\"http://a.example\"]\n\
                   [models]\nsampling_defaults = { max_new_tokens = 3 }\nchat_template = \"{{ messages[0].content }}\"\n";
    assert_eq!(configured.rewrite(changed), ReloadOutcome::Changed);
    assert_eq!((models("Bearer sk-a"), models("Bearer sk-b")), (401, 200));
    let key = ("authorization", "Bearer sk-b");
    let paged = configured.get("/v1/models", &[key, ("origin", "http://a.example")]);
    assert_eq!(paged.header("access-control-allow-origin"), Some("http://a.example"));
    let long = chat_body(EMBER, &"x".repeat(2000), json!({}));
    assert_eq!(configured.ask(&long, "Bearer sk-b").status, 413);
    let usage = configured.ask(&chat_body(EMBER, "one two", json!({})), "Bearer sk-b").json()["usage"].take();
    assert_eq!(usage["completion_tokens"], 3, "{usage}");
    // The model is in memory by now: its template is changed there.
    let prompt_tokens = |configured: &Configured| {
        let answer = configured.ask(&chat_body(EMBER, "one two", json!({})), "Bearer sk-b");
        answer.json()["usage"]["prompt_tokens"].as_u64().expect("a count")
    };
    let bare = prompt_tokens(&configured);
    assert_eq!(configured.rewrite("[server]\napi_keys = [\"bob sk-b\"]\n"), ReloadOutcome::Changed);
    eventually("the model's own template is back", || prompt_tokens(&configured) > bare);
}

#[test]
fn a_change_is_seen_however_it_is_made() {
    let configured = Configured::start("[server]\nmax_logprobs = 1\n");
    let max_logprobs = || configured.setting("server", "max_logprobs")["value"].as_i64();
    assert_eq!(max_logprobs(), Some(1));
    // In place.
    std::fs::write(&configured.file, "[server]\nmax_logprobs = 2\n").expect("written");
    eventually("the file is read again", || max_logprobs() == Some(2));
    // By a rename, as editors do.
    let folder = configured.file.parent().expect("it is in a folder");
    std::fs::write(folder.join("new"), "[server]\nmax_logprobs = 3\n").expect("written");
    std::fs::rename(folder.join("new"), &configured.file).expect("renamed");
    eventually("the renamed file is read", || max_logprobs() == Some(3));
    // By a link to a link that is swapped, as Kubernetes does.
    let link = |name: &str, target: &Path| {
        std::os::unix::fs::symlink(target, folder.join("link")).expect("linked");
        std::fs::rename(folder.join("link"), folder.join(name)).expect("renamed");
    };
    for (version, count) in [("v1", 4), ("v2", 5)] {
        std::fs::create_dir(folder.join(version)).expect("made");
        let text = format!("[server]\nmax_logprobs = {count}\n");
        std::fs::write(folder.join(version).join("candlewick.toml"), text).expect("written");
        link("..data", Path::new(version));
        link("candlewick.toml", Path::new("..data/candlewick.toml"));
        eventually("the linked file is read", || max_logprobs() == Some(count));
    }
}

#[test]
fn wrong_settings_change_nothing() {
    let configured = Configured::start("[server]\napi_keys = [\"k\"]\nmax_logprobs = 4\n");
    let key = [("authorization", "Bearer k")];
    let before = configured.get("/admin/config", &key).json();
    for wrong in [
        "[server]\napi_keys = [\"k\"]\nmax_logprobs = 5\nmax_bodies = 1\n",
        "[server]\napi_keys = [\"k\"]\nmax_logprobs = 5\n[models]\naliases = { a = \"b\", b = \"c\" }\n",
        "[server]\napi_keys = [\"k\"]\nmax_logprobs = 5\n[models]\nchat_template = \"/no/such/file.jinja\"\n",
        "[server\n",
        // Half a file, or one that forgot the keys, must not open the server.
        "",
    ] {
        assert_eq!(configured.rewrite(wrong), ReloadOutcome::Refused, "{wrong}");
        assert_eq!(configured.get("/admin/config", &key).json(), before, "{wrong}");
        assert_eq!(configured.get("/v1/models", &[]).status, 401, "{wrong}");
    }
    std::fs::remove_file(&configured.file).expect("removed");
    assert_eq!(configured.server.reload(), ReloadOutcome::Refused, "a file that is gone may come back");
    assert_eq!(configured.get("/admin/config", &key).json(), before);
}

#[test]
fn settings_tell_where_they_come_from_and_what_they_wait_for() {
    let configured =
        Configured::start("[server]\nmax_logprobs = 4\nhttp_workers = 2\n[hub]\ntoken = \"hf_hunter2\"\n");
    let max_logprobs = configured.setting("server", "max_logprobs");
    assert_eq!((&max_logprobs["value"], &max_logprobs["change_takes"]), (&json!(4), &json!("next request")));
    let origin = max_logprobs["origin"].as_str().expect("a place");
    assert!(origin.ends_with("candlewick.toml:2"), "{origin}");
    assert_eq!(configured.setting("server", "port")["origin"], "flag --port");
    assert_eq!(configured.setting("engine", "max_running")["origin"], "default");
    assert_eq!(configured.rewrite("[server]\nhttp_workers = 3\n"), ReloadOutcome::Changed);
    let workers = configured.setting("server", "http_workers");
    assert_eq!((&workers["value"], &workers["pending"]), (&json!("2"), &json!("3")), "{workers}");
    let all = configured.get("/admin/config", &[]).text();
    assert!(!all.contains("hunter2"), "{all}");
}

#[test]
fn a_name_moves_from_one_model_to_another_while_the_first_goes_on() {
    let (blue, green) = ("acme/tiny-qwen2", EMBER);
    let text = |model: &str| {
        format!("[models]\npreload = [\"{blue}\", \"{green}\"]\naliases = {{ chat = \"{model}\" }}\n")
    };
    let configured = Configured::start(&text(blue));
    let ready = |configured: &Configured, model: &str| {
        let models = configured.get("/v1/models?loaded=true", &[]).json();
        models["data"].as_array().expect("a list").iter().any(|card| card["id"] == model)
    };
    eventually("both are loaded", || ready(&configured, blue) && ready(&configured, green));
    assert!(ready(&configured, "chat"), "the name is listed as a model");
    assert_eq!(configured.get("/v1/models/chat", &[]).json()["root"], blue);
    let body = |model: &str| {
        chat_body(model, "Count", json!({"stream": true, "max_tokens": 24, "ignore_eos": true}))
    };
    let said = |model: &str| streamed(configured.ask(&body(model), ""));
    let (says_blue, says_green) = (said(blue), said(green));
    assert_ne!(says_blue, says_green);

    let running = configured.ask(&body("chat"), "");
    assert_eq!(configured.rewrite(&text(green)), ReloadOutcome::Changed);
    assert_eq!(said("chat"), says_green, "who asks now is answered by the other");
    assert_eq!(streamed(running), says_blue, "what was begun ends where it began");
    let answer = configured.ask(&chat_body("chat", "Count", json!({"max_tokens": 1})), "").json();
    assert_eq!(answer["model"], "chat", "and it is called what it was asked for");
}

#[test]
fn a_pin_moves() {
    let pinned = |model: &str| format!("[models]\nmodel = \"{model}\"\nserved_model_name = [\"house\"]\n");
    let configured = Configured::start(&pinned("acme/tiny-qwen2"));
    let ready = || configured.get("/ready", &[]).status == 200;
    eventually("the pinned model is there", ready);
    let running = configured
        .ask(&chat_body("house", "Count", json!({"stream": true, "max_tokens": 24, "ignore_eos": true})), "");
    assert_eq!(configured.rewrite(&pinned("acme/tiny-llama")), ReloadOutcome::Changed);
    eventually("the other is there", ready);
    assert!(!streamed(running).is_empty());
    assert_eq!(configured.ask(&chat_body("acme/tiny-qwen2", "Count", json!({})), "").status, 400);
    assert_eq!(configured.ask(&chat_body("house", "Count", json!({"max_tokens": 2})), "").status, 200);
}

#[test]
fn the_tree_is_shown() {
    let configured = Configured::start(&format!("[models]\npreload = [\"{EMBER}\"]\n"));
    let tree = || configured.get("/admin/actors", &[]).json()["tree"].take();
    let child = |node: &Value, role: &str| {
        let children = node["children"].as_array().cloned().unwrap_or_default();
        children.into_iter().find(|child| child["role"] == role).unwrap_or_default()
    };
    let model = || child(&child(&tree(), "models"), "model");
    eventually("the model is ready", || model()["state"] == "ready");
    let (root, model) = (tree(), model());
    assert_eq!(
        (&root["role"], &root["state"], &root["num_restarts"]),
        (&json!("root"), &json!("running"), &json!(0))
    );
    assert_eq!(child(&root, "settings")["state"], "running");
    assert_eq!(model["name"], "candlewick/ember@main");
    let batcher = child(&model, "batcher");
    assert!(batcher["mailbox_depth"].is_u64(), "{batcher}");
    assert_eq!(child(&batcher, "stepper")["mailbox_depth"], Value::Null, "a thread has no mailbox");
}

#[test]
fn without_a_key_only_this_machine_is_shown_what_is_behind() {
    let configured = Configured::start("");
    for path in ["/admin/config", "/admin/actors"] {
        assert_eq!(configured.get(path, &[]).status, 200, "{path}");
        for header in
            [("x-forwarded-for", "10.0.0.1"), ("host", "rebound.example"), ("origin", "http://a.example")]
        {
            assert_eq!(configured.get(path, &[header]).status, 403, "{path} {header:?}");
        }
    }
    let with_key = Configured::start("[server]\napi_keys = [\"k\"]\n");
    assert_eq!(with_key.get("/admin/config", &[]).status, 401);
    let key = ("authorization", "Bearer k");
    assert_eq!(with_key.get("/admin/config", &[key, ("x-forwarded-for", "10.0.0.1")]).status, 200);
}
