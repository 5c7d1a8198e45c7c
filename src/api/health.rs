//! How the server is, for load balancers and dashboards.
//!
//! `/health` and `/ping` answer from here alone: they never wait for an actor, so they tell that the process serves
//! HTTP and nothing about models. `/ready` asks.

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::ApiState;
use crate::error::ApiError;

/// `GET /health`, `GET /ping`, `POST /ping`.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// `GET /ready`: 200 if requests are welcome, else 503 with the reason.
pub async fn ready(state: web::Data<ApiState>) -> HttpResponse {
    let status = state.backend().status().await;
    let models: serde_json::Map<_, _> = status
        .models
        .into_iter()
        .map(|(id, at)| (id, serde_json::to_value(at).expect("a status is a word")))
        .collect();
    if status.ready {
        HttpResponse::Ok().json(json!({"status": "ready", "models": models}))
    } else {
        let body = json!({"status": "not_ready", "reason": status.reason, "models": models});
        HttpResponse::ServiceUnavailable().json(body)
    }
}

/// `GET /version`.
pub async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /metrics`: the actors' series, those of HTTP, and those of the keys. Each room says its own.
pub async fn metrics(state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    // What the process uses is read from files of the system.
    let asked = state.clone();
    let of_actors = web::block(move || asked.backend().metrics_text()).await;
    let of_actors =
        of_actors.map_err(|error| ApiError::internal(format!("the metrics could not be read: {error}")))?;
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(of_actors + &state.traffic.text() + &state.keys().metrics_text()))
}
