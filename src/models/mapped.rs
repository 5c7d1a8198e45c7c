//! Files that are read by looking at memory.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A file of weights, while a model loads.
#[derive(Debug)]
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    /// All of a file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read while the model loads and no longer. The files of a Hub cache are not rewritten in
        // place; one that is truncated meanwhile by somebody else ends the process, as it would any program that maps files.
        unsafe { Mmap::map(&file) }.map(Self)
    }

    /// Takes its pages off this process; they stay in the system's cache.
    pub(crate) fn release(&self) {
        // SAFETY: the mapping is read-only and of a file: a page that is read again is mapped again. A system that refuses
        // the advice keeps the pages until the end of the load, and that is all.
        #[cfg(unix)]
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
