//! The tokenizer of a model: `tokenizer.json`, read the way transformers reads it.
//!
//! What transformers changes after reading the file and what therefore changes ids is done here too: the classes that
//! rebuild their pipeline whatever the file says ([`class_pipeline`]), and named tokens that are made special.
//! `add_bos_token` and `add_eos_token` of `tokenizer_config.json` are *not* read: beside a `tokenizer.json` transformers
//! drops them, and the file's own post-processor decides.

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use super::pieces::Pieces;
use crate::{LoadError, ModelFiles};

const FILE: &str = "tokenizer.json";
const CONFIG_FILE: &str = "tokenizer_config.json";

/// The pre-tokenisation of Qwen 2 and its successors, as `Qwen2Tokenizer` has it.
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokenizer, named tokens, and how its vocabulary spells text.
pub(crate) struct ModelTokenizer {
    inner: Tokenizer,
    pieces: Pieces,
    /// Named tokens (`bos_token`, `eos_token`, …) as templates see them, in the config's order.
    named: Map<String, Value>,
    vocab_size: usize,
    /// Special tokens, by their content.
    special_tokens: Vec<(u32, String)>,
}

impl ModelTokenizer {
    /// Reads the tokenizer of a repository. `model_type` is that of its `config.json`.
    pub(crate) fn load(files: &ModelFiles, model_type: Option<&str>) -> Result<Self, LoadError> {
        let mut tokenizer = files.json(FILE)?.ok_or_else(|| no_tokenizer(files))?;
        let config = match files.json(CONFIG_FILE)? {
            Some(Value::Object(config)) => config,
            Some(_) => return Err(corrupt(CONFIG_FILE, "not a JSON object")),
            None => Map::new(),
        };
        class_pipeline(&mut tokenizer, &config, model_type);
        let named = named_tokens(files, &config)?;
        let mut inner: Tokenizer = serde_json::from_value(tokenizer).map_err(|error| corrupt(FILE, error))?;
        inner.with_truncation(None).map_err(|error| corrupt(FILE, error))?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(
            config.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false),
        );
        add_config_tokens(&mut inner, &config, &named)?;
        Ok(Self::from_parts(inner, named))
    }

    pub(crate) fn from_parts(inner: Tokenizer, named: Map<String, Value>) -> Self {
        let pieces = Pieces::of(&inner);
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let added = inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special && !token.content.is_empty());
        let special_tokens = special.map(|(id, token)| (id, token.content)).collect();
        Self { inner, pieces, named, vocab_size, special_tokens }
    }

    /// The tokenizer of the library.
    pub(super) fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    /// Token ids are below this.
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Named tokens for templates: `bos_token`, `eos_token`, ….
    pub(crate) fn named_tokens(&self) -> &Map<String, Value> {
        &self.named
    }

    /// The id of a named token, if there is such a token.
    pub(crate) fn named_id(&self, name: &str) -> Option<u32> {
        self.id(self.named.get(name)?.as_str()?)
    }

    /// The id of a token by its content.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The lowest id that both have and that is not the same token in both.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<u32> {
        let num_both = self.vocab_size.min(other.vocab_size) as u32;
        let differs = |one: &Self, another: &Self| {
            let entries = one.inner.get_vocab(true).into_iter();
            let different = entries.filter(|(token, id)| *id < num_both && another.id(token) != Some(*id));
            different.map(|(_, id)| id).min()
        };
        [differs(self, other), differs(other, self)].into_iter().flatten().min()
    }

    /// The content of a token, as the vocabulary spells it.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token is left out where special tokens are skipped.
    pub(crate) fn is_special(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(token)
    }

    /// The ids of special tokens by their content.
    pub(crate) fn special_ids(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let wanted = added.iter().filter(|(_, token)| token.special && is_wanted(&token.content));
        wanted.map(|(id, _)| *id).collect()
    }

    /// The tokens that are left out where special tokens are skipped, in no particular order.
    pub(crate) fn special_tokens(&self) -> &[(u32, String)] {
        &self.special_tokens
    }

    /// Whether a token was added to the vocabulary beside what the tokenizer learnt.
    pub(crate) fn is_added(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().get_vocab().contains_key(token)
    }

    /// How the vocabulary spells text.
    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// The ids of a text.
    pub(crate) fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, tokenizers::Error> {
        Ok(self.inner.encode_fast(text, add_special_tokens)?.get_ids().to_vec())
    }

    /// The tokens of a text with their places in it, in characters.
    pub(crate) fn locate(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<tokenizers::Encoding, tokenizers::Error> {
        self.inner.encode_char_offsets(text, add_special_tokens)
    }

    /// The text of ids, all at once: what the incremental detokenizer adds up to.
    pub(crate) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        // Decoders fail only on patterns that no longer compile, which parsing has ruled out.
        self.inner.decode(ids, skip_special_tokens).unwrap_or_default()
    }

    /// The exact bytes of one token in the middle of a text; empty for an id without a token.
    pub(crate) fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.token(id).map_or_else(Vec::new, |token| self.pieces.bytes(&token))
    }
}

fn corrupt(file: &str, why: impl ToString) -> LoadError {
    LoadError::Corrupt { file: file.into(), why: why.to_string() }
}

/// What is there instead of a `tokenizer.json`, and what would be needed.
fn no_tokenizer(files: &ModelFiles) -> LoadError {
    const OTHERS: [&str; 7] = [
        "tokenizer.model",
        "spiece.model",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "tekken.json",
        "tiktoken.model",
    ];
    let found: Vec<&str> = OTHERS.into_iter().filter(|name| files.get(name).is_some()).collect();
    let found = match found.is_empty() {
        true => "no other tokenizer file either".to_owned(),
        false => format!("only {}", found.join(", ")),
    };
    LoadError::Unsupported(format!(
        "this repository has no {FILE} ({found}); a {FILE} is needed, and Python's \
         `AutoTokenizer.from_pretrained(model).save_pretrained(folder)` writes one"
    ))
}

/// The pipeline that a tokenizer class of transformers 5 sets up whatever the file says; other classes follow the file.
fn class_pipeline(tokenizer: &mut Value, config: &Map<String, Value>, model_type: Option<&str>) {
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let is_bpe = tokenizer["model"]["type"].as_str().is_none_or(|kind| kind == "BPE");
    if !is_bpe {
        return;
    }
    match class.trim_end_matches("Fast") {
        "LlamaTokenizer" if follows_llama_class(model_type) && !has_byte_level(tokenizer) => {
            llama(tokenizer, config)
        }
        "Qwen2Tokenizer" if model_type.is_none_or(|kind| kind.starts_with("qwen")) => {
            qwen2(tokenizer, config)
        }
        _ => {}
    }
}

/// Model types that transformers reads by the file alone, though their repositories name `LlamaTokenizer`.
fn follows_llama_class(model_type: Option<&str>) -> bool {
    const BY_FILE: [&str; 9] =
        ["mistral", "mixtral", "ministral", "mistral3", "phi3", "olmo", "olmo2", "granite", "stablelm"];
    !model_type.is_some_and(|kind| BY_FILE.contains(&kind))
}

fn has_byte_level(tokenizer: &Value) -> bool {
    fn holds(part: &Value) -> bool {
        match part {
            Value::Object(object) => {
                object.get("type").is_some_and(|kind| kind == "ByteLevel") || object.values().any(holds)
            }
            Value::Array(parts) => parts.iter().any(holds),
            _ => false,
        }
    }
    holds(&tokenizer["pre_tokenizer"]) || holds(&tokenizer["decoder"])
}

/// `LlamaTokenizer`: spaces become `▁`, one is put before the text, unknown characters become bytes.
fn llama(tokenizer: &mut Value, config: &Map<String, Value>) {
    let flag = |name: &str, default| config.get(name).and_then(Value::as_bool).unwrap_or(default);
    let prefix = flag("add_prefix_space", true);
    let scheme = match (prefix, flag("legacy", false)) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    tokenizer["normalizer"] = Value::Null;
    tokenizer["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    tokenizer["decoder"] = json!({"type": "Sequence", "decoders": decoders});
    let model = &mut tokenizer["model"];
    model["fuse_unk"] = json!(true);
    model["byte_fallback"] = json!(true);
    model["dropout"] = Value::Null;
    model["ignore_merges"] = json!(false);
}

/// `Qwen2Tokenizer`: byte-level, NFC, digits one by one.
fn qwen2(tokenizer: &mut Value, config: &Map<String, Value>) {
    let prefix = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": false});
    tokenizer["normalizer"] = json!({"type": "NFC"});
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": false},
        byte_level,
    ]});
    tokenizer["decoder"] =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let model = &mut tokenizer["model"];
    model["unk_token"] = Value::Null;
    model["fuse_unk"] = json!(false);
    model["byte_fallback"] = json!(false);
    model["dropout"] = Value::Null;
    model["ignore_merges"] = json!(false);
}

/// `…_token` entries of the config, and `extra_special_tokens` where those have names, as strings. Without
/// `added_tokens_decoder` in the config, `special_tokens_map.json` is laid over it.
fn named_tokens(files: &ModelFiles, config: &Map<String, Value>) -> Result<Map<String, Value>, LoadError> {
    let mut named = Map::new();
    let mut collect = |source: &Map<String, Value>| {
        let extra = source.get("extra_special_tokens").and_then(Value::as_object);
        let entries = source.iter().filter(|(name, _)| name.ends_with("_token"));
        for (name, token) in entries.chain(extra.into_iter().flatten()) {
            if let Some(content) = token.as_str().or_else(|| token.get("content")?.as_str()) {
                named.insert(name.clone(), Value::from(content));
            }
        }
    };
    collect(config);
    if !config.contains_key("added_tokens_decoder")
        && let Some(Value::Object(map)) = files.json("special_tokens_map.json")?
    {
        collect(&map);
    }
    Ok(named)
}

/// Tokens of the config that the file lacks are added, and named tokens are made special. A named token that is no
/// token at all is left out: it would get an id that the model has no row for.
fn add_config_tokens(
    inner: &mut Tokenizer,
    config: &Map<String, Value>,
    named: &Map<String, Value>,
) -> Result<(), LoadError> {
    let broken = |error| corrupt(CONFIG_FILE, error);
    let mut declared: Vec<(u32, AddedToken)> = Vec::new();
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let id = id
            .parse()
            .map_err(|_| corrupt(CONFIG_FILE, format!("added_tokens_decoder: `{id}` is not a token id")))?;
        if let Some(token) = added_token(token) {
            declared.push((id, token));
        }
    }
    declared.sort_by_key(|(id, _)| *id);
    for (_, token) in &declared {
        if !inner.get_added_vocabulary().get_vocab().contains_key(&token.content) {
            inner.add_tokens([token.clone()]).map_err(broken)?;
        }
    }
    for content in named.values().filter_map(Value::as_str) {
        let Some(id) = inner.token_to_id(content) else {
            tracing::debug!(token = content, "a named token is not in the vocabulary and is left out");
            continue;
        };
        let known = inner.get_added_tokens_decoder().remove(&id);
        let token = known.unwrap_or_else(|| AddedToken::from(content, true).normalized(false));
        inner.add_special_tokens([token.special(true)]).map_err(broken)?;
    }
    Ok(())
}

fn added_token(token: &Value) -> Option<AddedToken> {
    let flag = |name: &str, default| token.get(name).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", false);
    let content = token.get("content")?.as_str()?;
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)),
    )
}
