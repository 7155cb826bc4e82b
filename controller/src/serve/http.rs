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

use crate::context::Context;

/// Serves until stopped.
pub(crate) async fn serve(context: Arc<Context>, listener: TcpListener, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(context);
    let serving = axum::serve(listener, router).into_future();
    // A request under way is not waited for.
    if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

/// Serves while the store does not answer yet: alive and not ready.
pub(crate) async fn serve_waiting(
    listener: TcpListener,
    problem: watch::Receiver<String>,
    stop: CancellationToken,
) {
    let ready = move || async move {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", problem.borrow().as_str()))
    };
    let router =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready));
    // Closes persistent connections too: their next request must reach the running controller.
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

async fn metrics(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let metrics = &context.replica.metrics;
    let gauges = &metrics.gauges;
    gauges.sessions.set(number(context.replica.sessions.count()));
    context.replica.read(|state| {
        let spaces = || state.namespaces.values();
        gauges.namespaces.set(number(state.namespaces.len()));
        gauges.edges.set(number(spaces().map(|space| space.edges.len()).sum()));
        gauges.prefixes.set(number(spaces().map(|space| space.prefixes.len()).sum()));
    });
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.text())
}

/// Ready means that the store takes writes.
async fn ready(State(context): State<Arc<Context>>) -> impl IntoResponse {
    match context.replica.store_problem() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
