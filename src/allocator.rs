//! What the allocator does for us beyond allocating.

// Links the allocator that `mi_collect` is a part of, also where it is not the one in use.
use mimalloc as _;

/// Gives unused memory of the allocator back to the system.
pub(crate) fn give_back() {
    mi_collect(true);
}

// SAFETY: as `mimalloc.h` declares it. It may be called at any time and from any thread.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
}
