//! What a request for a response refers to: the responses it goes on from, and single items.

use candlewick_protocol::{ErrorKind, Message, StoredResponse};
use serde_json::Value;

use crate::backend::Backend;
use crate::error::ApiError;
use crate::from_wire::{Conversation, referred};
use crate::to_wire::{ResponseWriter, owner_of};
use crate::wire::error::Fault;
use crate::wire::responses::Response;

/// A stored response as the wire has it.
pub fn render(stored: &StoredResponse) -> Response {
    let mut writer = ResponseWriter::new(&stored.record);
    for entry in &stored.log {
        writer.take(entry);
    }
    writer.into_response()
}

/// The items of a response's output, as input of the next.
pub fn output_items(stored: &StoredResponse) -> Vec<Value> {
    let output = serde_json::to_value(render(stored).output).expect("items are text and numbers");
    match output {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Puts everything into messages: what went before, then the new input, whose references are replaced by what they refer
/// to.
pub async fn messages(
    backend: &dyn Backend,
    previous: Option<&str>,
    input: &mut [Value],
    instructions: Option<&str>,
) -> Result<Vec<Message>, ApiError> {
    let mut conversation = Conversation::default();
    for stored in chain(backend, previous).await? {
        let items = stored.record.input.iter().cloned().chain(output_items(&stored));
        for item in items {
            conversation.push("previous_response_id", item)?;
        }
    }
    for (index, item) in input.iter_mut().enumerate() {
        let path = format!("input.{index}");
        if let Some(id) = referred(item) {
            *item = find_item(backend, &format!("{path}.id"), id).await?;
        }
        conversation.push(&path, item.clone())?;
    }
    Ok(conversation.into_messages(instructions))
}

async fn chain(backend: &dyn Backend, previous: Option<&str>) -> Result<Vec<StoredResponse>, ApiError> {
    const PARAM: &str = "previous_response_id";
    let Some(previous) = previous else { return Ok(Vec::new()) };
    if !backend.keeps_responses() {
        return Err(no_store(PARAM));
    }
    let chain =
        backend.find_chain(previous).await?.map_err(|missing| not_found(&missing).with_param(PARAM))?;
    // What is not over cannot be gone on from, and what failed has nothing to go on from. Those before were checked when
    // they were gone on from.
    if let Some(last) = chain.last() {
        let response = render(last);
        let status = serde_json::to_value(response.status).expect("a word");
        let word = status.as_str().unwrap_or_default();
        match word {
            "completed" | "incomplete" => {}
            "queued" | "in_progress" => {
                let message = format!("the response `{previous}` is {word}; wait until it is over");
                return Err(ApiError::invalid(PARAM, message));
            }
            _ => {
                let message = format!("the response `{previous}` is {word}, and cannot be gone on from");
                return Err(ApiError::invalid(PARAM, message));
            }
        }
    }
    Ok(chain)
}

/// An item of a stored response, of its input or its output.
async fn find_item(backend: &dyn Backend, path: &str, id: &str) -> Result<Value, ApiError> {
    if !backend.keeps_responses() {
        return Err(no_store(path));
    }
    let stored = match owner_of(id) {
        Some(owner) => backend.find_response(&owner).await?,
        None => None,
    };
    let is_it = |item: &Value| item.get("id").and_then(Value::as_str) == Some(id);
    let found = stored
        .and_then(|stored| stored.record.input.iter().cloned().chain(output_items(&stored)).find(is_it));
    found.ok_or_else(|| {
        let id = candlewick_protocol::clipped(id);
        let message = format!("there is no item `{id}` in a stored response; send the item itself");
        ApiError::new(Fault::NotFound, message).with_param(path)
    })
}

/// What is asked for takes a store, and the server runs without.
pub fn no_store(param: &str) -> ApiError {
    let message = format!(
        "`{param}` needs stored responses, and this server keeps none: it was started with --no-store, or another server \
         has the data folder"
    );
    ApiError::new(Fault::Kind(ErrorKind::Unsupported), message).with_param(param)
}

/// There is no such response.
pub fn not_found(id: &str) -> ApiError {
    let id = candlewick_protocol::clipped(id);
    let message = format!("there is no response `{id}`: it was not stored, was deleted, or has expired");
    ApiError::new(Fault::NotFound, message).with_param("response_id")
}
