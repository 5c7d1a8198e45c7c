//! Memory for what kernels stream: anonymous, on 2 MiB pages where the system gives them.
//!
//! A stream over 4 KiB pages reaches about half the bandwidth on virtual machines, where a miss in the page tables'
//! cache is dear. Nothing is resident before it is written.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

/// A huge page.
pub(crate) const HUGE: usize = 2 << 20;
/// What any system's smaller pages divide: 64 KiB is the largest of them.
#[cfg(target_os = "linux")]
const LARGEST_PAGE: usize = 64 << 10;
/// Small tensors are put together into mappings of this size, so that each does not end in a huge page of its own.
const CHUNK: usize = 64 << 20;
/// Tensors from this size on have a mapping of their own.
const LARGE: usize = 16 << 20;
/// Where regions begin: a cache line, and what the widest loads like.
const ALIGN: usize = 128;

/// A zeroed anonymous mapping that begins at a huge page.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Held for its `Drop` and for advice about it; the bytes are reached through `start`.
    mapping: MmapMut,
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping is owned; shared references only read, and `Region` sees to it that writes are exclusive.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// So many bytes, all zero. Fails if the system refuses the addresses.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let padded = len.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut mapping = MmapMut::map_anon(padded)?;
        // A system without huge pages refuses the advice, and everything works without.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let offset = mapping.as_ptr().align_offset(HUGE).min(HUGE);
        let start = mapping[offset..][..len].as_mut_ptr();
        Ok(Self { mapping, start, len })
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes of the mapping, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The bytes, to be written.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Gives whole pages within the range back to the system, where it takes them; they read as zeros then.
    pub(crate) fn release(&mut self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let at = |offset: usize| self.start as usize + offset.min(self.len);
            let first = at(range.start).next_multiple_of(LARGEST_PAGE);
            let last = at(range.end) / LARGEST_PAGE * LARGEST_PAGE;
            if let Some(len) = last.checked_sub(first).filter(|len| *len > 0) {
                let start = first - self.mapping.as_ptr() as usize;
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: the mapping is anonymous, private and borrowed exclusively: what is lost is what this method says
                // is lost. A system that refuses keeps the bytes.
                let _ = unsafe { self.mapping.unchecked_advise_range(advice, start, len) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }
}

/// Hands out memory for the tensors of a model. It is given back when the last tensor of a mapping goes.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    current: Mutex<Option<Open>>,
}

/// The mapping that small tensors are being put into.
#[derive(Debug)]
struct Open {
    pages: Arc<Pages>,
    used: usize,
}

/// Memory of one tensor, in a mapping that it may share with others.
#[derive(Debug)]
pub(crate) struct Region {
    pages: Arc<Pages>,
    offset: usize,
    len: usize,
}

impl Arena {
    /// So many bytes, all zero, aligned to a cache line.
    pub(crate) fn take(&self, len: usize) -> io::Result<Region> {
        let padded = len.next_multiple_of(ALIGN);
        if padded >= LARGE {
            return Ok(Region { pages: Arc::new(Pages::new(padded)?), offset: 0, len });
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = match current.take() {
            Some(open) if open.used + padded <= CHUNK => open,
            _ => Open { pages: Arc::new(Pages::new(CHUNK)?), used: 0 },
        };
        let region = Region { pages: open.pages.clone(), offset: open.used, len };
        open.used += padded;
        *current = Some(open);
        Ok(region)
    }
}

impl Region {
    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the arena made it within its mapping; regions do not overlap, and this one is not being written.
        unsafe { std::slice::from_raw_parts(self.pages.start.wrapping_add(self.offset), self.len) }
    }

    /// The bytes, to be written.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this region is borrowed exclusively. The mapping cannot be: others have regions of it.
        unsafe { std::slice::from_raw_parts_mut(self.pages.start.wrapping_add(self.offset), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_zeroed_and_apart() {
        let arena = Arena::default();
        let lens = [1, 127, 128, 5000, LARGE + 1, 40 << 20, 40 << 20];
        let mut regions: Vec<_> = lens.iter().map(|&len| arena.take(len).unwrap()).collect();
        for (index, region) in regions.iter_mut().enumerate() {
            assert_eq!(region.as_slice().as_ptr() as usize % ALIGN, 0);
            assert!(region.as_slice().iter().take(10_000).all(|&byte| byte == 0));
            let bytes = region.as_mut_slice();
            bytes[0] = index as u8 + 1;
            *bytes.last_mut().unwrap() = index as u8 + 1;
        }
        for (index, region) in regions.iter().enumerate() {
            assert_eq!(region.as_slice().len(), lens[index]);
            assert_eq!(region.as_slice()[0], index as u8 + 1);
            assert_eq!(*region.as_slice().last().unwrap(), index as u8 + 1);
        }
    }

    #[test]
    fn more_than_the_address_space_is_refused() {
        assert!(Arena::default().take(1 << 60).is_err());
    }
}
