//! What a request meets on its way to a handler and back.

use supernode_api::ErrorCode;
use supernode_http::EdgeOptions;

use crate::support::{Server, edge, error_of, eventually, log_lines, record_log, serve};
use crate::toy::{Gate, Seen, mount};

fn toy_server() -> Server {
    serve(mount(edge(EdgeOptions::default())))
}

async fn seen(request: reqwest::RequestBuilder) -> Seen {
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 201);
    serde_json::from_str(&response.text().await.expect("a body")).expect("what the handler saw")
}

#[tokio::test]
async fn a_handler_gets_everything_and_the_contract_answers() {
    let server = toy_server();
    let order = |body: &'static str| {
        server
            .request(
                "POST",
                "/api/v1/things/a%2Fb%20c/order?after_generation=-3",
                "user",
            )
            .header("content-type", "application/json; charset=utf-8")
            .header("idempotency-key", "key-1")
            .header("if-match", "\"5\"")
            .header("x-request-id", "mine.1")
            .body(body)
    };
    let first = seen(order(r#"{"count":3,"note":"now"}"#)).await;
    assert_eq!(
        first,
        Seen {
            caller: "the-user".to_owned(),
            thing: "a/b c".to_owned(),
            after_generation: Some(-3),
            count: 3,
            note: Some("now".to_owned()),
            request_id: "mine.1".to_owned(),
            idempotency_key: Some("key-1".to_owned()),
            if_match: Some(5),
            digest: first.digest.clone(),
        }
    );
    assert_eq!(first.digest.len(), 64);
    assert_eq!(
        seen(order(r#"{"count":3,"note":"now"}"#)).await.digest,
        first.digest
    );
    assert_ne!(
        seen(order(r#"{"count":4,"note":"now"}"#)).await.digest,
        first.digest
    );

    let shown = server
        .request("GET", "/api/v1/things/x", "viewer")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (shown.status().as_u16(), &shown.headers()["etag"]),
        (200, &"\"7\"".parse().expect("a header value"))
    );
    assert_eq!(shown.headers()["cache-control"], "no-store");
    assert_eq!(
        shown.text().await.expect("a body"),
        r#"{"name":"x","generation":7}"#
    );
    let deleted = server
        .request("DELETE", "/api/v1/things/x", "operator")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (deleted.status().as_u16(), deleted.headers().get("etag")),
        (202, None)
    );
}

struct Wrong {
    method: &'static str,
    path: &'static str,
    secret: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    code: ErrorCode,
    says: &'static str,
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const ORDER: &str = "/api/v1/things/x/order";

const fn order(
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    code: ErrorCode,
    says: &'static str,
) -> Wrong {
    Wrong {
        method: "POST",
        path: ORDER,
        secret: "user",
        headers,
        body,
        code,
        says,
    }
}

const fn show(
    path: &'static str,
    secret: &'static str,
    code: ErrorCode,
    says: &'static str,
) -> Wrong {
    Wrong {
        method: "GET",
        path,
        secret,
        headers: &[],
        body: "",
        code,
        says,
    }
}

const WRONG: &[Wrong] = &[
    show(
        "/api/v1/nothing",
        "admin",
        ErrorCode::NotFound,
        "no path `/api/v1/nothing`",
    ),
    show("/", "admin", ErrorCode::NotFound, "no path `/`"),
    show(
        "/api/v1/things/%ff",
        "viewer",
        ErrorCode::InvalidRequest,
        "the path is malformed",
    ),
    Wrong {
        method: "PUT",
        path: ORDER,
        secret: "admin",
        headers: &[],
        body: "",
        code: ErrorCode::MethodNotAllowed,
        says: "`PUT` cannot be used",
    },
    show(
        "/api/v1/things/x",
        "unknown",
        ErrorCode::Unauthenticated,
        "not valid",
    ),
    show(
        "/api/v1/things/x",
        "two words",
        ErrorCode::Unauthenticated,
        "not `Bearer <token>`",
    ),
    show(
        "/api/v1/things/x",
        "broken",
        ErrorCode::Unavailable,
        "the database is away",
    ),
    Wrong {
        method: "DELETE",
        path: "/api/v1/things/x",
        secret: "user",
        headers: &[],
        body: "",
        code: ErrorCode::Forbidden,
        says: "`thing_delete` needs the role `operator`; the token `the-user` has the role `user`",
    },
    show(
        "/api/v1/things/x?after=1",
        "viewer",
        ErrorCode::InvalidRequest,
        "unknown query parameter `after`",
    ),
    show(
        "/api/v1/things/x?after_generation=one",
        "viewer",
        ErrorCode::InvalidRequest,
        "`after_generation`: `one` is not an integer",
    ),
    show(
        "/api/v1/things/x?wait_milliseconds=1&wait_milliseconds=2",
        "viewer",
        ErrorCode::InvalidRequest,
        "given twice",
    ),
    order(
        JSON,
        "",
        ErrorCode::InvalidRequest,
        "`thing_order` needs a JSON body",
    ),
    order(
        &[],
        r#"{"count":1}"#,
        ErrorCode::UnsupportedMediaType,
        "`application/json`; none was sent",
    ),
    order(
        &[("content-type", "text/json")],
        r#"{"count":1}"#,
        ErrorCode::UnsupportedMediaType,
        "`text/json` was sent",
    ),
    order(JSON, "{", ErrorCode::InvalidRequest, "EOF while parsing"),
    order(JSON, "[]", ErrorCode::InvalidRequest, "request body: "),
    order(
        JSON,
        r#"{"count":1} x"#,
        ErrorCode::InvalidRequest,
        "trailing characters",
    ),
    order(
        JSON,
        "{}",
        ErrorCode::InvalidRequest,
        "missing field `count`",
    ),
    order(
        JSON,
        r#"{"count":"one"}"#,
        ErrorCode::InvalidRequest,
        "count: invalid type: string \"one\", expected u32",
    ),
    order(
        JSON,
        r#"{"count":-1}"#,
        ErrorCode::InvalidRequest,
        "count: invalid value: integer `-1`, expected u32",
    ),
    order(
        JSON,
        r#"{"count":1,"cuont":2}"#,
        ErrorCode::InvalidRequest,
        "unknown field `cuont`, expected one of `count`, `note`, `parts`",
    ),
    order(
        JSON,
        r#"{"count":1,"parts":[{"size":1},{"size":null}]}"#,
        ErrorCode::InvalidRequest,
        "parts[1].size: invalid type: null, expected u32",
    ),
    order(
        &[("content-type", "application/json"), ("if-match", "5")],
        r#"{"count":1}"#,
        ErrorCode::InvalidRequest,
        "`if-match` must be one generation in quotes",
    ),
    order(
        &[
            ("content-type", "application/json"),
            ("idempotency-key", "a b"),
        ],
        r#"{"count":1}"#,
        ErrorCode::InvalidRequest,
        "`idempotency-key` must be",
    ),
    Wrong {
        method: "DELETE",
        path: "/api/v1/things/x",
        secret: "operator",
        headers: JSON,
        body: r#"{"a":1}"#,
        code: ErrorCode::InvalidRequest,
        says: "unknown field `a`",
    },
    Wrong {
        method: "DELETE",
        path: "/api/v1/things/x",
        secret: "operator",
        headers: &[],
        body: "{}",
        code: ErrorCode::UnsupportedMediaType,
        says: "none was sent",
    },
];

#[tokio::test]
async fn every_wrong_request_gets_an_error_body_that_helps() {
    let server = toy_server();
    for wrong in WRONG {
        let mut request = server.request(wrong.method, wrong.path, wrong.secret);
        for (name, value) in wrong.headers {
            request = request.header(*name, *value);
        }
        if !wrong.body.is_empty() {
            request = request.body(wrong.body);
        }
        let (_, body) = error_of(request.send().await.expect("an answer")).await;
        assert_eq!(
            body.code, wrong.code,
            "{} {}: {}",
            wrong.method, wrong.path, body.message
        );
        assert!(
            body.message.contains(wrong.says),
            "{} {}: `{}` should say `{}`",
            wrong.method,
            wrong.path,
            body.message,
            wrong.says
        );
    }
}

#[tokio::test]
async fn the_protocol_headers_of_errors_are_there() {
    let server = toy_server();
    let response = server
        .client
        .get(server.url("/api/v1/things/x"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(error_of(response).await.1.code, ErrorCode::Unauthenticated);
    let response = server
        .request("PATCH", "/api/v1/things/x", "admin")
        .send()
        .await
        .expect("an answer");
    let allow = response.headers()["allow"]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(allow.contains("GET") && allow.contains("DELETE"), "{allow}");
    assert_eq!(error_of(response).await.0, 405);
    let response = server
        .request("GET", "/api/v1/things/x", "broken")
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.headers()["retry-after"], "1");
    let twice = server
        .request("GET", "/api/v1/things/x", "viewer")
        .bearer_auth("admin")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        error_of(twice).await.1.code,
        ErrorCode::Unauthenticated,
        "two credentials are none"
    );
}

#[tokio::test]
async fn request_ids_are_the_clients_if_harmless() {
    let server = toy_server();
    let id = async |given: &str| {
        let response = server
            .request("GET", "/api/v1/things/x", "viewer")
            .header("x-request-id", given)
            .send()
            .await
            .expect("an answer");
        response.headers()["x-request-id"]
            .to_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(id("Trace_1.a-b").await, "Trace_1.a-b");
    let long = "x".repeat(65);
    let mut made = Vec::new();
    for bad in ["", "a b", "a\"b", "a;b", long.as_str()] {
        let id = id(bad).await;
        assert!(id.starts_with("req-") && id.len() == 20, "{id}");
        made.push(id);
    }
    made.dedup();
    assert_eq!(made.len(), 5, "each is new");
}

#[tokio::test]
async fn a_panic_is_an_answer_and_one_line_in_the_log() {
    record_log();
    let server = toy_server();
    let response = server
        .request("POST", "/api/v1/panic", "user")
        .header("x-request-id", "panic-1")
        .send()
        .await
        .expect("an answer");
    let (status, body) = error_of(response).await;
    assert_eq!((status, body.code), (500, ErrorCode::Internal));
    assert!(
        body.message.contains("panic-1") && !body.message.contains("toy"),
        "{}",
        body.message
    );
    let lines = log_lines("panic-1");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("ERROR") && lines[0].contains("the toy broke"),
        "{}",
        lines[0]
    );

    let response = server
        .request("POST", "/api/v1/fail", "user")
        .header("x-request-id", "fail-1")
        .send()
        .await
        .expect("an answer");
    assert!(!error_of(response).await.1.message.contains("secret cause"));
    let lines = log_lines("fail-1");
    assert!(
        lines.len() == 1 && lines[0].contains("the secret cause"),
        "{lines:?}"
    );
    assert_eq!(
        server
            .request("GET", "/api/v1/things/x", "viewer")
            .send()
            .await
            .expect("the server goes on")
            .status()
            .as_u16(),
        200
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cancel_its_request() {
    let (edge, gate) = Gate::mount(edge(EdgeOptions::default()));
    let server = serve(edge);
    let request = tokio::spawn(server.request("POST", "/api/v1/wait", "user").send());
    eventually("the start of the handler", || gate.started() == 1).await;
    request.abort();
    assert!(request.await.expect_err("was cancelled").is_cancelled());
    eventually("the end of the connection", || {
        server.connections.open() == 0
    })
    .await;
    assert_eq!(gate.done(), 0);
    gate.open_for_one();
    eventually("the end of the handler", || gate.done() == 1).await;
}
