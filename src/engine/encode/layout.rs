//! What a repository in the layout of sentence-transformers says of how texts become vectors: `modules.json` and the
//! files that it names.
//!
//! Without `modules.json` a text's vector is the mean of its tokens', at unit length.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{LoadError, ModelFiles};

const MODULES: &str = "modules.json";
const SENTENCE: &str = "config_sentence_transformers.json";

/// How texts are given to an encoder, and what is made of its tokens' vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct SentenceLayout {
    /// What is done to the vectors of the tokens, in order; the first is a pooling.
    pub steps: Vec<SentenceStep>,
    /// Longest text in tokens, special ones included, if the repository says so.
    pub max_tokens: Option<usize>,
    /// Texts are made lower case first.
    pub lowercase: bool,
    /// What is put before texts, by name.
    pub prompts: BTreeMap<String, String>,
    /// The prompt that is put before texts for which none is named.
    pub default_prompt: Option<String>,
    /// How vectors are compared.
    pub similarity: Similarity,
    /// Whether vectors may be cut short.
    pub matryoshka: Matryoshka,
    /// There is a `modules.json`: the repository is of an embedder, whatever its architecture.
    pub is_declared: bool,
}

/// One step after the transformer.
#[derive(Debug, Clone, PartialEq)]
pub enum SentenceStep {
    /// From the vectors of all tokens to one.
    Pool(Pooling),
    /// A dense layer.
    Dense(DenseStep),
    /// To unit length.
    Normalize,
}

/// How one vector is made of many.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooling {
    /// In which ways; the vectors of several are joined.
    pub modes: Vec<PoolMode>,
    /// Whether the tokens of the prompt take part.
    pub include_prompt: bool,
}

/// A way to make one vector of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// The first token's.
    Cls,
    /// The largest of each element.
    Max,
    /// The mean.
    Mean,
    /// The sum divided by the root of the number of tokens.
    MeanSqrtLen,
    /// The mean, each weighted by its place from 1.
    WeightedMean,
    /// The last token's.
    LastToken,
}

/// A dense layer after pooling.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseStep {
    /// Where its files are.
    pub folder: String,
    /// Inputs.
    pub num_in: usize,
    /// Outputs.
    pub num_out: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// The activation's class, without its module.
    pub activation: String,
}

/// How vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Similarity {
    /// The cosine of their angle.
    Cosine,
    /// The dot product.
    Dot,
    /// Minus the euclidean distance.
    Euclidean,
    /// Minus the sum of the absolute differences.
    Manhattan,
}

/// Whether the beginning of a vector is a vector of its own (Kusupati et al. 2022, arXiv:2205.13147).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matryoshka {
    /// Nothing is said, so no.
    No,
    /// Any length.
    Any,
    /// These lengths.
    Only(Vec<usize>),
}

/// The names of poolings, as `1_Pooling/config.json` has them as flags (`pooling_mode_…`) or as values, in the order in
/// which their vectors are joined.
const POOL_MODES: [(&str, &str, PoolMode); 6] = [
    ("pooling_mode_cls_token", "cls", PoolMode::Cls),
    ("pooling_mode_max_tokens", "max", PoolMode::Max),
    ("pooling_mode_mean_tokens", "mean", PoolMode::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", PoolMode::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", "weightedmean", PoolMode::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", PoolMode::LastToken),
];

impl SentenceLayout {
    /// The names of the files that it may be made of, other than those of folders that `modules.json` names.
    pub(crate) fn is_part(name: &str) -> bool {
        let in_folder = name.split_once('/').is_some_and(|(folder, file)| {
            let is_step = folder.split_once('_').is_some_and(|(number, kind)| {
                number.bytes().all(|byte| byte.is_ascii_digit()) && matches!(kind, "Pooling" | "Dense")
            });
            is_step && matches!(file, "config.json" | "model.safetensors")
        });
        in_folder
            || name == MODULES
            || name == SENTENCE
            || (name.starts_with("sentence_") && name.ends_with("_config.json"))
    }

    /// Reads it.
    ///
    /// # Errors
    /// `Corrupt` for files that are not what they should be, `Unsupported` for steps that are not there.
    pub fn load(files: &ModelFiles) -> Result<Self, LoadError> {
        let modules = files.json(MODULES)?;
        let steps = match &modules {
            Some(modules) => read_steps(files, modules)?,
            None => vec![SentenceStep::Pool(Pooling::mean()), SentenceStep::Normalize],
        };
        let sentence = files.json(SENTENCE)?.unwrap_or_default();
        let name =
            files.files.keys().find(|name| name.starts_with("sentence_") && name.ends_with("_config.json"));
        let transformer = name.map(|name| files.json(name)).transpose()?.flatten().unwrap_or_default();
        let prompts = sentence["prompts"].as_object().into_iter().flatten();
        let prompts = prompts.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())));
        let config = files.json("config.json")?.unwrap_or_default();
        Ok(Self {
            steps,
            max_tokens: transformer["max_seq_length"].as_u64().map(|len| len as usize),
            lowercase: transformer["do_lower_case"].as_bool().unwrap_or(false),
            prompts: prompts.collect(),
            default_prompt: sentence["default_prompt_name"].as_str().map(str::to_owned),
            similarity: read_similarity(&sentence)?,
            matryoshka: read_matryoshka(&config, &sentence),
            is_declared: modules.is_some(),
        })
    }

    /// Elements of a text's vector, of an encoder whose tokens have so many.
    pub fn width(&self, hidden_size: usize) -> usize {
        self.steps.iter().fold(hidden_size, |width, step| match step {
            SentenceStep::Pool(pooling) => width * pooling.modes.len(),
            SentenceStep::Dense(dense) => dense.num_out,
            SentenceStep::Normalize => width,
        })
    }

    /// Whether vectors come at unit length.
    pub fn normalizes(&self) -> bool {
        self.steps.last() == Some(&SentenceStep::Normalize)
    }
}

impl Pooling {
    /// The mean of all tokens.
    fn mean() -> Self {
        Self { modes: vec![PoolMode::Mean], include_prompt: true }
    }
}

fn corrupt(file: &str, why: String) -> LoadError {
    LoadError::Corrupt { file: file.into(), why }
}

fn read_steps(files: &ModelFiles, modules: &Value) -> Result<Vec<SentenceStep>, LoadError> {
    let modules = modules.as_array().ok_or_else(|| corrupt(MODULES, "it should be a list".into()))?;
    let mut steps = Vec::new();
    for (index, module) in modules.iter().enumerate() {
        let (class, folder) =
            (module["type"].as_str().unwrap_or_default(), module["path"].as_str().unwrap_or_default());
        let class = class.rsplit('.').next().unwrap_or_default();
        match class {
            "Transformer" if index == 0 => {}
            "Pooling" if steps.is_empty() => steps.push(SentenceStep::Pool(read_pooling(files, folder)?)),
            "Dense" if !steps.is_empty() => steps.push(SentenceStep::Dense(read_dense(files, folder)?)),
            "Normalize" if !steps.is_empty() => steps.push(SentenceStep::Normalize),
            "Dropout" => {}
            _ => {
                return Err(LoadError::Unsupported(format!(
                    "{MODULES}: {class:?} as module {index} is not there; a Transformer, a Pooling and then Dense and \
                     Normalize are"
                )));
            }
        }
    }
    if steps.is_empty() {
        return Err(LoadError::Unsupported(format!("{MODULES}: there is no Pooling in it")));
    }
    Ok(steps)
}

fn read_pooling(files: &ModelFiles, folder: &str) -> Result<Pooling, LoadError> {
    let name = format!("{folder}/config.json");
    let config = files.json(&name)?.ok_or_else(|| corrupt(MODULES, format!("{name} is not there")))?;
    let named: Vec<&str> = match &config["pooling_mode"] {
        Value::String(mode) => vec![mode],
        Value::Array(modes) => modes.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_on = |flag: &str, mode: &str| config[flag].as_bool().unwrap_or(false) || named.contains(&mode);
    let modes: Vec<_> =
        POOL_MODES.iter().filter(|(flag, mode, _)| is_on(flag, mode)).map(|(_, _, mode)| *mode).collect();
    if modes.is_empty() {
        return Err(corrupt(&name, "no pooling is switched on".into()));
    }
    Ok(Pooling { modes, include_prompt: config["include_prompt"].as_bool().unwrap_or(true) })
}

fn read_dense(files: &ModelFiles, folder: &str) -> Result<DenseStep, LoadError> {
    let name = format!("{folder}/config.json");
    let config = files.json(&name)?.ok_or_else(|| corrupt(MODULES, format!("{name} is not there")))?;
    let count = |key: &str| {
        let count = config[key].as_u64().filter(|count| *count > 0).map(|count| count as usize);
        count.ok_or_else(|| corrupt(&name, format!("`{key}` should be a positive whole number")))
    };
    let activation = config["activation_function"].as_str().unwrap_or("torch.nn.modules.activation.Tanh");
    Ok(DenseStep {
        folder: folder.into(),
        num_in: count("in_features")?,
        num_out: count("out_features")?,
        bias: config["bias"].as_bool().unwrap_or(true),
        activation: activation.rsplit('.').next().unwrap_or_default().into(),
    })
}

fn read_similarity(sentence: &Value) -> Result<Similarity, LoadError> {
    Ok(match sentence["similarity_fn_name"].as_str() {
        None | Some("cosine") => Similarity::Cosine,
        Some("dot" | "dot_product") => Similarity::Dot,
        Some("euclidean") => Similarity::Euclidean,
        Some("manhattan") => Similarity::Manhattan,
        Some(other) => {
            return Err(LoadError::Unsupported(format!("{SENTENCE}: similarity {other:?} is not there")));
        }
    })
}

/// As vLLM asks it: `is_matryoshka`, or the lengths that are meant.
fn read_matryoshka(config: &Value, sentence: &Value) -> Matryoshka {
    if let Some(lengths) = config["matryoshka_dimensions"].as_array() {
        return Matryoshka::Only(lengths.iter().filter_map(Value::as_u64).map(|len| len as usize).collect());
    }
    let is_cut = sentence["truncate_dim"].as_u64().is_some();
    if config["is_matryoshka"].as_bool().unwrap_or(false) || is_cut {
        Matryoshka::Any
    } else {
        Matryoshka::No
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ModelFile;

    fn files(files: &[(&str, Value)]) -> ModelFiles {
        let files = files
            .iter()
            .map(|(name, json)| ((*name).to_owned(), ModelFile::Made(json.to_string().into_bytes().into())));
        ModelFiles { files: files.collect(), gguf: None }
    }

    fn modules(kinds: &[&str]) -> Value {
        let module = |(index, kind): (usize, &&str)| json!({"idx": index, "path": format!("{index}_{kind}"), "type": format!("sentence_transformers.models.{kind}")});
        kinds.iter().enumerate().map(module).collect()
    }

    #[test]
    fn steps_are_read_in_their_order() {
        let layout = SentenceLayout::load(&files(&[
            ("modules.json", modules(&["Transformer", "Pooling", "Dense", "Normalize"])),
            ("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true, "include_prompt": false})),
            ("2_Dense/config.json", json!({"in_features": 8, "out_features": 3, "bias": false, "activation_function": "torch.nn.modules.linear.Identity"})),
            ("sentence_bert_config.json", json!({"max_seq_length": 64, "do_lower_case": true})),
            ("config_sentence_transformers.json", json!({"prompts": {"query": "query: "}, "similarity_fn_name": "dot"})),
        ]))
        .unwrap();
        assert_eq!(
            layout.steps[0],
            SentenceStep::Pool(Pooling { modes: vec![PoolMode::Cls, PoolMode::Mean], include_prompt: false })
        );
        assert!(
            matches!(&layout.steps[1], SentenceStep::Dense(dense) if dense.activation == "Identity" && !dense.bias)
        );
        assert!(layout.normalizes() && layout.is_declared && layout.lowercase);
        assert_eq!((layout.width(4), layout.max_tokens), (3, Some(64)));
        assert_eq!((layout.prompts["query"].as_str(), layout.similarity), ("query: ", Similarity::Dot));
    }

    #[test]
    fn a_repository_that_says_nothing_is_pooled_by_the_mean() {
        let layout = SentenceLayout::load(&files(&[])).unwrap();
        assert_eq!((layout.width(7), layout.normalizes(), layout.is_declared), (7, true, false));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let refused = |list: &[(&str, Value)]| SentenceLayout::load(&files(list)).unwrap_err().to_string();
        assert!(
            refused(&[("modules.json", modules(&["Transformer", "CNN"]))]).contains("\"CNN\" as module 1")
        );
        assert!(refused(&[("modules.json", modules(&["Transformer"]))]).contains("no Pooling"));
        let modules = ("modules.json", modules(&["Transformer", "Pooling"]));
        assert!(refused(std::slice::from_ref(&modules)).contains("1_Pooling/config.json is not there"));
        assert!(refused(&[modules, ("1_Pooling/config.json", json!({}))]).contains("no pooling"));
    }

    #[test]
    fn lengths_are_as_the_config_says() {
        assert_eq!(read_matryoshka(&json!({}), &json!({})), Matryoshka::No);
        assert_eq!(read_matryoshka(&json!({"is_matryoshka": true}), &json!({})), Matryoshka::Any);
        let only = read_matryoshka(&json!({"matryoshka_dimensions": [64, 128]}), &json!({}));
        assert_eq!(only, Matryoshka::Only(vec![64, 128]));
    }
}
