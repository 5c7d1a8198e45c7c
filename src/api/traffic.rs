//! How many requests come, which way they go, and how long they take: Prometheus series under the names that the instruments
//! of FastAPI use, and so vLLM does.
//!
//! A request is told by its route as it is written in `routes`, never by its path: clients can make up paths without end. It
//! lasts until the last byte of its answer is handed over, a stream's too. What actix answers by itself, because it could not
//! read the request, is not told.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
};

use crate::ApiState;
use crate::keeping::keeping;
use crate::routes;

const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1800.0,
];

/// Instead of the route where a path leads nowhere.
const NO_ROUTE: &str = "none";

const VALID: &str = "the series of this file have valid names and labels";

/// The series of all requests.
pub struct Traffic {
    requests: CounterVec,
    seconds: HistogramVec,
    in_progress: GaugeVec,
    registry: Registry,
}

impl Traffic {
    pub fn new() -> Self {
        let requests = CounterVec::new(
            Opts::new("http_requests_total", "HTTP requests that were answered."),
            &["handler", "method", "status", "code"],
        );
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "http_request_duration_seconds",
                "Time from the head of an HTTP request to the last byte of its answer, in seconds.",
            )
            .buckets(SECONDS.to_vec()),
            &["handler", "method"],
        );
        let in_progress = GaugeVec::new(
            Opts::new("http_requests_inprogress", "HTTP requests whose answer is not yet whole."),
            &["handler", "method"],
        );
        let made = Self {
            requests: requests.expect(VALID),
            seconds: seconds.expect(VALID),
            in_progress: in_progress.expect(VALID),
            registry: Registry::new(),
        };
        let register = |collector| made.registry.register(collector).expect(VALID);
        register(Box::new(made.requests.clone()));
        register(Box::new(made.seconds.clone()));
        register(Box::new(made.in_progress.clone()));
        made
    }

    /// All series in Prometheus' text format 0.0.4.
    pub fn text(&self) -> String {
        // The encoder fails only on a broken family, and every family is made above.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    fn begin(&self, request: &ServiceRequest) -> Exchange {
        let handler = routes::template(request).unwrap_or_else(|| NO_ROUTE.to_owned());
        let method = known(request.method());
        let labels = [handler.as_str(), method];
        let (seconds, in_progress) =
            (self.seconds.with_label_values(&labels), self.in_progress.with_label_values(&labels));
        in_progress.inc();
        let requests = self.requests.clone();
        Exchange { handler, method, began: Instant::now(), status: None, requests, seconds, in_progress }
    }
}

/// Methods are words that clients can make up too.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// A request and its answer, from the one's head to the other's end: counted when it is dropped, whatever the way.
struct Exchange {
    handler: String,
    method: &'static str,
    began: Instant,
    /// Once it is known.
    status: Option<StatusCode>,
    requests: CounterVec,
    seconds: Histogram,
    in_progress: Gauge,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.in_progress.dec();
        self.seconds.observe(self.began.elapsed().as_secs_f64());
        // Dropped before there was an answer: the client has closed the connection.
        let code = self.status.map_or(499, |status| status.as_u16());
        let class = format!("{}xx", code / 100);
        self.requests
            .with_label_values(&[self.handler.as_str(), self.method, class.as_str(), &code.to_string()])
            .inc();
    }
}

/// Tells of each request.
pub async fn measure<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let state = request.app_data::<web::Data<ApiState>>().expect("the app is made with its state");
    let mut exchange = state.traffic.begin(&request);
    match next.call(request).await {
        Ok(response) => {
            exchange.status = Some(response.status());
            Ok(keeping(response, exchange))
        }
        Err(error) => {
            exchange.status = Some(error.as_response_error().status_code());
            Err(error)
        }
    }
}
