//! Channels: where people are told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::Name;
use supernode_types::channel::{Channel, ChannelState, ChannelTerms, Target};
use supernode_types::message::Message;

use crate::{Nothing, Page, operations};

/// Makes a channel. What is secret of its target is stored and never answered.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelCreateRequest {
    /// Its name.
    pub name: Name,
    /// Where it leads.
    pub target: Target,
    /// What it is told, and how.
    pub terms: ChannelTerms,
}

/// A channel, how it stands, and what it was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelView {
    /// The channel.
    #[serde(flatten)]
    pub channel: Channel,
    /// How it stands.
    pub state: ChannelState,
    /// How many messages it still has to be told.
    pub pending: u32,
    /// The latest messages, newest first; none in a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageView>,
}

/// A message, with the id that its receiver knows it by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageView {
    /// What a receiver knows it by, the same for every attempt.
    pub id: String,
    /// The message.
    #[serde(flatten)]
    pub message: Message,
}

operations! {
    ChannelCreate = "channel_create" Post "/api/v1/channels" 201 Operator (Nothing, ChannelCreateRequest) -> ChannelView, "Make a channel where people are told; one that may lead to private addresses needs an admin.";
    ChannelList = "channel_list" Get "/api/v1/channels" 200 Viewer (Nothing, Nothing) -> Page<ChannelView>, "List channels, without their secrets.";
    ChannelShow = "channel_show" Get "/api/v1/channels/{channel}" 200 Viewer (Nothing, Nothing) -> ChannelView, "Show a channel and what it was told, without its secrets.";
    ChannelTest = "channel_test" Post "/api/v1/channels/{channel}/test" 202 Operator (Nothing, Nothing) -> MessageView, "Send a message that says only that somebody tries the channel.";
    ChannelDelete = "channel_delete" Delete "/api/v1/channels/{channel}" 200 Operator (Nothing, Nothing) -> Nothing, "Delete a channel and what was on its way; refused while a stress plan names it.";
}
