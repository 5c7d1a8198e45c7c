//! Tells the service manager that started the program how it is, as sd_notify(3) has it: systemd, or what speaks as it does.
//!
//! What is told is so: ready when `/ready` says it, alive only where the actors answer. Started by nobody of the kind, the
//! program tells nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// A manager that does not read for so long misses what it would have been told.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A start that goes on asks for so much more time, which is more than passes until it asks again.
const MORE_TIME_TO_START: Duration = Duration::from_secs(60);

/// How often a start that goes on asks for more time.
pub const START_TELLS_EVERY: Duration = Duration::from_secs(15);

/// Whoever started the program, if they want to know how it is.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// Longest time without a word that the server is alive.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment names it.
    pub fn of(env: &BTreeMap<String, String>) -> Self {
        let Some(name) = env.get("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match connected(name) {
            Ok(socket) => Self { socket: Some(socket), watchdog: watchdog(env) },
            Err(error) => {
                tracing::warn!(socket = name, %error, "the service manager cannot be told how this server is");
                Self::default()
            }
        }
    }

    /// Whether there is somebody to tell.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// The start goes on.
    pub fn starting(&self, status: impl fmt::Display) {
        let more = MORE_TIME_TO_START.as_micros();
        self.tell(format_args!("STATUS={status}\nEXTEND_TIMEOUT_USEC={more}"));
    }

    /// Requests are welcome.
    pub fn ready(&self, status: impl fmt::Display) {
        self.tell(format_args!("READY=1\nSTATUS={status}"));
    }

    /// The settings are read anew; [`ready`](Self::ready) is to follow.
    pub fn reloading(&self) {
        // The manager takes the clock of the machine to tell this from an earlier reading. No machine is without it.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_microseconds());
        self.tell(format_args!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The server ends, which takes so long at most.
    pub fn stopping(&self, at_most: Duration, status: impl fmt::Display) {
        let at_most = at_most.as_micros();
        self.tell(format_args!("STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={at_most}"));
    }

    /// Says that the server is alive for as long as `is_alive` answers so in time. It is asked four times within the time that
    /// a word is waited for, so that one answer may be missing. Returns at once where nobody waits.
    pub async fn keep_watch<A: Future<Output = bool>>(&self, mut is_alive: impl FnMut() -> A) {
        let Some(at_most) = self.watchdog.filter(|_| self.is_there()) else { return };
        let mut looks = interval(at_most / 4);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_alive = true;
        loop {
            looks.tick().await;
            let alive = timeout(at_most / 4, is_alive()).await.unwrap_or(false);
            if alive {
                self.tell(format_args!("WATCHDOG=1"));
            } else if was_alive {
                tracing::error!("the actors do not answer; the service manager is not told that all is well");
            }
            was_alive = alive;
        }
    }

    fn tell(&self, words: fmt::Arguments<'_>) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(format!("{words}\n").as_bytes()) {
            tracing::warn!(%error, "the service manager was not told: {}", words.to_string().replace('\n', " "));
        }
    }
}

/// A path, or a name of the kernel's own that begins with `@`.
fn connected(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => abstract_address(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &str) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &str) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "sockets without a path are Linux's"))
}

/// The watchdog of this process, if there is one: a child inherits the variables of a parent that has it.
fn watchdog(env: &BTreeMap<String, String>) -> Option<Duration> {
    let number = |name: &str| env.get(name)?.parse::<u64>().ok();
    if env.contains_key("WATCHDOG_PID") && number("WATCHDOG_PID") != Some(std::process::id().into()) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|micros| *micros > 1).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager, and what tells it how we are.
    fn manager(more: &[(&str, &str)]) -> (tempfile::TempDir, UnixDatagram, ServiceManager) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("it is bound");
        let told = [("NOTIFY_SOCKET", path.to_str().expect("it is text"))];
        let env = told.iter().chain(more).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        (folder, socket, ServiceManager::of(&env))
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).expect("somebody tells something");
        String::from_utf8(bytes[..length].to_vec()).expect("it is text")
    }

    #[tokio::test]
    async fn only_a_server_that_answers_is_alive() {
        let (_folder, socket, manager) = manager(&[("WATCHDOG_USEC", "20000")]);
        let mut num_looks = 0;
        let manager = &manager;
        let is_alive = || {
            num_looks += 1;
            async move {
                match num_looks {
                    2 => return false,
                    3 => std::future::pending().await,
                    4 => manager.ready("the fourth look"),
                    _ => {}
                }
                true
            }
        };
        let reader = tokio::task::spawn_blocking(move || [next(&socket), next(&socket), next(&socket)]);
        tokio::select! {
            () = manager.keep_watch(is_alive) => panic!("it goes on for ever"),
            told = reader => {
                let told = told.expect("three words come");
                assert_eq!(told, ["WATCHDOG=1\n", "READY=1\nSTATUS=the fourth look\n", "WATCHDOG=1\n"]);
            }
        }
    }

    #[test]
    fn a_watchdog_may_be_another_process_s() {
        let ours = std::process::id().to_string();
        let of = |more: &[(&str, &str)]| manager(more).2.watchdog;
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000")]), Some(Duration::from_secs(3)));
        assert_eq!(
            of(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", &ours)]),
            Some(Duration::from_secs(3))
        );
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "1")]), None);
        assert_eq!(of(&[("WATCHDOG_USEC", "soon")]), None);
    }

    #[test]
    fn without_a_manager_nothing_is_told() {
        let manager = ServiceManager::of(&BTreeMap::new());
        assert!(!manager.is_there());
        manager.ready("nobody hears it");
        let env = [("NOTIFY_SOCKET".into(), "/nonexistent/notify".into())].into();
        assert!(!ServiceManager::of(&env).is_there());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_may_have_no_path() {
        let name = format!("candlewick-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&abstract_address(&name).expect("a name")).expect("it is bound");
        let env = [("NOTIFY_SOCKET".into(), format!("@{name}"))].into();
        ServiceManager::of(&env).stopping(Duration::from_secs(2), "soon");
        assert_eq!(next(&socket), "STOPPING=1\nSTATUS=soon\nEXTEND_TIMEOUT_USEC=2000000\n");
    }
}
