//! Paths to calls: a module for each kind of object.

mod engine;
mod explain;
mod networks;
pub(crate) mod nodes;
mod objects;
mod services;
mod tasks;

use std::{collections::BTreeMap, fmt::Debug, future::Future, io, sync::Arc, time::Duration};

use axum::{
    Json, Router, ServiceExt as _,
    body::Bytes,
    extract::{Query, Request},
    http::{StatusCode, Uri, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::any,
    serve::Listener,
};
use futures::FutureExt as _;
use model::Revision;
use serde_json::{Value, json};
use tower::util::MapRequest;

use crate::{ApiError, Backend, ErrorKind};

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
pub async fn serve<B: Backend, L: Listener<Addr: Debug>>(
    backend: Arc<B>,
    listener: L,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let shutdown = shutdown.shared();
    let paths = MapRequest::new(router(backend), without_version);
    let served =
        axum::serve(listener, paths.into_make_service()).with_graceful_shutdown(shutdown.clone());
    tokio::select! {
        served = served.into_future() => served,
        () = async { shutdown.await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
    }
}

/// The request's address as it came, with the version in front: what is passed on has
/// it, and the paths below have not.
#[derive(Clone)]
struct Original(Uri);

/// The path of an address, with its query.
fn path(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Clients put a version of the Engine API first (`/v1.41/services`), any one, or leave
/// it out.
fn without_version(mut request: Request) -> Request {
    let original = request.uri().clone();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let versioned = path(&original).strip_prefix("/v").and_then(|rest| {
        let (version, rest) = rest.split_at(rest.find('/')?);
        let (major, minor) = version.split_once('.')?;
        (number(major) && number(minor)).then(|| rest.parse().ok())?
    });
    if let Some(rest) = versioned {
        *request.uri_mut() = rest;
    }
    request.extensions_mut().insert(Original(original));
    request
}

fn router<B: Backend>(backend: Arc<B>) -> Router {
    // what is none of these is the engine's
    Router::new()
        .merge(engine::routes())
        .merge(explain::routes())
        .merge(networks::routes())
        .merge(nodes::routes())
        .merge(objects::routes())
        .merge(services::routes())
        .merge(tasks::routes())
        .route("/ipvsmesh/{*path}", any(nothing))
        .fallback(engine::pass::<B>)
        .method_not_allowed_fallback(nothing)
        .with_state(backend)
        .layer(map_response(in_json))
}

/// The part of the path that names something.
#[derive(serde::Deserialize)]
struct Named {
    id: String,
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

fn body(bytes: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("the request's body is not JSON: {error}")))
}

/// The version that an update is of; `what` is updated.
fn version(words: &BTreeMap<String, String>, what: &str) -> Result<Revision, ApiError> {
    let version = words.get("version").and_then(|text| text.parse().ok());
    version.map(Revision).ok_or_else(|| {
        ApiError::invalid(format!(
            "version is missing: give the {what}'s Version.Index"
        ))
    })
}
