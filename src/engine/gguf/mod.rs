//! GGUF (ggml's `docs/gguf.md`): one file, or several of a set, with tensors, tokenizer and configuration.
//!
//! [`Header`] is what a file says about itself, read without its tensors; [`Gguf`] the files of a set as one. [`unfold`] tells it again in the words of a
//! Hub repository (`config.json`, `tokenizer.json`, …), so that nothing after it need know where a model came from.
//!
//! Files come from strangers. Nothing is allocated on the word of a header: each count and length is held against the
//! bytes that are left, and against a limit that real files stay far below.

mod ahead;
mod config;
mod header;
mod pre_tokenizer;
mod reader;
mod set;
mod tensor_type;
#[cfg(test)]
mod tests;
mod tokenizer;
mod value;

use serde_json::{Map, Value, json};

pub use self::ahead::{Ahead, check_ahead};
pub use self::header::{Header, TensorInfo, context_length};
pub use self::set::{Gguf, GgufTensor};
pub use self::tensor_type::TensorType;

use crate::{LoadError, ModelFile, ModelFiles};

/// Adds to the files of a model that is a GGUF file what a repository would have beside its weights: `config.json`,
/// `generation_config.json`, `tokenizer.json` and `tokenizer_config.json`, made of its metadata. Files of these names
/// that are there already give way: a GGUF file is whole in itself, and what it says is what it was made with.
/// Does nothing if the model is no GGUF file. Blocks.
///
/// # Errors
/// `Corrupt` for a file that is broken, `Unsupported` for a model or tokenizer of a kind that we do not have.
pub fn unfold(files: &mut ModelFiles) -> Result<(), LoadError> {
    let Some(name) = files.gguf.clone() else { return Ok(()) };
    let gguf = Gguf::open(&name, files)?;
    let header = gguf.head();
    let made = [
        ("config.json", config::config(&gguf, Some(files))?),
        ("generation_config.json", generation_config(header)),
        ("tokenizer.json", tokenizer::tokenizer(header)?),
        ("tokenizer_config.json", tokenizer::tokenizer_config(header)?),
    ];
    for (name, value) in made {
        let bytes = serde_json::to_vec(&value).map_err(|error| LoadError::Internal(error.to_string()))?;
        files.files.insert(name.into(), ModelFile::Made(bytes.into()));
    }
    Ok(())
}

/// What the file says about generating: where it ends, and how its makers sample it.
fn generation_config(header: &Header) -> Value {
    let mut config = Map::new();
    config.insert("eos_token_id".into(), json!(tokenizer::end_ids(header)));
    let sampling = [
        ("temp", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ];
    for (ours, theirs) in sampling {
        let key = format!("general.sampling.{ours}");
        if let Some(value) = header.number(&key) {
            let value = if value.fract() == 0.0 { json!(value as i64) } else { json!(value) };
            config.insert(theirs.into(), value);
            config.insert("do_sample".into(), json!(true));
        }
    }
    Value::Object(config)
}
