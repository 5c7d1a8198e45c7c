//! Encoders against what transformers answered for the same checkpoint, and every way of packing texts together against
//! every other, bit for bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick_engine::encode::{
    EncodePlan, EncodeTask, Encoded, EncoderAbility, EncoderInput, PlannedText, TextId,
};
use candlewick_engine::text::{TextOptions, TextProcessor};
use candlewick_engine::{DType, LoadOptions, ModelFactory, ModelFile, ModelFiles, Weights};
use candlewick_models::CandleFactory;
use candlewick_protocol::{LabelActivation, Prompt, RequestKey, TextOutput, TextTask};
use serde_json::Value;

/// How far numbers may be from transformers', in f32.
const TOLERANCE: f32 = 1e-4;
const EMBED: EncodeTask = EncodeTask::Embed { dimensions: None, normalize: None };

/// A checkpoint, and what transformers answered.
struct Fixture {
    name: String,
    files: ModelFiles,
    expected: Value,
}

/// Every fixture in the repository, and in the folder that `CANDLEWICK_ENCODERS` names, for trying other seeds.
fn fixtures() -> Vec<Fixture> {
    let ours = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/encoders");
    let more = std::env::var_os("CANDLEWICK_ENCODERS").map(PathBuf::from);
    let folders = [Some(ours), more].into_iter().flatten();
    let mut fixtures: Vec<_> = folders
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| read_fixture(&entry.unwrap().path()))
        .collect();
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(fixtures.len() >= 17, "families and heads, small and odd");
    fixtures
}

fn read_fixture(folder: &Path) -> Fixture {
    let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let mut files = BTreeMap::new();
    collect(&folder.join("checkpoint"), "", &mut files);
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    Fixture { name, files: ModelFiles { files, gguf: None }, expected }
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, ModelFile>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, ModelFile::Path(path));
        }
    }
}

fn load(fixture: &Fixture, threads: usize, dtype: DType) -> Arc<dyn Weights> {
    let factory = CandleFactory::new(Some(threads)).unwrap();
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    factory
        .load(&fixture.files, &options, &mut |_, _| true)
        .unwrap_or_else(|why| panic!("{}: {why}", fixture.name))
}

fn encode(weights: &Arc<dyn Weights>, texts: &[Vec<u32>], task: EncodeTask) -> Vec<Encoded> {
    let planned = |(index, ids): (usize, &Vec<u32>)| PlannedText {
        id: TextId { request: RequestKey(1), index: index as u32 },
        input: Arc::new(EncoderInput { token_ids: ids.clone(), type_ids: Vec::new(), num_prompt_tokens: 0 }),
        task,
    };
    let plan = EncodePlan { texts: texts.iter().enumerate().map(planned).collect() };
    weights.start_encoder().unwrap().encode(&plan).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[track_caller]
fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < tolerance, "{name} at {index}: {found}, not {expected}");
    }
}

/// Texts of a fixture as token ids, however its cases hold them.
fn texts(fixture: &Fixture) -> Vec<Vec<u32>> {
    let case = &fixture.expected["cases"][0];
    let lists = match case["input_ids"].as_array() {
        Some(lists) => lists.iter().map(ids).collect::<Vec<_>>(),
        None => {
            let shown = fixture.expected["tokenization"].as_array().unwrap();
            shown.iter().map(|shown| ids(&shown["ids"])).filter(|ids| !ids.is_empty()).collect()
        }
    };
    assert!(lists.len() > 2);
    lists
}

#[test]
fn vectors_and_scores_are_those_of_transformers() {
    let (mut num_vectors, mut num_scores) = (0, 0);
    for fixture in fixtures() {
        let weights = load(&fixture, 2, DType::Auto);
        let case = &fixture.expected["cases"][0];
        if let Some(expected) = case["embeddings"].as_array() {
            let found = encode(&weights, &texts(&fixture), EMBED);
            for (found, expected) in found.iter().zip(expected) {
                assert_close(&fixture.name, &found.values, &numbers(expected), TOLERANCE);
                num_vectors += 1;
            }
        }
        if let (Some(lists), Some(_)) = (case["input_ids"].as_array(), case["logits"].as_array()) {
            let found = encode(&weights, &lists.iter().map(ids).collect::<Vec<_>>(), EncodeTask::Classify);
            let found: Vec<f32> = found.iter().flat_map(|found| found.values.clone()).collect();
            assert_close(&fixture.name, &found, &numbers(&case["logits"]), TOLERANCE);
            num_scores += found.len();
        }
    }
    assert!(num_vectors >= 30 && num_scores >= 8, "{num_vectors} vectors, {num_scores} scores");
}

#[test]
fn classifiers_answer_as_the_pipelines_do() {
    let mut num_checked = 0;
    for fixture in fixtures() {
        let weights = load(&fixture, 1, DType::Auto);
        let encoder = weights.info().encoder.clone().unwrap();
        let processor = TextProcessor::load(&fixture.files, &TextOptions::default()).unwrap();
        for case in fixture.expected["cases"].as_array().unwrap() {
            let (task, Some(text)) = (&case["task"], case["request"]["inputs"].as_str()) else { continue };
            let max_tokens = encoder.max_tokens;
            let prompt = Prompt::Text { text: text.into(), add_special_tokens: true };
            let task_of_text = TextTask::Encode { prompt, add_special_tokens: true };
            let TextOutput::Encoded(tokens) = processor.answer(&task_of_text).unwrap() else { panic!() };
            let token_ids: Vec<u32> = tokens.into_iter().map(|(id, _)| id).collect();
            if token_ids.len() > max_tokens {
                continue;
            }
            match &encoder.ability {
                EncoderAbility::Classify { labels, activation } if task == "text-classification" => {
                    let logits = encode(&weights, &[token_ids], EncodeTask::Classify).remove(0).values;
                    if let Some(expected) = case["logits"].as_array() {
                        assert_close(
                            &fixture.name,
                            &logits,
                            &numbers(&Value::from(expected.clone())),
                            TOLERANCE,
                        );
                    }
                    let names =
                        case["response"].as_array().unwrap().iter().map(|one| one["label"].as_str().unwrap());
                    let mut names: Vec<_> = names.collect();
                    names.sort_unstable();
                    let mut ours: Vec<_> = labels.iter().map(String::as_str).collect();
                    ours.sort_unstable();
                    assert_eq!(ours, names);
                    assert_eq!(*activation == LabelActivation::Sigmoid, fixture.name.contains("odd"));
                    num_checked += 1;
                }
                EncoderAbility::ClassifyTokens { labels }
                    if case["request"]["parameters"]["aggregation_strategy"] == "none" =>
                {
                    let scores = encode(&weights, &[token_ids], EncodeTask::Classify).remove(0);
                    assert_eq!(scores.width, labels.len());
                    for entity in case["response"].as_array().unwrap() {
                        let row = entity["index"].as_u64().unwrap() as usize;
                        let row = &scores.values[row * scores.width..][..scores.width];
                        let total: f32 = row.iter().map(|x| x.exp()).sum();
                        let (best, score) = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
                        assert_eq!(labels[best], entity["entity"].as_str().unwrap(), "{}", fixture.name);
                        let expected = entity["score"].as_f64().unwrap() as f32;
                        assert_close(&fixture.name, &[score.exp() / total], &[expected], TOLERANCE);
                        num_checked += 1;
                    }
                }
                _ => {}
            }
        }
    }
    assert!(num_checked >= 10, "{num_checked}");
}

#[test]
fn a_text_is_the_same_to_the_bit_alone_and_in_any_company() {
    for fixture in fixtures() {
        for dtype in [DType::F32, DType::Bf16] {
            let weights = load(&fixture, 2, dtype);
            let task = match weights.info().encoder.as_ref().unwrap().ability {
                EncoderAbility::Embed { .. } => EMBED,
                EncoderAbility::Classify { .. } | EncoderAbility::ClassifyTokens { .. } => {
                    EncodeTask::Classify
                }
            };
            let texts = texts(&fixture);
            let together = encode(&weights, &texts, task);
            let mut reversed =
                encode(&load(&fixture, 1, dtype), &texts.iter().rev().cloned().collect::<Vec<_>>(), task);
            reversed.reverse();
            assert!(together == reversed, "{} {dtype:?}: order and threads", fixture.name);
            for (text, expected) in texts.iter().zip(&together) {
                let alone = encode(&weights, std::slice::from_ref(text), task);
                assert!(alone[0] == *expected, "{} {dtype:?}: alone", fixture.name);
            }
        }
    }
}
