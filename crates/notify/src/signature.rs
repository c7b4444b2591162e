//! How messages are signed, so that a receiver knows that they come from here.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use supernode_types::Timestamp;

/// What the key of a webhook begins with.
const KEY_PREFIX: &str = "whsec_";

fn hmac_sha256(key: &[u8], data: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    STANDARD.encode(hmac::sign(&key, data))
}

/// The bytes of a webhook's key.
pub(crate) fn webhook_key(key: &str) -> Result<Vec<u8>, String> {
    let bytes = key
        .strip_prefix(KEY_PREFIX)
        .and_then(|text| STANDARD.decode(text).ok())
        .filter(|bytes| (24..=64).contains(&bytes.len()));
    bytes.ok_or_else(|| {
        format!("the key of a webhook is `{KEY_PREFIX}` and 24 to 64 random bytes in base 64; make one with `openssl rand -base64 32`")
    })
}

/// A signature after "Standard Webhooks": over id, moment and body, so that none of them can be exchanged.
pub(crate) fn webhook(key: &[u8], id: &str, now: Timestamp, body: &str) -> String {
    let signed = format!("{id}.{}.{body}", seconds(now));
    format!("v1,{}", hmac_sha256(key, signed.as_bytes()))
}

/// `DingTalk`: the moment in milliseconds and the key, signed with the key.
pub(crate) fn dingtalk(key: &str, now: Timestamp) -> (String, String) {
    let moment = (now.0 / 1000).to_string();
    let signed = hmac_sha256(key.as_bytes(), format!("{moment}\n{key}").as_bytes());
    (moment, signed)
}

/// Feishu: nothing, signed with the moment in seconds and the key.
pub(crate) fn feishu(key: &str, now: Timestamp) -> (String, String) {
    let moment = seconds(now);
    let signed = hmac_sha256(format!("{moment}\n{key}").as_bytes(), b"");
    (moment, signed)
}

/// Whole seconds since 1970.
pub(crate) fn seconds(now: Timestamp) -> String {
    (now.0 / 1_000_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_signed_as_the_specification_shows() {
        // The example of the specification and of its reference libraries.
        let key = webhook_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let signature = webhook(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            Timestamp(1_614_265_330_000_000),
            "{\"test\": 2432232314}",
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        for bad in [
            "",
            "whsec_",
            "whsec_AAAA",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ] {
            assert!(webhook_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn chats_are_signed_as_their_documented_programs_do() {
        // Computed with the Python programs on the documentation pages of DingTalk and Feishu.
        assert_eq!(
            dingtalk("this is secret", Timestamp(1_577_262_236_757_000)),
            (
                "1577262236757".into(),
                "hmPWwU+7lVdm3ZZz0r9tSfx0L4Q26jWOZr9+Gs6EZQM=".into()
            )
        );
        assert_eq!(
            feishu("this is secret", Timestamp(1_599_360_473_000_000)),
            (
                "1599360473".into(),
                "/eYKrXQBzTjUZJ3s6NX16VxGbTwmK7AEs8/FnvC1CSw=".into()
            )
        );
    }
}
