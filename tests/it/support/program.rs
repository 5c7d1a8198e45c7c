//! The built program, as a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The program serving with these flags, offline, and where it listens; the error is what it said instead.
pub fn serve(flags: &[&str]) -> Result<(Child, SocketAddr), String> {
    serve_with(&[&["--log-level", "error"], flags].concat(), &[])
}

/// The same, with more in its environment, and a log as its flags say.
pub fn serve_with(flags: &[&str], env: &[(&str, &str)]) -> Result<(Child, SocketAddr), String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .args(["serve", "--port", "0"])
        .args(flags)
        .envs([("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", "/nonexistent")])
        .envs(env.iter().copied())
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

/// A program that serves, until it ends by itself or is dropped.
pub struct Program {
    child: Child,
    pub address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

impl Program {
    /// Serving with these flags and these variables.
    pub fn serve(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let (mut child, address) = serve_with(flags, env).expect("it serves");
        let mut stderr = child.stderr.take().expect("it is piped");
        // Read while it is written: a full pipe would stop the program.
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).expect("it is text");
            log
        });
        Self { child, address, log: Some(log) }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is alive");
    }

    /// How it ended, and all that it has logged.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("it was started");
        let log = self.log.take().expect("it is taken once").join().expect("the reader does not panic");
        (status, log)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("ids of processes are small"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
