//! Who is asking: the bearer token of a request and what its owner may do.
//!
//! The secret is looked up by an [`Authenticator`] that the caller of this crate gives; nothing here stores or logs it.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use supernode_api::Role;
use supernode_types::{Name, TokenId};

use crate::{BoxFuture, Failure};

/// The longest secret that is looked up, in bytes.
const MAXIMUM_SECRET_BYTES: usize = 512;

/// The owner of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name, as the audit log shows it.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// The token.
    pub token: TokenId,
}

/// Finds the owner of a token.
pub trait Authenticator: Send + Sync + 'static {
    /// The owner of `secret`; none when it is unknown, expired or revoked.
    fn authenticate<'a>(
        &'a self,
        secret: &'a str,
    ) -> BoxFuture<'a, Result<Option<Caller>, Failure>>;
}

/// The secret in `Authorization: Bearer …`.
pub(crate) fn bearer_secret(headers: &HeaderMap) -> Result<&str, Failure> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Failure::unauthenticated(
            "this needs an API token: send it as `Authorization: Bearer <token>`",
        ));
    };
    secret_of(value).ok_or_else(|| {
        Failure::unauthenticated("the `Authorization` header is not `Bearer <token>`")
    })
}

fn secret_of(value: &HeaderValue) -> Option<&str> {
    let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
    let secret = secret.trim();
    let plausible = !secret.is_empty()
        && secret.len() <= MAXIMUM_SECRET_BYTES
        && secret.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && plausible).then_some(secret)
}

/// The owner of the token that `headers` carry, if the role is enough. `what` names the operation in the message.
pub(crate) async fn authorize(
    authenticator: &dyn Authenticator,
    headers: &HeaderMap,
    role: Role,
    what: &str,
) -> Result<Caller, Failure> {
    let secret = bearer_secret(headers)?;
    let caller = authenticator.authenticate(secret).await?.ok_or_else(|| {
        Failure::unauthenticated(
            "the API token is not valid: it may be mistyped, expired or revoked",
        )
    })?;
    if caller.role < role {
        return Err(Failure::forbidden(format!(
            "`{what}` needs the role `{}`; the token `{}` has the role `{}`",
            role.word(),
            caller.name,
            caller.role.word()
        )));
    }
    Ok(caller)
}
