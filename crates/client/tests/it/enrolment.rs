//! The agent's first certificate.

use serde_json::json;
use supernode_api::agent::{EnrolRequest, RenewRequest};
use supernode_client::ClientError;
use supernode_client::enrolment::{enrol, renew};

use crate::server::{Reaction, Server, foreign_ca};

fn request() -> EnrolRequest {
    EnrolRequest {
        join_token: "join".into(),
        certificate_request: "csr".into(),
        name: "n1".into(),
        address: "127.0.0.1".into(),
        labels: [].into(),
        position: supernode_types::node::Position::default(),
        machine_id: "m".into(),
    }
}

#[tokio::test]
async fn enrolment_sends_no_token_and_trusts_only_the_given_authority() {
    let answer =
        json!({"node": "node-01kb000000000000000000000a", "certificate": "c", "authority": "a"})
            .to_string();
    let server = Server::start(vec![Reaction::Answer(201, answer)]).await;
    assert!(matches!(
        enrol(&server.address, &foreign_ca(), &request()).await,
        Err(ClientError::Untrusted { .. })
    ));
    let response = enrol(&server.address, &server.ca, &request())
        .await
        .expect("enrols");
    assert_eq!(response.certificate, "c");
    let asked = server.asked();
    assert_eq!(
        (asked.len(), asked[0].line.as_str()),
        (1, "POST /agent/v1/enrol HTTP/1.1")
    );
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn renewal_needs_a_readable_identity() {
    let server = Server::start(vec![]).await;
    let error = renew(
        &server.address,
        &server.ca,
        "nonsense",
        &RenewRequest {
            certificate_request: "csr".into(),
        },
    )
    .await;
    assert!(matches!(error, Err(ClientError::Settings(_))), "{error:?}");
}
