//! Services, their changes and logs.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State as Shared},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use model::{Mode, Service, State, Task, Versioned};
use serde_json::json;

use super::{Answer, Named, Words, body, version};
use crate::{ApiError, Backend, convert, filters::Filters, generated, logs, registry_auth, show};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/services", get(services::<B>))
        .route("/services/create", post(create_service::<B>))
        .route(
            "/services/{id}",
            get(service::<B>).delete(remove_service::<B>),
        )
        .route("/services/{id}/update", post(update_service::<B>))
        .route("/services/{id}/logs", get(service_logs::<B>))
}

fn find_service<'a>(state: &'a State, name: &str) -> Result<&'a Versioned<Service>, ApiError> {
    state.find_service(name).ok_or_else(|| {
        let known = state
            .services
            .values()
            .map(|service| service.spec.name.as_str());
        ApiError::not_found("service", name).or_meant(name, known)
    })
}

async fn services<B: Backend>(Shared(backend): Shared<Arc<B>>, Query(words): Words) -> Answer {
    let state = backend.state();
    let filters = Filters::of(&words, &["id", "name", "label", "mode", "runtime"])?;
    let status = words
        .get("status")
        .is_some_and(|value| value != "false" && value != "0");
    let fits = |service: &&Versioned<Service>| {
        filters.pass("id", |id| service.id.as_str().starts_with(id))
            && filters.pass("name", |name| service.spec.name.as_str().starts_with(name))
            && filters.pass("mode", |mode| match service.spec.mode {
                Mode::Replicated { .. } => mode == "replicated",
                Mode::Global => mode == "global",
            })
            && filters.labels(&service.spec.labels)
    };
    let found = state.services.values().filter(fits);
    Ok(Json(
        found
            .map(|service| show::service(&state, service, status))
            .collect(),
    ))
}

async fn service<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let state = backend.state();
    Ok(Json(show::service(
        &state,
        find_service(&state, &id)?,
        false,
    )))
}

async fn create_service<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let mut raw = body(&bytes)?;
    let state = backend.state();
    if raw["Name"].as_str().is_none_or(str::is_empty) && raw.is_object() {
        let random = getrandom::u64()
            .map_err(|error| ApiError::internal(format!("no randomness for a name: {error}")))?;
        raw["Name"] = json!(generated::name(&state, random));
    }
    let mut spec = convert::service(&raw, &state)?;
    spec.registry_auth = registry_auth::of(&headers)?;
    let id = backend.create_service(spec, raw).await?;
    Ok((StatusCode::CREATED, Json(json!({"ID": id}))).into_response())
}

async fn update_service<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let state = backend.state();
    let found = find_service(&state, &id)?;
    let id = found.id.clone();
    let version = version(&words, "service")?;
    match words.get("rollback").map(String::as_str) {
        Some("previous") => backend.rollback_service(id, version).await?,
        Some(other) if !other.is_empty() => {
            return Err(ApiError::invalid(format!(
                "rollback {other:?}: use previous"
            )));
        }
        _ => {
            let raw = body(&bytes)?;
            let mut spec = convert::changed_service(&raw, &state, &found.spec)?;
            let known = match words.get("registryAuthFrom").map(String::as_str) {
                Some("previous-spec") => found.previous.as_deref(),
                _ => Some(&found.spec),
            };
            let known = || known.and_then(|spec| spec.registry_auth.clone());
            spec.registry_auth = registry_auth::of(&headers)?.or_else(known);
            backend.update_service(id, version, spec, raw).await?;
        }
    }
    Ok(Json(json!({"Warnings": null})))
}

async fn remove_service<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Result<StatusCode, ApiError> {
    let id = find_service(&backend.state(), &id)?.id.clone();
    backend.remove_service(id).await?;
    Ok(StatusCode::OK)
}

async fn service_logs<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
) -> Result<Response, ApiError> {
    let service = find_service(&backend.state(), &id)?.id.clone();
    let wanted = logs::Wanted::of(&words)?;
    let of = move |state: &State| {
        let tasks = state.tasks_of(&service);
        logs::Source {
            more: state.services.contains_key(&service)
                || tasks.iter().any(|task| !show::has_ended(state, task)),
            tasks: tasks.into_iter().map(|task| Task::clone(task)).collect(),
        }
    };
    Ok(logs::stream(backend, of, wanted))
}
