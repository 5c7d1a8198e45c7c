//! `GET /admin/config` and `GET /admin/actors`: what holds and who is at work, for operators.
//!
//! Behind the API key like everything else. A server that asks for no key shows this only to its own machine: to a client on
//! loopback that came by itself, not through a proxy (whose clients are anybody), and under a local name, which a web page
//! that has pointed its own name at this machine does not have.

use std::net::IpAddr;

use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use candlewick_protocol::ErrorKind;
use serde_json::{Map, Value, json};

use crate::ApiState;
use crate::error::ApiError;
use crate::live::EffectiveSetting;
use crate::wire::error::Fault;

/// Headers by which proxies tell whom they speak for.
const PROXY_HEADERS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// What holds: each setting with its value, where it was set, and what a change of it takes.
pub async fn config(request: HttpRequest, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    check(&request, &state)?;
    let mut sections = Map::new();
    for setting in state.live().effective().iter() {
        let (section, name) = setting.key.split_once('.').unwrap_or(("", &setting.key));
        let section = sections.entry(section).or_insert_with(|| json!({}));
        section[name] = described(setting);
    }
    Ok(HttpResponse::Ok().json(json!({"object": "config", "settings": sections})))
}

fn described(setting: &EffectiveSetting) -> Value {
    let mut described =
        json!({"value": setting.value, "origin": setting.origin, "change_takes": setting.takes});
    if let Some(pending) = &setting.pending {
        described["pending"] = pending.clone();
    }
    described
}

/// Who is at work: the tree of actors.
pub async fn actors(request: HttpRequest, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    check(&request, &state)?;
    Ok(HttpResponse::Ok().json(json!({"object": "actors", "tree": state.backend().observe()})))
}

fn check(request: &HttpRequest, state: &ApiState) -> Result<(), ApiError> {
    // Who came this far has shown a key, if there are any.
    if !state.keys().is_open() {
        return Ok(());
    }
    let is_near = request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    if is_near && !is_forwarded(request.headers()) && is_local_name(request.connection_info().host()) {
        return Ok(());
    }
    let message = "a server without API keys shows this only to clients on its own machine that come directly and under a \
                   local name; set `api_keys` to see it from elsewhere";
    Err(ApiError::new(Fault::Kind(ErrorKind::Forbidden), message))
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    PROXY_HEADERS.iter().any(|name| headers.contains_key(*name)) || headers.contains_key(header::ORIGIN)
}

/// Of `host` or `host:port`.
fn is_local_name(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "[::1]"] {
            assert!(is_local_name(local), "{local}");
        }
        for other in
            ["example.org", "localhost.example.org:8000", "10.0.0.1:8000", "", "[::2]:1", "127.0.0.1.nip.io"]
        {
            assert!(!is_local_name(other), "{other}");
        }
    }
}
