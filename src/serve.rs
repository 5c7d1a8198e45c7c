//! `candlewick serve`: starts the server, says where it is, and stops it in good order when asked to.
//!
//! The port opens at once; `/ready` tells when the pinned model is loaded. A pinned model that cannot be loaded ends the
//! program with the reason: whoever started it is there to read it, and a supervisor sees the exit code.

use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use candlewick_protocol::Failpoints;

use crate::cli::ServeArgs;
use crate::live_settings::Watched;
use crate::settings::Settings;
use crate::{Server, ember, start_watched};

/// Runs until a signal ends it.
pub async fn run(args: &ServeArgs, settings: Settings, watched: Watched) -> anyhow::Result<()> {
    for line in args.foreign.explain().map_err(anyhow::Error::msg)? {
        tracing::warn!("{line}");
    }
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let needs_key = !settings.server.api_keys.is_empty() || settings.server.api_key_file.is_some();
    let failpoints = if args.failpoints { Failpoints::new() } else { Failpoints::default() };
    if args.failpoints && !failpoints.can_fail() {
        bail!("this build has no failpoints; one made with `--features failpoints` has");
    }
    let mut server = start_watched(settings, failpoints, Some(watched)).await?;
    if !needs_key && !server.addr().ip().is_loopback() {
        tracing::warn!(
            "everybody who reaches {} may use this server; --api-key KEY asks for a key",
            server.addr()
        );
    }
    // Whoever reads this may have gone; the server is there for others.
    let _ = io::stdout().write_all(announcement(&server, needs_key).as_bytes());

    let mut pinned = pin!(server.pinned_loaded());
    let mut is_pinned_awaited = true;
    let signal = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => _ = server.gateway().reload_settings().await,
                Signal::End(name) => break name,
            },
            loaded = &mut pinned, if is_pinned_awaited => match loaded {
                Ok(()) => is_pinned_awaited = false,
                Err(failure) => {
                    server.stop(Duration::ZERO).await;
                    return Err(anyhow::Error::new(failure).context("the pinned model cannot be loaded"));
                }
            },
            why = server.http_crashed() => bail!("the HTTP server has ended: {why}"),
        }
    };
    let grace = server.drain_timeout();
    tracing::info!(
        signal,
        grace_s = grace.as_secs_f64(),
        "stopping; a second signal ends the program at once"
    );
    tokio::select! {
        () = server.stop(grace) => tracing::info!("stopped"),
        signal = signals.end() => bail!("ended at once by a second signal ({signal}); requests in flight are lost"),
    }
    Ok(())
}

/// Where the server is, and a first command for it.
fn announcement(server: &Server, needs_key: bool) -> String {
    let mut addr = server.addr();
    let everywhere =
        if addr.ip().is_unspecified() { ", and at every other address of this machine" } else { "" };
    if addr.ip().is_unspecified() {
        addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let url = format!("http://{addr}");
    let (serves, model) = match server.gateway().pinned() {
        Some(model) => (
            format!("{model}, which is being loaded ({url}/ready tells when it is there)"),
            model.to_string(),
        ),
        None => (format!("the models that requests name; {} is built in", ember::MODEL), ember::MODEL.into()),
    };
    let key = if needs_key { " -H 'authorization: Bearer YOUR_KEY'" } else { "" };
    let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello!"}]});
    format!(
        "candlewick {} listens at {url}{everywhere}\nit serves {serves}\ntry: curl {url}/v1/chat/completions -H 'content-type: \
         application/json'{key} -d '{body}'\n",
        env!("CARGO_PKG_VERSION"),
    )
}

/// What a signal asks for.
enum Signal {
    /// To read the settings anew.
    Reload,
    /// To end; by this name.
    End(&'static str),
}

/// The signals that a server hears.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// Somebody watches at a terminal. When that is gone, a hang-up means that they have left.
    at_terminal: bool,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            at_terminal: io::stderr().is_terminal(),
        })
    }

    async fn next(&mut self) -> Signal {
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
    async fn end(&mut self) -> &'static str {
        loop {
            if let Signal::End(name) = self.next().await {
                return name;
            }
        }
    }
}

/// The signals that a server hears.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        // Without a way to hear Ctrl-C the system ends the program by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::End("Ctrl-C")
    }
}
