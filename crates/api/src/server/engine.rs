//! Who answers.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State as Shared,
    http::Uri,
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{API_VERSION, ApiError, Backend, ErrorKind};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/_ping", get(ping).head(ping))
        .route("/version", get(version))
        .route("/info", get(info::<B>))
        .route("/swarm", get(swarm::<B>))
        .route("/distribution/{*image}", get(distribution))
        // there are none; `docker stack rm` asks for them
        .route("/secrets", get(none))
        .route("/configs", get(none))
}

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
