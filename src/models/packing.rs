//! What each matrix is kept as in memory, and the way there from what it is stored as.
//!
//! | stored as | kept as, unless options say otherwise |
//! |---|---|
//! | F32, F16, BF16 | the same |
//! | Q8_0, Q4_0, Q4_1 | the same, bit for bit |
//! | Q4_K | 4 bits with a scale and an offset for each 32: its own 6-bit ones, multiplied out and rounded to half precision |
//! | Q5_0, Q5_1, IQ4_NL, Q2_K, Q3_K, Q5_K, Q6_K, IQ4_XS | 8 bits, a scale for each 32 |
//!
//! The last row costs memory and keeps meaning: half a step of 1/127 of a group's largest weight is the most that is lost.

use std::io;

use candlewick_engine::gguf::TensorType;
use candlewick_engine::{DType, LoadOptions, Quantization};

use crate::ggml;
use crate::gguf::RowOrder;
use crate::kernels::packed::pack::{Packing, Source, Stored, pack_in_regions};
use crate::kernels::packed::{EXACT_MAX, Kind, PANEL, Packed};
use crate::kernels::pages::Arena;

/// A matrix as a file has it.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// What its elements are stored as.
    pub(crate) stored: TensorType,
    /// Its bytes, whole.
    pub(crate) bytes: &'a [u8],
    /// Outputs.
    pub(crate) num_rows: usize,
    /// The order of its rows.
    pub(crate) order: RowOrder,
}

/// What a matrix is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Within a layer.
    Layer,
    /// From the last layer to logits, where an error goes straight into the answer.
    Head,
}

/// What matrices that are packed as one are kept as. An explicit precision is taken at its word, also for what a file has
/// quantised; a quantisation is for what it has not.
pub(crate) fn kind(matrices: &[Matrix<'_>], num_in: usize, role: Role, options: &LoadOptions) -> Kind {
    let stored = matrices.iter().map(|matrix| matrix.stored);
    let are_blocks = stored.clone().all(is_block);
    match (options.dtype, options.quantization) {
        (_, Some(scheme)) if !are_blocks => match (scheme, role) {
            (Quantization::Int8, _) => Kind::Int8,
            (Quantization::Q4_0, Role::Layer) => Kind::Q4,
            (Quantization::Q4_1, Role::Layer) => Kind::Q4Affine,
            (Quantization::Q8_0, _) | (_, Role::Head) => Kind::Q8,
        },
        (DType::F32, _) => Kind::F32,
        (DType::F16, _) => Kind::F16,
        (DType::Bf16, _) => Kind::Bf16,
        (DType::Auto, _) => {
            let shared = stored.map(natural).reduce(wider).unwrap_or(Kind::F32);
            let num_weights: usize = matrices.iter().map(|matrix| matrix.num_rows * num_in).sum();
            // What is so small that nothing would be saved is kept in whole.
            if !is_float(shared) && num_weights <= EXACT_MAX { Kind::F32 } else { shared }
        }
    }
}

/// Bytes that a matrix takes once it is packed.
pub(crate) fn packed_bytes(matrix: &Matrix<'_>, num_in: usize, options: &LoadOptions) -> u64 {
    let kind = kind(std::slice::from_ref(matrix), num_in, Role::Layer, options);
    kind.panel_bytes(num_in) as u64 * matrix.num_rows.div_ceil(PANEL) as u64
}

/// Whether elements are stored in blocks that share scales.
fn is_block(stored: TensorType) -> bool {
    !matches!(stored, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

fn natural(stored: TensorType) -> Kind {
    match stored {
        TensorType::F32 => Kind::F32,
        TensorType::F16 => Kind::F16,
        TensorType::BF16 => Kind::Bf16,
        TensorType::Q4_0 => Kind::Q4,
        TensorType::Q4_1 | TensorType::Q4_K => Kind::Q4Affine,
        _ => Kind::Q8,
    }
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::F32 | Kind::F16 | Kind::Bf16)
}

/// The kind that holds what both hold.
fn wider(one: Kind, other: Kind) -> Kind {
    match (one, other) {
        _ if one == other => one,
        // Neither half-precision kind has room for all of the other's values, nor for scales times steps.
        _ if is_float(one) || is_float(other) => Kind::F32,
        (Kind::Q4 | Kind::Q4Affine, Kind::Q4 | Kind::Q4Affine) => Kind::Q4Affine,
        _ => Kind::Q8,
    }
}

/// Packs matrices over the same `k` inputs as one, and calls `after_region` each time when a few megabytes are packed. Fails
/// if the system refuses the memory.
pub(crate) fn pack_matrices(
    kind: Kind,
    k: usize,
    matrices: &[Matrix<'_>],
    packing: Packing,
    arena: &Arena,
    after_region: &dyn Fn(),
) -> io::Result<Packed> {
    let orders: Vec<_> = matrices.iter().map(|matrix| move |row| matrix.order.stored_row(row)).collect();
    let decoders: Vec<_> = matrices
        .iter()
        .map(|matrix| {
            let row_bytes = matrix.bytes.len() / matrix.num_rows.max(1);
            move |row: usize, out: &mut [f32]| {
                let is_read = ggml::decode(matrix.stored, &matrix.bytes[row * row_bytes..][..row_bytes], out);
                debug_assert!(is_read, "types that are not read come no further than the header");
            }
        })
        .collect();
    let sources: Vec<Source<'_>> = matrices
        .iter()
        .zip(&orders)
        .zip(&decoders)
        .map(|((matrix, order), decoder)| {
            let stored = match matrix.stored {
                TensorType::F32 => Stored::F32(matrix.bytes),
                TensorType::F16 => Stored::F16(matrix.bytes),
                TensorType::BF16 => Stored::Bf16(matrix.bytes),
                TensorType::Q8_0 => Stored::Q8_0(matrix.bytes),
                TensorType::Q4_0 => Stored::Q4_0(matrix.bytes),
                TensorType::Q4_1 => Stored::Q4_1(matrix.bytes),
                TensorType::Q4_K => Stored::Q4K(matrix.bytes),
                _ => Stored::Rows(decoder),
            };
            let order =
                (matrix.order != RowOrder::AsStored).then_some(order as &(dyn Fn(usize) -> usize + Sync));
            Source { rows: matrix.num_rows, stored, order }
        })
        .collect();
    pack_in_regions(kind, k, &sources, packing, arena, after_region)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn options(dtype: DType, quantization: Option<Quantization>) -> LoadOptions {
        LoadOptions { dtype, quantization, ..LoadOptions::default() }
    }

    /// What large matrices are kept as.
    fn of(stored: &[TensorType], role: Role, options: &LoadOptions) -> Kind {
        let large = |stored: &TensorType| Matrix {
            stored: *stored,
            bytes: &[],
            num_rows: EXACT_MAX,
            order: RowOrder::AsStored,
        };
        kind(&stored.iter().map(large).collect::<Vec<_>>(), 256, role, options)
    }

    /// The fixture's blocks of a type, two rows of 256.
    fn blocks(name: &str) -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/gguf/blocks.json");
        let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let hex = cases[name]["bytes"].as_str().unwrap();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// The largest error of packing a type by its own kind, as a share of the largest weight of the 32 around it.
    #[track_caller]
    fn check(stored: TensorType, kept: Kind, bound: f32) {
        let bytes = blocks(&stored.to_string());
        assert_eq!(of(&[stored], Role::Layer, &LoadOptions::default()), kept, "{stored}");
        let matrix = Matrix { stored, bytes: &bytes, num_rows: 2, order: RowOrder::AsStored };
        let packed = pack_matrices(kept, 256, &[matrix], Packing::Joined, &Arena::default(), &|| {}).unwrap();
        let (mut expected, mut found) = ([0.0; 512], [0.0; 512]);
        ggml::decode(stored, &bytes, &mut expected);
        let (first, second) = found.split_at_mut(256);
        packed.row(0, first);
        packed.row(1, second);
        for (found, expected) in found.chunks(32).zip(expected.chunks(32)) {
            let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            for (found, expected) in found.iter().zip(expected) {
                let error = (found - expected).abs();
                assert!(error <= bound * largest, "{stored}: {found}, not {expected}, beside {largest}");
            }
        }
    }

    #[test]
    fn what_a_file_has_quantised_keeps_its_meaning() {
        for (stored, kept) in [
            (TensorType::F32, Kind::F32),
            (TensorType::F16, Kind::F16),
            (TensorType::BF16, Kind::Bf16),
            (TensorType::Q8_0, Kind::Q8),
            (TensorType::Q4_0, Kind::Q4),
            (TensorType::Q4_1, Kind::Q4Affine),
        ] {
            check(stored, kept, 1e-6);
        }
        // Scale and offset rounded to half precision: 2⁻¹¹ each, of at most 15 scales and an offset as large.
        check(TensorType::Q4_K, Kind::Q4Affine, 2e-3);
        // Half a step of 8 bits, and the scale's own rounding over 127 steps.
        for stored in [
            TensorType::Q5_0,
            TensorType::Q5_1,
            TensorType::IQ4_NL,
            TensorType::Q2_K,
            TensorType::Q3_K,
            TensorType::Q5_K,
            TensorType::Q6_K,
            TensorType::IQ4_XS,
        ] {
            check(stored, Kind::Q8, 0.5 / 127.0 + 6e-4);
        }
    }

    #[test]
    fn options_decide_what_is_quantised() {
        let (bf16, q4) = (TensorType::BF16, TensorType::Q4_0);
        let q4_0 = options(DType::Auto, Some(Quantization::Q4_0));
        assert_eq!(of(&[bf16, bf16], Role::Layer, &q4_0), Kind::Q4);
        assert_eq!(of(&[bf16], Role::Head, &q4_0), Kind::Q8, "the head is kept in 8 bits at least");
        assert_eq!(of(&[q4], Role::Layer, &options(DType::Auto, Some(Quantization::Int8))), Kind::Q4);
        assert_eq!(
            of(&[q4], Role::Layer, &options(DType::F32, None)),
            Kind::F32,
            "asked for in so many words"
        );
        assert_eq!(of(&[bf16], Role::Layer, &options(DType::F16, None)), Kind::F16);
    }

    #[test]
    fn matrices_packed_as_one_are_kept_as_the_widest() {
        let auto = LoadOptions::default();
        let of = |stored: &[TensorType]| of(stored, Role::Layer, &auto);
        assert_eq!(of(&[TensorType::Q4_K, TensorType::Q4_K, TensorType::Q6_K]), Kind::Q8);
        assert_eq!(of(&[TensorType::Q4_0, TensorType::Q4_1]), Kind::Q4Affine);
        assert_eq!(of(&[TensorType::Q8_0, TensorType::BF16]), Kind::F32);
        assert_eq!(of(&[TensorType::F16, TensorType::BF16]), Kind::F32);
    }
}
