//! API tokens.

use std::time::Duration;

use supernode_api::Role;
use supernode_api::token::{TokenCreate, TokenCreated, TokenList, TokenRevoke, TokenView};
use supernode_control::query::{self, TokenRecord};
use supernode_control::token;

use super::context::whole;
use super::{Context, new_secret};
use crate::{Edge, Failure, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (list, create, revoke) = (context.clone(), context.clone(), context.clone());
    edge.operation::<TokenList, _, _>(move |_: Request<TokenList>| {
        let context = list.clone();
        async move {
            let tokens = context.read("token_list", query::tokens).await?;
            Ok(whole(tokens.into_iter().map(view).collect()))
        }
    })
    .operation::<TokenCreate, _, _>(move |request: Request<TokenCreate>| {
        let context = create.clone();
        async move {
            let body = request.body.clone();
            let lifetime = body.lifetime_seconds.map(Duration::from_secs);
            let (secret, hash) = new_secret(&**context.control.entropy());
            let audited = serde_json::to_value(&body).unwrap_or_default();
            let token = context
                .change_audited(
                    &request,
                    body.name.to_string(),
                    audited,
                    false,
                    move |tx, intent| {
                        token::create(tx, intent, &body.name, body.role.word(), lifetime, &hash)
                            .map(view)
                    },
                )
                .await?;
            Ok(TokenCreated { token, secret })
        }
    })
    .operation::<TokenRevoke, _, _>(move |request: Request<TokenRevoke>| {
        let context = revoke.clone();
        async move {
            let id = request.path.get("token").to_owned();
            context
                .change(&request, id.clone(), move |tx, intent| {
                    token::revoke(tx, intent, &id).map(view)
                })
                .await
        }
    })
}

/// The role that a stored word means; the schema allows no other words.
pub(super) fn role(word: &str) -> Role {
    [Role::Admin, Role::Operator, Role::User]
        .into_iter()
        .find(|role| role.word() == word)
        .unwrap_or(Role::Viewer)
}

fn view(token: TokenRecord) -> TokenView {
    TokenView {
        role: role(&token.role),
        id: token.id,
        name: token.name,
        created_at: token.created_at,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
    }
}

/// Makes sure that the first admin's token is known; there is none only in a fresh database.
pub async fn ensure_admin(
    control: &supernode_control::Control,
    secret: &str,
) -> Result<(), Failure> {
    let hash = super::hash_secret(secret);
    let request = supernode_control::ChangeRequest {
        action: "admin_bootstrap",
        subject: "admin".into(),
        audited: serde_json::Value::Null,
        request_id: String::new(),
        actor: "server".into(),
        operator: true,
        admin: true,
        if_match: None,
        idempotency: None,
    };
    let known = control
        .read("token_list", query::tokens)
        .await
        .map_err(|refusal| super::failure(&refusal))?;
    if !known.is_empty() {
        return Ok(());
    }
    let name: supernode_types::Name = "admin".parse().expect("a constant name");
    control
        .change(request, move |tx, intent| {
            token::create(tx, intent, &name, Role::Admin.word(), None, &hash).map(|_| ())
        })
        .await
        .map_err(|refusal| super::failure(&refusal))
}
