//! What Docker has no words for: what the mesh does, and why.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State as Shared},
    http::{StatusCode, Uri},
    response::Response,
    routing::{get, post},
};
use futures::stream::empty;
use serde_json::{Value, json};

use super::{Answer, Named, Words, body, path};
use crate::{ApiError, Backend, events, inspect::Target};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/events", get(all_events::<B>))
        .route("/ipvsmesh/v1/events", get(events::<B>))
        .route("/ipvsmesh/v1/inspect/{id}", get(inspect::<B>))
        .route("/ipvsmesh/v1/stats", get(stats::<B>))
        .route("/ipvsmesh/v1/trace", post(trace::<B>))
        .route("/ipvsmesh/v1/settled", get(settled::<B>))
        .route("/ipvsmesh/v1/status", get(status::<B>))
}

async fn events<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Query(words): Words,
) -> Result<Response, ApiError> {
    let wanted = events::Wanted::of(&words)?;
    Ok(events::stream(backend.events(), wanted, empty()).await)
}

/// With the engine's, as a swarm's manager tells of both.
async fn all_events<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    uri: Uri,
    Query(words): Words,
) -> Result<Response, ApiError> {
    let wanted = events::Wanted::of(&words)?;
    let ours = backend.events();
    let theirs = backend.engine().lines(path(&uri)).await;
    Ok(events::stream(ours, wanted, theirs).await)
}

async fn stats<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Answer {
    Ok(Json(json!(backend.stats().await?)))
}

async fn inspect<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
) -> Answer {
    let kind = words.get("type").filter(|kind| !kind.is_empty());
    let kind = kind.map(String::as_str);
    let target = Target::find(&backend.state(), &backend.node(), &id, kind)?;
    Ok(Json(json!(backend.inspect(target).await?)))
}

async fn trace<B: Backend>(Shared(backend): Shared<Arc<B>>, bytes: Bytes) -> Answer {
    let raw = Some(body(&bytes)?).filter(Value::is_object);
    // a list of its values would be read as well
    let raw = raw.ok_or_else(|| ApiError::invalid("the request is no trace: it is no object"))?;
    let request = serde_json::from_value(raw)
        .map_err(|error| ApiError::invalid(format!("the request is no trace: {error}")))?;
    Ok(Json(json!(backend.trace(request).await?)))
}

async fn settled<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Result<StatusCode, ApiError> {
    backend.settled().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn status<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    Json(backend.status())
}
