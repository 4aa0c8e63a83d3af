//! Nodes.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State as Shared},
    http::StatusCode,
    routing::{get, post},
};
use model::{Node, State, Versioned};

use super::{Answer, Named, Words, body, version};
use crate::{ApiError, Backend, convert, filters::Filters, show};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/nodes", get(nodes::<B>))
        .route("/nodes/{id}", get(node::<B>).delete(remove_node::<B>))
        .route("/nodes/{id}/update", post(update_node::<B>))
}

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
            && filters.all_of("node.label", &node.labels)
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

async fn update_node<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let (state, me) = (backend.state(), backend.node());
    let found = find_node(&state, &me, &id).ok_or_else(|| ApiError::not_found("node", &id))?;
    let version = version(&words, "node")?;
    let (labels, availability) = convert::node(&body(&bytes)?)?;
    let id = found.id.clone();
    backend
        .update_node(id, version, labels, availability)
        .await?;
    Ok(StatusCode::OK)
}

async fn remove_node<B: Backend>(
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> ApiError {
    let (state, me) = (backend.state(), backend.node());
    match find_node(&state, &me, &id) {
        None => ApiError::not_found("node", &id),
        Some(node) => ApiError::conflict(format!(
            "node {} is up and part of the mesh: it is removed on it, by ipvsmeshd --cleanup",
            node.hostname
        )),
    }
}
