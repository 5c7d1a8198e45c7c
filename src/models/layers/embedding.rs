//! Token embeddings, and the choice of rows.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use candlewick_engine::LoadError;
use half::{bf16, f16};

use super::linear::{Linear, Weight};
use super::slice::contiguous;
use crate::kernels::lanes::Element;
use crate::kernels::packed::Packed;
use crate::kernels::packed::pack::Packing;
use crate::kernels::rows::for_each_row;
use crate::packing::Role;
use crate::weights::WeightReader;

/// A table of one vector for each token: plain, or packed where it is the head's weight too and lies there once.
pub(crate) enum Embedding {
    /// Rows as they are.
    Plain(Tensor),
    /// Rows across the panels of a product.
    Packed(Arc<Packed>),
}

impl Embedding {
    /// Reads `{name}.weight`. A table that is quantised anyway is packed, so that it stays so.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        vocab_size: usize,
        width: usize,
    ) -> std::result::Result<Self, LoadError> {
        let name = format!("{name}.weight");
        if weights.is_quantized(&name, [vocab_size, width], Role::Head) {
            let table = weights.packed(&[(&name, vocab_size)], width, Packing::Joined, Role::Head)?;
            return Ok(Self::Packed(Arc::new(table)));
        }
        Ok(Self::Plain(weights.matrix(&name, [vocab_size, width])?))
    }

    /// Reads `{name}.weight` for an embedding and a head that share it.
    pub(crate) fn load_tied(
        weights: &mut WeightReader<'_>,
        name: &str,
        vocab_size: usize,
        width: usize,
    ) -> std::result::Result<(Self, Linear), LoadError> {
        let name = format!("{name}.weight");
        let table = Weight::read(weights, &[(&name, vocab_size)], width, Packing::Joined, Role::Head)?;
        let embedding = match table.clone() {
            Weight::Packed(table) => Self::Packed(table),
            Weight::Reference(table) => Self::Plain(table),
        };
        Ok((embedding, Linear::tied(table)))
    }

    /// Token ids → `(rows, width)` in `f32`.
    pub(crate) fn forward(&self, token_ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Plain(table) => gather(table, token_ids),
            Self::Packed(table) => {
                let width = table.num_in();
                let mut out = vec![0.0; token_ids.len() * width];
                if let Some(id) = token_ids.iter().find(|&&id| id as usize >= table.num_out()) {
                    bail!("token {id} was asked of a table of {}", table.num_out());
                }
                for_each_row(&mut out, width, |row, out| table.row(token_ids[row] as usize, out));
                Tensor::from_vec(out, (token_ids.len(), width), &Device::Cpu)
            }
        }
    }
}

/// Rows of a matrix, by index, in `f32`.
pub(crate) fn gather(table: &Tensor, rows: &[u32]) -> Result<Tensor> {
    table.apply_op1_no_bwd(&GatherOp { rows })
}

struct GatherOp<'a> {
    rows: &'a [u32],
}

impl CustomOp1 for GatherOp<'_> {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu_fwd(&self, table: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (num_rows, width) = at.shape().dims2()?;
        if let Some(row) = self.rows.iter().find(|&&row| row as usize >= num_rows) {
            bail!("row {row} was asked of a table of {num_rows}");
        }
        let mut out = vec![0.0; self.rows.len() * width];
        match table {
            CpuStorage::BF16(_) => copy_rows(contiguous::<bf16>(table, at)?, self.rows, width, &mut out),
            CpuStorage::F16(_) => copy_rows(contiguous::<f16>(table, at)?, self.rows, width, &mut out),
            CpuStorage::F32(_) => copy_rows(contiguous::<f32>(table, at)?, self.rows, width, &mut out),
            other => bail!("an embedding has no kernel for {:?}", other.dtype()),
        }
        Ok((CpuStorage::F32(out), (self.rows.len(), width).into()))
    }
}

fn copy_rows<W: Element>(table: &[W], rows: &[u32], width: usize, out: &mut [f32]) {
    for_each_row(out, width, |index, out| {
        let row = &table[rows[index] as usize * width..][..width];
        out.iter_mut().zip(row).for_each(|(out, x)| *out = x.widen());
    });
}
