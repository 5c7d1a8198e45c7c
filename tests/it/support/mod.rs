//! What tests stand on: a server in this process, a raw HTTP client, and waiting for something to become true.

pub mod collector;
pub mod http;
pub mod program;
pub mod server;

use std::time::{Duration, Instant};

/// Waits until `condition` holds; panics with `what` when it never does. For what no channel tells: a count that drops
/// after a client has left. The deadline is only ever reached by a failure.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "this never came true: {what}");
        std::thread::yield_now();
    }
}
