//! Work shared out to the threads of the [pool](super::pool) that the caller is in.
//!
//! Sharing out never changes a result: a row is computed by one thread from beginning to end.

use std::marker::PhantomData;

use super::pool::share;

/// Below this many elements a second thread costs more than it brings.
const PARALLEL_ELEMENTS_MIN: usize = 16 * 1024;

/// Calls `fill(index, row)` for each row of `width` elements of `out`.
pub(crate) fn for_each_row(out: &mut [f32], width: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len() / width;
    let out = SharedOutput::new(out);
    let fill = |range: std::ops::Range<usize>| {
        for row in range {
            // SAFETY: each row is filled by the one thread that was given it.
            fill(row, unsafe { out.slice(row * width, width) });
        }
    };
    if rows * width < PARALLEL_ELEMENTS_MIN {
        fill(0..rows);
    } else {
        share(rows, (PARALLEL_ELEMENTS_MIN / 4).div_ceil(width), fill);
    }
}

/// What `of` makes of each index below `len`, each on one thread.
pub(crate) fn map<T: Send>(len: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut made: Vec<_> = (0..len).map(|_| None).collect();
    let to = SharedOutput::new(&mut made);
    share(len, 1, |range| {
        for index in range {
            // SAFETY: each place is written by the one thread that was given its index.
            unsafe { to.write(index, Some(of(index))) };
        }
    });
    made.into_iter().map(|made| made.expect("every index was given to a thread")).collect()
}

/// An output that several threads fill at once, each its own places: columns of a row-major matrix do not make
/// disjoint slices, so the borrow checker cannot see that they are disjoint.
pub(crate) struct SharedOutput<'a, T = f32> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` in parts; its methods make the caller promise that no two threads use one place.
unsafe impl<T: Send> Sync for SharedOutput<'_, T> {}

impl<'a, T> SharedOutput<'a, T> {
    /// Takes the slice for as long as it is shared.
    pub(crate) fn new(out: &'a mut [T]) -> Self {
        Self { start: out.as_mut_ptr(), len: out.len(), owner: PhantomData }
    }

    /// Writes one place.
    ///
    /// # Safety
    /// No other thread writes or reads this place while the output is shared.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, index: usize, value: T) {
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
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.len, "a part of the output lies within it");
        // SAFETY: in bounds as just seen; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
