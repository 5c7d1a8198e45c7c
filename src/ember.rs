//! The model that comes with the program: `candlewick/ember`, a toy of a few million parameters, so that the first
//! command works on a machine without network and without a cache.

/// Its name.
pub const MODEL: &str = "candlewick/ember";

/// Its files, by name. Made by `scripts/ember/`.
pub const FILES: &[(&str, &[u8])] = &[];
