//! What is known of a request before its body is read: who sends it, and how long they wait for the answer.

use std::time::Duration;

use actix_web::http::header::HeaderMap;
use actix_web::{HttpMessage, HttpRequest};
use candlewick_protocol::{RequestId, Share, clipped};

use crate::error::ApiError;
use crate::request_id;

/// The headers that say how long a client waits, in seconds. The last is LiteLLM's.
///
/// Not among them: `x-stainless-read-timeout` and `x-stainless-timeout`, which OpenAI's clients send with every request. They
/// say how long a client waits for the next byte, which a stream's keep-alive gives it; and a client that waits no longer
/// leaves, which is noticed.
const TIMEOUT_HEADERS: [&str; 3] = ["x-request-timeout", "timeout", "x-litellm-timeout"];

/// Who asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Sender {
    /// The name of the request.
    pub request_id: RequestId,
    /// How long its answer is waited for, as far as headers say.
    pub timeout: Option<Duration>,
    /// The share of the key that was shown; where no key is asked for, all have one share.
    pub share: Share,
}

impl Sender {
    /// The sender of a request.
    pub fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let share = request.extensions().get::<Share>().cloned().unwrap_or_default();
        Ok(Self { request_id: request_id::of(request), timeout: timeout_of(request.headers())?, share })
    }

    /// A sender of whom nothing is known.
    pub fn unknown(request_id: RequestId) -> Self {
        Self { request_id, timeout: None, share: Share::default() }
    }
}

/// Who names several times means the shortest.
fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let mut shortest = None;
    for name in TIMEOUT_HEADERS {
        for value in headers.get_all(name) {
            let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
            let timeout = seconds.and_then(timeout_of_seconds).ok_or_else(|| {
                let sent = String::from_utf8_lossy(value.as_bytes());
                let message = format!(
                    "the header `{name}` must be a number of seconds above 0, like `30` or `0.5`, not `{}`",
                    clipped(&sent)
                );
                ApiError::invalid(name, message)
            })?;
            shortest = sooner(shortest, Some(timeout));
        }
    }
    Ok(shortest)
}

/// A time that can pass; what is too long to be counted is as good as the longest that can.
pub fn timeout_of_seconds(seconds: f64) -> Option<Duration> {
    const SECONDS_MAX: f64 = 1e9;
    let timeout = (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(SECONDS_MAX)))?;
    (!timeout.is_zero()).then_some(timeout)
}

/// The shorter of two times, where both are set.
pub fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    [one, other].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<Option<Duration>, ApiError> {
        let request =
            headers.iter().fold(TestRequest::default(), |request, &header| request.append_header(header));
        timeout_of(request.to_http_request().headers())
    }

    #[test]
    fn the_shortest_of_the_headers_holds() {
        let read = |headers: &[(&str, &str)]| read(headers).expect("a time");
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("X-Request-Timeout", "2.5")]), Some(Duration::from_millis(2500)));
        assert_eq!(read(&[("timeout", " 30 "), ("x-litellm-timeout", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(read(&[("x-stainless-read-timeout", "600"), ("X-Stainless-Timeout", "1")]), None);
        assert!(read(&[("timeout", "1e300")]) > Some(Duration::from_secs(1_000_000)), "as good as never");
    }

    #[test]
    fn what_is_no_time_is_refused_by_its_name() {
        for wrong in ["0", "-1", "soon", "", "5s", "NaN", "1e-30"] {
            let error = read(&[("x-request-timeout", wrong)]).expect_err("no time");
            assert_eq!(error.param.as_deref(), Some("x-request-timeout"), "{wrong}");
            assert!(error.message.contains("number of seconds above 0"), "{error}");
        }
    }
}
