//! `GET /metrics`, for Prometheus: on a TCP address, apart from the API.

use std::{io, sync::Arc};

use axum::{
    Router,
    extract::State as Shared,
    http::header,
    response::{Html, IntoResponse as _, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::Mutex};

use crate::ApiError;

/// Who knows the figures.
pub trait Figures: Send + Sync + 'static {
    /// All of them, as of now, in Prometheus' text format
    /// (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).
    fn text(&self) -> impl Future<Output = Result<String, ApiError>> + Send;
}

/// Answers who scrapes, one after the other, for ever.
///
/// # Errors
/// The socket failed.
pub async fn serve_metrics<F: Figures>(figures: F, listener: TcpListener) -> io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(metrics::<F>))
        .route("/", get(index))
        .with_state(Arc::new(Mutex::new(figures)));
    axum::serve(listener, app).await
}

async fn index() -> Html<&'static str> {
    Html("<title>ipvsmeshd</title><a href=\"metrics\">Metrics</a>\n")
}

async fn metrics<F: Figures>(Shared(figures): Shared<Arc<Mutex<F>>>) -> Result<Response, ApiError> {
    // one at a time: the kernel is asked for each
    let text = figures.lock().await.text().await?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
