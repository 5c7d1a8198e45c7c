//! Work shared out to the threads of the rayon pool that the caller is in.
//!
//! Sharing out never changes a result: a row is computed by one thread from beginning to end.

use std::marker::PhantomData;

use rayon::prelude::*;

/// Below this many elements a second thread costs more than it brings.
const PARALLEL_ELEMENTS_MIN: usize = 16 * 1024;

/// Calls `fill(index, row)` for each row of `width` elements of `out`.
pub(crate) fn for_each_row(out: &mut [f32], width: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < PARALLEL_ELEMENTS_MIN {
        out.chunks_exact_mut(width).enumerate().for_each(|(index, row)| fill(index, row));
    } else {
        let rows_min = (PARALLEL_ELEMENTS_MIN / 4).div_ceil(width);
        out.par_chunks_exact_mut(width)
            .enumerate()
            .with_min_len(rows_min)
            .for_each(|(index, row)| fill(index, row));
    }
}

/// An output that several threads fill at once, each its own places: columns of a row-major matrix do not make
/// disjoint slices, so the borrow checker cannot see that they are disjoint.
pub(crate) struct SharedOutput<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]` in parts; `write` makes the caller promise that no two threads write one place.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    /// Takes the slice for as long as it is shared.
    pub(crate) fn new(out: &'a mut [f32]) -> Self {
        Self { start: out.as_mut_ptr(), len: out.len(), owner: PhantomData }
    }

    /// Writes one place.
    ///
    /// # Safety
    /// No other thread writes or reads this place while the output is shared.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, index: usize, value: f32) {
        debug_assert!(index < self.len);
        // SAFETY: in bounds by the caller's arithmetic, which debug builds check; exclusive by the caller's promise.
        unsafe { self.start.add(index).write(value) }
    }

    /// A run of places.
    ///
    /// # Safety
    /// No other thread writes or reads these places while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len, "a part of the output lies within it");
        // SAFETY: in bounds as just seen; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
