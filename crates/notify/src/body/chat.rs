//! Chats: one text for all notices. What looks like a mention or a link in it is none: the words come from machines.

use reqwest::Url;
use serde_json::{Value, json};
use supernode_types::Timestamp;
use supernode_types::channel::Secret;
use supernode_types::message::Message;

use super::Request;
use crate::{signature, text};

/// What each service takes, in bytes, with room for its own words.
const SLACK_BYTES: usize = 12_000;
const DINGTALK_BYTES: usize = 16_000;
const FEISHU_BYTES: usize = 16_000;
const WECOM_BYTES: usize = 2_000;

fn request(url: Url, body: &Value) -> Request {
    Request {
        url,
        headers: Vec::new(),
        body: body.to_string(),
    }
}

fn whole(message: &Message, limit: usize) -> String {
    let title = text::title(message);
    let room = limit.saturating_sub(title.len() + 1);
    format!("{title}\n{}", text::lines(message, room))
}

pub(super) fn slack(url: Url, message: &Message) -> Request {
    // These three are all that Slack gives a meaning to.
    let text = whole(message, SLACK_BYTES)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    request(url, &json!({ "text": text }))
}

pub(super) fn dingtalk(
    mut url: Url,
    key: Option<&Secret>,
    message: &Message,
    now: Timestamp,
) -> Request {
    if let Some(key) = key {
        let (moment, signed) = signature::dingtalk(&key.0, now);
        url.query_pairs_mut()
            .append_pair("timestamp", &moment)
            .append_pair("sign", &signed);
    }
    let content = whole(message, DINGTALK_BYTES);
    request(
        url,
        &json!({ "msgtype": "text", "text": { "content": content } }),
    )
}

pub(super) fn feishu(url: Url, key: Option<&Secret>, message: &Message, now: Timestamp) -> Request {
    // `<at user_id="all">` would call everybody.
    let text = whole(message, FEISHU_BYTES).replace('<', "‹");
    let mut body = json!({ "msg_type": "text", "content": { "text": text } });
    if let Some(key) = key {
        let (moment, signed) = signature::feishu(&key.0, now);
        body["timestamp"] = moment.into();
        body["sign"] = signed.into();
    }
    request(url, &body)
}

pub(super) fn wecom(url: Url, message: &Message) -> Request {
    let content = whole(message, WECOM_BYTES);
    request(
        url,
        &json!({ "msgtype": "text", "text": { "content": content } }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{self, sample};

    fn sent(kind: &str, url: &str, words: &str) -> (Url, Value) {
        let mut delivery = sample::delivery(sample::target(kind, url));
        delivery.message.notices.truncate(1);
        delivery.message.notices[0].message = words.into();
        let request = body::request(&delivery).expect(kind);
        let body = serde_json::from_str(&request.body).expect("JSON");
        (request.url, body)
    }

    #[test]
    fn each_chat_gets_its_own_form() {
        let line =
            "2025-11-23T12:13:20Z [warning] train: n1 is slow (op-01kb000000000000000000000a)\n";
        let text = format!("[warning] n1 is slow\n{line}");
        let (_, body) = sent(
            "slack",
            "https://hooks.slack.com/services/T/B/x",
            "n1 is slow",
        );
        assert_eq!(body, json!({ "text": text }));
        let (url, body) = sent(
            "wecom",
            "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=k",
            "n1 is slow",
        );
        assert_eq!(
            body,
            json!({ "msgtype": "text", "text": { "content": text } })
        );
        assert_eq!(url.query(), Some("key=k"));
        let (url, body) = sent(
            "dingtalk",
            "https://oapi.dingtalk.com/robot/send?access_token=t",
            "n1 is slow",
        );
        assert_eq!(
            body,
            json!({ "msgtype": "text", "text": { "content": text } })
        );
        let (moment, sign) = signature::dingtalk("SECsecret", sample::now());
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let expected = [
            ("access_token", "t"),
            ("timestamp", &moment),
            ("sign", &sign),
        ];
        assert_eq!(
            pairs,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(
            !url.as_str().contains(&sign),
            "what base 64 needs is escaped: {url}"
        );
        let (_, body) = sent(
            "feishu",
            "https://open.feishu.cn/open-apis/bot/v2/hook/x",
            "n1 is slow",
        );
        let (timestamp, sign) = signature::feishu("SECsecret", sample::now());
        assert_eq!(
            body,
            json!({ "timestamp": timestamp, "sign": sign, "msg_type": "text", "content": { "text": text } })
        );
    }

    #[test]
    fn nobody_is_called_by_the_words_of_a_machine() {
        let (_, slack) = sent("slack", "https://a.example", "<!channel> & <https://b|c>");
        let text = slack["text"].as_str().expect("a text");
        assert!(
            text.contains("&lt;!channel&gt; &amp; &lt;https://b|c&gt;"),
            "{text}"
        );
        let (_, feishu) = sent("feishu", "https://a.example", "<at user_id=\"all\"></at>");
        assert!(
            !feishu["content"]["text"]
                .as_str()
                .expect("a text")
                .contains('<')
        );
    }

    #[test]
    fn a_long_message_fits() {
        let mut delivery = sample::delivery(sample::target("wecom", "https://a.example"));
        let notice = delivery.message.notices[0].clone();
        delivery.message.notices = vec![notice; 50];
        let request = body::request(&delivery).expect("a request");
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        let text = body["text"]["content"].as_str().expect("a text");
        assert!(text.len() <= 2048, "{}", text.len());
        assert!(text.contains("… and "), "{text}");
    }
}
