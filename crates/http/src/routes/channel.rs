//! Channels. What is secret of one goes in and never comes out: not in an answer, an audit record or a log.

use serde_json::json;
use supernode_api::channel::{
    ChannelCreate, ChannelDelete, ChannelList, ChannelShow, ChannelTest, ChannelView, MessageView,
};
use supernode_control::channel::{self, ChannelRecord};
use supernode_control::{Refusal, Tx};
use supernode_types::message::Message;

use super::Context;
use super::context::{DONE, whole};
use crate::{Edge, Failure, Request};

/// How many messages are shown of a channel.
const SHOWN_MESSAGES: u32 = 20;

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (create, list, show, test, delete) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<ChannelCreate, _, _>(move |request: Request<ChannelCreate>| {
        let context = create.clone();
        async move { make(&context, &request).await }
    })
    .operation::<ChannelList, _, _>(move |_: Request<ChannelList>| {
        let context = list.clone();
        async move {
            let views = context.read("channel_list", |tx| {
                let records = channel::list(tx)?;
                records
                    .into_iter()
                    .map(|record| view(tx, record))
                    .collect::<Result<Vec<_>, _>>()
            });
            views.await.map(whole)
        }
    })
    .operation::<ChannelShow, _, _>(move |request: Request<ChannelShow>| {
        let context = show.clone();
        async move {
            let name = request.path.get("channel").to_owned();
            context
                .read("channel_show", move |tx| {
                    let record = channel::find(tx, &name)?;
                    let messages = channel::messages(tx, &record.channel.id, SHOWN_MESSAGES)?;
                    Ok(ChannelView {
                        messages: messages.into_iter().map(message_view).collect(),
                        ..view(tx, record)?
                    })
                })
                .await
        }
    })
    .operation::<ChannelTest, _, _>(move |request: Request<ChannelTest>| {
        let context = test.clone();
        async move {
            let name = request.path.get("channel").to_owned();
            context
                .change(&request, name.clone(), move |tx, intent| {
                    channel::test(tx, intent, &name).map(message_view)
                })
                .await
        }
    })
    .operation::<ChannelDelete, _, _>(move |request: Request<ChannelDelete>| {
        let context = delete.clone();
        async move {
            let name = request.path.get("channel").to_owned();
            context
                .change(&request, name.clone(), move |tx, _| {
                    channel::delete(tx, &name).map(|()| DONE)
                })
                .await
        }
    })
}

async fn make(context: &Context, request: &Request<ChannelCreate>) -> Result<ChannelView, Failure> {
    let body = request.body.clone();
    let refused = |why: String| {
        Failure::invalid_request(format!("channel {} cannot be used: {why}", body.name))
    };
    let address = context
        .courier
        .check(&body.target, &body.terms)
        .map_err(refused)?;
    let audited = json!({
        "name": body.name, "kind": body.target.kind(), "address": address, "terms": body.terms,
    });
    context
        .change_audited(
            request,
            body.name.to_string(),
            audited,
            true,
            move |tx, intent| {
                let made =
                    channel::create(tx, intent, &body.name, &body.target, &address, &body.terms)?;
                view(tx, made)
            },
        )
        .await
}

fn view(tx: &mut Tx<'_>, record: ChannelRecord) -> Result<ChannelView, Refusal> {
    Ok(ChannelView {
        pending: channel::pending(tx, &record.channel.id)?,
        channel: record.channel,
        state: record.state,
        messages: Vec::new(),
    })
}

fn message_view(message: Message) -> MessageView {
    MessageView {
        id: message.id(),
        message,
    }
}
