//! The program as a service: what it tells the manager that started it, and what a health check learns.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::http;
use crate::support::program::Program;

/// A service manager that waits for what it is told.
struct Manager {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
    path: String,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("it is bound");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
        let path = path.to_str().expect("it is text").to_owned();
        Self { socket, _folder: folder, path }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("something is told");
        String::from_utf8(bytes[..length].to_vec()).expect("it is text")
    }

    /// The next word but for those that only say that all is well.
    fn next_news(&self) -> String {
        loop {
            let word = self.next();
            if word != "WATCHDOG=1\n" {
                return word;
            }
        }
    }

    fn serve(&self, flags: &[&str], more: &[(&str, &str)]) -> Program {
        let told = [("NOTIFY_SOCKET", self.path.as_str())];
        Program::serve(&[&["--no-store"], flags].concat(), &[&told, more].concat())
    }
}

#[test]
fn a_manager_is_told_of_start_reload_and_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("candlewick.toml");
    std::fs::write(&file, "[server]\nmax_logprobs = 1\n").expect("written");
    let manager = Manager::new();
    let program = manager.serve(&["--config", file.to_str().expect("it is text")], &[]);
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\nSTATUS=listens at 127.0.0.1:"), "{ready}");
    for (text, outcome) in [
        ("max_logprobs = 2", "have changed"),
        ("max_logprobs = 2", "are what they were"),
        ("x = 2", "are wrong"),
    ] {
        std::fs::write(&file, format!("[server]\n{text}\n")).expect("written");
        program.signal(Signal::SIGHUP);
        let reloading = manager.next();
        let now = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("it reloads").trim_end();
        assert!(now.parse::<u64>().expect("a number of microseconds") > 0, "{reloading}");
        let ready = manager.next();
        assert!(ready.starts_with("READY=1\n") && ready.contains(outcome), "{ready}");
    }
    program.signal(Signal::SIGTERM);
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=finishing 0 requests"), "{stopping}");
    assert!(
        stopping.contains("\nEXTEND_TIMEOUT_USEC=60000000\n"),
        "30 s of grace, and as much to end: {stopping}"
    );
    let (status, log) = program.ended();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn it_is_ready_only_when_its_model_is() {
    let manager = Manager::new();
    let program = manager.serve(&["candlewick/ember"], &[]);
    let mut word = manager.next();
    // A load so small may be over before there is anything to say of it.
    while word.starts_with("STATUS=") {
        assert!(word.contains("loads its model\nEXTEND_TIMEOUT_USEC="), "{word}");
        word = manager.next();
    }
    assert!(word.starts_with("READY=1\n"), "{word}");
    assert_eq!(http::get(program.address, "/ready").status, 200);
}

#[test]
fn a_watchdog_hears_that_the_server_is_alive() {
    let manager = Manager::new();
    let program = manager.serve(&[], &[("WATCHDOG_USEC", "200000")]);
    assert!(manager.next_news().starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    // It goes on while the server ends.
    program.signal(Signal::SIGTERM);
    assert!(manager.next_news().starts_with("STOPPING=1\n"));
    assert_eq!(program.ended().0.code(), Some(0));
}

#[test]
fn a_health_check_exits_with_what_it_learns() {
    let health = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
        let done =
            command.arg("health").args(args).envs(env.iter().copied()).current_dir(std::env::temp_dir());
        let done = done.output().expect("the binary starts");
        (done.status.code(), String::from_utf8(done.stderr).expect("it is text"))
    };
    // A key guards the server, and not its health.
    let program = Program::serve(&["--no-store", "--api-key", "s3cret"], &[]);
    let (address, port) = (program.address.to_string(), program.address.port().to_string());
    assert_eq!(health(&[&address], &[]), (Some(0), String::new()));
    assert_eq!(health(&[&format!("http://{address}/")], &[]).0, Some(0));
    assert_eq!(health(&[], &[("CANDLEWICK_PORT", &port), ("CANDLEWICK_HOST", "0.0.0.0")]).0, Some(0));
    // One that answers, and is not well.
    let (status, why) = health(&[&format!("http://{address}/nowhere")], &[]);
    assert_eq!(status, Some(1));
    assert!(why.contains("401") || why.contains("404"), "{why}");
    drop(program);
    let (status, why) = health(&[&address], &[]);
    assert_eq!(status, Some(1));
    assert!(why.contains("no server answers"), "{why}");
}

/// Variables that the unit and the image set are ours, and good.
#[test]
fn the_unit_and_the_image_set_what_the_program_knows() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("it is there");
    let unit = read("scripts/systemd/candlewick.service");
    let unit_variables = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    let image = read("scripts/Containerfile");
    let image_variables = image.split_once("\nENV ").expect("it sets variables").1;
    let image_variables = image_variables
        .split_once("\nUSER")
        .expect("it has a user")
        .0
        .lines()
        .map(|line| line.trim_matches(['\\', ' ']));
    for variables in [unit_variables.collect::<Vec<_>>(), image_variables.collect()] {
        let pairs =
            variables.iter().map(|variable| variable.split_once('=').expect("a variable has a value"));
        let env: Vec<_> = pairs
            .map(|(name, value)| (name, value.replace("%S", "/var/lib").replace("%C", "/var/cache")))
            .collect();
        assert!(env.iter().any(|(name, _)| *name == "CANDLEWICK_STORE__DATA_DIR"), "{env:?}");
        assert!(env.iter().all(|(name, _)| *name == "HF_HOME" || name.starts_with("CANDLEWICK_")), "{env:?}");
        // A name that is no setting's is an error.
        let checked = Command::new(env!("CARGO_BIN_EXE_candlewick"))
            .args(["config", "check"])
            .envs(env)
            .current_dir(std::env::temp_dir())
            .output()
            .expect("the binary starts");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}
