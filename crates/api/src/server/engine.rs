//! Who answers: the mesh, and the Docker Engine behind it.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::State as Shared,
    http::{HeaderMap, HeaderValue, Method, Uri},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{Original, path};
use crate::{API_VERSION, ApiError, Backend};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/_ping", get(ping::<B>).head(ping::<B>))
        .route("/version", get(version::<B>))
        .route("/info", get(info::<B>))
        .route("/swarm", get(swarm::<B>))
        .route("/swarm/{*what}", get(no_swarm).post(no_swarm))
}

/// What is Docker's alone.
pub(super) async fn pass<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Extension(Original(uri)): Extension<Original>,
    mut request: axum::extract::Request,
) -> Response {
    *request.uri_mut() = uri;
    backend.engine().forward(request).await
}

/// The version of the API is that of the engine, which must understand what is
/// passed on to it; we understand each.
async fn ping<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Response {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("api-version", API_VERSION),
        ("docker-experimental", "false"),
        ("ostype", "linux"),
        ("swarm", "active/manager"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(answer) = backend.engine().ask(Method::HEAD, "/_ping").await {
        for name in ["api-version", "builder-version", "docker-experimental"] {
            if let Some(value) = answer.headers().get(name) {
                headers.insert(name, value.clone());
            }
        }
    }
    (headers, "OK").into_response()
}

async fn version<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    let own = json!({
        "Name": "ipvsmesh",
        "Version": env!("CARGO_PKG_VERSION"),
        "Details": {"Os": "linux", "Arch": std::env::consts::ARCH},
    });
    let Some(mut version) = backend.engine().get("/version").await else {
        return Json(json!({
            "Platform": {"Name": "ipvsmesh"},
            "Components": [own],
            "Version": env!("CARGO_PKG_VERSION"),
            "ApiVersion": API_VERSION,
            "MinAPIVersion": "1.24",
            "Os": "linux",
            "Arch": std::env::consts::ARCH,
        }));
    };
    if let Some(components) = version["Components"].as_array_mut() {
        components.push(own);
    }
    Json(version)
}

/// The engine's own, as far as it answers, with the mesh in the place of its swarm.
async fn info<B: Backend>(Shared(backend): Shared<Arc<B>>, uri: Uri) -> Json<Value> {
    let state = backend.state();
    let me = backend.node();
    let name = state
        .nodes
        .get(&me)
        .map_or("", |node| node.hostname.as_str());
    let mut info = backend.engine().get(path(&uri)).await;
    let info = info.get_or_insert_with(|| {
        json!({
            "ID": me,
            "Name": name,
            "ServerVersion": env!("CARGO_PKG_VERSION"),
            "OSType": "linux",
            "Architecture": std::env::consts::ARCH,
        })
    });
    info["Swarm"] = json!({
        "NodeID": me,
        "NodeAddr": "127.0.0.1",
        "LocalNodeState": "active",
        "ControlAvailable": true,
        "Error": "",
        "RemoteManagers": [{"NodeID": me, "Addr": "127.0.0.1:2377"}],
        "Nodes": state.nodes.len(),
        "Managers": state.nodes.len(),
        "Cluster": swarm_of(&me),
    });
    Json(info.take())
}

/// `ClusterInfo`, as far as it means something here.
fn swarm_of(me: &model::NodeId) -> Value {
    json!({
        "ID": me,
        "Version": {"Index": 0},
        "CreatedAt": "0001-01-01T00:00:00Z",
        "UpdatedAt": "0001-01-01T00:00:00Z",
        "Spec": {
            "Name": "default",
            "Labels": {},
            "Orchestration": {"TaskHistoryRetentionLimit": 5},
            "Raft": {},
            "Dispatcher": {},
            "CAConfig": {},
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": false},
        },
        "TLSInfo": {},
        "RootRotationInProgress": false,
    })
}

async fn swarm<B: Backend>(Shared(backend): Shared<Arc<B>>) -> Json<Value> {
    Json(swarm_of(&backend.node()))
}

async fn no_swarm() -> ApiError {
    ApiError::conflict(
        "this node is part of an ipvsmesh already: there is no swarm to init, join, leave or change",
    )
}
