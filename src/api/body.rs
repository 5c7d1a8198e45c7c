//! The body of a JSON route: declared as JSON, within the limit, an object.

use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use candlewick_protocol::ErrorKind;
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::ApiState;
use crate::error::ApiError;
use crate::from_wire::wrong_type;
use crate::wire::error::Fault;

/// A JSON object.
pub struct JsonBody(pub Map<String, Value>);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let state = request.app_data::<web::Data<ApiState>>().expect("the app is made with its state");
        let limit = state.settings().body_limit_bytes;
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            check_content_type(&request)?;
            parse(&read(&request, payload, limit).await?).map(Self)
        })
    }
}

fn check_content_type(request: &HttpRequest) -> Result<(), ApiError> {
    let sent =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found = if essence.is_empty() { "it is missing".to_owned() } else { format!("not {essence:?}") };
    Err(ApiError::new(Fault::ContentType, format!("the `Content-Type` must be application/json; {found}")))
}

async fn read(request: &HttpRequest, mut payload: Payload, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(Fault::PayloadTooLarge, format!("the body is larger than the limit of {limit} bytes"))
    };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| {
            ApiError::new(Fault::Kind(ErrorKind::InvalidRequest), format!("the body ended early: {error}"))
        })?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Nesting is bounded by serde_json's own limit.
fn parse(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let invalid = |message: String| ApiError::new(Fault::Kind(ErrorKind::InvalidRequest), message);
    if body.is_empty() {
        return Err(invalid("the body is empty; it must be a JSON object".to_owned()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            let mut error = wrong_type("body", "a JSON object", &other);
            error.param = None;
            Err(error)
        }
        // The text of the error ends with line and column.
        Err(error) => Err(invalid(format!("the body is not valid JSON: {error}"))),
    }
}
