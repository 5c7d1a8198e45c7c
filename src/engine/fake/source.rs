//! Where fake models come from: a repository without weights, and the factory that pretends to load it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use candlewick_protocol::ModelRef;
use futures::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};

use super::control::lock;
use super::encoder::FAKE_DIMENSIONS;
use super::{FakeControl, FakeRule, FakeWeights, Fault, Gate};
use crate::encode::{EncoderAbility, EncoderInfo, Matryoshka, SentenceLayout};
use crate::{
    FileEntry, LoadError, LoadOptions, ModelFactory, ModelFile, ModelFiles, ModelInfo, ModelSource, OnBytes,
    Snapshot, SourceListing, Weights,
};

/// `<|endoftext|>`; the token of a byte has the byte's value as its id.
pub const END_OF_TEXT: u32 = 256;
/// `<|im_start|>`.
pub const IM_START: u32 = 257;
/// `<|im_end|>`, which ends a turn.
pub const IM_END: u32 = 258;
/// Bytes and the three special tokens.
pub const VOCAB_SIZE: usize = 259;

/// `max_position_embeddings` of the fake model.
const MAX_POSITION_EMBEDDINGS: usize = 2048;

/// Tensors that a fake load counts.
const NUM_TENSORS: u64 = 4;

/// Makes fake models of [`FakeSource`]'s files.
#[derive(Default)]
pub struct FakeFactory {
    /// What its models say.
    pub rule: FakeRule,
    /// Holds and breaks its models.
    pub control: Arc<FakeControl>,
    /// Each load passes here before each of its tensors.
    pub load_gate: Gate,
    /// What the weights of its models are said to take.
    pub weight_bytes: u64,
    /// Its models encode, and do not generate.
    pub encodes: bool,
    load: Mutex<LoadState>,
}

#[derive(Default)]
struct LoadState {
    num_loads: u64,
    faults: Vec<Fault>,
}

impl FakeFactory {
    /// Models that follow this rule.
    pub fn new(rule: FakeRule) -> Self {
        Self { rule, ..Self::default() }
    }

    /// Models that encode: into vectors that follow from a text's tokens.
    pub fn of_encoders() -> Self {
        Self { encodes: true, ..Self::default() }
    }

    /// Breaks the next load, or the one after those already told to break.
    pub fn break_next_load(&self, fault: Fault) {
        lock(&self.load).faults.push(fault);
    }

    /// Loads begun so far.
    pub fn num_loads(&self) -> u64 {
        lock(&self.load).num_loads
    }
}

impl ModelFactory for FakeFactory {
    fn check(&self, config: &Value) -> Result<(), LoadError> {
        match config["model_type"].as_str() {
            Some("fake") => Ok(()),
            other => Err(LoadError::Unsupported(format!(
                "model type {other:?} is not supported; supported are: fake"
            ))),
        }
    }

    fn weight_bytes(&self, _files: &ModelFiles, _options: &LoadOptions) -> Result<u64, LoadError> {
        Ok(self.weight_bytes)
    }

    fn load(
        &self,
        files: &ModelFiles,
        _options: &LoadOptions,
        on_progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        self.check(&files.json("config.json")?.unwrap_or_default())?;
        let fault = {
            let mut load = lock(&self.load);
            load.num_loads += 1;
            (!load.faults.is_empty()).then(|| load.faults.remove(0))
        };
        for tensor in 0..NUM_TENSORS {
            self.load_gate.pass();
            if !on_progress(tensor, NUM_TENSORS) {
                return Err(LoadError::Internal("the load was stopped".into()));
            }
        }
        match fault {
            Some(Fault::Panic) => panic!("the load was told to panic"),
            Some(Fault::Error) => return Err(LoadError::Internal("the load was told to fail".into())),
            None => on_progress(NUM_TENSORS, NUM_TENSORS),
        };
        let info = ModelInfo {
            family: "fake".into(),
            max_position_embeddings: MAX_POSITION_EMBEDDINGS,
            vocab_size: VOCAB_SIZE,
            num_parameters: 0,
            weight_bytes: self.weight_bytes,
            kv_bytes_per_token: 1024,
            encoder: self.encodes.then(|| Arc::new(encoder_info())),
        };
        Ok(Arc::new(FakeWeights { info, rule: self.rule.clone(), control: self.control.clone() }))
    }
}

fn encoder_info() -> EncoderInfo {
    EncoderInfo {
        ability: EncoderAbility::Embed { dimensions: FAKE_DIMENSIONS, matryoshka: Matryoshka::Any },
        max_tokens: MAX_POSITION_EMBEDDINGS,
        layout: SentenceLayout::load(&ModelFiles::default()).expect("no file is a layout too"),
    }
}

/// A source of fake models, all alike but for their names. Names beginning with `fake/` are its own; those it was not
/// made with are not found.
pub struct FakeSource {
    models: Vec<ModelRef>,
    /// Each fetch of a file passes here. Blocks the thread that polls it.
    pub fetch_gate: Arc<Gate>,
}

impl FakeSource {
    /// A source with models of these names: `fake/…`.
    ///
    /// # Panics
    /// If one is not the name of a model.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let models = names.into_iter().map(|name| name.parse().expect("the test names a model")).collect();
        Self { models, fetch_gate: Arc::default() }
    }
}

impl ModelSource for FakeSource {
    fn serves(&self, model: &ModelRef) -> bool {
        model.repo().starts_with("fake/")
    }

    fn resolve<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Box<dyn Snapshot>, LoadError>> {
        async move {
            if self.models.iter().any(|known| known.canonical() == model.canonical()) {
                Ok(Box::new(FakeSnapshot::new(self.fetch_gate.clone())) as Box<dyn Snapshot>)
            } else {
                Err(LoadError::NotFound(format!("there is no fake model {model}")))
            }
        }
        .boxed()
    }

    fn list(&self) -> Vec<SourceListing> {
        let listing = |model: &ModelRef| SourceListing {
            model: model.clone(),
            modified: 0,
            commit: None,
            max_model_len: Some(MAX_POSITION_EMBEDDINGS as u64),
        };
        self.models.iter().map(listing).collect()
    }
}

struct FakeSnapshot {
    entries: Vec<FileEntry>,
    gate: Arc<Gate>,
}

impl FakeSnapshot {
    fn new(gate: Arc<Gate>) -> Self {
        let entry = |(name, bytes): (&&str, &&[u8])| FileEntry {
            name: name.to_string(),
            size: Some(bytes.len() as u64),
            cached: true,
        };
        Self { entries: FILES.iter().map(entry).collect(), gate }
    }
}

impl Snapshot for FakeSnapshot {
    fn commit(&self) -> Option<&str> {
        None
    }

    fn files(&self) -> &[FileEntry] {
        &self.entries
    }

    fn fetch<'a>(
        &'a self,
        name: &'a str,
        on_bytes: OnBytes<'a>,
    ) -> BoxFuture<'a, Result<ModelFile, LoadError>> {
        async move {
            self.gate.pass();
            let bytes =
                FILES.get(name).ok_or_else(|| LoadError::NotFound(format!("there is no file {name}")))?;
            on_bytes(bytes.len() as u64, Some(bytes.len() as u64));
            Ok(ModelFile::Embedded(bytes))
        }
        .boxed()
    }
}

/// The repository, made once. Embedded files live as long as the program, so it is leaked.
static FILES: LazyLock<BTreeMap<&'static str, &'static [u8]>> = LazyLock::new(|| {
    let leak = |value: Value| -> &'static [u8] { value.to_string().into_bytes().leak() };
    BTreeMap::from([
        ("config.json", leak(config())),
        ("generation_config.json", leak(json!({ "eos_token_id": [IM_END, END_OF_TEXT] }))),
        ("tokenizer.json", leak(tokenizer())),
        ("tokenizer_config.json", leak(tokenizer_config())),
        // A safetensors file without tensors: the length of its header, and the header.
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}".as_slice()),
    ])
});

fn config() -> Value {
    json!({
        "model_type": "fake",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_POSITION_EMBEDDINGS,
        "eos_token_id": IM_END,
    })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
            + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    })
}

/// A byte-level BPE without merges: each byte is a token.
fn tokenizer() -> Value {
    let vocab: Map<String, Value> =
        (0..=u8::MAX).map(|byte| (byte_char(byte).to_string(), json!(byte))).collect();
    let special = |(id, content): (u32, &str)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let specials = [(END_OF_TEXT, "<|endoftext|>"), (IM_START, "<|im_start|>"), (IM_END, "<|im_end|>")];
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": specials.map(special),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}

/// The character that stands for a byte in a byte-level vocabulary: itself if it prints, else one from U+0100 on, in order
/// (`bytes_to_unicode` of GPT-2's `encoder.py`).
fn byte_char(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        return char::from(byte);
    }
    let num_before = (0..byte).filter(|earlier| !prints(*earlier)).count() as u32;
    char::from_u32(0x100 + num_before).expect("68 code points from U+0100 on are characters")
}
