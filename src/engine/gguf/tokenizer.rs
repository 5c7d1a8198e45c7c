//! A GGUF file's vocabulary as `tokenizer.json` and `tokenizer_config.json`.
//!
//! Two kinds: `gpt2`, byte-level BPE with merges and a named pre-tokenizer, and `llama`, SentencePiece's BPE, where the
//! score of a piece says how early it is merged. Of the latter the merges are worked out as transformers works them out
//! of a `tokenizer.model`, so that one tokenizer serves both.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::header::Header;
use super::pre_tokenizer::PreTokenizer;
use crate::LoadError;

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// What a token is, as `tokenizer.ggml.token_type` numbers it.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    fn of(number: f64) -> Self {
        match number as i64 {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Named tokens: the key of their ids in a GGUF file, and their names in `tokenizer_config.json`.
const NAMED: [(&str, &str); 7] = [
    ("bos", "bos_token"),
    ("eos", "eos_token"),
    ("unknown", "unk_token"),
    ("padding", "pad_token"),
    ("seperator", "sep_token"),
    ("cls", "cls_token"),
    ("mask", "mask_token"),
];

/// Tokens that end a turn or an answer, whichever of them a file names: llama.cpp stops at any of them, and files name one.
const ENDS: [&str; 12] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|eot|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "<|return|>",
    "<｜end▁of▁sentence｜>",
];

/// The vocabulary of a file.
struct Vocabulary<'a> {
    header: &'a Header,
    tokens: &'a [String],
    kinds: Vec<Kind>,
}

impl<'a> Vocabulary<'a> {
    fn of(header: &'a Header) -> Result<Self, LoadError> {
        let tokens = header
            .texts(TOKENS)
            .filter(|tokens| !tokens.is_empty())
            .ok_or_else(|| header.corrupt(format!("it has no tokenizer: `{TOKENS}` is missing")))?;
        let kinds = match header.numbers(TYPES) {
            Some(kinds) if kinds.len() == tokens.len() => kinds.iter().copied().map(Kind::of).collect(),
            Some(kinds) => {
                return Err(header.corrupt(format!(
                    "`{TYPES}` has {} entries for {} tokens",
                    kinds.len(),
                    tokens.len()
                )));
            }
            None => vec![Kind::Normal; tokens.len()],
        };
        Ok(Self { header, tokens, kinds })
    }

    /// The id of a named token, if the file names one that is there.
    fn named(&self, name: &str) -> Option<usize> {
        let id = self.header.number(&format!("tokenizer.ggml.{name}_token_id"))?;
        (id >= 0.0 && (id as usize) < self.tokens.len()).then_some(id as usize)
    }

    fn is_spm(&self) -> Result<bool, LoadError> {
        match self.header.text("tokenizer.ggml.model") {
            Some("gpt2") => Ok(false),
            Some("llama") => Ok(true),
            Some(other) => Err(LoadError::Unsupported(format!(
                "{}: a tokenizer of kind {other:?} is not there; those that are: gpt2 (byte-level BPE), llama (SentencePiece)",
                self.header.name()
            ))),
            None => Err(self.header.corrupt("`tokenizer.ggml.model` is missing")),
        }
    }

    /// Token → id. Where two tokens are spelled alike, the first is the one.
    fn ids(&self) -> Map<String, Value> {
        let mut ids = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(token).or_insert_with(|| json!(id));
        }
        ids
    }

    /// Tokens that are found in a text before it is cut: control tokens, which texts leave out, and those that users added.
    fn added(&self) -> Vec<Value> {
        let added = |(id, kind): (usize, &Kind)| {
            let is_special = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            let token = self.tokens.get(id).filter(|token| !token.is_empty())?;
            Some(json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": is_special}))
        };
        self.kinds.iter().enumerate().filter_map(added).collect()
    }

    /// Tokens put around a text.
    fn post_processor(&self, bos_by_default: bool) -> Value {
        let wanted = |key: &str, default: bool, name: &str| {
            let is_wanted = self.header.flag(&format!("tokenizer.ggml.add_{key}_token")).unwrap_or(default);
            self.named(name).filter(|_| is_wanted)
        };
        let (bos, eos) = (wanted("bos", bos_by_default, "bos"), wanted("eos", false, "eos"));
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let around = |sequence: &str, kind: u8| {
            let token = |id: Option<usize>| {
                id.map(|id| json!({"SpecialToken": {"id": self.tokens[id], "type_id": kind}}))
            };
            let text = json!({"Sequence": {"id": sequence, "type_id": kind}});
            [token(bos), Some(text), token(eos)].into_iter().flatten().collect::<Vec<_>>()
        };
        let pair = [around("A", 0), around("B", 1)].concat();
        let special = |id: usize| {
            let token = &self.tokens[id];
            (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}))
        };
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": bos.into_iter().chain(eos).map(special).collect::<Map<_, _>>(),
        })
    }
}

/// The `tokenizer.json` of the file.
pub(super) fn tokenizer(header: &Header) -> Result<Value, LoadError> {
    let vocabulary = Vocabulary::of(header)?;
    let (parts, bos_by_default) = match vocabulary.is_spm()? {
        true => (sentence_piece(&vocabulary)?, true),
        false => byte_level(&vocabulary)?,
    };
    let Parts { normalizer, pre_tokenizer, decoder, model } = parts;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocabulary.post_processor(bos_by_default),
        "decoder": decoder,
        "model": model,
    }))
}

struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

/// `gpt2`. The second value: whether texts begin with a token unless the file says otherwise.
fn byte_level(vocabulary: &Vocabulary<'_>) -> Result<(Parts, bool), LoadError> {
    let header = vocabulary.header;
    // Files from before there were names were cut as this one cuts.
    let name = header.text("tokenizer.ggml.pre").unwrap_or("default");
    let pre_tokenizer = PreTokenizer::named(name).ok_or_else(|| {
        LoadError::Unsupported(format!(
            "{}: the pre-tokenizer {name:?} is not there; those that are: {}",
            header.name(),
            PreTokenizer::names()
        ))
    })?;
    let merges = header.texts(MERGES).ok_or_else(|| header.corrupt(format!("`{MERGES}` is missing")))?;
    let pairs = merges
        .iter()
        .map(|merge| {
            // The first character belongs to the left part, even if it is a space.
            let start = merge.chars().next().map_or(0, char::len_utf8);
            let space = merge[start..].find(' ').map(|at| at + start);
            let space =
                space.ok_or_else(|| header.corrupt(format!("the merge {merge:?} has no two parts")))?;
            Ok(json!([&merge[..space], &merge[space + 1..]]))
        })
        .collect::<Result<Vec<_>, LoadError>>()?;
    let parts = Parts {
        normalizer: if pre_tokenizer.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre_tokenizer.json(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre_tokenizer.ignore_merges, "vocab": vocabulary.ids(), "merges": pairs,
        }),
    };
    Ok((parts, pre_tokenizer.add_bos))
}

/// `llama`: spaces become `▁`, one is put before each stretch of text, unknown characters become bytes.
fn sentence_piece(vocabulary: &Vocabulary<'_>) -> Result<Parts, LoadError> {
    let header = vocabulary.header;
    let scores = header.numbers(SCORES).ok_or_else(|| header.corrupt(format!("`{SCORES}` is missing")))?;
    if scores.len() != vocabulary.tokens.len() {
        let (found, expected) = (scores.len(), vocabulary.tokens.len());
        return Err(header.corrupt(format!("`{SCORES}` has {found} entries for {expected} tokens")));
    }
    let prefix = header.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = vocabulary
        .named("unknown")
        .or_else(|| vocabulary.kinds.iter().position(|kind| *kind == Kind::Unknown));
    // Not the pre-tokenizer `Metaspace`, which puts no space before a text that begins with one.
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
    }
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| &vocabulary.tokens[id]),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocabulary.ids(), "merges": merges_of(vocabulary, scores),
        }),
    })
}

/// The merges that scores amount to: every way to put a piece together of two others, the pieces of higher score first.
fn merges_of(vocabulary: &Vocabulary<'_>, scores: &[f64]) -> Vec<Value> {
    let ids: HashMap<&str, usize> =
        vocabulary.tokens.iter().enumerate().rev().map(|(id, token)| (token.as_str(), id)).collect();
    let is_piece = |id: usize| matches!(vocabulary.kinds[id], Kind::Normal | Kind::Unused);
    let mut merges = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate().filter(|(id, _)| is_piece(*id)) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if [left, right].iter().all(|part| ids.get(part).is_some_and(|id| is_piece(*id))) {
                merges.push((scores[id], id, at, left, right));
            }
        }
    }
    // As transformers has it: of one piece, the longer left part first. Pieces of one score come in order of their ids.
    merges
        .sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)).then(other.2.cmp(&one.2)));
    merges.into_iter().map(|(.., left, right)| json!([left, right])).collect()
}

/// The `tokenizer_config.json` of the file: named tokens and chat templates.
pub(super) fn tokenizer_config(header: &Header) -> Result<Value, LoadError> {
    let vocabulary = Vocabulary::of(header)?;
    let mut config = Map::new();
    for (key, name) in NAMED {
        if let Some(id) = vocabulary.named(key) {
            config.insert(name.into(), json!(vocabulary.tokens[id]));
        }
    }
    let default = header.text("tokenizer.chat_template");
    let named: Vec<_> = header.texts_under("tokenizer.chat_template.").collect();
    let templates = match (default, &named[..]) {
        (None, []) => return Ok(Value::Object(config)),
        (Some(template), []) => json!(template),
        (default, named) => {
            let all = default.map(|template| ("default", template)).into_iter().chain(named.iter().copied());
            all.map(|(name, template)| json!({"name": name, "template": template})).collect()
        }
    };
    config.insert("chat_template".into(), templates);
    Ok(Value::Object(config))
}

/// The ids that end an answer: the file's own first, then tokens that are known to end one.
pub(super) fn end_ids(header: &Header) -> Vec<usize> {
    let Ok(vocabulary) = Vocabulary::of(header) else { return Vec::new() };
    let mut ids: Vec<usize> =
        ["eos", "eot", "eom"].iter().filter_map(|name| vocabulary.named(name)).collect();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        let is_mark = matches!(vocabulary.kinds[id], Kind::Control | Kind::UserDefined);
        if is_mark && ENDS.contains(&token.as_str()) && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids.dedup();
    ids
}
