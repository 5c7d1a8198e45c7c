//! What can go wrong while loading and while stepping.

use std::path::PathBuf;

use candlewick_protocol::{ErrorKind, Failure};

/// Why a model could not be loaded. A variant where somebody would act differently; the text says what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The source has no such repository, revision or file.
    #[error("{0}")]
    NotFound(String),
    /// The source refuses: gated, private, or a wrong token.
    #[error("{0}")]
    Forbidden(String),
    /// The source could not be reached, or broke off.
    #[error("{0}")]
    Network(String),
    /// Offline by setting, and the file is not in the cache.
    #[error("{0}")]
    Offline(String),
    /// A file is there and not what it should be.
    #[error("{file}: {why}")]
    Corrupt {
        /// The file at fault.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Reading or writing a file failed.
    #[error("{path}: {why}")]
    Io {
        /// The file at fault.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A model of a kind that we do not have.
    #[error("{0}")]
    Unsupported(String),
    /// It would not fit in memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// Loading itself broke: a panic, a bug.
    #[error("{0}")]
    Internal(String),
}

impl LoadError {
    /// What sort of failure this is to a client.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // Offline is final: a client that tries again gets the same answer.
            Self::NotFound(_) | Self::Offline(_) => ErrorKind::ModelNotFound,
            Self::Forbidden(_) => ErrorKind::Forbidden,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Network(_) | Self::Corrupt { .. } | Self::Io { .. } => ErrorKind::Unavailable,
            Self::OutOfMemory(_) => ErrorKind::OutOfMemory,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    /// The same, with what it befell.
    #[must_use]
    pub fn within(self, what: &str) -> Self {
        let of = |why: String| format!("{what}: {why}");
        match self {
            Self::NotFound(why) => Self::NotFound(of(why)),
            Self::Forbidden(why) => Self::Forbidden(of(why)),
            Self::Network(why) => Self::Network(of(why)),
            Self::Offline(why) => Self::Offline(of(why)),
            Self::Corrupt { file, why } => Self::Corrupt { file: of(file), why },
            Self::Io { path, why } => Self::Io { path, why: of(why) },
            Self::Unsupported(why) => Self::Unsupported(of(why)),
            Self::OutOfMemory(why) => Self::OutOfMemory(of(why)),
            Self::Internal(why) => Self::Internal(of(why)),
        }
    }

    /// The failure as a client is told it.
    pub fn failure(&self) -> Failure {
        Failure::new(self.kind(), self.to_string()).with_param("model")
    }
}

/// Why a step failed. An error here means that the model's state can no longer be trusted; a bad request is never a
/// step error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The computation failed.
    #[error("the forward pass failed: {0}")]
    Compute(String),
    /// The plan named something that is not there (a block, a token id).
    #[error("the step plan is not valid: {0}")]
    Plan(String),
    /// Memory for the KV cache could not be had.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
}
