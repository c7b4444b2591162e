//! What channels are told: notices, collected in messages that survive restarts.
//!
//! ```text
//!  Pending --attempt accepted (loop)--> Delivered
//!     |  ^------attempt failed (loop)
//!     +-- refused for good, or too old (loop) --> Failed
//! ```
//! A message collects notices until its first attempt. From then on it never changes, so its id means the same to a receiver
//! however often it comes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::Severity;
use crate::{ChannelId, Name, OperationId, Timestamp};

/// Some notices for one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// To whom.
    pub channel: ChannelId,
    /// The event that began it: there is one message for an event and a channel at most.
    pub sequence: i64,
    /// What it collects.
    pub topic: Topic,
    /// What is told.
    pub notices: Vec<Notice>,
    /// How many more notices did not find room.
    #[serde(default)]
    pub omitted: u32,
    /// How it stands.
    #[serde(flatten)]
    pub state: MessageState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was begun.
    pub created_at: Timestamp,
    /// Not tried before.
    pub due_at: Timestamp,
}

impl Message {
    /// What a receiver knows it by. The same for every attempt, before and after a restart.
    pub fn id(&self) -> String {
        format!("{}.{}", self.channel, self.sequence)
    }

    /// The worst that it tells.
    pub fn severity(&self) -> Severity {
        let all = self.notices.iter().map(|notice| notice.severity);
        all.max().unwrap_or(Severity::Info)
    }
}

/// What a message collects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// What one stress run found.
    Run(OperationId),
    /// Everything else.
    Events,
    /// Somebody tries the channel.
    Trial,
}

impl Topic {
    /// The topic as one word.
    pub fn word(&self) -> String {
        match self {
            Self::Run(run) => run.to_string(),
            Self::Events => "events".into(),
            Self::Trial => "trial".into(),
        }
    }
}

/// How a message stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MessageState {
    /// It has to be delivered.
    Pending {
        /// Why the last attempt failed, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_error: Option<String>,
    },
    /// The other side has it.
    Delivered {
        /// Since when.
        at: Timestamp,
    },
    /// It was given up.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
}

impl MessageState {
    /// The word for this state, as the API and the database say it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Delivered { .. } => "delivered",
            Self::Failed { .. } => "failed",
        }
    }
}

/// One thing that is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// The same for the same thing on the same part, whenever it is found.
    pub key: String,
    /// Whether it is so, or no longer.
    #[serde(flatten)]
    pub status: NoticeStatus,
    /// The kind of the event that it came with.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence for people.
    pub message: String,
    /// When it was found.
    pub at: Timestamp,
    /// The node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// The super node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<Name>,
    /// The stress run that found it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<OperationId>,
    /// The component and part of the node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

/// Whether what a notice says is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum NoticeStatus {
    /// It is.
    Firing,
    /// It was told, and is so no longer.
    Resolved {
        /// Since when.
        resolved_at: Timestamp,
    },
}
