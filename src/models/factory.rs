//! Which families there are, and how one becomes a model.

use std::sync::Arc;

use candlewick_engine::{KvDType, LoadError, LoadOptions, ModelFactory, ModelFiles, ModelInfo, Weights};
use serde_json::Value;

use crate::cache::bytes_per_token;
use crate::config::{Config, corrupt};
use crate::kernels::attention::HeadShape;
use crate::kernels::level::Level;
use crate::kernels::packed::Kind;
use crate::kernels::pool::Pool;
use crate::layers::decoder::{Decoder, DecoderConfig};
use crate::model::DecoderWeights;
use crate::weights::{Checkpoint, WeightReader};
use crate::{encoders, llama, mistral, qwen2, qwen3, smollm3};

type ReadConfig = fn(Config<'_>) -> Result<DecoderConfig, LoadError>;

/// `model_type` → how its config is read.
const FAMILIES: &[(&str, ReadConfig)] = &[
    ("llama", llama::config),
    ("mistral", mistral::config),
    ("qwen2", qwen2::config),
    ("qwen3", qwen3::config),
    ("smollm3", smollm3::config),
];

/// Makes models that compute on the CPU. All of them share one pool of threads, so that two busy models take turns
/// rather than oversubscribe the cores; a panic in a step ends that step, and the pool goes on.
pub struct CandleFactory {
    pool: Arc<Pool>,
}

impl CandleFactory {
    /// A factory whose models compute on that many threads; `None` takes as many as the machine has cores. The number
    /// changes how fast an answer comes and nothing else.
    ///
    /// # Errors
    /// [`LoadError::Internal`] if the system refuses the threads.
    pub fn new(threads: Option<usize>) -> Result<Self, LoadError> {
        let num_threads = match threads {
            Some(num_threads) => num_threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let pool = Pool::new(num_threads)
            .map_err(|error| LoadError::Internal(format!("compute threads could not be started: {error}")))?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Has the kernels of this process run on a level of instructions below the machine's best: `portable`, `avx2`,
    /// `avx-vnni`, `avx512`, `avx512-vnni` or `avx512-bf16`; on 64-bit Arm `portable`, `neon`, `neon-dotprod` or `neon-bf16`. To be
    /// called before anything is computed.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] if the machine lacks it, or another level is in use already.
    pub fn choose_kernels(level: &str) -> Result<(), LoadError> {
        Level::choose(level).map_err(LoadError::Unsupported)
    }

    /// Threads that its models compute on.
    pub fn num_threads(&self) -> usize {
        self.pool.num_threads()
    }
}

impl ModelFactory for CandleFactory {
    fn check(&self, config: &Value) -> Result<(), LoadError> {
        if encoders::is_encoder(config) {
            refuse_quantized(Config(config))?;
            return encoders::check(config);
        }
        read_config(config).map(drop)
    }

    fn weight_bytes(&self, files: &ModelFiles, options: &LoadOptions) -> Result<u64, LoadError> {
        Ok(Checkpoint::open(files)?.bytes_in_memory(options))
    }

    fn load(
        &self,
        files: &ModelFiles,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        let json = files.json("config.json")?;
        let json = json.ok_or_else(|| LoadError::NotFound("there is no config.json".into()))?;
        if encoders::is_encoder(&json) {
            return encoders::load(&json, files, options, &self.pool, on_progress);
        }
        let config = read_config(&json)?;
        if files.get("modules.json").is_some() {
            // Whoever wrote that file means an embedder.
            refuse_bidirectional(&json)?;
            return encoders::load_decoder(config, files, options, &self.pool, on_progress);
        }
        let checkpoint = Checkpoint::open(files)?;
        let mut reader = WeightReader::new(&checkpoint, options.clone(), &self.pool, on_progress);
        let decoder = Decoder::load(&config, &mut reader)?;
        let by_weights = || kv_dtype(decoder.kind(), config.layers.len(), config.heads);
        let kv_dtype = options.kv_cache.unwrap_or_else(by_weights);
        warn_of_unread(&config, &reader.unread());
        let info = ModelInfo {
            family: config.family.into(),
            max_position_embeddings: config.rope.context(config.max_position_embeddings),
            vocab_size: config.vocab_size,
            num_parameters: reader.num_parameters,
            weight_bytes: reader.num_bytes,
            kv_bytes_per_token: bytes_per_token(config.layers.len(), config.heads, kv_dtype),
            encoder: None,
        };
        finish_progress(on_progress, checkpoint.len() as u64)?;
        let (num_layers, heads) = (config.layers.len(), config.heads);
        Ok(Arc::new(DecoderWeights::new(decoder, info, num_layers, heads, kv_dtype, self.pool.clone())))
    }
}

/// Keys and values are kept in the type of the weights, as torch does, in `f16` for quantized ones, as llama.cpp does, but
/// in `f32` where a token takes so little that rounding would save nothing.
fn kv_dtype(weights: Kind, num_layers: usize, heads: HeadShape) -> KvDType {
    const EXACT_BYTES_MAX: u64 = 8 << 10;
    match weights {
        Kind::F32 => KvDType::F32,
        _ if bytes_per_token(num_layers, heads, KvDType::F32) <= EXACT_BYTES_MAX => KvDType::F32,
        Kind::Bf16 => KvDType::Bf16,
        _ => KvDType::F16,
    }
}

/// Reads a config by its family, or says what is not there.
fn read_config(json: &Value) -> Result<DecoderConfig, LoadError> {
    let config = Config(json);
    let Some(family) = config.get("model_type") else {
        return Err(corrupt("it has no `model_type`".into()));
    };
    let family = config.text("model_type", "").map_err(|_| corrupt(format!("`model_type` is {family}")))?;
    let Some((_, read)) = FAMILIES.iter().find(|(name, _)| *name == family) else {
        let names: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).chain(encoders::families()).collect();
        return Err(LoadError::Unsupported(format!(
            "models of type {family:?} are not there yet; those that are: {}",
            names.join(", ")
        )));
    };
    refuse_quantized(config)?;
    if let Some(architectures) =
        config.get("architectures").and_then(Value::as_array).filter(|all| !all.is_empty())
    {
        let generates = |name: &str| name.ends_with("ForCausalLM") || name.ends_with("Model");
        if !architectures.iter().filter_map(Value::as_str).any(generates) {
            return Err(LoadError::Unsupported(format!(
                "{} does not generate text; of {family}, only …ForCausalLM is there",
                Value::from(architectures.clone())
            )));
        }
    }
    read(config)
}

/// Embedders that were made of decoders may have been taught to look ahead.
fn refuse_bidirectional(json: &Value) -> Result<(), LoadError> {
    let looks_ahead = json["is_causal"] == false || json["use_bidirectional_attention"] == true;
    match looks_ahead {
        true => Err(LoadError::Unsupported(
            "a decoder whose tokens see the whole text (`is_causal`, `use_bidirectional_attention`) is not there".into(),
        )),
        false => Ok(()),
    }
}

fn refuse_quantized(config: Config<'_>) -> Result<(), LoadError> {
    let Some(quantization) = config.get("quantization_config") else { return Ok(()) };
    let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
    Err(LoadError::Unsupported(format!(
        "weights quantized by {method:?} are not read yet; use a checkpoint in BF16, F16 or F32"
    )))
}

/// Tells of tensors that the config does not call for: the likeliest sign of a config that is not the checkpoint's.
fn warn_of_unread(config: &DecoderConfig, unread: &[&str]) {
    // Old checkpoints store what is computed from the config, and some store a tied head twice.
    let strange = |name: &&&str| {
        !name.ends_with("rotary_emb.inv_freq") && !matches!(**name, "lm_head.weight" | "rope_freqs.weight")
    };
    if let Some(first) = unread.iter().find(strange) {
        let num_unread = unread.iter().filter(strange).count();
        tracing::warn!(
            family = config.family,
            num_unread,
            first,
            "tensors that the config does not call for"
        );
    }
}

/// Reports the whole as done, whatever share of the checkpoint's tensors the model called for.
pub(crate) fn finish_progress(
    on_progress: &mut dyn FnMut(u64, u64) -> bool,
    total: u64,
) -> Result<(), LoadError> {
    if on_progress(total, total) { Ok(()) } else { Err(LoadError::Internal("loading was stopped".into())) }
}
