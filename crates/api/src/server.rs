//! Paths to calls: a module for each kind of object.

mod engine;
mod explain;
mod networks;
pub(crate) mod nodes;
mod services;
mod tasks;

use std::{collections::BTreeMap, future::Future, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, Request},
    http::{StatusCode, header},
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
};
use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::net::UnixListener;

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
        .merge(engine::routes())
        .merge(explain::routes())
        .merge(networks::routes())
        .merge(nodes::routes())
        .merge(services::routes())
        .merge(tasks::routes())
        .with_state(backend);
    // clients put the version first (`/v1.41/services`), or leave it out
    api.clone()
        .nest("/{version}", api.layer(from_fn(versioned)))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .layer(map_response(in_json))
}

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

fn body(bytes: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("the request's body is not JSON: {error}")))
}
