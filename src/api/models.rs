//! `GET /v1/models`, `GET /v1/models/{id}`.

use actix_web::{HttpResponse, web};
use candlewick_protocol::{ErrorKind, ModelRef, ModelStatus, clipped};
use serde::Deserialize;

use crate::ApiState;
use crate::error::ApiError;
use crate::to_wire::model;
use crate::wire::error::Fault;
use crate::wire::models::ModelList;

/// Query of the list.
#[derive(Deserialize)]
pub struct ListQuery {
    /// `true` lists only what is in memory.
    loaded: Option<String>,
}

/// Every model at hand.
pub async fn list(state: web::Data<ApiState>, query: web::Query<ListQuery>) -> HttpResponse {
    let only_loaded = matches!(query.loaded.as_deref(), Some("true" | "1" | ""));
    let cards = state.backend().list().await.into_iter();
    let cards = cards.filter(|card| !only_loaded || card.status == ModelStatus::Loaded);
    HttpResponse::Ok().json(ModelList { object: "list", data: cards.map(model).collect() })
}

/// One model, by any spelling of its name.
pub async fn retrieve(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let wanted: ModelRef = id.parse().map_err(|error| ApiError::invalid("model", format!("{error}")))?;
    let canonical = wanted.canonical();
    let is_wanted = |id: &str| id.parse::<ModelRef>().is_ok_and(|model| model.canonical() == canonical);
    match state.backend().list().await.into_iter().find(|card| is_wanted(&card.id)) {
        Some(card) => Ok(HttpResponse::Ok().json(model(card))),
        None => {
            let wanted = wanted.to_string();
            let wanted = clipped(&wanted);
            let message = format!("the model `{wanted}` is not here; GET /v1/models lists those that are");
            Err(ApiError::new(Fault::Kind(ErrorKind::ModelNotFound), message).with_param("model"))
        }
    }
}
