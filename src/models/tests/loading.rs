//! What a checkpoint must be, and what is said of one that is not: which file, which tensor, what would be right.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candlewick_engine::{LoadError, LoadOptions, ModelFactory, ModelFile, ModelFiles, ModelInfo};
use candlewick_models::CandleFactory;
use safetensors::tensor::{SafeTensors, TensorView, serialize};
use serde_json::{Value, json};

fn fixture(name: &str) -> ModelFiles {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity").join(name);
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder.join("checkpoint")).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), ModelFile::Path(path));
    }
    ModelFiles { files, gguf: None }
}

/// The fixture's only weight file.
const WEIGHTS: &str = "model.safetensors";

fn qwen2() -> ModelFiles {
    fixture("qwen2-small-f32")
}

fn put(files: &mut ModelFiles, name: &str, bytes: Vec<u8>) {
    files.files.insert(name.to_owned(), ModelFile::Embedded(bytes.leak()));
}

fn change_config(files: &mut ModelFiles, key: &str, value: Value) {
    let mut config = files.json("config.json").unwrap().unwrap();
    config[key] = value;
    put(files, "config.json", config.to_string().into_bytes());
}

/// Writes the weights again with other tensors.
fn change_weights(files: &mut ModelFiles, change: impl FnOnce(&mut BTreeMap<String, TensorView<'_>>)) {
    let bytes = files.get(WEIGHTS).unwrap().read().unwrap().to_vec();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<_, _> = stored.tensors().into_iter().collect();
    change(&mut tensors);
    let written = serialize(tensors, None).unwrap();
    put(files, WEIGHTS, written);
}

fn load(files: &ModelFiles) -> Result<ModelInfo, LoadError> {
    let factory = CandleFactory::new(Some(1)).unwrap();
    let weights = factory.load(files, &LoadOptions::default(), &mut |_, _| true)?;
    Ok(weights.info().clone())
}

fn refused(files: &ModelFiles) -> String {
    load(files).expect_err("a checkpoint that cannot be").to_string()
}

fn check(config: Value) -> Result<(), LoadError> {
    CandleFactory::new(Some(1)).unwrap().check(&config)
}

#[test]
fn a_family_that_is_not_there_is_refused_by_name_with_those_that_are() {
    let error = check(json!({"model_type": "mamba"})).unwrap_err();
    assert!(matches!(error, LoadError::Unsupported(_)));
    assert_eq!(
        error.to_string(),
        "models of type \"mamba\" are not there yet; those that are: llama, mistral, qwen2, qwen3, smollm3, \
         bert, distilbert, modernbert, mpnet, nomic_bert, roberta, xlm-roberta"
    );
    assert!(check(json!({})).unwrap_err().to_string().contains("model_type"));
    for family in ["llama", "mistral", "qwen2", "qwen3", "smollm3"] {
        check(json!({"model_type": family})).unwrap_or_else(|error| panic!("{family}: {error}"));
    }
}

#[test]
fn what_a_config_asks_for_and_is_not_there_is_refused_before_weights_are_fetched() {
    let with = |key: &str, value: Value| {
        let mut config = json!({"model_type": "llama"});
        config[key] = value;
        check(config).unwrap_err().to_string()
    };
    assert!(with("quantization_config", json!({"quant_method": "gptq"})).contains("gptq"));
    assert!(
        with("architectures", json!(["LlamaForSequenceClassification"])).contains("does not generate text")
    );
    assert!(with("hidden_act", json!("mish")).contains("silu"));
    assert!(
        with("rope_scaling", json!({"rope_type": "longrope"}))
            .contains("default, linear, dynamic, llama3, yarn")
    );
    assert!(with("rope_scaling", json!({"type": "linear"})).contains("`factor`"));
    assert!(with("head_dim", json!(7)).contains("even"));
    assert!(with("num_key_value_heads", json!(5)).contains("multiple"));
}

#[test]
fn a_missing_tensor_is_named() {
    let mut files = qwen2();
    change_weights(&mut files, |tensors| drop(tensors.remove("model.layers.1.self_attn.k_proj.bias")));
    assert_eq!(
        refused(&files),
        "model.safetensors: tensor model.layers.1.self_attn.k_proj.bias is missing; expected shape [24]"
    );
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let mut files = qwen2();
    change_config(&mut files, "intermediate_size", json!(100));
    assert_eq!(
        refused(&files),
        "model.safetensors: tensor model.layers.0.mlp.gate_proj.weight has shape [96, 48], expected [100, 48]"
    );
}

#[test]
fn a_file_that_broke_off_is_named() {
    let whole = qwen2().get(WEIGHTS).unwrap().read().unwrap().to_vec();
    for len in [0, 4, 100, whole.len() - 1] {
        let mut files = qwen2();
        put(&mut files, WEIGHTS, whole[..len].to_vec());
        let said = refused(&files);
        assert!(said.starts_with("model.safetensors: not a whole safetensors file"), "{len} bytes: {said}");
    }
    let mut files = qwen2();
    put(&mut files, WEIGHTS, b"<html>Sign in to download</html>".to_vec());
    assert!(refused(&files).contains("not a whole safetensors file"));
}

/// A file whose header is this text, says that it is so long, and is followed by so many bytes.
fn with_header(len: u64, header: &str, num_bytes: usize) -> Vec<u8> {
    let mut file = len.to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + num_bytes, 0);
    file
}

#[test]
fn a_header_that_lies_is_refused_and_believed_in_nothing() {
    let tensor = |start: usize, end: usize| json!({"dtype": "F32", "shape": [(end - start) / 4], "data_offsets": [start, end]});
    let two = |one: Value, other: Value| json!({"a": one, "b": other}).to_string();
    let many =
        json!({"a": {"dtype": "F32", "shape": [1u64 << 62, 1u64 << 62], "data_offsets": [0, 4]}}).to_string();
    let twice = format!(r#"{{"a": {0}, "a": {0}}}"#, tensor(0, 8));
    let exactly = |header: String, num_bytes| with_header(header.len() as u64, &header, num_bytes);
    let cases = [
        ("a length beyond the file", with_header(u64::MAX, "{}", 0)),
        ("a length beyond all reason", with_header(1 << 40, "{}", 1 << 10)),
        ("no JSON", exactly("{\"a\": ".into(), 8)),
        ("nested without end", exactly("[".repeat(1 << 20), 8)),
        ("tensors that overlap", exactly(two(tensor(0, 8), tensor(4, 12)), 12)),
        ("a hole between tensors", exactly(two(tensor(0, 8), tensor(12, 20)), 20)),
        ("a tensor beyond the end", exactly(two(tensor(0, 8), tensor(8, 16)), 12)),
        ("bytes that no tensor has", exactly(two(tensor(0, 8), tensor(8, 16)), 20)),
        (
            "a shape that is not its length",
            exactly(json!({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).to_string(), 8),
        ),
        ("more elements than can be counted", exactly(many, 4)),
        (
            "a range that ends before it begins",
            exactly(json!({"a": {"dtype": "F32", "shape": [0], "data_offsets": [8, 0]}}).to_string(), 8),
        ),
    ];
    for (what, bytes) in cases {
        let mut files = qwen2();
        put(&mut files, WEIGHTS, bytes);
        let said = refused(&files);
        assert!(said.starts_with("model.safetensors: not a whole safetensors file"), "{what}: {said}");
    }
    let mut files = qwen2();
    put(&mut files, WEIGHTS, exactly(twice, 8));
    assert!(refused(&files).contains("tensor a is in it twice"), "{}", refused(&files));
}

#[test]
fn a_shard_that_is_not_there_is_named() {
    let mut files = fixture("llama-small-f32-sharded");
    load(&files).expect("all shards are there");
    files.files.remove("model-00002-of-00003.safetensors");
    assert_eq!(
        refused(&files),
        "model.safetensors.index.json: it names model-00002-of-00003.safetensors, which is not there"
    );
}

#[test]
fn weights_that_are_not_there_or_pickled_are_told_apart() {
    let mut files = qwen2();
    files.files.remove(WEIGHTS);
    assert!(matches!(load(&files), Err(LoadError::NotFound(_))));
    put(&mut files, "pytorch_model.bin", Vec::new());
    assert!(refused(&files).contains("pickle"));
}

#[test]
fn progress_counts_tensors_and_can_stop_the_loading() {
    let factory = CandleFactory::new(Some(1)).unwrap();
    let mut seen = Vec::new();
    let mut on_progress = |done, total| {
        seen.push((done, total));
        true
    };
    factory.load(&qwen2(), &LoadOptions::default(), &mut on_progress).unwrap();
    let total = seen[0].1;
    assert!(seen.iter().all(|&(done, of)| done <= total && of == total));
    assert!(seen.is_sorted() && seen.last() == Some(&(total, total)));
    assert!(seen.len() as u64 >= total);

    let mut calls = 0;
    let stopped = factory.load(&qwen2(), &LoadOptions::default(), &mut |_, _| {
        calls += 1;
        calls < 3
    });
    assert!(stopped.is_err());
    assert_eq!(calls, 3);
}

#[test]
fn a_model_within_the_program_is_the_same_model() {
    let on_disk = qwen2();
    let mut within = ModelFiles::default();
    for (name, file) in &on_disk.files {
        put(&mut within, name, file.read().unwrap().to_vec());
    }
    assert_eq!(load(&within).unwrap(), load(&on_disk).unwrap());
}

#[test]
fn what_is_said_of_a_model_is_true() {
    let files = qwen2();
    let bytes = files.get(WEIGHTS).unwrap().read().unwrap().to_vec();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let num_parameters: usize =
        stored.iter().map(|(_, tensor)| tensor.shape().iter().product::<usize>()).sum();
    let info = load(&files).unwrap();
    assert_eq!(info.family, "qwen2");
    assert_eq!(info.num_parameters, num_parameters as u64);
    // Outputs are padded to whole panels, which shows in small matrices alone.
    let bytes = 4 * num_parameters as u64;
    assert!((bytes..bytes * 5 / 4).contains(&info.weight_bytes), "{}, not about {bytes}", info.weight_bytes);
    assert_eq!(info.max_position_embeddings, 4096);
    // Three layers of two heads: keys of 12 and values padded to 16, in `f32`.
    assert_eq!(info.kv_bytes_per_token, 3 * 2 * (12 + 16) * 4);
}

#[test]
fn a_tied_model_with_a_head_of_its_own_uses_it() {
    let tied = load(&qwen2()).unwrap().num_parameters;
    let with_head = |change: fn(&mut [u8])| {
        let mut files = qwen2();
        change_weights(&mut files, |tensors| {
            let table = &tensors["model.embed_tokens.weight"];
            let (dtype, shape) = (table.dtype(), table.shape().to_vec());
            let mut data = table.data().to_vec();
            change(&mut data);
            let head = TensorView::new(dtype, shape, data.leak()).unwrap();
            tensors.insert("lm_head.weight".into(), head);
        });
        load(&files).unwrap().num_parameters
    };
    assert_eq!(with_head(|_| ()), tied, "a copy is not kept twice");
    assert!(with_head(|data| data[..4].copy_from_slice(&9.5f32.to_le_bytes())) > tied);
}

#[test]
fn a_checkpoint_of_a_bare_model_loads() {
    let mut files = qwen2();
    change_weights(&mut files, |tensors| {
        let renamed = std::mem::take(tensors).into_iter();
        tensors.extend(renamed.map(|(name, tensor)| (name.trim_start_matches("model.").to_owned(), tensor)));
    });
    assert_eq!(load(&files).unwrap(), load(&qwen2()).unwrap());
}
