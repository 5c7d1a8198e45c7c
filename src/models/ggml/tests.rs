//! Every format against the reference of gguf's Python package: `tests/fixtures/gguf/blocks.json`, which
//! `scripts/fixtures/gguf_files.py` writes.

use candlewick_engine::gguf::TensorType;
use serde_json::Value;

use super::decode;

fn named(name: &str) -> TensorType {
    let all = [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q2_K,
        TensorType::Q3_K,
        TensorType::Q4_K,
        TensorType::Q5_K,
        TensorType::Q6_K,
        TensorType::IQ4_NL,
        TensorType::IQ4_XS,
    ];
    all.into_iter().find(|one| one.to_string() == name).unwrap_or_else(|| panic!("{name} is read"))
}

#[test]
fn blocks_mean_what_ggml_says_they_mean() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/gguf/blocks.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = cases.as_object().unwrap();
    assert_eq!(cases.len(), 15, "every type that is read");
    for (name, case) in cases {
        let hex = case["bytes"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let expected: Vec<f32> =
            case["values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let mut found = vec![f32::NAN; expected.len()];
        assert_eq!(named(name).bytes(found.len()), Some(bytes.len()), "{name}");
        assert!(decode(named(name), &bytes, &mut found));
        let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // The order of two multiplications is a reader's own: a unit in the last place.
            assert!((found - expected).abs() <= largest * 3e-7, "{name}[{index}]: {found}, not {expected}");
        }
    }
}

#[test]
fn a_type_that_is_not_read_is_said_to_be() {
    assert!(!decode(TensorType::Other(16), &[0; 66], &mut [0.0; 256]));
    assert_eq!(TensorType::Other(16).to_string(), "IQ2_XXS");
    assert_eq!(TensorType::Other(99).to_string(), "type 99 of ggml");
}
