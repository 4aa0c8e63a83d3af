//! Paths to calls.

use std::{
    collections::BTreeMap, convert::Infallible, future::Future, io, sync::Arc, time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State as Shared},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use model::{Mode, Network, Revision, Service, State, Task, Versioned};
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::mpsc};

use crate::{API_VERSION, ApiError, Backend, ErrorKind, LogLine, convert, show};

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(300);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({"message": self.message}))).into_response()
    }
}

type Answer = Result<Json<Value>, ApiError>;
type Words = Query<BTreeMap<String, String>>;

/// Serves the API until `shutdown`.
///
/// # Errors
/// The socket failed.
pub async fn serve<B: Backend>(
    backend: Arc<B>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let api = Router::new()
        .route("/_ping", get(ping).head(ping))
        .route("/version", get(version))
        .route("/info", get(info::<B>))
        .route("/swarm", get(swarm::<B>))
        .route("/services", get(services::<B>))
        .route("/services/create", post(create_service::<B>))
        .route(
            "/services/{id}",
            get(service::<B>).delete(remove_service::<B>),
        )
        .route("/services/{id}/update", post(update_service::<B>))
        .route("/services/{id}/logs", get(service_logs::<B>))
        .route("/tasks", get(tasks::<B>))
        .route("/tasks/{id}", get(task::<B>))
        .route("/tasks/{id}/logs", get(task_logs::<B>))
        .route("/nodes", get(nodes::<B>))
        .route("/nodes/{id}", get(node::<B>))
        .route("/networks", get(networks::<B>))
        .route("/networks/create", post(create_network::<B>))
        .route(
            "/networks/{id}",
            get(network::<B>).delete(remove_network::<B>),
        )
        .route("/distribution/{*image}", get(distribution))
        .route("/ipvsmesh/v1/inspect/{id}", get(inspect::<B>))
        .route("/ipvsmesh/v1/tasks/{id}/sandbox", get(sandbox::<B>))
        .route("/ipvsmesh/v1/status", get(status::<B>))
        .with_state(backend);
    // clients put the version first (`/v1.41/services`), or leave it out
    let router = api.clone().nest("/{version}", api).fallback(nothing);
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
}

/// The part of the path that names something.
#[derive(serde::Deserialize)]
struct Named {
    id: String,
}

async fn nothing(request: Request) -> ApiError {
    let message = format!(
        "page not found: {} {}",
        request.method(),
        request.uri().path()
    );
    ApiError {
        kind: ErrorKind::NotFound,
        message,
    }
}

// === who we are ===

async fn ping() -> Response {
    let headers = [
        ("Api-Version", API_VERSION),
        ("Docker-Experimental", "false"),
        ("Ostype", "linux"),
        ("Swarm", "active/manager"),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ];
    (headers, "OK").into_response()
}

async fn version() -> Json<Value> {
    Json(json!({
        "Platform": {"Name": "ipvsmesh"},
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": API_VERSION,
        "MinAPIVersion": "1.24",
        "Os": "linux",
        "Arch": std::env::consts::ARCH,
    }))
}

async fn info<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    let state = backend.state();
    let me = backend.node();
    let name = state
        .nodes
        .get(&me)
        .map_or("", |node| node.hostname.as_str());
    Json(json!({
        "ID": me,
        "Name": name,
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "Swarm": {
            "NodeID": me,
            "NodeAddr": "127.0.0.1",
            "LocalNodeState": "active",
            "ControlAvailable": true,
            "Nodes": state.nodes.len(),
            "Managers": state.nodes.len(),
        },
    }))
}

async fn swarm<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    Json(json!({"ID": backend.node(), "Spec": {"Name": "default"}}))
}

async fn status<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    Json(backend.status())
}

// === filters ===

/// Docker's `filters`: `{"name": {"vote": true}}`, or lists in old clients.
struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    fn of(words: &BTreeMap<String, String>, known: &[&str]) -> Result<Self, ApiError> {
        let Some(text) = words.get("filters").filter(|text| !text.is_empty()) else {
            return Ok(Self(BTreeMap::new()));
        };
        let raw: BTreeMap<String, Value> = serde_json::from_str(text)
            .map_err(|error| ApiError::invalid(format!("filters cannot be read: {error}")))?;
        let mut filters = BTreeMap::new();
        for (key, value) in raw {
            if !known.contains(&key.as_str()) {
                return Err(ApiError::invalid(format!(
                    "invalid filter {key:?}: use one of {}",
                    known.join(", ")
                )));
            }
            let values = match value {
                Value::Object(map) => map.into_iter().map(|(value, _)| value).collect(),
                Value::Array(list) => list
                    .iter()
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect(),
                _ => Vec::new(),
            };
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// Whether there is no such filter, or one of its values fits.
    fn pass(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(key)
            .is_none_or(|values| values.iter().any(|value| fits(value)))
    }

    /// Whether all `label` filters (`KEY` or `KEY=VALUE`) fit.
    fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.get("label").is_none_or(|values| {
            values.iter().all(|value| match value.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
                None => labels.contains_key(value),
            })
        })
    }
}

// === services ===

fn find_service<'a>(state: &'a State, name: &str) -> Result<&'a Versioned<Service>, ApiError> {
    state
        .find_service(name)
        .ok_or_else(|| ApiError::not_found("service", name))
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

fn body(bytes: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("the request's body is not JSON: {error}")))
}

async fn create_service<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let raw = body(&bytes)?;
    let spec = convert::service(&raw, &backend.state())?;
    let id = backend.create_service(spec, raw).await?;
    Ok((StatusCode::CREATED, Json(json!({"ID": id}))).into_response())
}

async fn update_service<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
    bytes: Bytes,
) -> Answer {
    let state = backend.state();
    let id = find_service(&state, &id)?.id.clone();
    let version = words
        .get("version")
        .and_then(|version| version.parse().ok());
    let version = version
        .map(Revision)
        .ok_or_else(|| ApiError::invalid("version is missing: give the service's Version.Index"))?;
    match words.get("rollback").map(String::as_str) {
        Some("previous") => backend.rollback_service(id, version).await?,
        Some(other) if !other.is_empty() => {
            return Err(ApiError::invalid(format!(
                "rollback {other:?}: use previous"
            )));
        }
        _ => {
            let raw = body(&bytes)?;
            let spec = convert::service(&raw, &state)?;
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

async fn distribution(uri: Uri) -> ApiError {
    let message = format!("{}: there is no registry here", uri.path());
    ApiError {
        kind: ErrorKind::NotFound,
        message,
    }
}

// === tasks ===

async fn tasks<B: Backend>(Shared(backend): Shared<Arc<B>>, Query(words): Words) -> Answer {
    let state = backend.state();
    let filters = Filters::of(
        &words,
        &[
            "id",
            "name",
            "service",
            "node",
            "label",
            "desired-state",
            "_up-to-date",
            "runtime",
        ],
    )?;
    let now = Timestamp::now();
    let fits = |task: &&Versioned<Task>| {
        let service = state.services.get(&task.service);
        let current = service.is_some_and(|service| service.spec.task == task.spec);
        let labels = service
            .map(|service| service.spec.labels.clone())
            .unwrap_or_default();
        let desired = show::desired(task, now);
        // one that is being forgotten is no history
        desired != "remove"
            && filters.pass("id", |id| task.id.as_str().starts_with(id))
            && filters.pass("name", |name| task.name().starts_with(name))
            && filters.pass("service", |name| {
                task.service.as_str().starts_with(name)
                    || state
                        .find_service(name)
                        .is_some_and(|service| service.id == task.service)
            })
            && filters.pass("node", |node| {
                task.node.as_str().starts_with(node)
                    || state
                        .nodes
                        .get(&task.node)
                        .is_some_and(|n| n.hostname == node)
            })
            && filters.pass("desired-state", |state| {
                desired == state || (desired == "ready" && state == "running")
            })
            && filters.pass("_up-to-date", |wanted| (wanted == "true") == current)
            && filters.labels(&labels)
    };
    let found = state.tasks.values().filter(fits);
    Ok(Json(found.map(|task| show::task(&state, task)).collect()))
}

fn find_task<'a>(state: &'a State, name: &str) -> Result<&'a Versioned<Task>, ApiError> {
    state
        .find_task(name)
        .ok_or_else(|| ApiError::not_found("task", name))
}

async fn task<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let state = backend.state();
    Ok(Json(show::task(&state, find_task(&state, &id)?)))
}

async fn sandbox<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let task = find_task(&backend.state(), &id)?.id.clone();
    Ok(Json(json!(backend.sandbox(task)?)))
}

// === logs ===

async fn service_logs<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
) -> Result<Response, ApiError> {
    let state = backend.state();
    let service = find_service(&state, &id)?.id.clone();
    Ok(logs(backend, move |task| task.service == service, &words))
}

async fn task_logs<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
) -> Result<Response, ApiError> {
    let task = find_task(&backend.state(), &id)?.id.clone();
    Ok(logs(backend, move |other| other.id == task, &words))
}

/// Lines as docker's multiplexed frames: stream, three zeros, length, text.
fn logs<B: Backend>(
    backend: Arc<B>,
    wanted: impl Fn(&Task) -> bool + Send + 'static,
    words: &BTreeMap<String, String>,
) -> Response {
    let on = |key: &str| {
        words
            .get(key)
            .is_some_and(|value| value == "1" || value == "true")
    };
    let (follow, details, timestamps) = (on("follow"), on("details"), on("timestamps"));
    let (stdout, stderr) = (on("stdout"), on("stderr"));
    let tail = words
        .get("tail")
        .and_then(|tail| tail.parse::<usize>().ok());
    let (frames, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(64);
    tokio::spawn(async move {
        let mut sent: BTreeMap<model::TaskId, usize> = BTreeMap::new();
        loop {
            let state = backend.state();
            let tasks: Vec<Task> = state
                .tasks
                .values()
                .filter(|task| wanted(task))
                .map(|task| task.value.clone())
                .collect();
            let mut lines: Vec<(Timestamp, String, LogLine)> = Vec::new();
            for task in tasks {
                let Ok(all) = backend.logs(task.id.clone()).await else {
                    continue;
                };
                let first = !sent.contains_key(&task.id);
                let seen = sent.entry(task.id.clone()).or_default();
                let skip = match (first, tail) {
                    (true, Some(tail)) => all.len().saturating_sub(tail),
                    _ => *seen,
                };
                *seen = all.len();
                let prefix = if details {
                    format!(
                        "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={} ",
                        task.node, task.service, task.id
                    )
                } else {
                    String::new()
                };
                let new = all.into_iter().skip(skip);
                let new = new.filter(|line| if line.stderr { stderr } else { stdout });
                lines.extend(new.map(|line| (line.time, prefix.clone(), line)));
            }
            lines.sort_by_key(|(time, ..)| *time);
            for (time, prefix, line) in lines {
                let time = if timestamps {
                    format!("{time} ")
                } else {
                    String::new()
                };
                let text = format!("{time}{prefix}{}", line.text);
                let mut frame = vec![if line.stderr { 2 } else { 1 }, 0, 0, 0];
                frame.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                frame.extend(text.as_bytes());
                if frames.send(Ok(frame.into())).await.is_err() {
                    return;
                }
            }
            if !follow || frames.is_closed() {
                return;
            }
            tokio::time::sleep(FOLLOW).await;
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    let kind = [(
        header::CONTENT_TYPE,
        "application/vnd.docker.multiplexed-stream",
    )];
    (kind, Body::from_stream(stream)).into_response()
}

// === nodes and networks ===

async fn nodes<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    let (state, me) = (backend.state(), backend.node());
    Json(
        state
            .nodes
            .values()
            .map(|node| show::node(node, &me))
            .collect(),
    )
}

async fn node<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let (state, me) = (backend.state(), backend.node());
    let found = state.nodes.values().find(|node| {
        id == "self" && node.id == me || node.id.as_str() == id || node.hostname == id
    });
    let found = found.ok_or_else(|| ApiError::not_found("node", &id))?;
    Ok(Json(show::node(found, &me)))
}

fn find_network<'a>(state: &'a State, name: &str) -> Result<&'a Versioned<Network>, ApiError> {
    state
        .find_network(name)
        .ok_or_else(|| ApiError::not_found("network", name))
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

async fn inspect<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let service = find_service(&backend.state(), &id)?.id.clone();
    Ok(Json(json!(backend.inspect(service).await?)))
}
