//! Room on a disk: how much there is, and what is told where it is too little.

use std::io::{self, ErrorKind};
use std::path::Path;

use candlewick_engine::LoadError;

/// Bytes that we may still write to the disk of a file or folder, if the system says.
#[cfg(unix)]
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    // Some file systems say nothing, and say it in zeros.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes that we may still write to the disk of a file or folder: not asked here.
#[cfg(not(unix))]
pub(crate) fn free_bytes(_path: &Path) -> Option<u64> {
    None
}

/// Whether an error means that there is no room: the disk is full, or one's share of it.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// A file that does not fit. `why` is what the system said, if it was asked to write.
pub(crate) fn no_room(
    path: &Path,
    needed: Option<u64>,
    free: Option<u64>,
    why: Option<&io::Error>,
) -> LoadError {
    let said = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let needed = match needed {
        Some(needed) => format!("{needed} bytes are still to come"),
        None => "more bytes are still to come".into(),
    };
    let free = free.map(|free| format!(", and {free} are free")).unwrap_or_default();
    let why = format!(
        "there is no room on the disk{said}: {needed}{free}; make room, or choose another disk with --cache-dir, and try \
         again: what has arrived is kept"
    );
    LoadError::Io { path: path.into(), why }
}
