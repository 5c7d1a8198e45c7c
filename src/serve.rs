//! `candlewick serve`: starts the server, says where it is, and stops it in good order when asked to.
//!
//! The port opens at once; `/ready` tells when the pinned model is loaded. A pinned model that cannot be loaded ends the
//! program with the reason: whoever started it is there to read it, and a supervisor sees the exit code.

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use candlewick_actors::{Gateway, ReloadOutcome};
use candlewick_protocol::{Failpoints, Failure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::ServeArgs;
use crate::live_settings::Watched;
use crate::server::END_TIMEOUT;
use crate::service_manager::{START_TELLS_EVERY, ServiceManager};
use crate::settings::Settings;
use crate::signals::{Signal, Signals};
use crate::{Server, ember, start_watched};

/// After a second signal, how long what is in flight has for its last words.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs until a signal ends it.
pub async fn run(
    args: &ServeArgs,
    settings: Settings,
    watched: Watched,
    manager: ServiceManager,
) -> anyhow::Result<()> {
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

    let manager = Arc::new(manager);
    let _watch = watch_over(&server, &manager);
    let signal = match serve_until_it_ends(&mut server, &mut signals, &manager).await {
        Ending::Told(signal) => signal,
        Ending::PinnedFailed(failure) => {
            server.stop(Duration::ZERO).await;
            return Err(anyhow::Error::new(failure).context("the pinned model cannot be loaded"));
        }
        Ending::HttpCrashed(why) => bail!("the HTTP server has ended: {why}"),
    };
    let grace = server.drain_timeout();
    tracing::info!(
        signal,
        grace_s = grace.as_secs_f64(),
        "stopping; a second signal ends the program at once"
    );
    let num_in_flight = server.gateway().num_in_flight();
    manager.stopping(
        grace.saturating_add(END_TIMEOUT),
        format_args!("finishing {num_in_flight} requests, for {grace:?} at most"),
    );
    let gateway = server.gateway().clone();
    let mut stopped = pin!(server.stop(grace));
    tokio::select! {
        () = &mut stopped => {
            tracing::info!("stopped");
            Ok(())
        }
        signal = signals.end() => {
            gateway.hurry();
            // Clients hear why, if they are there to hear it.
            let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, stopped).await;
            bail!("ended at once by a second signal ({signal}); requests in flight are lost")
        }
    }
}

/// The service manager hears that the server is alive for as long as this is held and the actors answer.
fn watch_over(server: &Server, manager: &Arc<ServiceManager>) -> AbortOnDropHandle<()> {
    let (gateway, manager) = (server.gateway().clone(), manager.clone());
    AbortOnDropHandle::new(tokio::spawn(async move {
        manager.keep_watch(|| gateway.is_alive()).await;
    }))
}

/// Why a server ends.
enum Ending {
    /// A signal of this name asked for it.
    Told(&'static str),
    /// There is nothing to serve.
    PinnedFailed(Failure),
    /// There is nothing to serve with.
    HttpCrashed(String),
}

/// Serves, reads the settings anew when asked to, and tells the service manager of both.
async fn serve_until_it_ends(server: &mut Server, signals: &mut Signals, manager: &ServiceManager) -> Ending {
    let gateway = server.gateway().clone();
    let addr = server.addr();
    let mut pinned = pin!(server.pinned_loaded());
    let mut is_ready = false;
    let mut is_starting = interval(START_TELLS_EVERY);
    let mut readings = FuturesUnordered::new();
    loop {
        tokio::select! {
            // In this order: a server that is ready does not say first that it starts.
            biased;
            signal = signals.next() => match signal {
                Signal::Reload => {
                    // A manager that was not told that we are ready waits for no more than that.
                    if is_ready {
                        manager.reloading();
                    }
                    readings.push(read_settings(&gateway));
                }
                Signal::End(name) => return Ending::Told(name),
            },
            Some(outcome) = readings.next(), if !readings.is_empty() => if is_ready {
                manager.ready(format_args!("listens at {addr}{}", told_of(outcome)));
            },
            loaded = &mut pinned, if !is_ready => match loaded {
                Ok(()) => {
                    is_ready = true;
                    manager.ready(format_args!("listens at {addr}"));
                }
                Err(failure) => return Ending::PinnedFailed(failure),
            },
            _ = is_starting.tick(), if !is_ready => manager.starting(format_args!("listens at {addr}, and loads its model")),
            why = server.http_crashed() => return Ending::HttpCrashed(why),
        }
    }
}

async fn read_settings(gateway: &Gateway) -> Option<ReloadOutcome> {
    gateway.reload_settings().await
}

/// What the service manager shows after the settings were read anew.
fn told_of(outcome: Option<ReloadOutcome>) -> &'static str {
    match outcome {
        Some(ReloadOutcome::Changed) => "; the settings have changed",
        Some(ReloadOutcome::Unchanged) => "; the settings are what they were",
        Some(ReloadOutcome::Refused) => "; the settings are wrong, and nothing was changed (see the log)",
        None => "; the settings could not be read",
    }
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
