//! Networks.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State as Shared},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use model::{Network, State, Versioned};
use serde_json::json;

use super::{Answer, Named, Words, body};
use crate::{ApiError, Backend, convert, filters::Filters, show};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/networks", get(networks::<B>))
        .route("/networks/create", post(create_network::<B>))
        .route(
            "/networks/{id}",
            get(network::<B>).delete(remove_network::<B>),
        )
}

fn find_network<'a>(state: &'a State, name: &str) -> Result<&'a Versioned<Network>, ApiError> {
    state.find_network(name).ok_or_else(|| {
        let known = state
            .networks
            .values()
            .map(|network| network.spec.name.as_str());
        ApiError::not_found("network", name).or_meant(name, known)
    })
}

async fn networks<B: Backend>(Shared(backend): Shared<Arc<B>>, Query(words): Words) -> Answer {
    let state = backend.state();
    let filters = Filters::of(
        &words,
        &["id", "name", "label", "driver", "scope", "type", "dangling"],
    )?;
    let fits = |network: &&Versioned<Network>| {
        filters.pass("id", |id| network.id.as_str().starts_with(id))
            && filters.pass("name", |name| network.spec.name.as_str().contains(name))
            && filters.pass("driver", |driver| {
                driver == "ipvsmesh" || driver == "overlay"
            })
            && filters.pass("scope", |scope| scope == "swarm")
            && filters.pass("type", |kind| kind == "custom")
            && filters.labels(&network.spec.labels)
    };
    Ok(Json(
        state
            .networks
            .values()
            .filter(fits)
            .map(show::network)
            .collect(),
    ))
}

async fn network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let state = backend.state();
    Ok(Json(show::network(find_network(&state, &id)?)))
}

async fn create_network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let raw = body(&bytes)?;
    let spec = convert::network(&raw)?;
    let id = backend.create_network(spec, raw).await?;
    Ok((StatusCode::CREATED, Json(json!({"Id": id, "Warning": ""}))).into_response())
}

async fn remove_network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Result<StatusCode, ApiError> {
    let id = find_network(&backend.state(), &id)?.id.clone();
    backend.remove_network(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
