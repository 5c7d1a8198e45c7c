//! Failures on purpose, over HTTP: `POST /debug/failpoints` arms one, `DELETE` disarms all, `GET` counts.
//!
//! The route is there only where the server was told to have failpoints, in a build that has them.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use candlewick_protocol::{FailAction, FailPlace, FailRule, Failpoints, failpoint_told};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ApiState;
use crate::body::JsonBody;
use crate::error::ApiError;

/// The route, if there is anything to fail.
pub fn configure(config: &mut web::ServiceConfig, failpoints: &Failpoints) {
    if failpoints.can_fail() {
        let route = web::resource("/debug/failpoints");
        config.service(
            route.route(web::post().to(arm)).route(web::delete().to(disarm)).route(web::get().to(count)),
        );
    }
}

/// What to arm.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    place: FailPlace,
    action: Action,
    /// How long a `delay` is.
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    skip: u64,
    #[serde(default = "once")]
    times: u64,
}

fn once() -> u64 {
    1
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Error,
    Panic,
    Kill,
    Delay,
    Hang,
}

async fn arm(state: web::Data<ApiState>, body: JsonBody) -> Result<HttpResponse, ApiError> {
    let wanted: Wanted = serde_json::from_value(Value::Object(body.0))
        .map_err(|error| ApiError::invalid("place", format!("this is no failpoint: {error}")))?;
    let Wanted { place, action, delay_ms, model, skip, times } = wanted;
    let action = match action {
        Action::Error => FailAction::Error,
        Action::Panic => FailAction::Panic,
        Action::Kill => FailAction::Kill,
        Action::Delay => FailAction::Delay(Duration::from_millis(delay_ms)),
        Action::Hang => FailAction::Hang,
    };
    state.live().failpoints().arm(FailRule { place, action, model, skip, times });
    Ok(HttpResponse::NoContent().finish())
}

async fn disarm(state: web::Data<ApiState>) -> HttpResponse {
    state.live().failpoints().disarm();
    HttpResponse::NoContent().finish()
}

async fn count(state: web::Data<ApiState>) -> HttpResponse {
    HttpResponse::Ok().json(json!({"num_struck": state.live().failpoints().num_struck()}))
}

/// Passes the place where a frame is written. Killed, whoever writes it unwinds: there is no actor to be killed.
pub async fn strike(failpoints: &Failpoints) -> Result<(), String> {
    match failpoints.pass(FailPlace::Sse) {
        None => Ok(()),
        Some(FailAction::Error) => Err(failpoint_told(FailPlace::Sse)),
        Some(FailAction::Panic | FailAction::Kill) => panic!("{}", failpoint_told(FailPlace::Sse)),
        Some(FailAction::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            Ok(())
        }
        Some(FailAction::Hang) => std::future::pending().await,
    }
}
