//! Reading a tensor's memory as a slice, which is what kernels take.

use candle_core::{CpuStorage, Layout, Result, WithDType, bail};

/// The elements of a contiguous tensor. Layers make no other kind, so an error here is a mistake in a layer.
pub(crate) fn contiguous<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a layer was given a tensor that is not contiguous: {layout:?}")
    };
    Ok(&storage.as_slice::<T>()?[start..end])
}
