//! Calls provisioners for the wishes that are due, and writes down what they said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use supernode_store::provision::{provision_get, provision_list_open};
use supernode_store::spec::spec_find;
use supernode_store::super_node::super_node_get;
use supernode_store::{StoreError, Tx};
use supernode_types::operation::Provision;
use supernode_types::super_node::SuperNode;
use supernode_types::{Entropy, JoinTokenId, ProvisionId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::wish::{NodeAction, action, is_due, record, same_wish, token_insert};
use super::{
    JoinParameters, ProvisionAnswer, ProvisionRequest, Provisioner, exec, grow_disk, local,
};
use crate::Control;

/// The most calls at once.
pub(super) const CONCURRENT_CALLS: usize = 8;

/// Makes a secret and its hash; the way secrets look belongs to the HTTP edge.
pub type SecretHash = fn(&dyn Entropy) -> (String, String);

/// Calls a provisioner. Keeps the secrets of join tokens as long as it lives, so that a repeated call brings the same one.
#[derive(Debug, Clone)]
pub struct Runner {
    control: Control,
    join: JoinParameters,
    make_secret: SecretHash,
    secrets: Arc<Mutex<BTreeMap<ProvisionId, String>>>,
}

/// What a call needs beside the wish.
struct Prepared {
    super_node: Option<SuperNode>,
    spec: serde_json::Value,
}

impl Runner {
    /// `join` says how new nodes find this server.
    pub fn new(control: Control, join: JoinParameters, make_secret: SecretHash) -> Self {
        Self {
            control,
            join,
            make_secret,
            secrets: Arc::default(),
        }
    }

    /// Calls the provisioner for every wish that is due, a few at a time, and waits for the answers.
    pub async fn run_due(&self) -> Result<(), StoreError> {
        let (nodes, disks) = tokio::join!(self.run_due_nodes(), grow_disk::run_due(&self.control));
        nodes.and(disks)
    }

    async fn run_due_nodes(&self) -> Result<(), StoreError> {
        let now = self.control.clock().now();
        let store = self.control.store();
        let open = store
            .read("provision_list_open", provision_list_open)
            .await?;
        let creating = |id: &ProvisionId| {
            let wish = open.iter().find(|wish| wish.id == *id);
            wish.is_some_and(|wish| action(wish) == NodeAction::Create)
        };
        self.secrets().retain(|id, _| creating(id));
        let slots = Arc::new(Semaphore::new(CONCURRENT_CALLS));
        let mut calls = JoinSet::new();
        for provision in open.into_iter().filter(|provision| is_due(provision, now)) {
            let (runner, slots) = (self.clone(), Arc::clone(&slots));
            calls.spawn(async move {
                let _slot = slots.acquire_owned().await;
                runner.run_one(provision).await
            });
        }
        let mut outcome = Ok(());
        while let Some(done) = calls.join_next().await {
            outcome = outcome.and(done.unwrap_or_else(|error| {
                tracing::error!(%error, "a call to the provisioner ended in a bug");
                Ok(())
            }));
        }
        outcome
    }

    async fn run_one(&self, wish: Provision) -> Result<(), StoreError> {
        let action = action(&wish);
        let token = match action {
            NodeAction::Create => self.secret(&wish).await?,
            NodeAction::Delete => None,
        };
        let id = wish.id.clone();
        let store = self.control.store();
        let prepared = store
            .read("provision_prepare", move |tx| prepare(tx, &id))
            .await?;
        let Some((present, prepared)) = prepared else {
            return Ok(());
        };
        let complete = action == NodeAction::Delete || token.is_some();
        if !complete || !same_wish(&present, &wish) {
            return Ok(());
        }
        let provisioner = &self.control.settings().provisioner;
        let request = request(&wish, action, prepared, token, &self.join);
        let answer = call(provisioner, &request).await;
        let now = self.control.clock().now();
        store
            .write("provision_answer", move |tx| {
                record(tx, &wish, action, &answer, now)
            })
            .await?;
        self.control.hub().announce_change();
        self.control.hub().wake_loop();
        Ok(())
    }

    /// The secret of a wish's join token. One that this process has not made yet gets a token of its own: those of former calls stay
    /// good, because a provisioner that has made the node already does not hear of a new one.
    async fn secret(&self, wish: &Provision) -> Result<Option<String>, StoreError> {
        if let Some(known) = self.secrets().get(&wish.id) {
            return Ok(Some(known.clone()));
        }
        let (secret, hash) = (self.make_secret)(&**self.control.entropy());
        let now = self.control.clock().now();
        let id = JoinTokenId::new(now, &**self.control.entropy());
        let wish_id = wish.id.clone();
        let insert = move |tx: &mut Tx<'_>| token_insert(tx, &id, &wish_id, &hash, now);
        let made = self
            .control
            .store()
            .write("provision_token", insert)
            .await?;
        if made {
            self.secrets().insert(wish.id.clone(), secret.clone());
        }
        Ok(made.then_some(secret))
    }

    fn secrets(&self) -> std::sync::MutexGuard<'_, BTreeMap<ProvisionId, String>> {
        self.secrets.lock().expect("no holder of this lock panics")
    }
}

fn prepare(tx: &mut Tx<'_>, id: &ProvisionId) -> Result<Option<(Provision, Prepared)>, StoreError> {
    let Some(present) = provision_get(tx, id)? else {
        return Ok(None);
    };
    let super_node = super_node_get(tx, &present.super_node)?;
    let spec = match &super_node {
        Some(super_node) => spec_find(tx, super_node.spec.as_str())?,
        None => None,
    };
    let spec = spec.map_or(
        serde_json::Value::Null,
        |spec| serde_json::json!({ "name": spec.name, "definition": spec.definition }),
    );
    Ok(Some((present, Prepared { super_node, spec })))
}

fn request(
    wish: &Provision,
    action: NodeAction,
    prepared: Prepared,
    token: Option<String>,
    join: &JoinParameters,
) -> ProvisionRequest {
    let super_node = prepared.super_node;
    ProvisionRequest {
        version: 1,
        action: action.into(),
        request_id: match action {
            NodeAction::Create => wish.id.to_string(),
            // Another change, so another key.
            NodeAction::Delete => format!("{}-delete", wish.id),
        },
        node_name: wish.node_name.clone(),
        hyperplane: super_node
            .as_ref()
            .and_then(|super_node| super_node.hyperplane.clone()),
        super_node: super_node.map_or_else(String::new, |super_node| super_node.name.to_string()),
        spec: prepared.spec,
        join: token.map(|token| JoinParameters {
            token,
            ..join.clone()
        }),
        size_bytes: None,
    }
}

async fn call(provisioner: &Provisioner, request: &ProvisionRequest) -> ProvisionAnswer {
    match (provisioner, &request.join) {
        (Provisioner::Pool, _) => ProvisionAnswer::Refused(
            "this server has no provisioner (any more); start it with the one that was asked before"
                .into(),
        ),
        (Provisioner::Local { directory }, Some(join)) => {
            local::create(directory, &request.node_name, join)
        }
        (Provisioner::Local { directory }, None) => local::delete(directory, &request.node_name),
        (
            Provisioner::Exec {
                command,
                time_limit,
            },
            _,
        ) => exec::call(command, *time_limit, request).await,
    }
}
