//! GGUF files give the answers that transformers gives for the values they hold, whichever family and types; and files
//! that are not whole are told what is wrong with them. `tests/fixtures/gguf` is written by `scripts/fixtures/gguf_files.py`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candlewick_engine::{
    BlockId, Chunk, DType, KvCacheShape, LoadError, LoadOptions, ModelFactory, ModelFile, ModelFiles,
    ModelInfo, Quantization, SampleSpec, SamplingParams, SequenceId, StepPlan, Weights, files, gguf,
};
use candlewick_models::CandleFactory;
use candlewick_protocol::RequestKey;
use serde_json::Value;

/// How far log-probabilities may be from transformers'.
const TOLERANCE: f32 = 1e-3;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf")
}

/// A fixture's files as a loader has them, and what is expected of it.
fn fixture(name: &str) -> (ModelFiles, Value) {
    let expected = std::fs::read(folder().join(format!("{name}.json"))).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let whole = format!("{name}.gguf");
    let first = if folder().join(&whole).exists() { whole } else { format!("{name}-00001-of-00003.gguf") };
    let named = |name: String| (name.clone(), ModelFile::Path(folder().join(name)));
    let mut files =
        ModelFiles { files: files::gguf_names(&first).into_iter().map(named).collect(), gguf: Some(first) };
    gguf::unfold(&mut files).unwrap();
    (files, expected)
}

fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Weights>, LoadError> {
    CandleFactory::new(Some(2)).unwrap().load(files, options, &mut |_, _| true)
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        seed: 0,
        max_tokens: 64,
        logprobs: Some(1),
        ..SamplingParams::default()
    }
}

/// Greedy tokens after a prompt, with their log-probabilities.
fn generate(weights: &Arc<dyn Weights>, prompt: &[u32], num_tokens: usize) -> Vec<(u32, f32)> {
    let mut model = weights.start(KvCacheShape { num_blocks: 8, block_size: 16 }).unwrap();
    let params = Arc::new(greedy());
    let (mut next, mut start, mut found) = (prompt.to_vec(), 0, Vec::new());
    for num_generated in 0..num_tokens as u32 {
        let sample = SampleSpec { params: params.clone(), num_generated, ..SampleSpec::default() };
        let chunk = Chunk {
            sequence: SequenceId { request: RequestKey(0), choice: 0 },
            token_ids: next.clone(),
            start,
            block_table: (0..8).map(BlockId).collect(),
            samples: vec![sample],
            prompt_logprobs: None,
        };
        start += next.len();
        let token = model.step(&StepPlan { chunks: vec![chunk] }).unwrap().sampled.remove(0).remove(0);
        next = vec![token.token_id];
        found.push((token.token_id, token.score.unwrap().logprob));
    }
    found
}

const FIXTURES: [&str; 8] = [
    "qwen2-f16",
    "qwen2-mixed",
    "qwen3-bf16",
    "qwen3-split",
    "llama-q8_0",
    "llama-spm-f32",
    "mistral-window-q4_0",
    "smollm3-mixed",
];

#[test]
fn answers_are_those_of_transformers_for_the_values_of_the_file() {
    for name in FIXTURES {
        let (files, expected) = fixture(name);
        let weights = load(&files, &LoadOptions::default()).unwrap();
        for (index, case) in expected["cases"].as_array().unwrap().iter().enumerate() {
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            let logprobs: Vec<f32> = serde_json::from_value(case["logprobs"].clone()).unwrap();
            let found = generate(&weights, &ids("prompt"), logprobs.len());
            let tokens: Vec<u32> = found.iter().map(|(id, _)| *id).collect();
            assert_eq!(tokens, ids("ids"), "{name}, case {index}");
            for ((_, found), expected) in found.iter().zip(logprobs) {
                assert!(
                    (found - expected).abs() < TOLERANCE,
                    "{name}, case {index}: {found}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn an_explicit_precision_computes_with_exactly_the_values_of_the_file() {
    let (files, expected) = fixture("qwen2-mixed");
    let wide = load(&files, &LoadOptions { dtype: DType::F32, ..LoadOptions::default() }).unwrap();
    let case = &expected["cases"][0];
    let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
    let tokens: Vec<u32> = generate(&wide, &ids("prompt"), 12).into_iter().map(|(id, _)| id).collect();
    assert_eq!(tokens, ids("ids"));
}

#[test]
fn quantising_at_load_saves_memory_and_costs_little() {
    let (files, expected) = fixture("llama-spm-f32");
    let exact = load(&files, &LoadOptions::default()).unwrap();
    let bounds = [
        (Quantization::Q8_0, 0.3, 0.35),
        (Quantization::Int8, 0.4, 0.35),
        // The embedding and the head, which are half of so small a model, stay in 8 bits.
        (Quantization::Q4_1, 2.0, 0.3),
        (Quantization::Q4_0, 2.0, 0.3),
    ];
    for (scheme, largest_error, share) in bounds {
        let options = LoadOptions { quantization: Some(scheme), ..LoadOptions::default() };
        let weights = load(&files, &options).unwrap();
        let (found, whole) = (weights.info(), exact.info());
        assert_eq!(found.num_parameters, whole.num_parameters);
        let found = found.weight_bytes as f64 / whole.weight_bytes as f64;
        assert!(found < share, "{scheme:?} takes {found} of the memory");
        for case in expected["cases"].as_array().unwrap() {
            let prompt: Vec<u32> = serde_json::from_value(case["prompt"].clone()).unwrap();
            let (one, other) = (generate(&exact, &prompt, 1)[0], generate(&weights, &prompt, 1)[0]);
            assert!((one.1 - other.1).abs() < largest_error, "{scheme:?}: {other:?}, not {one:?}");
        }
    }
}

fn info(name: &str) -> ModelInfo {
    let (files, _) = fixture(name);
    load(&files, &LoadOptions::default()).unwrap().info().clone()
}

#[test]
fn what_is_said_of_a_gguf_model_is_true() {
    let llama = info("llama-q8_0");
    assert_eq!((llama.family.as_str(), llama.max_position_embeddings), ("llama", 256));
    assert_eq!(
        info("mistral-window-q4_0").family,
        "mistral",
        "a file with windows is Mistral's, under Llama's name"
    );
    assert_eq!(info("qwen2-mixed").max_position_embeddings, 256, "yarn counts what it stretched to");
}

/// A fixture's file with its bytes changed, unfolded and loaded.
fn refused(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = std::fs::read(folder().join(format!("{name}.gguf"))).unwrap();
    change(&mut bytes);
    let files = BTreeMap::from([("m.gguf".to_owned(), ModelFile::Made(bytes.into()))]);
    let mut files = ModelFiles { files, gguf: Some("m.gguf".into()) };
    let loaded = gguf::unfold(&mut files).and_then(|()| load(&files, &LoadOptions::default()).map(drop));
    loaded.expect_err("a file that cannot be").to_string()
}

/// Puts other bytes in the place of some that are in the file once or more.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let at = bytes.windows(old.len()).position(|window| window == old).expect("it is in the file");
    bytes[at..at + new.len()].copy_from_slice(new);
}

#[test]
fn a_file_that_breaks_off_is_refused_wherever_it_does() {
    let whole = std::fs::metadata(folder().join("qwen2-mixed.gguf")).unwrap().len() as usize;
    for len in (0..whole).step_by(whole / 97).chain([4, 8, 23, 24, whole - 1]) {
        let said = refused("qwen2-mixed", |bytes| bytes.truncate(len));
        assert!(said.starts_with("m.gguf: "), "{len} bytes: {said}");
    }
}

#[test]
fn what_a_file_lacks_is_named() {
    let said = refused("qwen2-mixed", |bytes| replace(bytes, b"blk.1.attn_k.bias", b"blk.1.attn_k.bear"));
    assert_eq!(said, "m.gguf: tensor model.layers.1.self_attn.k_proj.bias is missing; expected shape [16]");
    let said = refused("qwen2-mixed", |bytes| replace(bytes, b"qwen2.block_count", b"qwen2.block_kount"));
    assert_eq!(said, "m.gguf: `qwen2.block_count` is missing");
    let said = refused("qwen2-mixed", |bytes| replace(bytes, b"token_embd", b"taken_embd"));
    assert_eq!(said, "m.gguf: there is no matrix token_embd.weight in it");
    let said = refused("qwen2-mixed", |bytes| {
        replace(bytes, b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0mamba")
    });
    assert!(said.contains("\"mamba\"") && said.contains("llama, mistral, qwen2, qwen3, smollm3"), "{said}");
}

#[test]
fn a_tensor_of_another_type_is_refused_by_its_name() {
    let said = refused("qwen2-f16", |bytes| {
        // The embedding's dimensions, its type (F16) becoming IQ2_XXS; the rows are not of 256.
        let name = b"token_embd.weight";
        let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 16;
        bytes[at..at + 4].copy_from_slice(&16u32.to_le_bytes());
    });
    assert!(
        said.contains("model.embed_tokens.weight is stored as IQ2_XXS; the types that are read are F32"),
        "{said}"
    );
}
