//! Networks.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State as Shared},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use model::{Network, State, Versioned};
use serde_json::{Value, json};

use super::{Answer, Named, Original, Words, body, engine, path};
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
        // without the engine's, which are nothing to the command of ours
        .route("/ipvsmesh/v1/networks", get(own_networks::<B>))
        .route(
            "/ipvsmesh/v1/networks/{id}",
            get(own_network::<B>).delete(remove_own_network::<B>),
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

/// Those that fit Docker's filters.
fn ours(state: &State, words: &BTreeMap<String, String>) -> Result<Vec<Value>, ApiError> {
    let filters = Filters::of(
        words,
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
    Ok(ours.map(show::network).collect())
}

async fn own_networks<B: Backend>(Shared(backend): Shared<Arc<B>>, Query(words): Words) -> Answer {
    Ok(Json(Value::Array(ours(&backend.state(), &words)?)))
}

/// Ours, and then the engine's.
async fn networks<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    uri: Uri,
    Query(words): Words,
) -> Answer {
    let mut all = ours(&backend.state(), &words)?;
    // ours are there without it
    if let Some(Value::Array(theirs)) = backend.engine().get(path(&uri)).await {
        all.extend(theirs);
    }
    Ok(Json(Value::Array(all)))
}

async fn own_network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let state = backend.state();
    find_network(&state, &id).map(|found| Json(show::network(found)))
}

async fn network<B: Backend>(shared: Shared<Arc<B>>, id: Path<Named>, uri: Uri) -> Answer {
    let Shared(backend) = shared.clone();
    match own_network(shared, id).await {
        Err(unknown) => match backend.engine().get(path(&uri)).await {
            Some(theirs) => Ok(Json(theirs)),
            None => Err(unknown),
        },
        found => found,
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

async fn remove_own_network<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Result<StatusCode, ApiError> {
    let id = find_network(&backend.state(), &id)?.id.clone();
    backend.remove_network(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_network<B: Backend>(
    shared: Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    original: Extension<Original>,
    request: Request,
) -> Result<Response, ApiError> {
    let Err(unknown) = find_network(&shared.state(), &id) else {
        let removed = remove_own_network(shared, Path(Named { id })).await?;
        return Ok(removed.into_response());
    };
    let answer = engine::pass(shared, original, request).await;
    // the name may be a mistyped one of ours
    match answer.status() {
        StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => Err(unknown),
        _ => Ok(answer),
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
