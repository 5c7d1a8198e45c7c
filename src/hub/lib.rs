//! Where model files come from: the Hugging Face Hub and its cache, a folder, the program itself.
//!
//! Each is an [`engine::ModelSource`](candlewick_engine::ModelSource); asked in the order [`EmbeddedSource`],
//! [`DirectorySource`], [`HubSource`], the first that says it serves a name is the one for it.
//!
//! The cache is the one of Python's `huggingface_hub`, in its layout, with its locks: what one of the two has downloaded,
//! the other finds. hf-hub asks the Hub what a revision is and what is in it; the transfer of a file is ours
//! (`transfer.rs`), because hf-hub 1.0 starts a broken download again from zero.

mod cache;
mod client;
mod directory;
mod download;
mod embedded;
mod hub;
mod listing;
mod partial;
mod refusal;
mod room;
mod settings;
mod snapshot;
mod transfer;

pub use directory::DirectorySource;
pub use download::{DownloadEvent, Downloaded, download};
pub use embedded::{EmbeddedFile, EmbeddedSource};
pub use hub::HubSource;
pub use settings::HubSettings;
