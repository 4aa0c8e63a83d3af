//! Configs and secrets.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State as Shared},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use model::{Blob, BlobKind, State, Versioned};
use serde_json::json;

use super::{Answer, Named, Words, body, version};
use crate::{ApiError, Backend, convert, filters::Filters, show};

/// Paths to calls.
pub(super) fn routes<B: Backend>() -> Router<Arc<B>> {
    of(BlobKind::Config).merge(of(BlobKind::Secret))
}

fn of<B: Backend>(kind: BlobKind) -> Router<Arc<B>> {
    type Daemon<B> = Shared<Arc<B>>;
    Router::new()
        .route(
            &format!("/{kind}s"),
            get(move |daemon: Daemon<B>, words: Words| blobs(kind, daemon, words)),
        )
        .route(
            &format!("/{kind}s/create"),
            post(move |daemon: Daemon<B>, bytes: Bytes| create(kind, daemon, bytes)),
        )
        .route(
            &format!("/{kind}s/{{id}}"),
            get(move |daemon: Daemon<B>, named: Path<Named>| blob(kind, daemon, named))
                .delete(move |daemon: Daemon<B>, named: Path<Named>| remove(kind, daemon, named)),
        )
        .route(
            &format!("/{kind}s/{{id}}/update"),
            post(
                move |daemon: Daemon<B>, named: Path<Named>, words: Words, bytes: Bytes| {
                    update(kind, daemon, named, words, bytes)
                },
            ),
        )
}

fn find<'a>(state: &'a State, kind: BlobKind, name: &str) -> Result<&'a Versioned<Blob>, ApiError> {
    state.find_blob(kind, name).ok_or_else(|| {
        let known = state.blobs.values().filter(|blob| blob.kind == kind);
        let known = known.map(|blob| blob.spec.name.as_str());
        ApiError::not_found(kind.as_str(), name).or_meant(name, known)
    })
}

async fn blobs<B: Backend>(
    kind: BlobKind,
    Shared(backend): Shared<Arc<B>>,
    Query(words): Words,
) -> Answer {
    let state = backend.state();
    let filters = Filters::of(&words, &["id", "name", "names", "label"])?;
    let fits = |blob: &&Versioned<Blob>| {
        blob.kind == kind
            && filters.pass("id", |id| blob.id.as_str().starts_with(id))
            && filters.pass("name", |name| blob.spec.name.starts_with(name))
            && filters.pass("names", |name| blob.spec.name == name)
            && filters.labels(&blob.spec.labels)
    };
    let found = state.blobs.values().filter(fits);
    Ok(Json(found.map(show::blob).collect()))
}

async fn blob<B: Backend>(
    kind: BlobKind,
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Answer {
    let state = backend.state();
    Ok(Json(show::blob(find(&state, kind, &id)?)))
}

async fn create<B: Backend>(
    kind: BlobKind,
    Shared(backend): Shared<Arc<B>>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let spec = convert::blob(kind, &body(&bytes)?)?;
    let id = backend.create_blob(kind, spec).await?;
    Ok((StatusCode::CREATED, Json(json!({"ID": id}))).into_response())
}

async fn update<B: Backend>(
    kind: BlobKind,
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
    Query(words): Words,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let state = backend.state();
    let found = find(&state, kind, &id)?;
    let version = version(&words, kind.as_str())?;
    let spec = convert::blob(kind, &body(&bytes)?)?;
    // clients may leave out what they cannot change, or do not know
    let same = (spec.name.is_empty() || spec.name == found.spec.name)
        && (spec.data.as_bytes().is_empty() || spec.data == found.spec.data);
    if !same {
        return Err(ApiError::invalid("only updates to Labels are allowed"));
    }
    backend
        .label_blob(found.id.clone(), version, spec.labels)
        .await?;
    Ok(StatusCode::OK)
}

async fn remove<B: Backend>(
    kind: BlobKind,
    Shared(backend): Shared<Arc<B>>,
    Path(Named { id }): Path<Named>,
) -> Result<StatusCode, ApiError> {
    let id = find(&backend.state(), kind, &id)?.id.clone();
    backend.remove_blob(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
