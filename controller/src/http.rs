//! `/metrics`, `/healthz` and `/readyz`, for a port that only this host, or the monitoring, reaches.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::server::Context;

/// Serves until stopped.
pub(crate) async fn serve(context: Arc<Context>, listener: TcpListener, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(context);
    let serving = axum::serve(listener, router).into_future();
    // Whoever scrapes is not waited for.
    if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
        tracing::error!(%error, "HTTP");
    }
}

/// While the store is waited for: alive and not ready.
pub(crate) async fn serve_waiting(
    listener: TcpListener,
    trouble: watch::Receiver<String>,
    stop: CancellationToken,
) {
    let ready = move || async move {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", trouble.borrow().as_str()))
    };
    let router =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready));
    // Also of connections that are kept alive: the next answer is the running controller's.
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "HTTP");
    }
}

async fn metrics(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let metrics = &context.mesh.metrics;
    metrics.sessions.set(number(context.mesh.sessions.count()));
    context.mesh.read(|state| {
        let spaces = || state.namespaces.values();
        metrics.namespaces.set(number(state.namespaces.len()));
        metrics.edges.set(number(spaces().map(|space| space.edges.len()).sum()));
        metrics.prefixes.set(number(spaces().map(|space| space.prefixes.len()).sum()));
    });
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.text())
}

/// Ready is who can take writes.
async fn ready(State(context): State<Arc<Context>>) -> impl IntoResponse {
    match context.mesh.trouble() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
