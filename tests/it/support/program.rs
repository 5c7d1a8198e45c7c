//! The built program, as a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// The program serving with these flags, offline, and where it listens; the error is what it said instead.
pub fn serve(flags: &[&str]) -> Result<(Child, SocketAddr), String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .args(["serve", "--port", "0", "--log-level", "error"])
        .args(flags)
        .envs([("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", "/nonexistent")])
        .current_dir(std::env::temp_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
    let address = stdout
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("http://")?.1.split_whitespace().next()?.parse().ok());
    match address {
        Some(address) => Ok((child, address)),
        None => {
            let mut said = String::new();
            child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
            child.wait().expect("it is dead");
            Err(said)
        }
    }
}
