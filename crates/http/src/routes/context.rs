//! What handlers have at hand, and the few things that all of them do: change, read, wait for a change, cut a list into pages.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use supernode_api::{ErrorCode, Nothing, Operation, Page, Role, Watch};
use supernode_control::{ChangeRequest, Control, IdempotencyKey, Intent, Refusal, StoreError, Tx};
use supernode_types::channel::Courier;
use tokio::time::Instant;

use super::hash_secret;
use crate::{Authenticator, BoxFuture, Caller, Failure, Request};

/// The longest wait for a change.
const MAXIMUM_WAIT: Duration = Duration::from_secs(30);

/// What handlers have at hand.
#[derive(Debug, Clone)]
pub struct Context {
    /// The control plane.
    pub control: Control,
    /// Where agents connect, as a join command says it.
    pub agent_address: String,
    /// The authority's certificate, PEM.
    pub authority: Arc<str>,
    /// Says whether channels could be used.
    pub courier: Arc<dyn Courier>,
    /// `sqlite` or `postgres`.
    pub database: &'static str,
}

impl Context {
    /// Reads from one consistent snapshot.
    pub(crate) async fn read<T, F>(&self, name: &'static str, read: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        self.control
            .read(name, read)
            .await
            .map_err(|refusal| failure(&refusal))
    }

    /// Does what a request asks, in one transaction with its audit record and its answer.
    pub(crate) async fn change<O, F>(
        &self,
        request: &Request<O>,
        subject: impl Into<String>,
        change: F,
    ) -> Result<O::Response, Failure>
    where
        O: Operation,
        O::Response: Serialize + DeserializeOwned + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<O::Response, Refusal> + Send + 'static,
    {
        let audited = serde_json::to_value(&request.body).unwrap_or_default();
        self.change_audited(request, subject, audited, true, change)
            .await
    }

    /// [`Context::change`] with an audit text of its own, and without remembering an answer that has a secret in it.
    pub(crate) async fn change_audited<O, T, F>(
        &self,
        request: &Request<O>,
        subject: impl Into<String>,
        audited: serde_json::Value,
        remember: bool,
        change: F,
    ) -> Result<T, Failure>
    where
        O: Operation,
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal> + Send + 'static,
    {
        let key = request.idempotency_key.clone().filter(|_| remember);
        let change_request = ChangeRequest {
            action: O::NAME,
            subject: subject.into(),
            audited,
            request_id: request.request_id.clone(),
            actor: request.caller.name.to_string(),
            operator: request.caller.role >= Role::Operator,
            admin: request.caller.role >= Role::Admin,
            if_match: request.if_match,
            idempotency: key.map(|key| IdempotencyKey {
                key,
                digest: request.digest.clone(),
            }),
        };
        self.control
            .change(change_request, change)
            .await
            .map_err(|refusal| failure(&refusal))
    }

    /// Reads an object; with `after_generation`, again and again until its generation is larger or the wait is over.
    pub(crate) async fn watch<T, F>(
        &self,
        watch: Watch,
        generation: impl Fn(&T) -> i64,
        read: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let wait = Duration::from_millis(watch.wait_milliseconds.unwrap_or(0));
        if wait > MAXIMUM_WAIT {
            return Err(Failure::invalid_request(format!(
                "wait_milliseconds is at most {}",
                MAXIMUM_WAIT.as_millis()
            )));
        }
        let deadline = Instant::now() + wait;
        let mut changes = self.control.hub().changes();
        loop {
            changes.mark_unchanged();
            let found = read().await?;
            let news = watch
                .after_generation
                .is_none_or(|after| generation(&found) > after);
            if news
                || tokio::time::timeout_at(deadline, changes.changed())
                    .await
                    .is_err()
            {
                return Ok(found);
            }
        }
    }
}

/// How many items a page may have, as the request asks.
pub(crate) fn page_limit(limit: Option<u32>) -> Result<u32, Failure> {
    match limit.unwrap_or(supernode_api::page::DEFAULT_LIMIT) {
        limit @ 1..=supernode_api::page::MAXIMUM_LIMIT => Ok(limit),
        _ => Err(Failure::invalid_request(format!(
            "limit must be between 1 and {}",
            supernode_api::page::MAXIMUM_LIMIT
        ))),
    }
}

/// A page of `items`, of which one more than `limit` was asked for: if it is there, there is a next page.
pub(crate) fn page<T>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = if more { items.last().map(cursor) } else { None };
    Page { items, next_cursor }
}

/// All items on one page.
pub(crate) fn whole<T>(items: Vec<T>) -> Page<T> {
    Page {
        items,
        next_cursor: None,
    }
}

/// An answer without content.
pub(crate) const DONE: Nothing = Nothing {};

/// A refusal as the client sees it.
pub(crate) fn failure(refusal: &Refusal) -> Failure {
    let code = match refusal {
        Refusal::Invalid(_) => ErrorCode::InvalidRequest,
        Refusal::NotFound { .. } => ErrorCode::NotFound,
        Refusal::Conflict(_) => ErrorCode::Conflict,
        Refusal::AlreadyExists(_) => ErrorCode::AlreadyExists,
        Refusal::Forbidden(_) => ErrorCode::Forbidden,
        Refusal::JobsRunning { .. } => ErrorCode::JobsRunning,
        Refusal::LastNode(_) => ErrorCode::LastNode,
        Refusal::NotEnoughNodes { .. } => ErrorCode::NotEnoughNodes,
        Refusal::OverMaximum(_) => ErrorCode::OverMaximum,
        Refusal::DiskSize(_) => ErrorCode::DiskSize,
        Refusal::DiskLayout { .. } => ErrorCode::DiskLayout,
        Refusal::RetryPrevented { .. } => ErrorCode::RetryPrevented,
        Refusal::SpecMismatch(_) => ErrorCode::SpecMismatch,
        Refusal::PreconditionFailed { .. } => ErrorCode::PreconditionFailed,
        Refusal::IdempotencyKeyReused => ErrorCode::IdempotencyKeyReused,
        Refusal::Store(error) => return store_failure(error),
    };
    let failure = Failure::new(code, refusal.to_string());
    match refusal.details() {
        Some(details) => failure.with_details(details),
        None => failure,
    }
}

/// What the database could not do; text that the database cannot hold is the client's mistake.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    match error {
        StoreError::Full { .. } | StoreError::Unavailable { .. } => {
            Failure::new(ErrorCode::Unavailable, error.to_string())
                .with_retry_after(Duration::from_secs(1))
        }
        StoreError::Unknown { .. } => Failure::new(ErrorCode::UnknownOutcome, error.to_string()),
        StoreError::Statement { reason, .. } if reason.contains("NUL character") => {
            Failure::invalid_request(reason.clone())
        }
        _ => Failure::internal(error),
    }
}

/// Looks tokens up in the database, so that a revoked one is refused at once.
#[derive(Debug)]
pub struct TokenAuthenticator(pub Control);

impl Authenticator for TokenAuthenticator {
    fn authenticate<'a>(
        &'a self,
        secret: &'a str,
    ) -> BoxFuture<'a, Result<Option<Caller>, Failure>> {
        let hash = hash_secret(secret);
        Box::pin(async move {
            let now = self.0.clock().now();
            let token = self
                .0
                .read("token_authenticate", move |tx| {
                    supernode_control::token::authenticate(tx, &hash, now)
                })
                .await
                .map_err(|refusal| failure(&refusal))?;
            Ok(token.map(|token| Caller {
                role: super::token::role(&token.role),
                name: token.name,
                token: token.id,
            }))
        })
    }
}
