//! The way in: reads see one snapshot, changes are one transaction with audit and idempotency, and wake the loop.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use supernode_store::audit::{AuditEntry, audit_insert};
use supernode_store::idempotency::{Remembered, idempotency_get, idempotency_put};
use supernode_store::{Store, Tx};
use supernode_types::{Clock, Entropy, Timestamp};

use crate::hub::Hub;
use crate::{Intent, Refusal, Settings};

/// A caller's key for a request, with a digest of the request that it belongs to.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// The key.
    pub key: String,
    /// Digest of method, path and body.
    pub digest: String,
}

/// Who asks for what.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    /// The operation of the contract.
    pub action: &'static str,
    /// What it is done to.
    pub subject: String,
    /// The request as it goes into the audit log, without secrets.
    pub audited: serde_json::Value,
    /// The request's id.
    pub request_id: String,
    /// The caller's name.
    pub actor: String,
    /// Whether the caller may change other people's jobs.
    pub operator: bool,
    /// Whether the caller may allow root.
    pub admin: bool,
    /// The generation that the object must have, if the caller named one.
    pub if_match: Option<i64>,
    /// The caller's key, if it gave one and the answer has no secret in it.
    pub idempotency: Option<IdempotencyKey>,
}

/// The control plane of one server process.
#[derive(Debug, Clone)]
pub struct Control {
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    settings: Arc<Settings>,
    hub: Hub,
    started_at: Timestamp,
}

impl Control {
    /// Over an open store.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: Settings,
    ) -> Self {
        let hub = Hub::new(Arc::clone(&clock));
        let started_at = clock.now();
        Self {
            store,
            clock,
            entropy,
            settings: Arc::new(settings),
            hub,
            started_at,
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The clock, to keep.
    pub(crate) fn shared_clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Randomness.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// The settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Contacts, links and wake-ups.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// When this process started.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Reads from one consistent snapshot.
    pub async fn read<T, F>(&self, name: &'static str, read: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        self.store.read(name, read).await
    }

    /// Does a change: looks whether the same request was answered before, runs `change`, writes audit record and answer, all in one
    /// transaction; then wakes the loop.
    pub async fn change<T, F>(&self, request: ChangeRequest, change: F) -> Result<T, Refusal>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal> + Send + 'static,
    {
        let action = request.action;
        let mut transaction = Transaction::new(self, request, change);
        let answer = self
            .store
            .write(action, move |tx| transaction.run(tx))
            .await;
        self.hub.announce_change();
        self.hub.wake_loop();
        answer
    }

    /// [`Control::change`] on the caller's thread, for the simulation.
    pub fn change_inline<T, F>(&self, request: ChangeRequest, change: F) -> Result<T, Refusal>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal> + Send + 'static,
    {
        let action = request.action;
        let mut transaction = Transaction::new(self, request, change);
        self.store
            .write_inline(action, move |tx| transaction.run(tx))
    }
}

/// A change with all that one run of it needs; a run can be repeated when the database asks for it.
struct Transaction<F> {
    clock: Arc<dyn Clock>,
    request: ChangeRequest,
    intent: Intent,
    change: F,
}

impl<F> Transaction<F> {
    fn new(control: &Control, request: ChangeRequest, change: F) -> Self {
        let intent = Intent {
            actor: request.actor.clone(),
            operator: request.operator,
            admin: request.admin,
            now: control.clock.now(),
            if_match: request.if_match,
            entropy: Arc::clone(&control.entropy),
            settings: Arc::clone(&control.settings),
        };
        Self {
            clock: Arc::clone(&control.clock),
            request,
            intent,
            change,
        }
    }

    fn run<T>(&mut self, tx: &mut Tx<'_>) -> Result<T, Refusal>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal>,
    {
        let Self {
            clock,
            request,
            intent,
            change,
        } = self;
        intent.now = clock.now();
        if let Some(idempotency) = &request.idempotency
            && let Some(remembered) = idempotency_get(tx, &request.actor, &idempotency.key)?
        {
            return if remembered.digest == idempotency.digest {
                recall(&remembered)
            } else {
                Err(Refusal::IdempotencyKeyReused)
            };
        }
        let answer = change(tx, intent)?;
        let entry = AuditEntry {
            sequence: 0,
            at: intent.now,
            actor: request.actor.clone(),
            action: request.action.to_owned(),
            subject: request.subject.clone(),
            request: request.audited.clone(),
            request_id: request.request_id.clone(),
        };
        audit_insert(tx, &entry)?;
        if let Some(idempotency) = &request.idempotency {
            let response = serde_json::to_string(&answer).map_err(|error| {
                Refusal::Invalid(format!("the answer cannot be stored: {error}"))
            })?;
            let remembered = Remembered {
                digest: idempotency.digest.clone(),
                response,
            };
            idempotency_put(
                tx,
                &request.actor,
                &idempotency.key,
                &remembered,
                intent.now,
            )?;
        }
        Ok(answer)
    }
}

fn recall<T: DeserializeOwned>(remembered: &Remembered) -> Result<T, Refusal> {
    serde_json::from_str(&remembered.response).map_err(|_| {
        Refusal::Conflict("this idempotency key was answered by an older version of the server; look at the object and take a new key".into())
    })
}
