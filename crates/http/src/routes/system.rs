//! The server itself.

use supernode_api::system::{SystemInfo, SystemShow};

use super::Context;
use crate::{Edge, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let context = context.clone();
    edge.operation::<SystemShow, _, _>(move |request: Request<SystemShow>| {
        let context = context.clone();
        async move {
            Ok(SystemInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                database: context.database.to_owned(),
                provisioner: context.control.settings().provisioner.word().to_owned(),
                started_at: context.control.started_at(),
                lost_after_seconds: context.control.settings().lost_after.as_secs(),
                actor: request.caller.name.to_string(),
                role: request.caller.role,
            })
        }
    })
}
