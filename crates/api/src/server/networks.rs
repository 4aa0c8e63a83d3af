//! Networks.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State as Shared},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use model::{Network, State, Versioned};
use serde_json::{Value, json};

use super::{Answer, Named, Original, Words, body, engine};
use crate::{ApiError, Backend, convert, engine::EngineError, filters::Filters, show};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/networks", get(networks::<B>))
        .route("/networks/create", post(create_network::<B>))
        .route(
            "/networks/{id}",
            get(network::<B>).delete(remove_network::<B>),
        )
        .route("/networks/{id}/connect", post(attach::<B>))
        .route("/networks/{id}/disconnect", post(attach::<B>))
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

/// Ours, and then the engine's.
async fn networks<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Extension(original): Extension<Original>,
    Query(words): Words,
) -> Answer {
    let theirs = match backend.engine().get(original.path()).await {
        Ok(Value::Array(theirs)) => theirs,
        // what it does not understand of the request is wrong for us as well
        Err(refused @ EngineError::Refused { .. }) => return Err(refused.into()),
        // ours are there without it
        Ok(_) | Err(_) => Vec::new(),
    };
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
    let ours = state.networks.values().filter(fits);
    Ok(Json(ours.map(show::network).chain(theirs).collect()))
}

async fn network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Extension(original): Extension<Original>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let state = backend.state();
    match find_network(&state, &id) {
        Ok(found) => Ok(Json(show::network(found))),
        Err(unknown) => match backend.engine().get(original.path()).await {
            Ok(theirs) => Ok(Json(theirs)),
            Err(_) => Err(unknown),
        },
    }
}

/// `ipvsmesh` and `overlay` are ours; another driver's is the engine's.
async fn create_network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Extension(Original(uri)): Extension<Original>,
    method: Method,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let raw = body(&bytes)?;
    let driver = raw["Driver"].as_str().unwrap_or_default();
    if !raw.is_object() || ["ipvsmesh", "overlay"].contains(&driver) {
        let spec = convert::network(&raw)?;
        let id = backend.create_network(spec, raw).await?;
        return Ok((StatusCode::CREATED, Json(json!({"Id": id, "Warning": ""}))).into_response());
    }
    let mut request = Request::new(Body::from(bytes));
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    *request.headers_mut() = headers;
    Ok(backend.engine().forward(request).await)
}

async fn remove_network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    original: Extension<Original>,
    request: Request,
) -> Result<Response, ApiError> {
    let found = find_network(&backend.state(), &id).map(|network| network.id.clone());
    match found {
        Ok(id) => {
            backend.remove_network(id).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Err(unknown) => {
            let answer = engine::pass(Shared(backend), original, request).await;
            // the name may be a mistyped one of ours
            match answer.status() {
                StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => Err(unknown),
                _ => Ok(answer),
            }
        }
    }
}

/// `docker network connect` and `disconnect`.
async fn attach<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    original: Extension<Original>,
    request: Request,
) -> Result<Response, ApiError> {
    match find_network(&backend.state(), &id) {
        Ok(network) => Err(ApiError::invalid(format!(
            "network {} is the mesh's, and only tasks of services are attached to it: use \
             docker service update --network-add {0} SERVICE; or give the container the label \
             ipvsmesh.service=NAME to make it part of a service",
            network.spec.name
        ))),
        Err(_) => Ok(engine::pass(Shared(backend), original, request).await),
    }
}
