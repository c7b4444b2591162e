//! A program of yours: "Standard Webhooks", so that there is a library for its language that checks the signature.

use reqwest::Url;
use serde_json::json;
use supernode_types::channel::Delivery;

use super::Request;
use crate::signature;

pub(super) fn request(url: Url, key: &str, delivery: &Delivery) -> Result<Request, String> {
    let key = signature::webhook_key(key)?;
    let (message, id) = (&delivery.message, delivery.message.id());
    let body = json!({
        "type": "notices",
        "timestamp": message.created_at,
        "data": {
            "id": id,
            "channel": delivery.channel.name,
            "severity": message.severity(),
            "notices": message.notices,
            "omitted": message.omitted,
        }
    })
    .to_string();
    let signed = signature::webhook(&key, &id, delivery.now, &body);
    Ok(Request {
        url,
        headers: vec![
            ("webhook-id", id),
            ("webhook-timestamp", signature::seconds(delivery.now)),
            ("webhook-signature", signed),
        ],
        body,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::body::sample;

    #[test]
    fn the_body_is_what_the_signature_says() {
        let delivery =
            sample::delivery(sample::target("webhook", "https://a.example/hook?token=t"));
        let request = crate::body::request(&delivery).expect("a request");
        assert_eq!(request.url.as_str(), "https://a.example/hook?token=t");
        let header = |name: &str| {
            let found = request.headers.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone()).expect("a header")
        };
        let key = signature::webhook_key(sample::KEY).expect("a key");
        assert_eq!(
            header("webhook-signature"),
            signature::webhook(&key, &header("webhook-id"), delivery.now, &request.body)
        );
        assert_eq!(header("webhook-timestamp"), "1763900100");
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        assert_eq!(body["type"], "notices");
        let data = &body["data"];
        assert_eq!(
            (&data["severity"], &data["omitted"]),
            (&"error".into(), &0.into())
        );
        let notice = &data["notices"][0];
        assert_eq!(
            (&notice["status"], &notice["node"], &notice["part"]),
            (
                &"firing".into(),
                &"n1".into(),
                &"memory stream_triad host level".into()
            )
        );
        assert_eq!(
            data["notices"][2]["resolved_at"],
            "2025-11-23T12:13:20.000000Z"
        );
    }
}
