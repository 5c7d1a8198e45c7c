//! What makes a vector of each token: an encoder, or a decoder whose head is not asked.

use candle_core::Result;
use candle_core::Tensor;

use super::EncoderConfig;
use super::batch::TextBatch;
use super::encoder::Encoder;
use crate::cache::KvCache;
use crate::kernels::attention::HeadShape;
use crate::layers::decoder::{DecoderBody, DecoderConfig};

/// The layers of a model that encodes.
pub(super) enum Body {
    /// Each token sees the whole text.
    Encoder(Encoder, EncoderConfig),
    /// Each token sees those before it.
    Decoder(DecoderBody, DecoderConfig),
}

impl Body {
    /// The vectors of all tokens: `(rows, hidden)`. `kv` is scratch memory for one layer's keys and values.
    pub(super) fn forward(&self, batch: &TextBatch, kv: &mut KvCache) -> Result<Tensor> {
        match self {
            Self::Encoder(encoder, _) => encoder.forward(batch, kv),
            Self::Decoder(decoder, _) => {
                decoder.states(&batch.token_ids, &batch.positions, &batch.segments(), kv)
            }
        }
    }

    /// Heads of each layer.
    pub(super) fn heads(&self) -> HeadShape {
        match self {
            Self::Encoder(_, config) => config.heads,
            Self::Decoder(_, config) => config.heads,
        }
    }

    /// Width of a token's vector.
    pub(super) fn hidden_size(&self) -> usize {
        match self {
            Self::Encoder(_, config) => config.hidden_size,
            Self::Decoder(_, config) => config.hidden_size,
        }
    }

    /// Types that tokens may have; 0: none.
    pub(super) fn num_types(&self) -> usize {
        match self {
            Self::Encoder(_, config) => config.num_types,
            Self::Decoder(..) => 0,
        }
    }
}
