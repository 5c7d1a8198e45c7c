//! Models that encode texts, over HTTP: what they answer is what sentence-transformers and the pipelines of transformers answer
//! for the same checkpoints, alone and in company, and what they cannot do is said.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::server::TestServer;

const TOLERANCE: f64 = 1e-4;

/// A checkpoint of `tests/fixtures/encoders`, by its path.
fn model(name: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoders");
    format!("{root}/{name}/checkpoint")
}

/// What transformers answered for it, case by case.
fn cases(name: &str) -> Vec<Value> {
    let path = PathBuf::from(model(name)).with_file_name("expected.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON");
    expected["cases"].as_array().expect("cases").clone()
}

fn good(answer: Answer) -> Value {
    let status = answer.status;
    let answer = answer.json();
    assert_eq!(status, 200, "{answer}");
    answer
}

#[track_caller]
fn assert_close(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_array().expect("a list"), expected.as_array().expect("a list"));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let (found, expected) = (found.as_f64().expect("a number"), expected.as_f64().expect("a number"));
        assert!((found - expected).abs() < TOLERANCE, "{found}, not {expected}");
    }
}

#[track_caller]
fn check_error(answer: Answer, status: u16, code: &str, param: &str, part: &str) {
    let found = answer.status;
    let error = answer.json()["error"].clone();
    assert_eq!(
        (found, error["code"].as_str(), error["param"].as_str()),
        (status, Some(code), Some(param)),
        "{error}"
    );
    assert!(error["message"].as_str().is_some_and(|message| message.contains(part)), "{error}");
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let server = TestServer::start(&[], &[]);
    for family in ["bert_embed", "nomic_bert", "modernbert", "mpnet", "qwen3_embed"] {
        for variant in ["small", "odd"] {
            let name = format!("{family}-{variant}");
            let case = cases(&name).remove(0);
            let body = json!({"model": model(&name), "input": case["inputs"], "truncate_prompt_tokens": -1});
            let answer = good(server.post("/v1/embeddings", &body));
            let data = answer["data"].as_array().expect("a list");
            for (index, (one, expected)) in
                data.iter().zip(case["embeddings"].as_array().expect("a list")).enumerate()
            {
                assert_eq!((&one["index"], &one["object"]), (&json!(index), &json!("embedding")));
                assert_close(&one["embedding"], expected);
            }
            let ids = case["input_ids"].as_array().expect("a list");
            let num_tokens: usize = ids.iter().map(|ids| ids.as_array().expect("a list").len()).sum();
            assert_eq!(answer["usage"], json!({"prompt_tokens": num_tokens, "total_tokens": num_tokens}));
            assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!(model(&name))));
        }
    }
}

#[test]
fn one_text_is_the_same_in_every_form_and_in_any_company() {
    let server = TestServer::start(&[], &[]);
    let name = "bert_embed-small";
    let case = cases(name).remove(0);
    let (texts, ids) = (&case["inputs"], &case["input_ids"]);
    let ask = |more: Value| {
        let mut body = json!({"model": model(name), "truncate_prompt_tokens": -1});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        good(server.post("/v1/embeddings", &body))["data"].as_array().expect("a list").clone()
    };
    let together = ask(json!({"input": texts}));
    assert_eq!(together, ask(json!({"input": ids})));
    for (index, vector) in together.iter().enumerate() {
        for input in [&texts[index], &ids[index]] {
            assert_eq!(ask(json!({"input": input}))[0]["embedding"], vector["embedding"]);
        }
        let text = ask(json!({"input": texts[index], "encoding_format": "base64"}));
        let numbers = decode(text[0]["embedding"].as_str().expect("text"));
        let numbers: Vec<Value> =
            numbers.into_iter().map(|x| serde_json::from_str(&x.to_string()).unwrap()).collect();
        assert_eq!(Value::from(numbers), vector["embedding"]);
    }
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..16)
            .map(|index| {
                (index % together.len(), scope.spawn(move || ask(json!({"input": texts[index % 5]}))))
            })
            .collect();
        for (index, asker) in askers {
            assert_eq!(asker.join().expect("no panic")[0]["embedding"], together[index]["embedding"]);
        }
    });
}

/// Numbers of 32 bits from base64.
fn decode(text: &str) -> Vec<f32> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |letter: u8| LETTERS.iter().position(|&other| other == letter).expect("base64") as u32;
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0, |bits, &letter| bits << 6 | value(letter)) << (6 * (4 - group.len()));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn prompts_by_name_are_put_before_texts() {
    let server = TestServer::start(&[], &[]);
    let name = "qwen3_embed-small";
    let ask = |input: &str, prompt_name: Option<&str>| {
        let body = json!({"model": model(name), "input": input, "prompt_name": prompt_name});
        good(server.post("/v1/embeddings", &body))["data"][0]["embedding"].clone()
    };
    let prompt = "Instruct: Given a question, find the passage that answers it\nQuery:";
    assert_eq!(ask("What?", Some("query")), ask(&format!("{prompt}What?"), None));
    assert_eq!(ask("What?", Some("document")), ask("What?", None));
    let body = json!({"model": model(name), "input": "What?", "prompt_name": "passage"});
    let answer = server.post("/v1/embeddings", &body);
    check_error(answer, 400, "invalid_value", "prompt_name", "those that it has: document, query");
}

#[test]
fn vectors_that_may_be_short_are_cut_and_come_to_unit_length() {
    let folder = tempfile::tempdir().expect("a folder");
    let from = PathBuf::from(model("bert_embed-small"));
    std::fs::create_dir(folder.path().join("1_Pooling")).expect("a folder");
    for name in [
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(from.join(name), folder.path().join(name)).expect("a copy");
    }
    let config = std::fs::read_to_string(from.join("config.json")).expect("it is there");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["matryoshka_dimensions"] = json!([8, 16]);
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("it can be written");

    let server = TestServer::start(&[], &[]);
    let name = folder.path().to_str().expect("plain");
    let ask = |dimensions: Value| {
        server.post("/v1/embeddings", &json!({"model": name, "input": "Hello!", "dimensions": dimensions}))
    };
    let numbers = |answer: Answer| -> Vec<f64> {
        let list = good(answer)["data"][0]["embedding"].as_array().expect("a list").clone();
        list.iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    let (whole, short) = (numbers(ask(Value::Null)), numbers(ask(json!(8))));
    let length = whole[..8].iter().map(|x| x * x).sum::<f64>().sqrt();
    let cut: Vec<f64> = whole[..8].iter().map(|x| x / length).collect();
    assert_close(&json!(short), &json!(cut));
    check_error(ask(json!(9)), 400, "unsupported_operation", "dimensions", "8, 16 elements");
}

#[test]
fn what_cannot_be_encoded_is_refused_by_its_place() {
    let server = TestServer::start(&[], &[]);
    let embed = |more: Value| {
        let mut body = json!({"model": model("bert_embed-small"), "input": "fine"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        server.post("/v1/embeddings", &body)
    };
    let long = "word ".repeat(100);
    check_error(
        embed(json!({"input": ["fine", long]})),
        400,
        "context_length_exceeded",
        "input.1",
        "at most 64",
    );
    check_error(embed(json!({"input": ""})), 400, "invalid_value", "input", "empty");
    check_error(embed(json!({"input": ["fine", ""]})), 400, "invalid_value", "input.1", "empty");
    check_error(embed(json!({"input": []})), 400, "invalid_value", "input", "empty list");
    check_error(embed(json!({"input": [["a"]]})), 400, "invalid_value", "input.0.0", "");
    check_error(embed(json!({"input": [999_999]})), 400, "invalid_value", "input", "vocabulary");
    check_error(embed(json!({"dimensions": 33})), 400, "invalid_value", "dimensions", "1 to the model's 32");
    check_error(embed(json!({"dimensions": 8})), 400, "unsupported_operation", "dimensions", "matryoshka");
    check_error(embed(json!({"prompt_name": "query"})), 400, "invalid_value", "prompt_name", "no prompt");
    check_error(
        embed(json!({"encoding_format": "hex"})),
        400,
        "invalid_value",
        "encoding_format",
        "float, base64",
    );
    let many = vec!["x"; 2049];
    check_error(embed(json!({"input": many})), 400, "invalid_value", "input", "at most 2048");
}

#[test]
fn a_model_that_cannot_do_what_is_asked_says_what_it_can() {
    let server = TestServer::start(&[], &[]);
    let (embedder, reranker) = (model("bert_embed-small"), model("xlmr_rerank-small"));
    let chat = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
    let unsupported = "unsupported_operation";
    let answer = server.post("/v1/chat/completions", &chat(&embedder));
    check_error(answer, 400, unsupported, "model", "vectors of 32 elements of texts (/v1/embeddings)");
    let answer = server.post("/v1/embeddings", &json!({"model": "candlewick/ember", "input": "Hi"}));
    check_error(answer, 400, unsupported, "model", "/v1/chat/completions");
    let answer = server.post("/v1/embeddings", &json!({"model": reranker, "input": "Hi"}));
    check_error(answer, 400, unsupported, "model", "how well one text answers another");
    let answer = server.post("/classify", &json!({"model": embedder, "input": "Hi"}));
    check_error(answer, 400, unsupported, "model", "cannot label texts");
    let answer = server.post("/classify", &json!({"model": model("bert_ner-small"), "input": "Hi"}));
    check_error(answer, 400, unsupported, "model", "labels the tokens");
    let two_labels = json!({"model": model("distilbert_cls-small"), "query": "Hi", "documents": ["Ho"]});
    check_error(server.post("/rerank", &two_labels), 400, unsupported, "model", "one of 2 labels");
}

#[test]
fn documents_are_ranked_as_by_the_reference() {
    let server = TestServer::start(&[], &[]);
    for name in ["xlmr_rerank-small", "xlmr_rerank-odd"] {
        let case = cases(name).remove(0);
        let body = json!({"model": model(name), "query": case["query"], "documents": case["documents"]});
        for (route, returns_documents) in [("/rerank", true), ("/v1/rerank", true), ("/v2/rerank", false)] {
            let answer = good(server.post(route, &body));
            let expected = case["results"].as_array().expect("a list");
            let results = answer["results"].as_array().expect("a list");
            assert_eq!(results.len(), expected.len());
            for (result, expected) in results.iter().zip(expected) {
                assert_eq!(result["index"], expected["index"], "{name} {route}");
                assert_close(&json!([result["relevance_score"]]), &json!([expected["relevance_score"]]));
                let index = result["index"].as_u64().expect("a number") as usize;
                let document = returns_documents.then(|| json!({"text": case["documents"][index]}));
                assert_eq!(result.get("document"), document.as_ref());
            }
            assert_eq!(answer.get("meta").is_some(), route == "/v2/rerank");
            assert!(answer["usage"]["total_tokens"].as_u64().is_some_and(|count| count > 100));
        }
        let mut two = body.clone();
        two["top_n"] = json!(2);
        two["return_documents"] = json!(false);
        let best = good(server.post("/rerank", &two));
        assert_eq!(best["results"].as_array().expect("a list").len(), 2);
        assert_eq!(best["results"][0].get("document"), None);

        let scored = json!({"model": model(name), "text_1": case["query"], "text_2": case["documents"], "truncate_prompt_tokens": -1});
        let scores = good(server.post("/v1/score", &scored));
        let raw = good(server.post("/score", &{
            let mut raw = scored.clone();
            raw["use_activation"] = json!(false);
            raw
        }));
        let column = |answer: &Value| {
            let data = answer["data"].as_array().expect("a list").iter();
            Value::from(data.map(|one| one["score"].clone()).collect::<Vec<_>>())
        };
        assert_close(&column(&raw), &case["logits"]);
        let best = expected_best(&case);
        let top = column(&scores)[best].as_f64().expect("a number");
        assert!((top - case["results"][0]["relevance_score"].as_f64().expect("a number")).abs() < TOLERANCE);
    }
}

fn expected_best(case: &Value) -> usize {
    case["results"][0]["index"].as_u64().expect("a number") as usize
}

#[test]
fn embedders_score_by_the_angle() {
    let server = TestServer::start(&[], &[]);
    let name = "bert_embed-small";
    let case = cases(name).remove(0);
    let (texts, vectors) = (&case["inputs"], &case["embeddings"]);
    let dot = |a: usize, b: usize| -> f64 {
        let number = |x: &Value| x.as_f64().expect("a number");
        let (a, b) = (vectors[a].as_array().expect("a list"), vectors[b].as_array().expect("a list"));
        a.iter().zip(b).map(|(a, b)| number(a) * number(b)).sum()
    };
    let body = json!({"model": model(name), "text_1": texts[0], "text_2": [texts[1], texts[3], texts[4]]});
    let answer = good(server.post("/score", &body));
    let scores: Vec<Value> =
        answer["data"].as_array().expect("a list").iter().map(|one| one["score"].clone()).collect();
    assert_close(&Value::from(scores), &json!([dot(0, 1), dot(0, 3), dot(0, 4)]));
    let zipped =
        json!({"model": model(name), "queries": [texts[0], texts[1]], "documents": [texts[3], texts[4]]});
    let answer = good(server.post("/score", &zipped));
    assert_close(
        &json!([answer["data"][0]["score"], answer["data"][1]["score"]]),
        &json!([dot(0, 3), dot(1, 4)]),
    );
    let uneven = json!({"model": model(name), "text_1": ["a", "b"], "text_2": ["c", "d", "e"]});
    check_error(server.post("/score", &uneven), 400, "invalid_value", "text_1", "as many of both");
}

#[test]
fn labels_are_those_of_the_pipeline() {
    let server = TestServer::start(&[], &[]);
    for name in ["distilbert_cls-small", "distilbert_cls-odd"] {
        for case in cases(name).iter().filter(|case| case["name"] != "raw") {
            let text = &case["request"]["inputs"];
            let body = json!({"model": model(name), "input": text, "truncate_prompt_tokens": -1});
            let answer = good(server.post("/classify", &body));
            let one = &answer["data"][0];
            assert_eq!(one["label"], case["response"][0]["label"]);
            let mut probs = one["probs"].as_array().expect("a list").clone();
            probs.sort_by(|a, b| b.as_f64().unwrap().total_cmp(&a.as_f64().unwrap()));
            let scores = case["response"].as_array().expect("a list").iter().map(|one| one["score"].clone());
            assert_close(&Value::from(probs), &Value::from(scores.collect::<Vec<_>>()));
        }
    }
}

#[test]
fn pooling_gives_what_the_model_makes_of_texts_or_of_tokens() {
    let server = TestServer::start(&[], &[]);
    let pool = |name: &str, task: Option<&str>| {
        let body = json!({"model": model(name), "input": ["The cat sat.", "a"], "task": task});
        good(server.post("/pooling", &body))["data"].as_array().expect("a list").clone()
    };
    let (vectors, tokens) = (pool("bert_embed-small", None), pool("bert_embed-small", Some("token_embed")));
    let embedded = json!({"model": model("bert_embed-small"), "input": ["The cat sat.", "a"]});
    let embedded = good(server.post("/v1/embeddings", &embedded));
    assert_eq!(vectors[1]["data"], embedded["data"][1]["embedding"]);
    // The text's vector is the mean of its tokens', at unit length.
    let rows = tokens[1]["data"].as_array().expect("a list");
    let mut mean = vec![0.0; 32];
    for row in rows {
        row.as_array()
            .expect("a list")
            .iter()
            .zip(&mut mean)
            .for_each(|(x, sum)| *sum += x.as_f64().unwrap());
    }
    let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert_close(&vectors[1]["data"], &Value::from(mean.iter().map(|x| x / length).collect::<Vec<f64>>()));
    let labels = pool("bert_ner-small", None);
    assert!(labels[0]["data"][0].as_array().is_some_and(|row| row.len() == 5), "{labels:?}");
}

#[test]
fn the_routes_of_text_embeddings_inference_answer_in_its_shapes() {
    let server = TestServer::start(&[], &[]);
    let (embedder, case) = (model("bert_embed-small"), cases("bert_embed-small").remove(0));
    let texts = &case["inputs"];
    let embed = json!({"model": embedder, "inputs": texts, "truncate": true});
    let vectors = good(server.post("/embed", &embed));
    for (vector, expected) in
        vectors.as_array().expect("a list").iter().zip(case["embeddings"].as_array().expect("a list"))
    {
        assert_close(vector, expected);
    }
    let long = json!({"model": embedder, "inputs": texts});
    check_error(server.post("/embed", &long), 400, "context_length_exceeded", "inputs.2", "at most 64");
    let of_tokens = good(server.post("/embed_all", &json!({"model": embedder, "inputs": "a"})));
    assert_eq!(of_tokens[0].as_array().expect("a list").len(), 3);
    let alike = json!({"model": embedder, "inputs": {"source_sentence": texts[4], "sentences": [texts[4], texts[3]]}});
    let alike = good(server.post("/similarity", &alike));
    assert!((alike[0].as_f64().expect("a number") - 1.0).abs() < TOLERANCE && alike[1] != alike[0]);

    let name = "distilbert_cls-small";
    let labels = cases(name).remove(0);
    let text = &labels["request"]["inputs"];
    let one = good(server.post("/predict", &json!({"model": model(name), "inputs": text})));
    assert_eq!(one[0]["label"], labels["response"][0]["label"]);
    assert_close(&json!([one[0]["score"]]), &json!([labels["response"][0]["score"]]));
    let batch =
        good(server.post("/predict", &json!({"model": model(name), "inputs": [[text], [text, "b"]]})));
    assert_eq!(batch[0], one);
    assert_ne!(batch[1], one);
    let raw =
        good(server.post("/predict", &json!({"model": model(name), "inputs": text, "raw_scores": true})));
    assert_close(&json!([raw[0]["score"], raw[1]["score"]]), &labels["logits"]);

    let (name, ranks) = ("xlmr_rerank-small", cases("xlmr_rerank-small").remove(0));
    let body = json!({
        "model": model(name), "query": ranks["query"], "texts": ranks["documents"], "truncate": true, "return_text": true
    });
    let ranked = good(server.post("/rerank", &body));
    for (one, expected) in
        ranked.as_array().expect("a list").iter().zip(ranks["results"].as_array().expect("a list"))
    {
        assert_eq!(one["index"], expected["index"]);
        assert_close(&json!([one["score"]]), &json!([expected["relevance_score"]]));
        assert_eq!(one["text"], ranks["documents"][one["index"].as_u64().expect("a number") as usize]);
    }
}

#[test]
fn an_embedder_is_listed_and_measured_as_any_model() {
    let server = TestServer::start(&[], &[]);
    let name = model("bert_embed-small");
    server.load(&name);
    good(server.post("/v1/embeddings", &json!({"model": name, "input": ["one", "two"]})));
    let models = server.get("/v1/models").json();
    let card = models["data"].as_array().expect("a list").iter().find(|card| card["id"] == json!(name));
    let card = card.unwrap_or_else(|| panic!("{models}"));
    assert_eq!((&card["status"], &card["max_model_len"]), (&json!("loaded"), &json!(64)));
    let metrics = server.get("/metrics").text();
    let line = format!("vllm:request_success_total{{finished_reason=\"stop\",model_name=\"{name}\"}} 1");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(metrics.contains(&format!("vllm:num_requests_running{{model_name=\"{name}\"}} 0")), "{metrics}");
}
