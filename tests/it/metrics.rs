//! What a scraper reads of the program, and that `docs/metrics.md` and the dashboard speak of just that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::support::http;
use crate::support::program::Program;

const MODEL: &str = "candlewick/ember";
const KEY: (&str, &str) = ("authorization", "Bearer sesame");

/// A program that asks for a key, so that every series is there, and guesses nothing, so that a step brings one token.
fn program() -> Program {
    Program::serve(
        &["--no-store", "--log-level", "error", "--speculation", "off", "--api-key", "alice sesame"],
        &[],
    )
}

fn scrape(program: &Program) -> String {
    let answer = http::request(program.address, "GET", "/metrics", &[KEY], None);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.text()
}

/// A streamed chat of so many tokens in each choice; its usage.
fn chat(program: &Program, num_tokens: u64, num_choices: u64) -> Value {
    let body = json!({
        "model": MODEL, "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0,
        "max_tokens": num_tokens, "n": num_choices, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true},
    });
    let answer = http::request(program.address, "POST", "/v1/chat/completions", &[KEY], Some(&body));
    assert_eq!(answer.status, 200);
    let chunks = answer.chunks();
    let usage = chunks.last().expect("there are chunks")["usage"].clone();
    assert_eq!(usage["completion_tokens"], num_tokens * num_choices, "{usage}");
    usage
}

/// The value of a series, labels and all.
#[track_caller]
fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

fn of_model(text: &str, name: &str) -> f64 {
    value(text, &format!("{name}{{model_name=\"{MODEL}\"}}"))
}

#[test]
fn one_streamed_chat_is_told_by_its_tokens_and_its_times() {
    let program = program();
    let usage = chat(&program, 12, 1);
    let num_prompt_tokens = usage["prompt_tokens"].as_f64().expect("a count");
    let text = scrape(&program);
    for (name, expected) in [
        ("vllm:prompt_tokens_total", num_prompt_tokens),
        ("vllm:generation_tokens_total", 12.0),
        ("vllm:request_prompt_tokens_sum", num_prompt_tokens),
        ("vllm:request_generation_tokens_sum", 12.0),
        ("vllm:request_max_num_generation_tokens_sum", 12.0),
        ("vllm:request_params_n_sum", 1.0),
        ("vllm:request_params_max_tokens_sum", 12.0),
        // Every token but the last is computed once.
        ("vllm:iteration_tokens_total_sum", num_prompt_tokens + 11.0),
        ("vllm:prefix_cache_queries_total", num_prompt_tokens),
        ("vllm:prefix_cache_hits_total", 0.0),
        ("vllm:time_to_first_token_seconds_count", 1.0),
        ("vllm:inter_token_latency_seconds_count", 11.0),
        ("vllm:request_time_per_output_token_seconds_count", 1.0),
        ("vllm:e2e_request_latency_seconds_count", 1.0),
        ("vllm:request_queue_time_seconds_count", 1.0),
        ("vllm:request_prefill_time_seconds_count", 1.0),
        ("vllm:request_decode_time_seconds_count", 1.0),
        ("vllm:request_inference_time_seconds_count", 1.0),
        ("vllm:num_requests_waiting", 0.0),
        ("candlewick_model_load_seconds_count", 1.0),
        ("candlewick_batcher_restarts_total", 0.0),
    ] {
        assert_eq!(of_model(&text, name), expected, "{name}");
    }
    let ended = format!("vllm:request_success_total{{finished_reason=\"length\",model_name=\"{MODEL}\"}}");
    assert_eq!(value(&text, &ended), 1.0);
    let chats = r#"{code="200",handler="/v1/chat/completions",method="POST",status="2xx"}"#;
    assert_eq!(value(&text, &format!("http_requests_total{chats}")), 1.0);
    assert_eq!(value(&text, r#"candlewick_api_key_requests_total{api_key="alice"}"#), 2.0);

    let seconds = |name: &str| of_model(&text, &format!("vllm:{name}_seconds_sum"));
    let same = |one: f64, other: f64| (one - other).abs() < 1e-6;
    let (queue, prefill, decode) =
        (seconds("request_queue_time"), seconds("request_prefill_time"), seconds("request_decode_time"));
    assert!(same(seconds("time_to_first_token"), queue + prefill), "{text}");
    assert!(same(seconds("request_inference_time"), prefill + decode), "{text}");
    assert!(same(seconds("inter_token_latency"), decode), "{text}");
    assert!(same(seconds("request_time_per_output_token"), decode / 11.0), "{text}");
    assert!(prefill > 0.0 && decode > 0.0 && seconds("e2e_request_latency") >= queue + prefill + decode);
    assert!(of_model(&text, "candlewick_step_seconds_sum") <= prefill + decode);

    let hits = chat(&program, 5, 2)["prompt_tokens_details"]["cached_tokens"].as_f64().expect("a count");
    let text = scrape(&program);
    assert!(hits > 0.0);
    assert!(of_model(&text, "vllm:prefix_cache_hits_total") >= hits);
    assert_eq!(of_model(&text, "vllm:request_params_n_sum"), 3.0);
    assert_eq!(of_model(&text, "vllm:request_generation_tokens_sum"), 22.0);
    assert_eq!(of_model(&text, "vllm:request_max_num_generation_tokens_sum"), 17.0);
    assert_eq!(value(&text, &ended), 3.0, "each choice has its end");
}

#[test]
fn the_process_is_told_as_it_is() {
    let program = program();
    let text = scrape(&program);
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "process_virtual_memory_bytes") > value(&text, "process_resident_memory_bytes"));
    assert!(value(&text, "process_threads") > 1.0);
    assert!(value(&text, "process_open_fds") < value(&text, "process_max_fds"));
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
    let age = now - value(&text, "process_start_time_seconds");
    assert!((-5.0..600.0).contains(&age), "it began {age} s ago");
    let version = format!("candlewick_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&text, &version), 1.0);
}

/// A family, but for its values.
#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

type Families = BTreeMap<String, Family>;

/// The families of a scrape. `le` is part of a histogram and no label of its own.
fn families(text: &str) -> Families {
    let (mut families, mut helped) = (Families::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{name} is explained once");
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let family = Family { kind: kind.into(), labels: BTreeSet::new() };
            assert!(helped.contains(name), "{name} is explained");
            assert_eq!(families.insert(name.to_owned(), family), None, "{name} is one family");
        } else {
            let name = line.split(['{', ' ']).next().expect("there is a first piece");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|part| name.strip_suffix(part))
                .find(|base| families.get(*base).is_some_and(|family| family.kind == "histogram"))
                .unwrap_or(name);
            let family = families.get_mut(family).unwrap_or_else(|| panic!("{line} is of no family"));
            let labels = line.rsplit_once('}').and_then(|(head, _)| head.split_once('{'));
            // No value of this server has a comma in it.
            let labels = labels.into_iter().flat_map(|(_, labels)| labels.split(','));
            let names = labels.map(|label| label.split('=').next().expect("a name").to_owned());
            family.labels.extend(names.filter(|label| label != "le"));
        }
    }
    families
}

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"))
        .expect("the page is there")
}

/// The families that the tables of the page name.
fn documented() -> Families {
    let mut families = Families::new();
    for line in page().lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, unit, meaning, ""] = cells[..] else {
            panic!("not a row of five cells: {line}")
        };
        assert!(!unit.is_empty() && (!meaning.is_empty() || unit == "threads"), "{line}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let family = Family { kind: kind.into(), labels };
        assert_eq!(families.insert(name.trim_matches('`').into(), family), None, "{name} has one row");
    }
    families
}

#[test]
fn the_page_names_what_is_served_and_nothing_else() {
    let program = program();
    chat(&program, 2, 1);
    let served = families(&scrape(&program));
    let documented = documented();
    for (name, family) in &served {
        assert_eq!(documented.get(name), Some(family), "{name} as served, and as the page says");
    }
    for name in documented.keys() {
        assert!(served.contains_key(name), "the page has {name}, and the server has not");
    }
}

/// What an expression may name: every series with its labels.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for (name, Family { kind, labels }) in documented() {
        if kind == "histogram" {
            let with_bound = labels.iter().cloned().chain(["le".to_owned()]).collect();
            series.insert(format!("{name}_bucket"), with_bound);
            series.insert(format!("{name}_sum"), labels.clone());
            series.insert(format!("{name}_count"), labels);
        } else {
            series.insert(name, labels);
        }
    }
    series
}

/// Labels that a scrape adds.
const OF_TARGETS: [&str; 2] = ["job", "instance"];

/// Checks every name of a PromQL expression in which each series is followed by braces: that there is such a series, and that
/// it has the labels it is chosen and grouped by.
#[track_caller]
fn check_expression(expression: &str, series: &BTreeMap<String, BTreeSet<String>>) {
    let is_of_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut labels_there = BTreeSet::from(OF_TARGETS.map(str::to_owned));
    let mut num_series = 0;
    let mut rest = expression;
    while let Some((before, after)) = rest.split_once('{') {
        let name = before.rsplit(|letter| !is_of_word(letter)).next().expect("there is a last piece");
        let (chosen, after) = after.split_once('}').expect("braces are closed");
        let labels = series.get(name).unwrap_or_else(|| panic!("there is no `{name}`: {expression}"));
        for choice in chosen.split("\",").filter(|choice| !choice.is_empty()) {
            let label = choice.split(['=', '!']).next().expect("there is a first piece");
            assert!(
                labels.contains(label) || OF_TARGETS.contains(&label),
                "`{name}` has no `{label}`: {expression}"
            );
        }
        labels_there.extend(labels.iter().cloned());
        num_series += 1;
        rest = after;
    }
    assert!(num_series > 0, "no series in {expression}");
    for grouped in expression.split("by (").skip(1) {
        for label in grouped.split(')').next().expect("there is a first piece").split(',') {
            assert!(labels_there.contains(label.trim()), "nothing has `{label}`: {expression}");
        }
    }
    let mut words = expression.split(|letter| !is_of_word(letter));
    let ours = ["vllm:", "candlewick_", "http_", "process_"];
    let num_named = words.by_ref().filter(|word| ours.iter().any(|prefix| word.starts_with(prefix))).count();
    assert_eq!(num_named, num_series, "each series has its braces: {expression}");
}

#[test]
fn the_questions_of_the_page_are_about_what_there_is() {
    let (page, series) = (page(), series());
    let blocks = page.split("```promql\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    let mut num_questions = 0;
    for line in blocks.flat_map(str::lines) {
        check_expression(line, &series);
        num_questions += 1;
    }
    assert!(num_questions > 10, "the page has lost its questions");
}

#[test]
fn the_dashboard_asks_for_what_there_is_and_for_all_of_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/dashboards/candlewick.json");
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("it is there")).expect("it is JSON");
    let series = series();
    let (mut rows, mut asked, mut ids) = (Vec::new(), String::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "each panel has an id of its own");
        if panel["type"] == "row" {
            rows.push(panel["title"].as_str().expect("a title"));
            continue;
        }
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            check_expression(expression, &series);
            asked.push_str(expression);
        }
    }
    assert_eq!(rows, ["Traffic", "Latency", "Engine", "Process and memory", "Crashes and restarts"]);
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        if variable["type"] == "query" {
            check_expression(variable["definition"].as_str().expect("a query"), &series);
        }
    }
    for name in documented().keys() {
        // Said in other words: addresses reserved are seldom a question, and whose requests they are is nobody else's.
        let is_left_out =
            ["process_virtual_memory_bytes", "candlewick_api_key_requests_total"].contains(&name.as_str());
        assert!(asked.contains(name.as_str()) != is_left_out, "{name} on the dashboard");
    }
}
