//! The data folder: made for one user, held by one process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::StoreError;

/// Held for as long as the folder is in use; the system lets go of it when the process ends, however it ends.
pub(crate) struct FolderLock(#[expect(dead_code, reason = "it is held, not used")] File);

impl FolderLock {
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        let failed = |why: io::Error| StoreError::Folder { dir: dir.into(), why };
        make(dir).map_err(failed)?;
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(dir.into())),
            Err(TryLockError::Error(why)) => Err(failed(why)),
        }
    }
}

#[cfg(unix)]
fn make(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(not(unix))]
fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(dir)
}
