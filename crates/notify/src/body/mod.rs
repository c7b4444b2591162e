//! What is sent by HTTP to each kind of channel, and what its answer means. Pure: a delivery in, a request out.

mod alertmanager;
mod chat;
#[cfg(test)]
pub(crate) mod sample;
mod webhook;

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;
use supernode_types::channel::{Delivered, Delivery, Secret, Target};

use crate::{later, short};

/// A request by POST with a body in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Where to.
    pub(crate) url: Url,
    /// Beside those that every request has.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The body.
    pub(crate) body: String,
}

/// The address of a target by HTTP.
pub(crate) fn address(target: &Target) -> Result<Url, String> {
    let (Target::Webhook { url, .. }
    | Target::Alertmanager { url }
    | Target::Slack { url }
    | Target::Dingtalk { url, .. }
    | Target::Feishu { url, .. }
    | Target::Wecom { url }) = target
    else {
        return Err("e-mail has no address in the web".into());
    };
    parse(url)
}

/// Says nothing of the address: it may hold a token.
fn parse(url: &Secret) -> Result<Url, String> {
    if url.0.len() > 2000 {
        return Err("the address is longer than 2000 characters".into());
    }
    let parsed =
        Url::parse(url.0.trim()).map_err(|error| format!("the address cannot be read: {error}"))?;
    match parsed.scheme() {
        "http" | "https" if parsed.has_host() => Ok(parsed),
        _ => Err("the address does not begin with https://".into()),
    }
}

/// The request for an attempt.
pub(crate) fn request(delivery: &Delivery) -> Result<Request, String> {
    let url = address(&delivery.target)?;
    let message = &delivery.message;
    let mut request = match &delivery.target {
        Target::Webhook { key, .. } => webhook::request(url, &key.0, delivery)?,
        Target::Alertmanager { .. } => alertmanager::request(url, delivery),
        Target::Slack { .. } => chat::slack(url, message),
        Target::Dingtalk { key, .. } => chat::dingtalk(url, key.as_ref(), message, delivery.now),
        Target::Feishu { key, .. } => chat::feishu(url, key.as_ref(), message, delivery.now),
        Target::Wecom { .. } => chat::wecom(url, message),
        Target::Email(_) => return Err("e-mail is not sent by HTTP".into()),
    };
    // A receiver that was told already may throw the message away.
    request.headers.push(("idempotency-key", message.id()));
    Ok(request)
}

/// What an answer means. `retry_after` is in seconds.
pub(crate) fn answer(
    target: &Target,
    status: u16,
    retry_after: Option<u64>,
    body: &[u8],
) -> Delivered {
    let said = || {
        let text = short(&String::from_utf8_lossy(body));
        if text.trim().is_empty() {
            String::new()
        } else {
            format!(": {}", text.trim())
        }
    };
    match status {
        200..300 => match target {
            Target::Dingtalk { .. } | Target::Wecom { .. } => code_of(body, &["errcode"]),
            Target::Feishu { .. } => code_of(body, &["code", "StatusCode"]),
            _ => Delivered::Accepted,
        },
        300..400 => later(format!(
            "it answered {status}: redirects are not followed; give the address that it leads to"
        )),
        // The message itself is wrong; it will not get better.
        400 | 413 | 422 => Delivered::Refused {
            why: format!("it answered {status}{}", said()),
        },
        _ => Delivered::Later {
            why: format!("it answered {status}{}", said()),
            after: retry_after.map(Duration::from_secs),
        },
    }
}

/// Chats answer 200 whatever happens; a number in the body says how it went.
fn code_of(body: &[u8], names: &[&str]) -> Delivered {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return later("it answered with something that is not JSON");
    };
    match names.iter().find_map(|name| answer[*name].as_i64()) {
        Some(0) => Delivered::Accepted,
        Some(code) => {
            let words = ["errmsg", "msg", "StatusMessage"]
                .iter()
                .find_map(|name| answer[*name].as_str());
            later(format!("it answered {code}: {}", words.unwrap_or_default()))
        }
        None => later("it did not say whether it took the message"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(kind: &str) -> Target {
        sample::target(kind, "https://chat.example/hook")
    }

    #[test]
    fn answers_mean_what_their_service_says() {
        let slack = |status, body: &str| answer(&target("slack"), status, None, body.as_bytes());
        assert_eq!(slack(200, "ok"), Delivered::Accepted);
        assert_eq!(
            slack(400, "invalid_payload"),
            Delivered::Refused {
                why: "it answered 400: invalid_payload".into()
            }
        );
        assert_eq!(
            slack(404, "no_service\n"),
            later("it answered 404: no_service")
        );
        assert!(
            matches!(slack(302, ""), Delivered::Later { why, .. } if why.contains("redirects are not followed"))
        );
        assert_eq!(
            answer(&target("slack"), 429, Some(30), b""),
            Delivered::Later {
                why: "it answered 429".into(),
                after: Some(Duration::from_secs(30))
            }
        );
        let ding = |body: &str| answer(&target("dingtalk"), 200, None, body.as_bytes());
        assert_eq!(ding(r#"{"errcode":0,"errmsg":"ok"}"#), Delivered::Accepted);
        assert_eq!(
            ding(r#"{"errcode":310000,"errmsg":"sign not match"}"#),
            later("it answered 310000: sign not match")
        );
        assert_eq!(
            ding("<html>"),
            later("it answered with something that is not JSON")
        );
        assert_eq!(
            answer(
                &target("wecom"),
                200,
                None,
                br#"{"errcode":93000,"errmsg":"invalid webhook url"}"#
            ),
            later("it answered 93000: invalid webhook url")
        );
        let feishu = |body: &str| answer(&target("feishu"), 200, None, body.as_bytes());
        assert_eq!(feishu(r#"{"code":0,"msg":"success"}"#), Delivered::Accepted);
        assert_eq!(
            feishu(r#"{"StatusCode":0,"StatusMessage":"success"}"#),
            Delivered::Accepted
        );
        assert_eq!(
            feishu(
                r#"{"code":19021,"msg":"sign match fail or timestamp is not within one hour from current time"}"#
            ),
            later(
                "it answered 19021: sign match fail or timestamp is not within one hour from current time"
            )
        );
        assert_eq!(
            feishu("{}"),
            later("it did not say whether it took the message")
        );
    }

    #[test]
    fn every_request_names_its_message_and_no_error_its_address() {
        for kind in [
            "webhook",
            "alertmanager",
            "slack",
            "dingtalk",
            "feishu",
            "wecom",
        ] {
            let request = request(&sample::delivery(target(kind))).expect(kind);
            let id = (
                "idempotency-key",
                "channel-01kb000000000000000000000a.7".to_owned(),
            );
            assert!(request.headers.contains(&id), "{kind}");
        }
        for bad in [
            "",
            "hooks/canary",
            "ftp://canary",
            "https://",
            "file:///canary",
        ] {
            let error = address(&sample::target("slack", bad)).expect_err(bad);
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
