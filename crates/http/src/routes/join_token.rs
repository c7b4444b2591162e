//! Join tokens.

use std::time::Duration;

use supernode_api::join_token::{
    JoinTokenCreate, JoinTokenCreated, JoinTokenList, JoinTokenRevoke, JoinTokenView,
};
use supernode_control::query::{self, JoinTokenRecord};
use supernode_control::token::{self, JoinTokenWish};

use super::context::whole;
use super::{Context, new_secret};
use crate::{Edge, Request};

/// How long a join token is valid when the request does not say.
const DEFAULT_LIFETIME_SECONDS: u64 = 3600;

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (list, create, revoke) = (context.clone(), context.clone(), context.clone());
    edge.operation::<JoinTokenList, _, _>(move |_: Request<JoinTokenList>| {
        let context = list.clone();
        async move {
            let tokens = context.read("join_token_list", query::join_tokens).await?;
            Ok(whole(tokens.into_iter().map(view).collect()))
        }
    })
    .operation::<JoinTokenCreate, _, _>(move |request: Request<JoinTokenCreate>| {
        let context = create.clone();
        async move {
            let body = request.body.clone();
            let wish = JoinTokenWish {
                uses: body.uses.unwrap_or(1),
                lifetime: Duration::from_secs(body.lifetime_seconds.unwrap_or(DEFAULT_LIFETIME_SECONDS)),
                labels: body.labels.clone(),
                position: body.position.clone(),
            };
            let (secret, hash) = new_secret(&**context.control.entropy());
            let audited = serde_json::to_value(&body).unwrap_or_default();
            let join_token = context
                .change_audited(&request, "join-token", audited, false, move |tx, intent| token::create_join(tx, intent, &wish, &hash).map(view))
                .await?;
            let command = format!("supernode agent --server {} --ca-file ca.pem --join-token {secret} --name NODE_NAME", context.agent_address);
            Ok(JoinTokenCreated { join_token, secret, command })
        }
    })
    .operation::<JoinTokenRevoke, _, _>(move |request: Request<JoinTokenRevoke>| {
        let context = revoke.clone();
        async move {
            let id = request.path.get("join_token").to_owned();
            context.change(&request, id.clone(), move |tx, intent| token::revoke_join(tx, intent, &id).map(view)).await
        }
    })
}

fn view(token: JoinTokenRecord) -> JoinTokenView {
    JoinTokenView {
        id: token.id,
        uses_left: token.uses_left,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
        labels: token.labels,
        position: token.position,
        created_at: token.created_at,
    }
}
