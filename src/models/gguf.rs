//! A GGUF file's tensors under the names of the Hub's checkpoints.
//!
//! Besides names, one thing differs: under Llama's rotation llama.cpp keeps the rows of queries and keys so that the two
//! elements which turn together lie side by side, and the Hub keeps them half a head apart.

use candlewick_engine::gguf::{Gguf, TensorType};
use candlewick_engine::{LoadError, ModelFiles};

use crate::weights::{Entry, Stored};

/// Architectures whose queries and keys are kept for Llama's rotation.
const INTERLEAVED: [&str; 3] = ["llama", "mistral", "smollm3"];

/// The order of a tensor's rows in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As the Hub's checkpoints have them.
    AsStored,
    /// Within each head, the row of the first half beside that of the second.
    Interleaved {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where in the file a row of the Hub's order is.
    pub(crate) fn stored_row(self, row: usize) -> usize {
        match self {
            Self::AsStored => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, index) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * index + half
            }
        }
    }
}

/// The tensors of a GGUF model, and the files that they are in.
pub(crate) struct GgufTensors {
    /// Names of the files; an entry's shard is one of these.
    pub(crate) files: Vec<String>,
    /// Tensors by the Hub's names.
    pub(crate) entries: Vec<(String, Entry)>,
}

/// Reads the headers of a file, or of its set.
pub(crate) fn tensors(name: &str, files: &ModelFiles) -> Result<GgufTensors, LoadError> {
    let gguf = Gguf::open(name, files)?;
    let head = gguf.head();
    let architecture = head.architecture()?;
    let is_interleaved = INTERLEAVED.contains(&architecture);
    let count = |key: &str| head.count(&format!("{architecture}.{key}"));
    let num_heads = count("attention.head_count")?.unwrap_or(1);
    let num_kv_heads = count("attention.head_count_kv")?.unwrap_or(num_heads);
    let entries = gguf.tensors().iter().map(|(name, tensor)| {
        let shape = tensor.info.shape.clone();
        let heads = match name.rsplit('.').nth(1) {
            Some("attn_q") if is_interleaved => num_heads,
            Some("attn_k") if is_interleaved => num_kv_heads,
            _ => 0,
        };
        let order = match shape[0].checked_div(heads) {
            // A shape that does not fit its heads is refused where the tensor is asked for.
            Some(head_dim) if head_dim * heads == shape[0] && head_dim.is_multiple_of(2) => {
                RowOrder::Interleaved { head_dim }
            }
            _ => RowOrder::AsStored,
        };
        let stored = match tensor.info.tensor_type {
            TensorType::Other(_) => Stored::Unread(tensor.info.tensor_type.to_string()),
            known => Stored::As(known),
        };
        let range = tensor.info.range.start as usize..tensor.info.range.end as usize;
        (hub_name(name), Entry { shard: tensor.file, stored, shape, range, order })
    });
    Ok(GgufTensors { entries: entries.collect(), files: gguf.names().to_vec() })
}

/// The Hub's name for a tensor; one that is not known keeps its own.
fn hub_name(name: &str) -> String {
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    let renamed = match stem {
        "token_embd" => "model.embed_tokens".into(),
        "output_norm" => "model.norm".into(),
        "output" => "lm_head".into(),
        _ => match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => match part_name(part) {
                Some(part) => format!("model.layers.{layer}.{part}"),
                None => return name.into(),
            },
            None => return name.into(),
        },
    };
    format!("{renamed}.{suffix}")
}

fn part_name(part: &str) -> Option<&'static str> {
    Some(match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_hub() {
        assert_eq!(hub_name("token_embd.weight"), "model.embed_tokens.weight");
        assert_eq!(hub_name("output.weight"), "lm_head.weight");
        assert_eq!(hub_name("blk.12.attn_q.bias"), "model.layers.12.self_attn.q_proj.bias");
        assert_eq!(hub_name("blk.0.ffn_down.weight"), "model.layers.0.mlp.down_proj.weight");
        assert_eq!(hub_name("rope_freqs.weight"), "rope_freqs.weight");
        assert_eq!(hub_name("blk.0.ffn_gate_inp.weight"), "blk.0.ffn_gate_inp.weight");
    }

    #[test]
    fn interleaved_rows_are_found_half_a_head_apart() {
        // llama.cpp's converter: (heads, 2, half) → (heads, half, 2).
        let order = RowOrder::Interleaved { head_dim: 6 };
        let rows: Vec<usize> = (0..12).map(|row| order.stored_row(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
