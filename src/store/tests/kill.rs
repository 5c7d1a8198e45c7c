//! A process that writes is killed, again and again: what it said was kept is there, and nothing is there by halves.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use candlewick_protocol::{
    Delta, ErrorKind, Event, Failure, Finished, LoggedEvent, Piece, ResponseRecord, Usage,
};
use candlewick_store::Store;
use serde_json::json;

const FOLDER: &str = "CANDLEWICK_KILL_TEST_FOLDER";
const ROUND: &str = "CANDLEWICK_KILL_TEST_ROUND";
const NUM_ROUNDS: usize = 24;

fn id(round: &str, number: usize) -> String {
    format!("resp_{round}_{number}")
}

fn piece(number: usize) -> LoggedEvent {
    let delta = Delta::Text(format!("piece {number} "));
    LoggedEvent {
        at: 1,
        event: Event::Piece(Piece { choice: 0, delta, logprobs: Vec::new(), token_ids: Vec::new() }),
    }
}

fn finished() -> LoggedEvent {
    LoggedEvent { at: 2, event: Event::Finished(Finished { usage: Usage::default() }) }
}

/// Not a test of its own: what the killed process does. It says a word after each write.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn writer() {
    let (Ok(folder), Ok(round)) = (env::var(FOLDER), env::var(ROUND)) else { return };
    let mut store = Store::open(Path::new(&folder)).expect("the folder is free: its last holder is dead");
    let mut out = std::io::stdout();
    let mut say = |word: String| {
        writeln!(out, "said {word}").and_then(|()| out.flush()).expect("the parent listens");
    };
    for number in 0.. {
        let id = id(&round, number);
        let record = ResponseRecord {
            id: id.clone(),
            created_at: 1,
            background: true,
            previous: None,
            head: json!({"number": number}),
            input: vec![json!("x".repeat(1000))],
        };
        store.create(&record, &[], None).expect("kept");
        say(format!("{number} 0"));
        for step in 0..4 {
            store.append(&id, step * 2, &[piece(step * 2), piece(step * 2 + 1)]).expect("added");
            say(format!("{number} {}", step * 2 + 2));
        }
        store.append(&id, 8, &[finished()]).expect("added");
        say(format!("{number} 9"));
    }
}

#[test]
fn nothing_that_was_kept_is_lost_to_a_kill_between_any_two_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..NUM_ROUNDS {
        let mut child = Command::new(env::current_exe().expect("this program has a path"))
            .args(["writer", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the writer starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Each round ends somewhere else in the cycle of six writes; the kill itself falls wherever the writer then is.
        let mut heard = Vec::new();
        while heard.len() < 7 + round {
            let line = lines.next().expect("the writer goes on").expect("it can be read");
            heard.extend(line.strip_prefix("said ").map(str::to_owned));
        }
        child.kill().expect("it was alive");
        child.wait().expect("it is dead");
        // What it said before it died and we had not read yet.
        heard.extend(
            lines.map_while(Result::ok).filter_map(|line| Some(line.strip_prefix("said ")?.to_owned())),
        );

        let mut store = Store::open(folder.path()).expect("the lock died with its holder");
        let round = round.to_string();
        let mut last = 0;
        for word in &heard {
            // The very last line may be cut.
            let Some((number, num_entries)) = word.split_once(' ') else { continue };
            let (Ok(number), Ok(num_entries)) = (number.parse(), num_entries.parse::<usize>()) else {
                continue;
            };
            last = number;
            let stored =
                store.read(&id(&round, number), 3).expect("readable").expect("it was said to be kept");
            assert!(stored.log.len() >= num_entries, "round {round}: {word}");
        }
        for number in 0..=last + 1 {
            let Some(stored) = store.read(&id(&round, number), 3).expect("readable") else {
                assert!(number > last, "round {round}: {number} is missing");
                continue;
            };
            let whole: Vec<_> = (0..8).map(piece).chain([finished()]).collect();
            assert_eq!(
                stored.log,
                whole[..stored.log.len()],
                "round {round}: no entry is missing or doubled"
            );
            assert!(stored.log.len() % 2 == 0 || stored.log.len() == 9, "a write is all there or not at all");
        }
        let ended = store.end_unfinished(&Failure::new(ErrorKind::Internal, "the server ended"), 4);
        assert!(ended.expect("ended") <= 1, "round {round}: one was being written");
        assert_eq!(store.sweep(5).expect("swept"), 0);
    }
}
