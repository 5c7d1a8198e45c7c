//! Which path and method reaches which handler, and what is told to the others.

use actix_web::dev::{HttpServiceFactory, ServiceRequest};
use actix_web::http::Method;
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, web};
use candlewick_protocol::{ErrorKind, clipped};

use crate::error::ApiError;
use crate::wire::error::Fault;
use crate::{admin, chat, completions, encoding, health, load, models, responses, tei, text};

/// All routes. A path that ends in `/` has lost it before it comes here.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .app_data(web::QueryConfig::default().error_handler(|error, _| {
            ApiError::new(Fault::Kind(ErrorKind::InvalidRequest), format!("the query is malformed: {error}"))
                .into()
        }))
        .app_data(web::PathConfig::default().error_handler(|error, _| {
            ApiError::new(Fault::Kind(ErrorKind::InvalidRequest), format!("the path is malformed: {error}"))
                .into()
        }))
        .service(post("/v1/chat/completions", chat::create))
        .service(post("/v1/completions", completions::create))
        .service(post("/v1/responses", responses::create))
        .service(post("/v1/responses/input_tokens", responses::input_tokens))
        .service(post("/v1/responses/compact", responses::compact))
        .service(stored_response())
        .service(post("/v1/responses/{id}/cancel", responses::cancel))
        .service(get("/v1/responses/{id}/input_items", responses::input_items))
        .service(post("/v1/embeddings", encoding::embeddings))
        .service(post("/pooling", encoding::pooling))
        .service(post("/classify", encoding::classify))
        .service(post("/score", encoding::score))
        .service(post("/v1/score", encoding::score))
        .service(post("/rerank", encoding::rerank))
        .service(post("/v1/rerank", encoding::rerank))
        .service(post("/v2/rerank", encoding::rerank_cohere))
        .service(post("/embed", tei::embed))
        .service(post("/embed_all", tei::embed_all))
        .service(post("/predict", tei::predict))
        .service(post("/similarity", tei::similarity))
        .service(get("/v1/models", models::list))
        .service(post("/v1/models/load", load::load))
        .service(post("/v1/models/unload", load::unload))
        // Ids hold slashes.
        .service(get("/v1/models/{id:.+}", models::retrieve))
        .service(post("/tokenize", text::tokenize))
        .service(post("/v1/tokenize", text::tokenize))
        .service(post("/detokenize", text::detokenize))
        .service(post("/v1/detokenize", text::detokenize))
        .service(post("/decode", text::decode))
        .service(post("/load_model", load::stream))
        .service(post("/reset", load::reset))
        .service(get("/admin/config", admin::config))
        .service(get("/admin/actors", admin::actors))
        .service(get("/health", health::health))
        .service(ping())
        .service(get("/ready", health::ready))
        .service(get("/version", health::version))
        .service(get("/metrics", health::metrics))
        .service(get("/v1/metrics", health::metrics))
        .default_service(web::to(unknown_url));
}

/// The route that a request takes, as it is written above but without patterns (`/v1/models/{id}`): one name for all
/// requests of a kind. `None` where the path leads nowhere.
pub fn template(request: &ServiceRequest) -> Option<String> {
    let pattern = request.match_pattern()?;
    let mut template = String::with_capacity(pattern.len());
    let mut is_pattern = false;
    let mut is_place = false;
    for letter in pattern.chars() {
        is_place = letter == '{' || (is_place && letter != '}');
        is_pattern = is_place && (is_pattern || letter == ':');
        if !is_pattern {
            template.push(letter);
        }
    }
    Some(template)
}

fn get<F, Args>(path: &str, handler: F) -> impl HttpServiceFactory + use<F, Args>
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let resource = web::resource(path).route(web::get().to(handler.clone())).route(web::head().to(handler));
    others(resource, "GET, HEAD")
}

fn post<F, Args>(path: &str, handler: F) -> impl HttpServiceFactory + use<F, Args>
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    others(web::resource(path).route(web::post().to(handler)), "POST")
}

fn stored_response() -> impl HttpServiceFactory {
    let resource = web::resource("/v1/responses/{id}").route(web::get().to(responses::retrieve));
    let resource = resource.route(web::head().to(responses::retrieve));
    others(resource.route(web::delete().to(responses::delete)), "GET, HEAD, DELETE")
}

/// SageMaker asks with either method.
fn ping() -> impl HttpServiceFactory {
    let resource = web::resource("/ping").route(web::get().to(health::health));
    let resource = resource.route(web::head().to(health::health)).route(web::post().to(health::health));
    others(resource, "GET, HEAD, POST")
}

/// What a resource says to the methods it has not.
fn others(resource: Resource, allow: &'static str) -> Resource {
    resource.default_service(web::to(move |request: HttpRequest| async move { not_allowed(&request, allow) }))
}

fn not_allowed(request: &HttpRequest, allow: &'static str) -> Result<HttpResponse, ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(HttpResponse::NoContent().insert_header(("Allow", allow)).finish());
    }
    let (method, path) = (clipped(request.method().as_str()), clipped(request.path()));
    let message = format!("{method} {path} is not possible here; allowed: {allow}");
    let error = ApiError::new(Fault::MethodNotAllowed, message);
    Err(ApiError { allow: Some(allow), ..error })
}

async fn unknown_url(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let message = format!("there is no {} {}", clipped(request.method().as_str()), clipped(request.path()));
    Err(ApiError::new(Fault::UnknownUrl, message))
}
