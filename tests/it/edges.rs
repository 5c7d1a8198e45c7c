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
