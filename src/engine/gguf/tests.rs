//! What a file's metadata becomes, and what is said of headers that cannot be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candlewick_protocol::Prompt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Header, unfold};
use crate::text::{TextOptions, TextProcessor};
use crate::{ModelFile, ModelFiles, files::gguf_names};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf")
}

fn fixture(first: &str) -> ModelFiles {
    let named = |name: String| (name.clone(), ModelFile::Path(folder().join(name)));
    let files = gguf_names(first).into_iter().map(named).collect();
    let mut files = ModelFiles { files, gguf: Some(first.into()) };
    unfold(&mut files).expect("the fixture is good");
    files
}

const FIXTURES: [&str; 8] = [
    "qwen2-f16.gguf",
    "qwen2-mixed.gguf",
    "qwen3-bf16.gguf",
    "qwen3-split-00001-of-00003.gguf",
    "llama-q8_0.gguf",
    "llama-spm-f32.gguf",
    "mistral-window-q4_0.gguf",
    "smollm3-mixed.gguf",
];

#[test]
fn texts_are_cut_as_the_vocabulary_s_own_library_cuts_them() {
    for first in FIXTURES {
        let processor =
            TextProcessor::load(&fixture(first), &TextOptions::default()).expect("it has a tokenizer");
        let name = first.split("-00001").next().unwrap().trim_end_matches(".gguf");
        let expected = std::fs::read(folder().join(format!("{name}.json"))).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        for case in expected["tokens"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let prompt = Prompt::Text { text: text.into(), add_special_tokens: true };
            match processor.prepare(&prompt) {
                Ok(found) => assert_eq!(&*found.token_ids, ids, "{name}: {text:?}"),
                Err(_) => assert!(ids.is_empty(), "{name}: {text:?}"),
            }
        }
        let ends = &processor.generation_defaults().eos_token_ids;
        assert!(!ends.is_empty(), "{name} knows how an answer ends");
    }
}

/// The header of `words.gguf` with another pre-tokenizer.
fn words_under(pre: &str) -> Header {
    let mut bytes = std::fs::read(folder().join("words.gguf")).unwrap();
    let key = b"tokenizer.ggml.pre";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    let old = 8 + "default".len();
    bytes.splice(at..at + old, Bytes::default().text(pre).0);
    Header::read("words.gguf", &ModelFile::Made(bytes.into())).expect("the header is good")
}

#[test]
fn texts_are_cut_as_llama_cpp_cuts_them_under_each_name_of_a_pre_tokenizer() {
    let expected = std::fs::read(folder().join("pre_tokenizers.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    for (name, cases) in expected.as_object().unwrap() {
        let json = super::tokenizer::tokenizer(&words_under(name)).expect("the name is known");
        let tokenizer: tokenizers::Tokenizer = serde_json::from_value(json).expect("it is a tokenizer");
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let found = tokenizer.encode_fast(text, false).expect("any text can be read");
            assert_eq!(found.get_ids(), ids, "{name}: {text:?}");
        }
    }
    let said = super::tokenizer::tokenizer(&words_under("klingon")).unwrap_err().to_string();
    assert!(said.contains("\"klingon\" is not there") && said.contains("qwen2, deepseek-r1-qwen"), "{said}");
}

#[test]
fn a_config_says_what_the_file_says() {
    let config = |first: &str| fixture(first).json("config.json").unwrap().unwrap();
    let llama = config("llama-q8_0.gguf");
    assert_eq!(llama["model_type"], "llama");
    assert_eq!((&llama["num_attention_heads"], &llama["num_key_value_heads"]), (&json!(4), &json!(2)));
    let factors = llama["rope_scaling"]["factors"].as_array().unwrap();
    assert_eq!((factors.len(), &factors[3]), (4, &json!(8.0)), "the longest wave is stretched whole");
    assert!(factors[0].as_f64().is_some_and(|factor| (1.0..8.0).contains(&factor)));
    let yarn = &config("qwen2-mixed.gguf")["rope_scaling"];
    assert_eq!(*yarn, json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}));
    let mistral = config("mistral-window-q4_0.gguf");
    assert_eq!((&mistral["model_type"], &mistral["sliding_window"]), (&json!("mistral"), &json!(8)));
    assert_eq!(config("qwen3-bf16.gguf")["head_dim"], 16);
}

#[test]
fn a_set_of_files_belongs_together() {
    let first = "qwen3-split-00001-of-00003.gguf";
    let names = gguf_names(first);
    let swapped = |second: usize, third: usize| {
        let place = |at: usize| ModelFile::Path(folder().join(&names[at]));
        let files = [(0, 0), (1, second), (2, third)].map(|(name, at)| (names[name].clone(), place(at)));
        let mut files = ModelFiles { files: files.into(), gguf: Some(first.into()) };
        unfold(&mut files)
    };
    swapped(1, 2).expect("each is in its place");
    let said = swapped(2, 1).unwrap_err().to_string();
    assert!(said.contains("number 3 of 3 by what it says, and number 2 of 3 by its name"), "{said}");
    let alone = BTreeMap::from([("m.gguf".into(), ModelFile::Path(folder().join(first)))]);
    let said = unfold(&mut ModelFiles { files: alone, gguf: Some("m.gguf".into()) }).unwrap_err().to_string();
    assert!(said.contains("number 1 of 3 by what it says, and number 1 of 1 by its name"), "{said}");
}

/// Writes a header by hand.
#[derive(Default, Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn header(num_tensors: u64, num_keys: u64) -> Self {
        Self(b"GGUF\x03\0\0\0".to_vec()).u64(num_tensors).u64(num_keys)
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self = self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
        self
    }

    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let this = self.text(name).u32(dimensions.len() as u32);
        dimensions.iter().fold(this, |this, dimension| this.u64(*dimension)).u32(kind).u64(offset)
    }

    /// Zeros up to the next multiple of 32, and so many more.
    fn data(mut self, len: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }

    #[track_caller]
    fn check(self, expected: &str) {
        let file = ModelFile::Made(self.0.into());
        let said = Header::read("m", &file).expect_err("a header that cannot be").to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_header_is_held_against_its_file() {
    Bytes(b"<html>Sign in to download</html>".to_vec()).check("m: not a GGUF file (32 bytes)");
    Bytes(b"GGUF\x01\0\0\0".to_vec()).u64(0).u64(0).check("version 1; versions 2 and 3 are read");
    Bytes(b"GGUF\0\0\0\x03".to_vec()).u64(0).u64(0).check("big-endian");
    Bytes::header(u64::MAX, 0).check("its list of tensors has 18446744073709551615 entries");
    Bytes::header(0, 1 << 40).check("its metadata has 1099511627776 entries");
    let key = |kind| Bytes::header(0, 1).text("a").u32(kind);
    key(8).u64(1 << 50).data(64).check("a text has 1125899906842624 entries by its header");
    key(9).u32(4).u64(1 << 50).data(64).check("`a` has 1125899906842624 entries by its header");
    key(9).u32(9).u64(1).data(64).check("`a` is a list of lists");
    key(77).data(64).check("the value of `a` is of type 77, which does not exist");
    Bytes::header(0, 2).text("abcdefghijklmnop").u32(7).check("breaks off within its header");
    let twice = Bytes::header(0, 2).text("a").u32(4).u32(1).text("a").u32(4).u32(1);
    twice.check("the key `a` is in it twice");
}

#[test]
fn tensors_are_held_against_their_file() {
    let one = |dimensions: &[u64], kind, offset| {
        Bytes::header(1, 0).tensor("t", dimensions, kind, offset).data(256)
    };
    let whole = one(&[8, 8], 0, 0);
    let header = Header::read("m", &ModelFile::Made(whole.0.into())).expect("it is all there");
    assert_eq!(header.tensors()["t"].range.end - header.tensors()["t"].range.start, 256);
    one(&[8, 9], 0, 0).check("tensor t of shape [9, 8] reaches beyond the end of the file");
    one(&[8, 8], 0, 32).check("reaches beyond the end");
    one(&[8, 4], 0, 7).check("tensor t begins at 7, which is no multiple of the alignment (32)");
    one(&[8, 4], 0, u64::MAX - 31).check("reaches beyond the end");
    one(&[u64::MAX, u64::MAX], 0, 0).check("reaches beyond the end");
    one(&[1 << 40, 1 << 40], 1, 0).check("reaches beyond the end");
    one(&[8, 0], 0, 0).check("tensor t has a dimension that cannot be");
    one(&[33], 8, 0).check("tensor t of Q8_0 has rows of 33, which is no multiple of 32");
    one(&[], 0, 0).check("tensor t has 0 dimensions; there are from 1 to 4");
    one(&[1; 5], 0, 0).check("tensor t has 5 dimensions");
    let twice = Bytes::header(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 0).data(64);
    twice.check("the tensor t is in it twice");
    let aligned = |number| Bytes::header(0, 1).text("general.alignment").u32(4).u32(number);
    aligned(48).check("`general.alignment` should be a power of two");
    aligned(0).check("`general.alignment` should be a power of two");
    aligned(1 << 30).check("`general.alignment` should be a power of two");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is done to a header, reading it ends, and without a panic.
    #[test]
    fn no_damage_panics(changes in prop::collection::vec((0usize..12_000, any::<u8>()), 1..8)) {
        let mut bytes = std::fs::read(folder().join("mistral-window-q4_0.gguf")).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let files = BTreeMap::from([("m.gguf".to_owned(), ModelFile::Made(bytes.into()))]);
        let mut files = ModelFiles { files, gguf: Some("m.gguf".into()) };
        if unfold(&mut files).is_ok() {
            let _ = TextProcessor::load(&files, &TextOptions::default());
        }
    }
}
