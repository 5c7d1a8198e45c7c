//! What of the cache could be served without the network.
//!
//! One entry per repository and ref, and one per GGUF model (the first file of a set stands for it), as the peer's `/v1/models` has them. Read anew each time, so
//! that a model downloaded a moment ago is there; a hundred models are some thousand small file operations.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use candlewick_engine::files::gguf_models;
use candlewick_engine::{FileEntry, ModelFile, SourceListing, gguf};
use candlewick_protocol::ModelRef;
use serde_json::Value;

use crate::cache::{RepoCache, read_json};

/// Every model of a cache folder that is whole and of a kind that generates text.
pub(crate) fn list(cache_dir: &Path) -> Vec<SourceListing> {
    let Ok(folders) = fs::read_dir(cache_dir) else { return Vec::new() };
    let mut listings = Vec::new();
    for folder in folders.flatten() {
        let Ok(name) = folder.file_name().into_string() else { continue };
        let Some(repo) = name.strip_prefix("models--").map(|name| name.replace("--", "/")) else { continue };
        let cache = RepoCache::new(cache_dir, &repo);
        for (revision, commit) in refs(&cache.dir().join("refs"), "") {
            list_snapshot(&cache, &repo, &revision, &commit, &mut listings);
        }
    }
    listings.sort_by_cached_key(|listing| listing.model.to_string());
    listings
}

/// Every ref with its commit; a ref's name may hold slashes.
fn refs(folder: &Path, prefix: &str) -> Vec<(String, String)> {
    let Ok(children) = fs::read_dir(folder) else { return Vec::new() };
    let mut refs = Vec::new();
    for child in children.flatten() {
        let Ok(name) = child.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            refs.extend(self::refs(&child.path(), &format!("{name}/")));
        } else if let Ok(commit) = fs::read_to_string(child.path()) {
            refs.push((name, commit.trim().into()));
        }
    }
    refs
}

fn list_snapshot(
    cache: &RepoCache,
    repo: &str,
    revision: &str,
    commit: &str,
    listings: &mut Vec<SourceListing>,
) {
    let name = if revision == "main" { repo.to_owned() } else { format!("{repo}@{revision}") };
    let entries = cache.entries(commit);
    let config = read_json(&cache.pointer(commit, "config.json"));
    let max_model_len = config.as_ref().and_then(context_length);
    let modified = |entry: &FileEntry| {
        let data = fs::metadata(cache.pointer(commit, &entry.name)).ok()?;
        Some(data.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    let mut add = |name: &str, modified: u64, max_model_len: Option<u64>| match name.parse::<ModelRef>() {
        Ok(model) if cache.missing(commit, &model).is_none() => {
            listings.push(SourceListing { model, modified, commit: Some(commit.into()), max_model_len });
        }
        Ok(model) => tracing::debug!(%model, "not listed: it is only partly in the cache"),
        Err(error) => tracing::debug!(name, %error, "not listed: it cannot be named"),
    };
    if config.as_ref().is_some_and(generates_text) {
        add(&name, entries.iter().filter_map(modified).max().unwrap_or_default(), max_model_len);
    }
    let ggufs = gguf_models(&entries);
    for entry in entries.iter().filter(|entry| ggufs.contains(&entry.name.as_str())) {
        let file = ModelFile::Path(cache.pointer(commit, &entry.name));
        let max_model_len = gguf::context_length(&entry.name, &file);
        add(&format!("{name}:{}", entry.name), modified(entry).unwrap_or_default(), max_model_len);
    }
}

/// Whether an architecture of the config takes text and continues it. `ForConditionalGeneration` is the name both of
/// models that see (these do) and of encoder-decoders such as Whisper and T5 (these do not).
fn generates_text(config: &Value) -> bool {
    let architectures = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
    let is_encoder_decoder = config.get("is_encoder_decoder").and_then(Value::as_bool).unwrap_or(false);
    architectures.filter_map(Value::as_str).any(|name| {
        name.ends_with("ForCausalLM") || (name.ends_with("ForConditionalGeneration") && !is_encoder_decoder)
    })
}

fn context_length(config: &Value) -> Option<u64> {
    let of = |config: &Value| config.get("max_position_embeddings").and_then(Value::as_u64);
    of(config).or_else(|| config.get("text_config").and_then(of))
}
