//! The arrows between rooms. A room's manifest is its list of friends; this holds the manifests to the map in
//! `docs/architecture.md`, so that a reversed arrow fails here and not in a review.

use std::collections::BTreeSet;
use std::path::Path;

/// Each room, the rooms of ours that it may name, and the packages it must not.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("src/protocol", &[], &["actix-web", "candle-core", "ractor", "reqwest", "tokenizers", "tokio"]),
    ("src/media", &["protocol"], &["actix-web", "candle-core", "ractor", "reqwest", "tokio"]),
    ("src/engine", &["protocol"], &["actix-web", "candle-core", "candle-nn", "ractor", "reqwest", "tokio"]),
    ("src/models", &["engine", "protocol"], &["actix-web", "ractor", "reqwest", "tokio"]),
    ("src/hub", &["engine", "protocol"], &["actix-web", "candle-core", "ractor"]),
    ("src/store", &["protocol"], &["actix-web", "candle-core", "ractor", "reqwest", "tokio"]),
    (
        "actors",
        &["engine", "media", "protocol", "store"],
        &["actix-web", "candle-core", "candle-nn", "reqwest", "rusqlite"],
    ),
    (
        "src/api",
        &["actors", "protocol"],
        &["candle-core", "candle-nn", "ractor", "reqwest", "rusqlite", "tokenizers"],
    ),
];

#[test]
fn rooms_name_only_their_friends() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (room, friends, strangers) in ROOMS {
        let manifest =
            std::fs::read_to_string(root.join(room).join("Cargo.toml")).expect("every room has a manifest");
        let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
        let dependencies =
            manifest.get("dependencies").and_then(|d| d.as_table()).cloned().unwrap_or_default();
        let named: BTreeSet<&str> =
            dependencies.keys().filter_map(|name| name.strip_prefix("candlewick-")).collect();
        let allowed: BTreeSet<&str> = friends.iter().copied().collect();
        let reversed: Vec<_> = named.difference(&allowed).collect();
        assert!(reversed.is_empty(), "{room} may not name {reversed:?}; its friends are {allowed:?}");
        for stranger in *strangers {
            assert!(!dependencies.contains_key(*stranger), "{room} may not depend on {stranger}");
        }
    }
}

#[test]
fn every_room_is_on_the_map() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the root has a manifest");
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    let members = manifest["workspace"]["members"].as_array().expect("members are a list");
    let members: BTreeSet<&str> = members.iter().filter_map(|member| member.as_str()).collect();
    let mapped: BTreeSet<&str> = ROOMS.iter().map(|(room, ..)| *room).collect();
    assert_eq!(members, mapped);
}

#[test]
fn panics_unwind_in_every_profile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the root has a manifest");
    assert!(!manifest.contains("panic = \"abort\""), "supervision depends on unwinding");
}

/// Where `unsafe` is allowed, against the lint of the workspace.
const UNSAFE_ROOMS: &[&str] =
    &["src/lib.rs: mod allocator;", "src/models/lib.rs: mod kernels;", "src/models/lib.rs: mod mapped;"];

#[test]
fn only_kernels_mapped_files_and_the_allocator_are_exempt_from_the_lint_on_unsafe_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the root has a manifest");
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    assert_eq!(manifest["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("deny"));
    let mut exempt = Vec::new();
    for folder in ["src", "actors", "tests", "benches"] {
        find_exempt(&root.join(folder), root, &mut exempt);
    }
    exempt.sort();
    assert_eq!(exempt, UNSAFE_ROOMS);
    for (room, ..) in ROOMS {
        let manifest = std::fs::read_to_string(root.join(room).join("Cargo.toml")).expect("a manifest");
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{room} does not go by the lints of the workspace"
        );
    }
}

/// What follows each attribute that names the lint, with its file.
fn find_exempt(folder: &Path, root: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            find_exempt(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("it is text");
            let mut lines = text.lines();
            while let Some(line) = lines.next() {
                // Not this file's own words.
                if line.trim_start().starts_with("#[") && line.contains("(unsafe_code") {
                    let name = path.strip_prefix(root).expect("it is below it").display();
                    found.push(format!("{name}: {}", lines.next().unwrap_or_default()));
                }
            }
        }
    }
}
