//! API keys: who may ask.
//!
//! Keys are compared as SHA-256 digests in constant time, all of them always, so that neither a key's length nor its
//! place in the list can be measured.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError, web};
use candlewick_protocol::{Share, clipped};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::ApiState;
use crate::error::ApiError;
use crate::wire::error::Fault;

/// A key and the name by which people know it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// In logs and metrics; the empty one is replaced by the key's place in the list.
    pub name: String,
    /// What clients show.
    pub key: String,
    /// How much of a busy server is theirs, beside those of other keys.
    pub weight: u32,
}

/// A key that is not written as keys are. The text does not tell the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`weight={0}` is no weight; it is a whole number from 1 to {WEIGHT_MAX}, like `weight=3`")]
pub struct ApiKeyError(String);

/// Far more than anybody could mean.
const WEIGHT_MAX: u32 = 1_000_000;

impl FromStr for ApiKey {
    type Err = ApiKeyError;

    /// `NAME KEY weight=N`, of which only the key must be there: keys hold no space, or clients could not send them.
    fn from_str(text: &str) -> Result<Self, ApiKeyError> {
        let words = |text: &str| {
            let (before, last) = text.trim().rsplit_once(char::is_whitespace)?;
            Some((before.trim().to_owned(), last.to_owned()))
        };
        let (text, weight) = match words(text) {
            Some((before, last)) if last.starts_with("weight=") => {
                (before, parse_weight(&last["weight=".len()..])?)
            }
            _ => (text.trim().to_owned(), 1),
        };
        let (name, key) = words(&text).unwrap_or((String::new(), text));
        Ok(Self { name, key, weight })
    }
}

fn parse_weight(text: &str) -> Result<u32, ApiKeyError> {
    let weight = text.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
    weight.ok_or_else(|| ApiKeyError(clipped(text).into_owned()))
}

/// Without the key: settings are logged.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("name", &self.name)
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

/// Digests of the keys, and how often each was shown.
pub struct KeyRing {
    keys: Vec<HeldKey>,
}

struct HeldKey {
    name: String,
    digest: [u8; 32],
    weight: u32,
    /// Shared with the rings that replace this one: a request may still be counted by an old one.
    num_requests: Arc<AtomicU64>,
}

impl KeyRing {
    /// Of these keys; none leaves the server open.
    pub fn new(keys: &[ApiKey]) -> Self {
        let held = |(index, key): (usize, &ApiKey)| HeldKey {
            name: if key.name.is_empty() { format!("key-{}", index + 1) } else { key.name.clone() },
            digest: Sha256::digest(&key.key).into(),
            weight: key.weight,
            num_requests: Arc::default(),
        };
        Self { keys: keys.iter().enumerate().map(held).collect() }
    }

    /// Other keys in place of these. Those of the same name and key keep their count.
    pub fn replaced_by(&self, keys: &[ApiKey]) -> Self {
        let mut new = Self::new(keys);
        for key in &mut new.keys {
            let same = |old: &&HeldKey| old.name == key.name && old.digest == key.digest;
            if let Some(old) = self.keys.iter().find(same) {
                key.num_requests = old.num_requests.clone();
            }
        }
        new
    }

    /// Whether anybody may ask.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Requests of each key, in Prometheus' text format; nothing if the server is open.
    pub fn metrics_text(&self) -> String {
        if self.is_open() {
            return String::new();
        }
        let mut text =
            "# HELP candlewick_api_key_requests_total Requests that showed an API key, by its name.\n\
                        # TYPE candlewick_api_key_requests_total counter\n"
                .to_owned();
        for key in &self.keys {
            let name = key.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let count = key.num_requests.load(Ordering::Relaxed);
            text += &format!("candlewick_api_key_requests_total{{api_key=\"{name}\"}} {count}\n");
        }
        text
    }

    /// The key that this is. All are compared always.
    fn find(&self, key: &str) -> Option<&HeldKey> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let num_keys = u32::try_from(self.keys.len()).expect("there are fewer keys than that");
        let place = self.keys.iter().zip(0..).fold(num_keys, |found, (own, place)| {
            u32::conditional_select(&found, &place, own.digest.ct_eq(&digest))
        });
        self.keys.get(place as usize)
    }

    /// Checks an `Authorization` header. Some documents print `Bearer: key`; that is taken too.
    fn check(&self, header: Option<&str>) -> Result<&HeldKey, &'static str> {
        let Some(header) = header else {
            return Err("an API key is required: send the header `Authorization: Bearer <key>`");
        };
        let (scheme, key) = header.trim().split_once(char::is_whitespace).unwrap_or((header, ""));
        if !scheme.trim_end_matches(':').eq_ignore_ascii_case("bearer") {
            return Err("the `Authorization` header must be of the form `Bearer <key>`");
        }
        self.find(key.trim()).ok_or("the API key is not one of this server's keys")
    }
}

/// Refuses requests without a key, except where none is needed.
pub async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    match check(&request) {
        Ok(None) => {}
        Ok(Some(share)) => {
            tracing::Span::current().record("api_key", share.holder.as_str());
            request.extensions_mut().insert(share);
        }
        Err(why) => {
            let response: HttpResponse = ApiError::new(Fault::ApiKey, why).error_response();
            return Ok(request.into_response(response).map_into_right_body());
        }
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// The share of the key that was shown, if one had to be.
fn check(request: &ServiceRequest) -> Result<Option<Share>, &'static str> {
    let state = request.app_data::<web::Data<ApiState>>().expect("the app is made with its state");
    let is_public = match request.path() {
        "/health" | "/ping" => true,
        "/metrics" | "/v1/metrics" => state.settings().metrics_public,
        _ => request.method() == Method::OPTIONS,
    };
    let keys = state.keys();
    if is_public || keys.is_open() {
        return Ok(None);
    }
    let header = request.headers().get(header::AUTHORIZATION);
    let key = keys.check(header.and_then(|value| value.to_str().ok()))?;
    key.num_requests.fetch_add(1, Ordering::Relaxed);
    Ok(Some(Share { holder: key.name.clone(), weight: key.weight }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ApiKey {
        text.parse().expect("a good key")
    }

    #[test]
    fn a_key_may_have_a_name_and_a_weight() {
        let parts = |text| {
            let ApiKey { name, key, weight } = key(text);
            (name, key, weight)
        };
        let expect = |name: &str, key: &str, weight| (name.to_owned(), key.to_owned(), weight);
        assert_eq!(parts("sk-1"), expect("", "sk-1", 1));
        assert_eq!(parts(" alice of sales  sk-1 "), expect("alice of sales", "sk-1", 1));
        assert_eq!(parts("alice sk-1  weight=3"), expect("alice", "sk-1", 3));
        assert_eq!(parts("sk-1 weight=1000000"), expect("", "sk-1", 1_000_000));
        assert_eq!(parts("weight=3"), expect("", "weight=3", 1), "alone it is a key");
        for wrong in
            ["sk-1 weight=0", "sk-1 weight=", "a sk-1 weight=-1", "sk-1 weight=1.5", "sk-1 weight=1000001"]
        {
            let error = wrong.parse::<ApiKey>().expect_err("no weight").to_string();
            assert!(error.contains("whole number from 1") && !error.contains("sk-1"), "{error}");
        }
    }

    #[test]
    fn any_of_the_keys_opens_and_nothing_else_does() {
        let keys = KeyRing::new(&[key("first"), key("alice  second")]);
        let name = |header| keys.check(Some(header)).map(|key| key.name.as_str());
        assert_eq!(name("Bearer first"), Ok("key-1"));
        assert_eq!(name("bearer second"), Ok("alice"));
        assert_eq!(name("Bearer: second"), Ok("alice"));
        for refused in
            ["Bearer third", "Bearer ", "Bearer", "Basic first", "first", "Bearer firs", "", "Bearer alice"]
        {
            assert!(name(refused).is_err(), "{refused:?} must not open");
        }
        assert!(keys.check(None).is_err());
    }

    #[test]
    fn a_key_is_never_shown() {
        let keys = [key("alice sk-1"), key("sk-2")];
        assert!(!format!("{keys:?}").contains("sk-"));
        let ring = KeyRing::new(&keys);
        ring.check(Some("Bearer sk-1")).expect("it opens").num_requests.fetch_add(1, Ordering::Relaxed);
        let text = ring.metrics_text();
        assert!(
            text.contains("{api_key=\"alice\"} 1\n") && text.contains("{api_key=\"key-2\"} 0\n"),
            "{text}"
        );
        assert!(!text.contains("sk-"), "{text}");
        assert_eq!(KeyRing::new(&[]).metrics_text(), "");
    }
}
