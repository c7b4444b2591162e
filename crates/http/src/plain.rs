//! The routes beside the contract: is the server alive, can it work, how is it doing, and what is the contract.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use supernode_api::Role;

use crate::layer::RequestId;
use crate::mount::detached;
use crate::{BoxFuture, Edge, Failure};

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Whoever has a token with the role `viewer`.
    Viewer,
    /// Everybody who reaches the port.
    Open,
}

impl Edge {
    /// `/healthz` (this process answers) and `/readyz` (`ready` says that requests can be served, or why not).
    #[must_use]
    pub fn health(
        mut self,
        ready: impl Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    ) -> Self {
        let ready = Arc::new(ready);
        self.router = self
            .router
            .route("/healthz", get(|| async { "ok\n" }))
            .route(
                "/readyz",
                get(move || {
                    let ready = Arc::clone(&ready);
                    async move {
                        match ready().await {
                            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                            Err(why) => (
                                StatusCode::SERVICE_UNAVAILABLE,
                                format!("not ready: {why}\n"),
                            ),
                        }
                    }
                }),
            );
        self
    }

    /// `/metrics` in the text format of Prometheus.
    #[must_use]
    pub fn metrics(
        mut self,
        access: MetricsAccess,
        text: impl Fn() -> BoxFuture<'static, Result<String, Failure>> + Send + Sync + 'static,
    ) -> Self {
        let shared = self.shared.clone();
        let text = Arc::new(text);
        let route = get(move |request: Request| {
            let (shared, text) = (shared.clone(), Arc::clone(&text));
            async move {
                let id = RequestId::of(request.extensions());
                let allowed = match access {
                    MetricsAccess::Open => Ok(()),
                    MetricsAccess::Viewer => shared
                        .authorize(request.headers(), Role::Viewer, "metrics")
                        .await
                        .map(|_| ()),
                };
                let answer = match allowed {
                    Ok(()) => detached("metrics", async move { text().await }).await,
                    Err(failure) => Err(failure),
                };
                match answer {
                    Ok(text) => with_type(
                        "text/plain; version=0.0.4; charset=utf-8",
                        Bytes::from(text),
                    ),
                    Err(failure) => failure.respond(&id),
                }
            }
        });
        self.router = self.router.route("/metrics", route);
        self
    }

    /// `/api/v1/openapi.json`: the contract as `OpenAPI`, open to everybody.
    #[must_use]
    pub fn openapi(mut self) -> Self {
        let document = Bytes::from(
            serde_json::to_vec(&supernode_api::openapi::document())
                .expect("a JSON value serializes"),
        );
        self.router = self.router.route(
            "/api/v1/openapi.json",
            get(move || async move { with_type("application/json", document) }),
        );
        self
    }
}

fn with_type(content_type: &'static str, body: Bytes) -> Response {
    let mut response = body.into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
