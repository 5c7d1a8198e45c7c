//! `candlewick health`: asks a server whether it is alive, for those who can only run a program and look at how it ends.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::chat_client::is_loopback;
use crate::settings::ServerSettings;

/// How long the server may take, from the first packet to the last.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the server at this address, or the one that these settings are for. An error unless it says that it is alive.
pub async fn run(url: Option<&str>, settings: &ServerSettings) -> anyhow::Result<()> {
    let url = url.map_or_else(|| own_url(settings), with_scheme);
    let client = reqwest::Client::builder().timeout(PATIENCE);
    // A proxy of the house cannot reach this machine's own loopback.
    let client = if is_loopback(&url) { client.no_proxy() } else { client };
    let asked = format!("{}/health", url.trim_end_matches('/'));
    let request = client.build().context("no client can be made")?.get(&asked);
    let answer = request.send().await.with_context(|| format!("no server answers at {url}"))?;
    if !answer.status().is_success() {
        bail!("{asked} answers with {}", answer.status());
    }
    // Whoever reads this may have gone; the status is what counts.
    let _ = writeln!(io::stdout(), "the server at {url} is alive");
    Ok(())
}

/// Where a server of these settings is reached from its own machine.
fn own_url(settings: &ServerSettings) -> String {
    let host = settings.host.trim_matches(['[', ']']);
    let host = match host.parse() {
        Ok(IpAddr::V4(addr)) if addr.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(addr)) if addr.is_unspecified() => format!("[{}]", Ipv6Addr::LOCALHOST),
        Ok(IpAddr::V6(addr)) => format!("[{addr}]"),
        // As `serve` has it.
        _ if host == "localhost" => Ipv4Addr::LOCALHOST.to_string(),
        _ => host.to_owned(),
    };
    format!("http://{host}:{}", settings.port)
}

fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{FlagValue, Settings, Sources};

    #[test]
    fn a_server_s_own_address_is_one_that_can_be_connected_to() {
        for (host, url) in [
            ("localhost", "http://127.0.0.1:81"),
            ("0.0.0.0", "http://127.0.0.1:81"),
            ("::", "http://[::1]:81"),
            ("[::]", "http://[::1]:81"),
            ("fd00::2", "http://[fd00::2]:81"),
            ("models.example", "http://models.example:81"),
        ] {
            let flags = vec![FlagValue::new("host", host), FlagValue::new("port", "81")];
            let settings = Settings::load(&Sources { flags, ..Sources::default() }).expect("good");
            assert_eq!(own_url(&settings.server), url);
        }
        assert_eq!(with_scheme("127.0.0.1:8000"), "http://127.0.0.1:8000");
    }
}
