//! Walks the contract: every operation asks for a token and for its role, refuses bad input with a clear answer, and has a verb.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use supernode_api::openapi::Description;
use supernode_api::{Method, Role};

use crate::harness::Dev;

struct Http {
    client: reqwest::Client,
    server: String,
    runtime: tokio::runtime::Runtime,
}

struct Answer {
    status: u16,
    body: Value,
}

impl Http {
    fn new(dev: &Dev) -> Self {
        let (server, _, ca) = dev.access();
        let certificate =
            reqwest::Certificate::from_pem(ca.as_bytes()).expect("the authority's certificate");
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .tls_certs_only([certificate])
            .no_proxy()
            .build()
            .expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            client,
            server,
            runtime,
        }
    }

    fn send(&self, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Answer {
        let method: reqwest::Method = method.parse().expect("a method");
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.server));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_owned());
        }
        self.runtime.block_on(async {
            let response = request.send().await.expect("the server answers");
            let status = response.status().as_u16();
            let text = response.text().await.expect("a body");
            Answer {
                status,
                body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
            }
        })
    }
}

/// A path with names that do not exist.
fn example_path(description: &Description) -> String {
    let part = |part: &str| match part {
        "{rank}" => "0".to_owned(),
        part if part.starts_with('{') => "nothing-of-this-name".to_owned(),
        part => part.to_owned(),
    };
    description
        .path
        .split('/')
        .map(part)
        .collect::<Vec<_>>()
        .join("/")
}

fn token(dev: &Dev, role: Role) -> String {
    let created = dev.json(&[
        "token",
        "create",
        &format!("tester-{}", role.word()),
        "--role",
        role.word(),
    ]);
    created["secret"].as_str().expect("a secret").to_owned()
}

#[test]
fn every_operation_asks_for_its_role_and_answers_errors_in_one_form() {
    let dev = Dev::start(1);
    let http = Http::new(&dev);
    let tokens: BTreeMap<Role, String> = [Role::Viewer, Role::User, Role::Operator, Role::Admin]
        .into_iter()
        .map(|role| (role, token(&dev, role)))
        .collect();
    for description in supernode_api::all() {
        let (name, method, path) = (
            description.name,
            description.method.as_str(),
            example_path(&description),
        );
        let body = description.request.is_some().then_some("{}");
        let strange = http.send(method, &path, None, body);
        assert_eq!(
            (strange.status, strange.body["code"].as_str()),
            (401, Some("unauthenticated")),
            "{name} without a token: {}",
            strange.body
        );
        let forged = http.send(method, &path, Some("snp_0000"), body);
        assert_eq!(forged.status, 401, "{name} with a forged token");
        let below = tokens.range(..description.role).next_back();
        if let Some((role, token)) = below {
            let refused = http.send(method, &path, Some(token), body);
            assert_eq!(
                (refused.status, refused.body["code"].as_str()),
                (403, Some("forbidden")),
                "{name} as {}: {}",
                role.word(),
                refused.body
            );
        }
        let allowed = http.send(method, &path, Some(&tokens[&description.role]), body);
        assert_ne!(
            allowed.status,
            403,
            "{name} as {}: {}",
            description.role.word(),
            allowed.body
        );
        assert!(
            allowed.status < 500,
            "{name}: {} {}",
            allowed.status,
            allowed.body
        );
        if path.contains("nothing-of-this-name") && description.request.is_none() {
            assert_eq!(allowed.status, 404, "{name}: {}", allowed.body);
        }
        if allowed.status >= 400 {
            assert!(
                allowed.body["message"]
                    .as_str()
                    .is_some_and(|message| message.len() > 10),
                "{name}: {}",
                allowed.body
            );
            assert!(
                allowed.body["request_id"]
                    .as_str()
                    .is_some_and(|id| !id.is_empty()),
                "{name}: {}",
                allowed.body
            );
        }
    }
}

#[test]
fn bad_input_is_the_callers_mistake_and_changes_nothing() {
    let dev = Dev::start(1);
    let http = Http::new(&dev);
    let (_, admin, _) = dev.access();
    let before = (
        dev.json(&["job", "list"]),
        dev.json(&["super-node", "list"]),
        dev.json(&["spec", "list"]),
        dev.json(&["token", "list"]),
    );
    for description in supernode_api::all() {
        let path = example_path(&description);
        let send =
            |body: &str| http.send(description.method.as_str(), &path, Some(&admin), Some(body));
        if description.request.is_some() {
            for body in [
                "",
                "{",
                "[]",
                "null",
                "\"text\"",
                "{\"no_such_field\":1}",
                "{\"name\":7,\"nodes\":\"x\",\"count\":-1}",
                "{\"name\":\"\\u0000\"}",
            ] {
                let answer = send(body);
                assert!(
                    (400..500).contains(&answer.status),
                    "{} with {body}: {} {}",
                    description.name,
                    answer.status,
                    answer.body
                );
                assert!(
                    answer.body["message"]
                        .as_str()
                        .is_some_and(|message| message.len() > 10),
                    "{} with {body}: {}",
                    description.name,
                    answer.body
                );
            }
            let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(3 * 1024 * 1024));
            assert_eq!(send(&huge).status, 413, "{}", description.name);
        }
        if description.method == Method::Get {
            let answer = http.send(
                "GET",
                &format!("{path}?no_such_parameter=1"),
                Some(&admin),
                None,
            );
            assert_eq!(
                (answer.status, answer.body["code"].as_str()),
                (400, Some("invalid_request")),
                "{}: {}",
                description.name,
                answer.body
            );
        }
    }
    assert_eq!(
        http.send("GET", "/api/v1/nothing", Some(&admin), None).body["code"],
        "not_found"
    );
    assert_eq!(
        http.send("PUT", "/api/v1/nodes", Some(&admin), None).body["code"],
        "method_not_allowed"
    );
    let after = (
        dev.json(&["job", "list"]),
        dev.json(&["super-node", "list"]),
        dev.json(&["spec", "list"]),
        dev.json(&["token", "list"]),
    );
    assert_eq!(before, after);
}

#[test]
fn a_change_with_an_old_generation_is_refused() {
    let dev = Dev::start(1);
    dev.ok(&["super-node", "create", "train", "--nodes", "1", "--wait"]);
    let http = Http::new(&dev);
    let (_, admin, _) = dev.access();
    let generation = dev.json(&["super-node", "show", "train"])["generation"]
        .as_i64()
        .expect("a number");
    let rename = |wanted: i64| {
        let request = http
            .client
            .patch(format!("{}/api/v1/super-nodes/train", http.server))
            .bearer_auth(&admin)
            .header("if-match", format!("\"{wanted}\""));
        let request = request.json(&json!({"labels": {"team": "a"}}));
        http.runtime.block_on(async {
            request
                .send()
                .await
                .expect("the server answers")
                .status()
                .as_u16()
        })
    };
    assert_eq!(rename(generation - 1), 412);
    assert_eq!(rename(generation), 200);
}

#[test]
fn a_revoked_token_is_refused_at_once() {
    let dev = Dev::start(1);
    let http = Http::new(&dev);
    let created = dev.json(&["token", "create", "guest", "--role", "viewer"]);
    let secret = created["secret"].as_str().expect("a secret");
    assert_eq!(
        http.send("GET", "/api/v1/nodes", Some(secret), None).status,
        200
    );
    dev.ok(&["token", "revoke", created["id"].as_str().expect("an id")]);
    assert_eq!(
        http.send("GET", "/api/v1/nodes", Some(secret), None).status,
        401
    );
}

/// Operations that no command calls by design, with the reason.
const WITHOUT_COMMAND: &[(&str, &str)] = &[];

#[test]
fn every_operation_has_a_command() {
    let mut sources = String::new();
    for directory in ["../cli/src", "../client/src"] {
        for entry in fs::read_dir(format!("{}/{directory}", env!("CARGO_MANIFEST_DIR")))
            .expect("the crate is there")
            .filter_map(Result::ok)
        {
            sources.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }
    let api = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../api/src"))
        .expect("the crate is there")
        .filter_map(Result::ok);
    let contract: String = api
        .map(|entry| fs::read_to_string(entry.path()).unwrap_or_default())
        .collect();
    for description in supernode_api::all() {
        let line = contract
            .lines()
            .find(|line| line.contains(&format!("= \"{}\"", description.name)))
            .expect("it is declared");
        let type_name = line
            .split_whitespace()
            .next()
            .expect("its type comes first");
        let called = sources.contains(&format!("{type_name}>"))
            || sources.contains(&format!("::{type_name}"))
            || sources.contains(&format!("{type_name},"));
        let excused = WITHOUT_COMMAND
            .iter()
            .any(|(name, _)| *name == description.name);
        assert!(
            called != excused,
            "{} ({type_name}) has no command, or no longer needs its exception",
            description.name
        );
    }
}
