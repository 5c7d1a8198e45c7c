//! Responses that were kept, or are at work in the background: found, followed, cancelled, deleted; their input, page by
//! page.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use super::past::{not_found, render};
use super::{respond, tale};
use crate::ApiState;
use crate::error::ApiError;
use crate::from_wire::{check_include, integer_at};
use crate::to_wire::ResponseWriter;
use crate::wire::responses::{ItemList, ResponseDeleted};

type Query = web::Query<Vec<(String, String)>>;

/// `GET /v1/responses/{id}`: as it is, or its events from a place on.
pub async fn retrieve(
    request: HttpRequest,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let (mut stream, mut after) = (false, None);
    for (name, value) in query.iter() {
        match name.as_str() {
            "stream" => stream = flag("stream", value)?,
            "starting_after" => {
                after = Some(number("starting_after", value, 0..=i64::MAX)?.unsigned_abs());
            }
            "include" | "include[]" => _ = check_include("include", value)?,
            _ => {}
        }
    }
    if after.is_some() && !stream {
        return Err(ApiError::invalid(
            "starting_after",
            "`starting_after` is only allowed together with `stream=true`",
        ));
    }
    // A job first: when it ends, its log is whole on the disk.
    let follower = if stream { state.backend().follow_response(&id).await } else { None };
    let stored = state.backend().find_response(&id).await?.ok_or_else(|| not_found(&id))?;
    if !stream {
        return Ok(HttpResponse::Ok().json(render(&stored)));
    }
    if !stored.record.background {
        return Err(ApiError::invalid(
            "stream",
            "only a response that was made with `background: true` can be streamed again; ask for it without `stream`",
        ));
    }
    let writer = ResponseWriter::new(&stored.record);
    let tale = match follower {
        Some(follower) => tale::of_follower(follower),
        None => tale::of_log(stored.log),
    };
    Ok(respond(&request, &state, tale, writer, after))
}

/// `DELETE /v1/responses/{id}`
pub async fn delete(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    if !state.backend().forget_response(&id).await? {
        return Err(not_found(&id));
    }
    let deleted = ResponseDeleted { id: id.into_inner(), object: "response", deleted: true };
    Ok(HttpResponse::Ok().json(deleted))
}

/// `POST /v1/responses/{id}/cancel`
pub async fn cancel(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let find = async || state.backend().find_response(&id).await?.ok_or_else(|| not_found(&id));
    let stored = find().await?;
    if !stored.record.background {
        let message = "Cannot cancel a synchronous response: only one that was made with `background: true` can be cancelled; \
                       close the connection of any other";
        return Err(ApiError::invalid("response_id", message));
    }
    let was_at_work = state.backend().cancel_response(&id).await;
    let stored = if was_at_work { find().await? } else { stored };
    Ok(HttpResponse::Ok().json(render(&stored)))
}

/// `GET /v1/responses/{id}/input_items`
pub async fn input_items(
    state: web::Data<ApiState>,
    id: web::Path<String>,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    let (mut limit, mut ascending, mut after) = (20, false, None);
    for (name, value) in query.iter() {
        match name.as_str() {
            "limit" => limit = number("limit", value, 1..=100)?.unsigned_abs() as usize,
            "order" => {
                ascending = match value.as_str() {
                    "asc" => true,
                    "desc" => false,
                    _ => return Err(ApiError::invalid("order", "`order` must be asc or desc")),
                };
            }
            "after" => after = Some(value.clone()),
            "include" | "include[]" => _ = check_include("include", value)?,
            _ => {}
        }
    }
    let stored = state.backend().find_response(&id).await?.ok_or_else(|| not_found(&id))?;
    let mut items = stored.record.input;
    if !ascending {
        items.reverse();
    }
    page(items, limit, after.as_deref()).map(|page| HttpResponse::Ok().json(page))
}

/// At most `limit` items behind the one with the id `after`.
fn page(items: Vec<Value>, limit: usize, after: Option<&str>) -> Result<ItemList, ApiError> {
    let id = |item: &Value| item.get("id").and_then(Value::as_str).map(str::to_owned);
    let first = match after {
        None => 0,
        Some(after) => match items.iter().position(|item| id(item).as_deref() == Some(after)) {
            Some(index) => index + 1,
            None => {
                return Err(ApiError::invalid("after", "`after` must be the id of an item of this response"));
            }
        },
    };
    let has_more = items.len() > first + limit;
    let data = items.into_iter().skip(first).take(limit).collect::<Vec<_>>();
    Ok(ItemList {
        object: "list",
        first_id: data.first().and_then(id),
        last_id: data.last().and_then(id),
        data,
        has_more,
    })
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(ApiError::invalid(name, format!("`{name}` must be true or false"))),
    }
}

fn number(name: &str, value: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, ApiError> {
    let parsed = value.parse::<i64>().map_or_else(|_| Value::from(value), Value::from);
    integer_at(name, &parsed, range)
}
