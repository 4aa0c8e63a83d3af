//! Paths to calls.

use std::{collections::BTreeMap, future::Future, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, Request, State as Shared},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::FutureExt as _;
use model::{Mode, Network, Node, Revision, Service, State, Task, Versioned};
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::{
    API_VERSION, ApiError, Backend, ErrorKind, convert, events, filters::Filters, generated,
    inspect::Target, logs, registry_auth, show,
};

/// How long requests have to end once the daemon stops; a followed log never
/// ends by itself.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
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
    let shutdown = shutdown.shared();
    let served = axum::serve(listener, router(backend)).with_graceful_shutdown(shutdown.clone());
    tokio::select! {
        served = served.into_future() => served,
        () = async { shutdown.await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
    }
}

fn router<B: Backend>(backend: Arc<B>) -> Router {
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
        .route("/events", get(events::<B>))
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
        // there are none; `docker stack rm` asks for them
        .route("/secrets", get(none))
        .route("/configs", get(none))
        .route("/ipvsmesh/v1/inspect/{id}", get(inspect::<B>))
        .route("/ipvsmesh/v1/stats", get(stats::<B>))
        .route("/ipvsmesh/v1/trace", post(trace::<B>))
        .route("/ipvsmesh/v1/tasks/{id}/sandbox", get(sandbox::<B>))
        .route("/ipvsmesh/v1/settled", get(settled::<B>))
        .route("/ipvsmesh/v1/status", get(status::<B>))
        .with_state(backend);
    // clients put the version first (`/v1.41/services`), or leave it out
    api.clone()
        .nest("/{version}", api.layer(from_fn(versioned)))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .layer(map_response(in_json))
}

/// The part of the path that names something.
#[derive(serde::Deserialize)]
struct Named {
    id: String,
}

/// The first part of a path with a version.
#[derive(serde::Deserialize)]
struct Version {
    version: String,
}

/// Lets through what begins with a version of the Engine API, any one.
async fn versioned(
    Path(Version { version }): Path<Version>,
    request: Request,
    next: Next,
) -> Response {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = version.strip_prefix('v').and_then(|v| v.split_once('.'));
    if parts.is_some_and(|(major, minor)| number(major) && number(minor)) {
        return next.run(request).await;
    }
    let path = format!("/{version}{}", request.uri().path());
    page_not_found(request.method(), &path).into_response()
}

fn page_not_found(method: &axum::http::Method, path: &str) -> ApiError {
    ApiError {
        kind: ErrorKind::NotFound,
        message: format!("page not found: {method} {path} is not available in this version"),
    }
}

async fn nothing(request: Request) -> ApiError {
    page_not_found(request.method(), request.uri().path())
}

/// Puts refusals of the web framework itself into Docker's form.
async fn in_json(response: Response) -> Response {
    let (status, kind) = (
        response.status(),
        response.headers().get(header::CONTENT_TYPE),
    );
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if status.is_success() || !is_text {
        return response;
    }
    const LONGEST: usize = 4096;
    let body = axum::body::to_bytes(response.into_body(), LONGEST).await;
    let message = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    (status, Json(json!({"message": message}))).into_response()
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

async fn settled<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Result<StatusCode, ApiError> {
    backend.settled().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn status<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    Json(backend.status())
}

// === services ===

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

fn body(bytes: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("the request's body is not JSON: {error}")))
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

async fn distribution(uri: Uri) -> ApiError {
    let message = format!("{}: there is no registry here", uri.path());
    ApiError {
        kind: ErrorKind::NotFound,
        message,
    }
}

async fn none() -> Json<Value> {
    Json(json!([]))
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
    let now = jiff::Timestamp::now();
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
                let service = state.find_service(name);
                service.is_some_and(|service| service.id == task.service)
            })
            && filters.pass("node", |name| {
                let node = find_node(&state, &backend.node(), name);
                node.is_some_and(|node| node.id == task.node)
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

async fn task_logs<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
) -> Result<Response, ApiError> {
    let task = find_task(&backend.state(), &id)?.id.clone();
    let wanted = logs::Wanted::of(&words)?;
    let of = move |state: &State| {
        let task = state.tasks.get(&task);
        logs::Source {
            more: task.is_some_and(|task| !show::has_ended(state, task)),
            tasks: task.map(|task| Task::clone(task)).into_iter().collect(),
        }
    };
    Ok(logs::stream(backend, of, wanted))
}

// === events ===

async fn events<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Query(words): Words,
) -> Result<Response, ApiError> {
    let wanted = events::Wanted::of(&words)?;
    Ok(events::stream(backend.events(), wanted))
}

// === nodes and networks ===

/// The node with this id, this host name, or this unique beginning of an id.
pub(crate) fn find_node<'a>(
    state: &'a State,
    me: &model::NodeId,
    name: &str,
) -> Option<&'a Versioned<Node>> {
    let by = |fits: &dyn Fn(&Node) -> bool| {
        let mut found = state.nodes.values().filter(|node| fits(node));
        found.next().filter(|_| found.next().is_none())
    };
    by(&|node| node.id.as_str() == name || (name == "self" && node.id == *me))
        .or_else(|| by(&|node| node.hostname == name))
        .or_else(|| by(&|node| !name.is_empty() && node.id.as_str().starts_with(name)))
}

async fn nodes<B: Backend>(Shared(backend): Shared<Arc<B>>, Query(words): Words) -> Answer {
    let (state, me) = (backend.state(), backend.node());
    let known = ["id", "name", "label", "node.label", "membership", "role"];
    let filters = Filters::of(&words, &known)?;
    let fits = |node: &&Versioned<Node>| {
        filters.pass("id", |id| node.id.as_str().starts_with(id))
            && filters.pass("name", |name| node.hostname.starts_with(name))
            && filters.pass("membership", |word| word == "accepted")
            && filters.pass("role", |role| role == "manager")
            && filters.labels(&BTreeMap::new())
            && filters.pass("node.label", |_| false)
    };
    let found = state.nodes.values().filter(fits);
    Ok(Json(found.map(|node| show::node(node, &me)).collect()))
}

async fn node<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let (state, me) = (backend.state(), backend.node());
    let found = find_node(&state, &me, &id).ok_or_else(|| ApiError::not_found("node", &id))?;
    Ok(Json(show::node(found, &me)))
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
    let request = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::invalid(format!("the request is no trace: {error}")))?;
    Ok(Json(json!(backend.trace(request).await?)))
}
