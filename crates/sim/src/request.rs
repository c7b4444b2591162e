//! What a client can ask for, and how the server answers: the real functions of `control`, with idempotency keys.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use supernode_control::scale_up::{Selection, Test};
use supernode_control::super_node::Create;
use supernode_control::{
    ChangeRequest, Control, IdempotencyKey, Intent, Refusal, Tx, environment, job, node,
    node_replace, operation, scale_down, scale_up, super_node,
};
use supernode_types::Name;
use supernode_types::environment::EnvironmentDocument;
use supernode_types::job::JobSpec;
use supernode_types::super_node::DrainMode;

/// One request.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Create {
        name: String,
        spec: Option<String>,
        selection: Selection,
        deadline: Duration,
    },
    ScaleUp {
        super_node: String,
        selection: Selection,
        deadline: Duration,
    },
    ScaleDown {
        super_node: String,
        selection: Selection,
        mode: DrainMode,
        deadline: Duration,
    },
    Replace {
        super_node: String,
        wish: node_replace::Wish,
    },
    Delete {
        super_node: String,
        deadline: Duration,
    },
    SetEnvironment {
        super_node: String,
        document: EnvironmentDocument,
        deadline: Duration,
    },
    Rename {
        super_node: String,
        name: String,
    },
    Submit {
        super_node: String,
        name: String,
        spec: JobSpec,
    },
    CancelJob {
        job: String,
    },
    CancelOperation {
        operation: String,
    },
    Cordon {
        node: String,
        reason: String,
    },
    Uncordon {
        node: String,
    },
    Remove {
        node: String,
    },
}

/// What an accepted request makes, so that it can be looked for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Makes {
    Job,
    Operation,
    Nothing,
}

impl Request {
    pub(crate) fn makes(&self) -> Makes {
        match self {
            Self::Submit { .. } => Makes::Job,
            Self::Create { .. }
            | Self::ScaleUp { .. }
            | Self::ScaleDown { .. }
            | Self::Replace { .. }
            | Self::Delete { .. }
            | Self::SetEnvironment { .. }
            | Self::Remove { .. } => Makes::Operation,
            Self::Rename { .. }
            | Self::CancelJob { .. }
            | Self::CancelOperation { .. }
            | Self::Cordon { .. }
            | Self::Uncordon { .. } => Makes::Nothing,
        }
    }

    /// Asks the server, under an idempotency key.
    pub(crate) fn ask(&self, control: &Control, actor: &str, key: &str) -> Result<Value, Refusal> {
        let request = self.clone();
        let change = ChangeRequest {
            action: "simulated",
            subject: String::new(),
            audited: Value::Null,
            request_id: key.to_owned(),
            actor: actor.to_owned(),
            operator: true,
            admin: true,
            if_match: None,
            idempotency: Some(IdempotencyKey {
                key: key.to_owned(),
                digest: format!("{self:?}"),
            }),
        };
        control.change_inline(change, move |tx, intent| request.change(tx, intent))
    }

    fn change(&self, tx: &mut Tx<'_>, intent: &Intent) -> Result<Value, Refusal> {
        Ok(match self {
            Self::Create {
                name,
                spec,
                selection,
                deadline,
            } => {
                let wish = Create {
                    name: parsed(name)?,
                    spec: spec.clone(),
                    selection: selection.clone(),
                    labels: BTreeMap::new(),
                    deadline: *deadline,
                };
                value(&super_node::create(tx, intent, &wish)?)
            }
            Self::ScaleUp {
                super_node,
                selection,
                deadline,
            } => value(&scale_up::scale_up(
                tx,
                intent,
                super_node,
                selection,
                Test::AsSet,
                *deadline,
            )?),
            Self::ScaleDown {
                super_node,
                selection,
                mode,
                deadline,
            } => value(&scale_down::scale_down(
                tx, intent, super_node, selection, *mode, *deadline,
            )?),
            Self::Replace { super_node, wish } => {
                value(&node_replace::replace(tx, intent, super_node, wish)?)
            }
            Self::Delete {
                super_node,
                deadline,
            } => value(&super_node::delete(tx, intent, super_node, *deadline)?),
            Self::SetEnvironment {
                super_node,
                document,
                deadline,
            } => value(&environment::set(
                tx, intent, super_node, document, *deadline,
            )?),
            Self::Rename { super_node, name } => {
                let wish = super_node::Update {
                    name: Some(parsed(name)?),
                    ..super_node::Update::default()
                };
                value(&super_node::update(tx, intent, super_node, &wish)?)
            }
            Self::Submit {
                super_node,
                name,
                spec,
            } => value(
                &job::submit(
                    tx,
                    intent,
                    super_node,
                    Some(name),
                    spec,
                    job::Strictness::Warn,
                )?
                .0,
            ),
            Self::CancelJob { job } => value(&job::cancel(tx, intent, job)?),
            Self::CancelOperation { operation } => {
                value(&operation::cancel(tx, intent, operation)?.operation)
            }
            Self::Cordon { node, reason } => value(&node::cordon(tx, intent, node, reason)?),
            Self::Uncordon { node } => value(&node::uncordon(tx, intent, node)?),
            Self::Remove { node } => value(&node::remove(tx, intent, node)?),
        })
    }
}

fn parsed(name: &str) -> Result<Name, Refusal> {
    name.parse()
        .map_err(|error: supernode_types::name::InvalidName| Refusal::Invalid(error.to_string()))
}

fn value(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).expect("the contract's types serialize")
}
