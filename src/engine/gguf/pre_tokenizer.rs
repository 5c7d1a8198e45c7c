//! Pre-tokenizers by the names that GGUF files give them (`tokenizer.ggml.pre`): where a byte-level vocabulary may not
//! merge. The patterns are those of the `tokenizer.json` that each name stands for.

use serde_json::{Value, json};

/// A named pre-tokenizer.
pub(super) struct PreTokenizer {
    /// Cuts, one after another.
    patterns: &'static [&'static str],
    /// A word that is a token is taken as it is, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// A beginning-of-sequence token is put before texts unless the file says otherwise.
    pub(super) add_bos: bool,
    /// Text is brought into Unicode's composed form first.
    pub(super) nfc: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

const PLAIN: PreTokenizer =
    PreTokenizer { patterns: &[GPT2], ignore_merges: false, add_bos: false, nfc: false };

/// Names, for error messages and for the table below.
const NAMES: [(&[&str], PreTokenizer); 13] = [
    (
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "mellum",
            "exaone4",
            "a.x-4.0",
        ],
        PLAIN,
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        PreTokenizer { patterns: &[r"\p{N}", GPT2], ..PLAIN },
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        PreTokenizer { patterns: &[LLAMA3], ignore_merges: true, add_bos: true, ..PLAIN },
    ),
    (&["dbrx", "smaug-bpe"], PreTokenizer { patterns: &[LLAMA3], ..PLAIN }),
    (&["chatglm-bpe", "glm4"], PreTokenizer { patterns: &[LLAMA3], ..PLAIN }),
    (
        &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "grok-2"],
        PreTokenizer { patterns: &[QWEN2], nfc: true, ..PLAIN },
    ),
    (&["tekken"], PreTokenizer { patterns: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN }),
    (&["gpt-4o", "llama4"], PreTokenizer { patterns: &[GPT4O], ..PLAIN }),
    (
        &["deepseek-v3", "hunyuan-dense"],
        PreTokenizer { patterns: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3], ..PLAIN },
    ),
    (
        &["deepseek-coder"],
        PreTokenizer {
            patterns: &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
            ..PLAIN
        },
    ),
    (&["seed-coder"], PreTokenizer { patterns: &[SEED_CODER], ..PLAIN }),
    (&["falcon"], PreTokenizer { patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], ..PLAIN }),
    (
        &["default"],
        PreTokenizer { patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
    ),
];

impl PreTokenizer {
    /// The pre-tokenizer of that name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        const TABLE: &[(&[&str], PreTokenizer)] = &NAMES;
        TABLE.iter().find(|(names, _)| names.contains(&name)).map(|(_, found)| found)
    }

    /// The names that there are.
    pub(super) fn names() -> String {
        NAMES.iter().flat_map(|(names, _)| names.iter().copied()).collect::<Vec<_>>().join(", ")
    }

    /// Its entry in a `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let cut = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let mut steps: Vec<Value> = self.patterns.iter().map(cut).collect();
        steps.push(
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
        );
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}
