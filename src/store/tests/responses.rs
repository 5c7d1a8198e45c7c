//! What is kept is found, whole and for as long as it should be.

use std::path::Path;

use candlewick_protocol::{
    Delta, ErrorKind, Event, Failure, FinishReason, Finished, LoggedEvent, Piece, ResponseRecord, Usage,
};
use candlewick_store::{Store, StoreError};
use serde_json::json;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn open(dir: &Path) -> Store {
    Store::open(dir).expect("the store opens")
}

fn record(id: &str, previous: Option<&str>) -> ResponseRecord {
    ResponseRecord {
        id: id.into(),
        created_at: 100,
        background: true,
        previous: previous.map(str::to_owned),
        head: json!({"model": "acme/m", "text": "é"}),
        input: vec![json!({"type": "message", "role": "user", "content": "hi"})],
    }
}

fn entry(event: Event) -> LoggedEvent {
    LoggedEvent { at: 101, event }
}

fn text(text: &str) -> LoggedEvent {
    let delta = Delta::Text(text.into());
    entry(Event::Piece(Piece { choice: 0, delta, logprobs: Vec::new(), token_ids: Vec::new() }))
}

fn finished() -> LoggedEvent {
    entry(Event::Finished(Finished { usage: Usage::default() }))
}

#[test]
fn a_response_is_there_after_the_store_was_closed() {
    let folder = folder();
    let kept =
        [text("a"), entry(Event::Ended { choice: 0, reason: FinishReason::Stop, stop: None }), finished()];
    open(folder.path()).create(&record("resp_1", None), &kept, Some(200)).expect("kept");
    let stored = open(folder.path()).read("resp_1", 150).expect("readable").expect("there");
    assert_eq!(stored.record, record("resp_1", None));
    assert_eq!(stored.log, kept);
    assert!(stored.is_over());
}

#[test]
fn a_log_grows_and_ends() {
    let folder = folder();
    let mut store = open(folder.path());
    store.create(&record("resp_1", None), &[], None).expect("kept");
    store.append("resp_1", 0, &[text("a"), text("b")]).expect("added");
    assert!(!store.read("resp_1", 0).expect("readable").expect("there").is_over());
    store.append("resp_1", 2, &[finished()]).expect("added");
    let stored = store.read("resp_1", 0).expect("readable").expect("there");
    assert_eq!(stored.log, [text("a"), text("b"), finished()]);
    assert!(store.append("resp_1", 2, &[text("twice")]).is_err(), "no entry is written over");
    assert!(store.append("resp_none", 0, &[text("a")]).is_err(), "no log without its response");
}

#[test]
fn what_was_not_over_is_ended_once() {
    let folder = folder();
    let mut store = open(folder.path());
    store.create(&record("resp_done", None), &[finished()], None).expect("kept");
    store.create(&record("resp_queued", None), &[], None).expect("kept");
    store.create(&record("resp_begun", None), &[text("a")], None).expect("kept");
    let failure = Failure::new(ErrorKind::Internal, "the server ended");
    assert_eq!(store.end_unfinished(&failure, 300).expect("ended"), 2);
    assert_eq!(store.end_unfinished(&failure, 300).expect("ended"), 0);
    let last = LoggedEvent { at: 300, event: Event::Failed(failure) };
    let log = |id| store.read(id, 0).expect("readable").expect("there").log;
    assert_eq!(log("resp_done"), [finished()]);
    assert_eq!(log("resp_queued"), std::slice::from_ref(&last));
    assert_eq!(log("resp_begun"), [text("a"), last]);
}

#[test]
fn a_chain_is_read_oldest_first_and_lives_as_long_as_its_newest() {
    let folder = folder();
    let mut store = open(folder.path());
    store.create(&record("resp_1", None), &[finished()], Some(200)).expect("kept");
    store.create(&record("resp_2", Some("resp_1")), &[finished()], Some(300)).expect("kept");
    store.create(&record("resp_3", Some("resp_2")), &[finished()], Some(400)).expect("kept");
    store.create(&record("resp_other", None), &[finished()], Some(200)).expect("kept");
    let chain = store.chain("resp_3", 399).expect("nothing of it has expired");
    let ids = chain.iter().map(|stored| stored.record.id.as_str()).collect::<Vec<_>>();
    assert_eq!(ids, ["resp_1", "resp_2", "resp_3"]);
    assert!(store.read("resp_other", 399).expect("readable").is_none(), "it was nobody's past");

    assert!(store.delete("resp_1", 399).expect("deletable"));
    assert!(!store.delete("resp_1", 399).expect("deletable"), "it is gone");
    let error = store.chain("resp_3", 399).expect_err("a link is missing");
    assert!(matches!(&error, StoreError::Missing(id) if id == "resp_1"), "{error}");
}

#[test]
fn what_has_expired_is_not_found_and_then_swept_away() {
    let folder = folder();
    let mut store = open(folder.path());
    store.create(&record("resp_short", None), &[finished()], Some(200)).expect("kept");
    store.create(&record("resp_long", None), &[finished()], Some(300)).expect("kept");
    store.create(&record("resp_ever", None), &[finished()], None).expect("kept");
    assert!(store.read("resp_short", 200).expect("readable").is_none());
    assert!(!store.delete("resp_short", 200).expect("deletable"));
    assert_eq!(store.sweep(200).expect("swept"), 1);
    assert_eq!(store.sweep(300).expect("swept"), 1);
    assert_eq!(store.sweep(u64::MAX).expect("swept"), 0);
    assert!(store.read("resp_ever", u64::MAX).expect("readable").is_some());
}

#[test]
fn a_folder_has_one_store_at_a_time() {
    let folder = folder();
    let first = open(folder.path());
    let error = Store::open(folder.path()).err().expect("it is in use");
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    drop(first);
    open(folder.path());
}

#[cfg(unix)]
#[test]
fn nobody_else_may_look_into_the_folder() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let dir = folder.path().join("deep/data");
    drop(open(&dir));
    let mode = std::fs::metadata(&dir).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o077, 0);
}
