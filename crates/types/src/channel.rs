//! A channel: a place where people are told, what of, and how it stands.
//!
//! [`Channel`] is what everybody may see. Where it leads stands in [`Target`], which holds secrets (keys, passwords, tokens inside
//! addresses) and is read only to deliver. [`Courier`] is the edge to the outside world: whoever decides what is told has no network.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::Severity;
use crate::message::Message;
use crate::{ChannelId, Name, Timestamp};

/// A place where people are told, without what is secret of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Channel {
    /// Its id.
    pub id: ChannelId,
    /// Its name.
    pub name: Name,
    /// How it is told.
    pub kind: ChannelKind,
    /// Where it leads, without tokens and passwords.
    pub address: String,
    /// What it is told, and how.
    #[serde(flatten)]
    pub terms: ChannelTerms,
    /// Who made it.
    pub actor: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How a channel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// A program of yours.
    Webhook,
    /// E-mail.
    Email,
    /// Prometheus Alertmanager.
    Alertmanager,
    /// Slack.
    Slack,
    /// `DingTalk`.
    Dingtalk,
    /// Feishu, Lark.
    Feishu,
    /// `WeCom`.
    Wecom,
}

impl ChannelKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Email => "email",
            Self::Alertmanager => "alertmanager",
            Self::Slack => "slack",
            Self::Dingtalk => "dingtalk",
            Self::Feishu => "feishu",
            Self::Wecom => "wecom",
        }
    }
}

/// What a channel is told, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelTerms {
    /// Nothing less is told.
    pub severity: Severity,
    /// Kinds of events that it is told although no plan names it: `node.lost`, `node.*`, `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Whether it may lead to this machine and to private networks.
    pub private_addresses: PrivateAddresses,
    /// The only authorities that its TLS connections trust, PEM; those of the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// How long the findings of one run are collected at most before they are told together.
    pub digest_seconds: u64,
    /// How long the same finding on the same part is not told again.
    pub repeat_seconds: u64,
}

impl ChannelTerms {
    /// Whether it asked for events of this kind.
    pub fn asked_for(&self, kind: &str) -> bool {
        self.events
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => kind.starts_with(beginning),
                None => pattern == kind,
            })
    }
}

/// Whether a channel may lead to loopback, link-local and private addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrivateAddresses {
    /// It may not: whoever makes a channel must not reach what only the server can reach.
    Refused,
    /// It may; an admin said so.
    Allowed,
}

/// A text that is neither shown nor logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Where a channel leads, with everything that is needed to speak there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// A program that is called by POST, signed after the specification "Standard Webhooks".
    Webhook {
        /// Its address.
        url: Secret,
        /// What messages are signed with: `whsec_` and 24 to 64 bytes in base 64.
        key: Secret,
    },
    /// A mail server.
    Email(MailTarget),
    /// A Prometheus Alertmanager.
    Alertmanager {
        /// Its address, without `/api/v2/alerts`.
        url: Secret,
    },
    /// An incoming webhook of Slack.
    Slack {
        /// Its address.
        url: Secret,
    },
    /// A robot in a `DingTalk` group.
    Dingtalk {
        /// Its address with its `access_token`.
        url: Secret,
        /// Signs messages, if the robot asks for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Secret>,
    },
    /// A bot in a Feishu group.
    Feishu {
        /// Its address.
        url: Secret,
        /// Signs messages, if the bot asks for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Secret>,
    },
    /// A robot in a `WeCom` group.
    Wecom {
        /// Its address with its `key`.
        url: Secret,
    },
}

impl Target {
    /// Of which kind it is.
    pub fn kind(&self) -> ChannelKind {
        match self {
            Self::Webhook { .. } => ChannelKind::Webhook,
            Self::Email(_) => ChannelKind::Email,
            Self::Alertmanager { .. } => ChannelKind::Alertmanager,
            Self::Slack { .. } => ChannelKind::Slack,
            Self::Dingtalk { .. } => ChannelKind::Dingtalk,
            Self::Feishu { .. } => ChannelKind::Feishu,
            Self::Wecom { .. } => ChannelKind::Wecom,
        }
    }
}

/// A mail server, and whom it is to write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailTarget {
    /// Its host name, which its certificate has to have.
    pub host: String,
    /// Its port; 587 for STARTTLS and 465 for implicit TLS when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the connection is protected.
    pub tls: MailTls,
    /// Whom the server knows us as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<MailLogin>,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
}

/// How a mail connection is protected. There is no way without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// It begins in the clear and is refused when it cannot be protected.
    Starttls,
    /// It is protected from the first byte.
    Implicit,
}

/// Whom a mail server knows us as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailLogin {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// How a channel stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelState {
    /// How many deliveries failed since the last one that did not.
    pub failures: u32,
    /// Nothing is delivered before.
    pub retry_at: Timestamp,
    /// Why the last delivery failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When something was delivered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
}

/// One message on its way, with all that is needed to deliver it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub channel: Channel,
    /// Where that is.
    pub target: Target,
    /// What.
    pub message: Message,
    /// The moment of the attempt.
    pub now: Timestamp,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// The other side has it.
    Accepted,
    /// It was not taken; another attempt may help.
    Later {
        /// Why.
        why: String,
        /// The other side asked to be left alone for so long.
        after: Option<Duration>,
    },
    /// The other side will never take this message.
    Refused {
        /// Why.
        why: String,
    },
}

/// The answer of an attempt, when it comes.
pub type Attempt<'a> = Pin<Box<dyn Future<Output = Delivered> + Send + 'a>>;

/// The edge to the outside world: takes messages to where channels lead.
pub trait Courier: Send + Sync + fmt::Debug {
    /// Whether a target could be used; answers where it leads, without tokens and passwords, or why not.
    fn check(&self, target: &Target, terms: &ChannelTerms) -> Result<String, String>;

    /// Tries once.
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Attempt<'a>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_asks_for_kinds_and_for_beginnings_of_kinds() {
        let asked = |patterns: &[&str], kind: &str| {
            let terms = ChannelTerms {
                severity: Severity::Info,
                events: patterns.iter().map(|text| (*text).to_owned()).collect(),
                private_addresses: PrivateAddresses::Refused,
                ca_pem: None,
                digest_seconds: 0,
                repeat_seconds: 0,
            };
            terms.asked_for(kind)
        };
        assert!(asked(&["node.lost"], "node.lost"));
        assert!(asked(&["job.*", "node.*"], "node.lost"));
        assert!(asked(&["*"], "node.lost"));
        assert!(!asked(&[], "node.lost"));
        assert!(!asked(&["node.los", "job.*"], "node.lost"));
    }

    #[test]
    fn a_target_shows_no_secret() {
        let target: Target = serde_json::from_value(serde_json::json!({
            "kind": "email", "host": "mail.example", "tls": "starttls", "from": "a@example", "to": ["b@example"],
            "login": {"user": "ada", "password": "canary"}
        }))
        .expect("a target");
        assert_eq!(target.kind().name(), "email");
        assert!(!format!("{target:?}").contains("canary"));
        let stored = serde_json::to_string(&target).expect("it is JSON");
        assert_eq!(serde_json::from_str::<Target>(&stored).ok(), Some(target));
    }
}
