//! Tasks and their logs.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State as Shared},
    response::Response,
    routing::get,
};
use model::{State, Task, Versioned};
use serde_json::json;

use super::{Answer, Named, Words, nodes::find_node};
use crate::{ApiError, Backend, filters::Filters, logs, show};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    Router::new()
        .route("/tasks", get(tasks::<B>))
        .route("/tasks/{id}", get(task::<B>))
        .route("/tasks/{id}/logs", get(task_logs::<B>))
        .route("/ipvsmesh/v1/tasks/{id}/sandbox", get(sandbox::<B>))
}

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
