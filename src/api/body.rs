//! The body of a JSON route: declared as JSON, within the limit, an object.

use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use candlewick_protocol::{ErrorKind, clipped, quoted};
use futures::StreamExt;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::from_wire::describe;
use crate::wire::error::Fault;
use crate::{ApiSettings, ApiState};

/// A JSON object.
pub struct JsonBody(pub Map<String, Value>);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let state = request.app_data::<web::Data<ApiState>>().expect("the app is made with its state");
        let settings = state.settings();
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            check_content_type(&request)?;
            check_content_encoding(&request)?;
            parse(&read(&request, payload, &settings).await?).map(Self)
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
    let found =
        if essence.is_empty() { "it is missing".to_owned() } else { format!("not {}", quoted(essence)) };
    Err(ApiError::new(Fault::ContentType, format!("the `Content-Type` must be application/json; {found}")))
}

fn check_content_encoding(request: &HttpRequest) -> Result<(), ApiError> {
    let Some(sent) = request.headers().get(header::CONTENT_ENCODING) else { return Ok(()) };
    let sent = String::from_utf8_lossy(sent.as_bytes());
    if sent.trim().is_empty() || sent.trim().eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    let message =
        format!("the `Content-Encoding` {} is not supported: send the body uncompressed", clipped(&sent));
    Err(ApiError::new(Fault::ContentEncoding, message))
}

/// Reads the body, of which something must come within each `body_timeout`, and all of it at `min_body_rate` or faster but
/// for as long as that.
async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    settings: &ApiSettings,
) -> Result<Bytes, ApiError> {
    let limit = settings.body_limit_bytes;
    let too_large = || {
        ApiError::new(Fault::PayloadTooLarge, format!("the body is larger than the limit of {limit} bytes"))
    };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    let began = Instant::now();
    loop {
        let in_time = timeout_at(read_by(began, body.len(), settings), payload.next()).await;
        let Some(chunk) = in_time.map_err(|_| too_slow(began, body.len(), settings))? else { break };
        let chunk = chunk.map_err(|error| broken(request, &error))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// When more must have come of a body that began then and of which so much is here.
fn read_by(began: Instant, num_bytes: usize, settings: &ApiSettings) -> Instant {
    let patience = settings.body_timeout;
    let next = Instant::now() + patience;
    match settings.min_body_rate {
        0 => next,
        rate => next.min(began + patience + Duration::from_secs_f64(num_bytes as f64 / rate as f64)),
    }
}

fn too_slow(began: Instant, num_bytes: usize, settings: &ApiSettings) -> ApiError {
    let (patience, rate) = (settings.body_timeout, settings.min_body_rate);
    let message = format!(
        "the body comes too slowly, {num_bytes} bytes in {:.1?}: it may not stand still for {patience:?}, and from then on \
         {rate} bytes must have come for each second",
        began.elapsed()
    );
    ApiError::new(Fault::BodyTimeout, message)
}

fn broken(request: &HttpRequest, error: &PayloadError) -> ApiError {
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let message = match error {
        // The first is called so, and is about chunks: content encodings are refused before anything is read. The
        // second comes in its place where the connection is closed over it first.
        PayloadError::EncodingCorrupted | PayloadError::Incomplete(_) if is_chunked => {
            "the chunks of the body are malformed, or the last is missing: each is its size in hexadecimal, a line break, \
             that many bytes, and a line break; the last has the size 0"
                .to_owned()
        }
        PayloadError::Incomplete(_) => "the body ended before its length was reached".to_owned(),
        error => format!("the body cannot be read: {error}"),
    };
    ApiError::new(Fault::Kind(ErrorKind::InvalidRequest), message)
}

/// Objects and lists within one another that a body may hold: the limit of serde_json, at which it stops reading.
const DEPTH_MAX: usize = 127;

pub fn parse(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let invalid = |message: String| ApiError::new(Fault::Kind(ErrorKind::InvalidRequest), message);
    if body.is_empty() {
        return Err(invalid("the body is empty; it must be a JSON object".to_owned()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            Err(invalid(format!("the request body must be a JSON object, not {}", describe(&other))))
        }
        Err(error) => Err(invalid(format!("the body is not valid JSON: {}", in_words(&error)))),
    }
}

/// What is wrong, with line and column. serde_json's own words do for all but half a character.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") {
        return format!(
            "objects and lists are nested deeper than the limit of {DEPTH_MAX} levels, at line {} column {}",
            error.line(),
            error.column()
        );
    }
    if text.starts_with("lone leading surrogate") || text.starts_with("unexpected end of hex escape") {
        return format!(
            "an escape like \\ud83d is one half of a character, and the other half does not follow it, at line {} \
             column {}",
            error.line(),
            error.column()
        );
    }
    text
}
