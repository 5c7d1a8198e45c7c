//! A GGUF file's hyperparameters as the `config.json` of the same model.
//!
//! Keys are `{architecture}.…` (gguf's `constants.py`). Where a file leaves out what transformers writes, its tensors
//! tell: a head of its own, biases, and the factors that stretch the positions of Llama 3.1 and later.

use serde_json::{Map, Value, json};

use super::header::{Header, TensorInfo};
use super::set::Gguf;
use super::tensor_type::TensorType;
use crate::{LoadError, ModelFiles};

/// `general.architecture` → `model_type`. Mistral's models come under Llama's name.
const FAMILIES: [(&str, &str); 5] = [
    ("llama", "llama"),
    ("mistral", "mistral"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("smollm3", "smollm3"),
];

/// The family of an architecture, or which there are.
pub(super) fn family(file: &str, architecture: &str) -> Result<&'static str, LoadError> {
    let found = FAMILIES.iter().find(|(name, _)| *name == architecture);
    found.map(|(_, family)| *family).ok_or_else(|| {
        let names = FAMILIES.map(|(name, _)| name).join(", ");
        LoadError::Unsupported(format!(
            "{file}: GGUF files of architecture {architecture:?} are not there yet; those that are: {names}"
        ))
    })
}

/// The config that transformers would have for this file. Without files, of which only the headers are known then, it lacks the
/// factors that positions are stretched by, where a tensor holds them.
pub(super) fn config(gguf: &Gguf, files: Option<&ModelFiles>) -> Result<Value, LoadError> {
    let header = gguf.head();
    let architecture = header.architecture()?;
    let family = family(header.name(), architecture)?;
    let keys = Keys { gguf, header, architecture };
    keys.refuse_what_is_not_there()?;
    let num_layers = keys.required("block_count")?;
    let num_heads = keys.required("attention.head_count")?;
    let hidden_size = keys.required("embedding_length")?;
    let head_dim = keys.head_dim(hidden_size, num_heads)?;
    let epsilon = keys
        .number("attention.layer_norm_rms_epsilon")
        .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?;
    let has = |name: &str| gguf.tensor(name).is_some();
    // The table may have more rows than there are tokens.
    let vocab_size = match gguf.tensor("token_embd.weight").map(|tensor| &tensor.info.shape[..]) {
        Some([vocab_size, _]) => *vocab_size,
        _ => return Err(header.corrupt("there is no matrix token_embd.weight in it")),
    };
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| drop(config.insert(key.into(), value));
    set("model_type", json!(family));
    set("vocab_size", json!(vocab_size));
    set("hidden_size", json!(hidden_size));
    set("intermediate_size", json!(keys.required("feed_forward_length")?));
    set("num_hidden_layers", json!(num_layers));
    set("num_attention_heads", json!(num_heads));
    set("num_key_value_heads", json!(keys.count("attention.head_count_kv")?.unwrap_or(num_heads)));
    set("head_dim", json!(head_dim));
    set("max_position_embeddings", json!(keys.required("context_length")?));
    set("rms_norm_eps", json!(epsilon));
    set("rope_theta", json!(keys.number("rope.freq_base").unwrap_or(10_000.0)));
    // A file with a head of its own means it; one without has it tied.
    set("tie_word_embeddings", json!(true));
    set("attention_bias", json!(has("blk.0.attn_q.bias")));
    set("mlp_bias", json!(has("blk.0.ffn_gate.bias")));
    set("bos_token_id", json!(header.number("tokenizer.ggml.bos_token_id").map(|id| id as u64)));
    if family == "smollm3" {
        // llama.cpp has the rule in its code and not in the file.
        set("no_rope_layer_interval", json!(4));
    }
    if let Some(scaling) = keys.rope_scaling(head_dim, files)? {
        set("rope_scaling", scaling);
    }
    keys.windows(family, num_layers, &mut config)?;
    Ok(Value::Object(config))
}

/// The hyperparameters of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    header: &'a Header,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn count(&self, name: &str) -> Result<Option<usize>, LoadError> {
        self.header.count(&self.key(name))
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.header.number(&self.key(name))
    }

    fn missing(&self, name: &str) -> LoadError {
        self.header.corrupt(format!("`{}` is missing", self.key(name)))
    }

    /// A number of things, at least one.
    fn required(&self, name: &str) -> Result<usize, LoadError> {
        self.count(name)?.filter(|count| *count > 0).ok_or_else(|| self.missing(name))
    }

    fn unsupported(&self, why: String) -> LoadError {
        LoadError::Unsupported(format!("{}: {why}", self.header.name()))
    }

    fn refuse_what_is_not_there(&self) -> Result<(), LoadError> {
        match self.count("expert_count")? {
            None | Some(0) => Ok(()),
            Some(count) => Err(self.unsupported(format!(
                "a mixture of {count} experts, which is not there yet for {:?}",
                self.architecture
            ))),
        }
    }

    fn head_dim(&self, hidden_size: usize, num_heads: usize) -> Result<usize, LoadError> {
        let rotated = self.count("rope.dimension_count")?;
        let keys = self.count("attention.key_length")?;
        let head_dim = keys.unwrap_or(hidden_size / num_heads);
        for (name, given) in [
            ("attention.value_length", self.count("attention.value_length")?),
            ("rope.dimension_count", rotated),
        ] {
            if let Some(given) = given.filter(|given| *given != head_dim) {
                return Err(self.unsupported(format!(
                    "`{}` is {given} where heads have {head_dim} elements, which is not there for this family",
                    self.key(name)
                )));
            }
        }
        Ok(head_dim)
    }

    /// The `rope_scaling` of the config, if positions are stretched at all.
    fn rope_scaling(&self, head_dim: usize, files: Option<&ModelFiles>) -> Result<Option<Value>, LoadError> {
        if let Some(factors) = self.rope_factors(head_dim, files)? {
            return Ok(Some(json!({"rope_type": "factors", "factors": factors})));
        }
        let original = self.count("rope.scaling.original_context_length")?;
        // Old files have the factor alone.
        let factor = self.number("rope.scaling.factor").or_else(|| self.number("rope.scale_linear"));
        let kind = self.header.text(&self.key("rope.scaling.type"));
        let kind = kind.unwrap_or(if factor.is_some_and(|factor| factor != 0.0) { "linear" } else { "none" });
        let factor =
            || factor.filter(|factor| *factor > 0.0).ok_or_else(|| self.missing("rope.scaling.factor"));
        Ok(match kind {
            "none" => None,
            "linear" => Some(json!({"rope_type": "linear", "factor": factor()?})),
            "yarn" => {
                let factor = factor()?;
                let mut scaling = json!({"rope_type": "yarn", "factor": factor});
                if let Some(original) = original {
                    scaling["original_max_position_embeddings"] = json!(original);
                }
                let given = [
                    ("beta_fast", "rope.scaling.yarn_beta_fast"),
                    ("beta_slow", "rope.scaling.yarn_beta_slow"),
                ];
                for (theirs, ours) in given {
                    if let Some(value) = self.number(ours) {
                        scaling[theirs] = json!(value);
                    }
                }
                // ggml multiplies what it computes itself by this.
                let attention = self
                    .number("rope.scaling.yarn_attn_factor")
                    .or_else(|| self.number("rope.scaling.attn_factor"));
                if let Some(attention) = attention {
                    scaling["attention_factor"] = json!(attention * (1.0 + 0.1 * factor.max(1.0).ln()));
                }
                Some(scaling)
            }
            other => {
                return Err(self.unsupported(format!(
                    "positions stretched by {other:?} are not there; those that are: linear, yarn, and a tensor of factors"
                )));
            }
        })
    }

    /// What each wavelength is stretched by: the converter works out Llama 3's scaling and keeps only this.
    fn rope_factors(
        &self,
        head_dim: usize,
        files: Option<&ModelFiles>,
    ) -> Result<Option<Vec<f32>>, LoadError> {
        let Some(tensor) = self.gguf.tensor("rope_freqs.weight") else { return Ok(None) };
        let TensorInfo { tensor_type, shape, .. } = &tensor.info;
        if *tensor_type != TensorType::F32 || *shape != [head_dim / 2] {
            return Err(self.header.corrupt(format!(
                "rope_freqs.weight should be {} factors in F32, and is {shape:?} in {tensor_type}",
                head_dim / 2
            )));
        }
        let Some(files) = files else { return Ok(None) };
        let bytes = self.gguf.read(tensor, files)?;
        let factors: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
            return Err(self.header.corrupt("rope_freqs.weight has factors that are not above zero"));
        }
        Ok(Some(factors))
    }

    /// Windows that layers see, spelled as each family spells them.
    fn windows(
        &self,
        family: &str,
        num_layers: usize,
        config: &mut Map<String, Value>,
    ) -> Result<(), LoadError> {
        let window = self.count("attention.sliding_window")?.filter(|window| *window > 0);
        let Some(window) = window else {
            if family == "mistral" {
                config.insert("sliding_window".into(), Value::Null);
            }
            return Ok(());
        };
        let pattern = self.key("attention.sliding_window_pattern");
        let slides: Vec<bool> = match (self.header.numbers(&pattern), self.header.number(&pattern)) {
            (Some(flags), _) if flags.len() >= num_layers => {
                flags[..num_layers].iter().map(|flag| *flag != 0.0).collect()
            }
            (Some(flags), _) => {
                return Err(self
                    .header
                    .corrupt(format!("`{pattern}` has {} entries for {num_layers} layers", flags.len())));
            }
            // Every so manieth layer sees everything.
            (None, Some(every)) if every >= 1.0 => (0..num_layers)
                .map(|layer| every == 1.0 || !(layer + 1).is_multiple_of(every as usize))
                .collect(),
            (None, _) => vec![true; num_layers],
        };
        config.insert("sliding_window".into(), json!(window));
        match family {
            "llama" | "mistral" if slides.iter().all(|slides| *slides) => {
                config.insert("model_type".into(), json!("mistral"));
            }
            "llama" | "mistral" => {
                return Err(
                    self.unsupported("windows on some layers only are not there for this family".into())
                );
            }
            _ => {
                let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
                config.insert("use_sliding_window".into(), json!(true));
                config.insert("layer_types".into(), slides.iter().map(kind).collect());
            }
        }
        Ok(())
    }
}
