//! The routes beside the contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use supernode_api::ErrorCode;
use supernode_http::{EdgeOptions, MetricsAccess};

use crate::support::{Server, edge, error_of, serve};

async fn text(server: &Server, path: &str, secret: Option<&str>) -> (u16, String) {
    let request = server.client.get(server.url(path));
    let request = match secret {
        Some(secret) => request.bearer_auth(secret),
        None => request,
    };
    let response = request.send().await.expect("an answer");
    (
        response.status().as_u16(),
        response.text().await.expect("a body"),
    )
}

#[tokio::test]
async fn health_is_open_and_readiness_says_why_not() {
    let ready = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ready);
    let server = serve(edge(EdgeOptions::default()).health(move || {
        let ready = asked.load(Ordering::SeqCst);
        Box::pin(async move {
            if ready {
                Ok(())
            } else {
                Err("the database is away".to_owned())
            }
        })
    }));
    assert_eq!(
        text(&server, "/healthz", None).await,
        (200, "ok\n".to_owned())
    );
    assert_eq!(
        text(&server, "/readyz", None).await,
        (503, "not ready: the database is away\n".to_owned())
    );
    ready.store(true, Ordering::SeqCst);
    assert_eq!(
        text(&server, "/readyz", None).await,
        (200, "ready\n".to_owned())
    );
}

#[tokio::test]
async fn metrics_need_a_viewer_unless_open() {
    let metrics = |access| {
        serve(
            edge(EdgeOptions::default())
                .metrics(access, || Box::pin(async { Ok("nodes 3\n".to_owned()) })),
        )
    };
    let closed = metrics(MetricsAccess::Viewer);
    let refused = closed
        .client
        .get(closed.url("/metrics"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(error_of(refused).await.1.code, ErrorCode::Unauthenticated);
    assert_eq!(
        text(&closed, "/metrics", Some("viewer")).await,
        (200, "nodes 3\n".to_owned())
    );
    let open = metrics(MetricsAccess::Open);
    assert_eq!(
        text(&open, "/metrics", None).await,
        (200, "nodes 3\n".to_owned())
    );
}

#[tokio::test]
async fn the_contract_can_be_read() {
    let server = serve(edge(EdgeOptions::default()).openapi());
    let (status, text) = text(&server, "/api/v1/openapi.json", None).await;
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (status, document),
        (200, supernode_api::openapi::document())
    );
}
