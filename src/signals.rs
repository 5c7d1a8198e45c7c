//! The signals that the server hears: those that ask it to end, and the one that has it read its settings anew.

use std::io;
#[cfg(unix)]
use std::io::IsTerminal;

/// What a signal asks for.
pub enum Signal {
    /// To read the settings anew.
    Reload,
    /// To end; by this name.
    End(&'static str),
}

/// The signals that a server hears.
#[cfg(unix)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// Somebody watches at a terminal. When that is gone, a hang-up means that they have left.
    at_terminal: bool,
}

#[cfg(unix)]
impl Signals {
    /// From now on they are heard, and do nothing by themselves.
    pub fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            at_terminal: io::stderr().is_terminal(),
        })
    }

    /// The next of them.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End("SIGTERM"),
            _ = self.interrupt.recv() => Signal::End("SIGINT"),
            _ = self.hangup.recv() => match self.at_terminal && !io::stderr().is_terminal() {
                true => Signal::End("SIGHUP"),
                false => Signal::Reload,
            },
        }
    }
}

impl Signals {
    /// The name of the next one that asks to end.
    pub async fn end(&mut self) -> &'static str {
        loop {
            if let Signal::End(name) = self.next().await {
                return name;
            }
        }
    }
}

/// The signals that a server hears.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// From now on they are heard.
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// The next of them.
    pub async fn next(&mut self) -> Signal {
        // Without a way to hear Ctrl-C the system ends the program by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::End("Ctrl-C")
    }
}
