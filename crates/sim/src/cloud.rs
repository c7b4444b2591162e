//! A simulated provisioner: calls that are lost, late or repeated, and machines that come and go.
//!
//! The server's side is written as `control::provisioner` does it: a wish that is due is called for outside any transaction, and the
//! answer is recorded if the wish is still the same. The other side keeps the promise that a provisioner has to keep: the same request
//! has one effect, and what was deleted is not made again by a late repetition.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use supernode_control::{StoreError, Tx};
use supernode_store::provision::{provision_get, provision_list_open, provision_update};
use supernode_store::super_node::super_node_get;
use supernode_store::token::{JoinTokenRecord, join_token_insert};
use supernode_types::node::Position;
use supernode_types::operation::{Provision, ProvisionState};
use supernode_types::{Entropy, JoinTokenId, ProvisionId, SuperNodeId, Timestamp};

use crate::event::{Event, MachineEvent, ServerEvent};
use crate::machine::{Hardware, Machine, Power};
use crate::world::World;

/// How often the server looks for wishes that are due.
const PERIOD: Duration = Duration::from_secs(1);
/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often it asks for a machine before it gives up.
const MOST_CALLS: u32 = 6;

/// What the server's process remembers of its calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    under_way: BTreeSet<ProvisionId>,
    tokens: BTreeMap<ProvisionId, String>,
}

/// What the provisioner remembers.
#[derive(Debug, Default)]
pub(crate) struct Cloud {
    machines: BTreeMap<ProvisionId, usize>,
    deleted: BTreeSet<ProvisionId>,
}

/// A call on its way.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    wish: Provision,
    /// Present when a machine is to be made.
    token: Option<String>,
}

/// What a provisioner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloudAnswer {
    Done,
    Pending,
    Retry,
}

impl World {
    /// The server calls for every wish that is due.
    pub(crate) fn provision(&mut self, process: u64) {
        if self.server.is_none() || self.server_processes != process {
            return;
        }
        let now = self.time.wall();
        let open = match self
            .store
            .read_inline("provision_list_open", provision_list_open)
        {
            Ok(open) => open,
            Err(error) => {
                return self.violated(format!(
                    "the wishes for the provisioner cannot be read: {error}"
                ));
            }
        };
        for wish in open {
            let waits = matches!(
                wish.state,
                ProvisionState::Creating { .. } | ProvisionState::Deleting { .. }
            );
            if waits
                && wish.next_call_at <= now
                && self
                    .calls()
                    .is_some_and(|calls| calls.under_way.insert(wish.id.clone()))
            {
                self.call(process, wish, now);
            }
        }
        self.queue.push(
            self.now + PERIOD,
            Event::Server(ServerEvent::Provision { process }),
        );
    }

    fn calls(&mut self) -> Option<&mut Calls> {
        self.server.as_mut().map(|server| &mut server.calls)
    }

    fn call(&mut self, process: u64, wish: Provision, now: Timestamp) {
        let create = matches!(wish.state, ProvisionState::Creating { .. });
        let mut token = self
            .calls()
            .and_then(|calls| calls.tokens.get(&wish.id).cloned())
            .filter(|_| create);
        if create && token.is_none() {
            let secret = format!("token-{}", self.entropy.next_u64());
            let record = token_record(&*self.entropy, &wish, now);
            let (hash, super_node) = (secret.clone(), wish.super_node.clone());
            let made = self.store.write_inline("provision_token", move |tx| {
                token_insert(tx, record.clone(), &super_node, &hash)
            });
            if let Err(error) = made {
                return self.violated(format!("a join token cannot be stored: {error}"));
            }
            if let Some(calls) = self.calls() {
                calls.tokens.insert(wish.id.clone(), secret.clone());
            }
            token = Some(secret);
        }
        self.note(|_| {
            format!(
                "the provisioner is called for {}: {}",
                wish.node_name,
                wish.state.word()
            )
        });
        let call = Call { wish, token };
        let loss = self.options.faults.request_loss_percent;
        if !self.chance.percent(loss) {
            let at = self.now + self.travel();
            self.queue.push(
                at,
                Event::Server(ServerEvent::Call {
                    process,
                    call: Box::new(call.clone()),
                }),
            );
        }
        if self.chance.percent(loss) {
            let at = self.now + self.chance.milliseconds(1, 20_000);
            self.queue.push(
                at,
                Event::Server(ServerEvent::Call {
                    process,
                    call: Box::new(call.clone()),
                }),
            );
        }
        let late = ServerEvent::CallAnswer {
            process,
            call: Box::new(call),
            answer: CloudAnswer::Retry,
        };
        self.queue.push(self.now + PATIENCE, Event::Server(late));
    }

    /// The provisioner does what it is asked for, whatever became of the server meanwhile.
    pub(crate) fn cloud(&mut self, process: u64, call: Box<Call>) {
        let id = call.wish.id.clone();
        let mut answer = CloudAnswer::Done;
        if let Some(token) = &call.token {
            // One that was deleted is not made again; whoever asks late learns nothing that matters.
            if !self.cloud.deleted.contains(&id) && !self.cloud.machines.contains_key(&id) {
                self.make_machine(&call.wish, token.clone());
            }
        } else {
            self.cloud.deleted.insert(id.clone());
            if let Some(machine) = self
                .cloud
                .machines
                .get(&id)
                .copied()
                .filter(|machine| self.machines[*machine].power != Power::Gone)
            {
                self.power_off(machine);
                self.machines[machine].power = Power::Gone;
                self.note(|world| {
                    format!(
                        "{} is deleted by its provisioner",
                        world.machines[machine].name
                    )
                });
            }
        }
        match self.chance.below(10) {
            0 => answer = CloudAnswer::Pending,
            1 => answer = CloudAnswer::Retry,
            _ => {}
        }
        if !self
            .chance
            .percent(self.options.faults.request_loss_percent)
        {
            let at = self.now + self.travel();
            self.queue.push(
                at,
                Event::Server(ServerEvent::CallAnswer {
                    process,
                    call,
                    answer,
                }),
            );
        }
    }

    fn make_machine(&mut self, wish: &Provision, token: String) {
        let Ok(name) = wish.node_name.parse() else {
            return self.violated(format!(
                "a machine should be called `{}`, which is not a name",
                wish.node_name
            ));
        };
        let position = Position::default();
        let hardware = Hardware {
            devices: self.options.devices,
            position,
            second_spec: false,
        };
        let mut made = Machine::new(name, hardware);
        made.token = token;
        let machine = self.machines.len();
        self.machines.push(made);
        self.cloud.machines.insert(wish.id.clone(), machine);
        let boot = self.chance.milliseconds(100, 8000);
        self.machine_event(machine, boot, MachineEvent::Boot);
    }

    /// The server records an answer, if nobody has changed the wish meanwhile.
    pub(crate) fn call_answered(&mut self, process: u64, call: &Call, answer: CloudAnswer) {
        if self.server_processes != process
            || !self
                .calls()
                .is_some_and(|calls| calls.under_way.remove(&call.wish.id))
        {
            return;
        }
        let (wish, now) = (call.wish.clone(), self.time.wall());
        let stored = self
            .store
            .write_inline("provision_answer", move |tx| record(tx, &wish, answer, now));
        if let Err(error) = stored {
            return self.violated(format!(
                "the answer of a provisioner cannot be stored: {error}"
            ));
        }
        self.check.store_changed = true;
        self.wake_loop();
    }

    /// A wish that still waits, in words.
    pub(crate) fn open_wish(&self) -> Option<String> {
        let open = self
            .store
            .read_inline("provision_list_open", provision_list_open)
            .ok()?;
        open.into_iter()
            .find(|wish| {
                matches!(
                    wish.state,
                    ProvisionState::Creating { .. } | ProvisionState::Deleting { .. }
                )
            })
            .map(|wish| format!("a wish for the provisioner waits: {wish:?}"))
    }
}

fn token_record(entropy: &dyn Entropy, wish: &Provision, now: Timestamp) -> JoinTokenRecord {
    JoinTokenRecord {
        id: JoinTokenId::new(now, entropy),
        uses_left: 1,
        expires_at: now.plus(Duration::from_hours(24)),
        revoked_at: None,
        labels: BTreeMap::new(),
        position: Position::default(),
        provision: Some(wish.id.clone()),
        created_at: now,
    }
}

fn token_insert(
    tx: &mut Tx<'_>,
    mut token: JoinTokenRecord,
    super_node: &SuperNodeId,
    hash: &str,
) -> Result<(), StoreError> {
    let id = token
        .provision
        .clone()
        .expect("it is the token of a provision");
    let wanted = provision_get(tx, &id)?
        .is_some_and(|wish| matches!(wish.state, ProvisionState::Creating { .. }));
    if wanted {
        token.position.hyperplane =
            super_node_get(tx, super_node)?.and_then(|found| found.hyperplane);
        join_token_insert(tx, &token, hash)?;
    }
    Ok(())
}

fn record(
    tx: &mut Tx<'_>,
    wish: &Provision,
    answer: CloudAnswer,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(mut present) = provision_get(tx, &wish.id)? else {
        return Ok(());
    };
    if std::mem::discriminant(&present.state) != std::mem::discriminant(&wish.state) {
        return Ok(());
    }
    let create = matches!(wish.state, ProvisionState::Creating { .. });
    let waiting = |message: String| {
        if create {
            ProvisionState::Creating { message }
        } else {
            ProvisionState::Deleting { message }
        }
    };
    match answer {
        CloudAnswer::Done => {
            present.state = if create {
                ProvisionState::Created
            } else {
                ProvisionState::Deleted
            }
        }
        CloudAnswer::Pending => {
            present.state = waiting("it takes its time".into());
            present.next_call_at = now.plus(Duration::from_secs(2));
        }
        CloudAnswer::Retry => {
            present.calls += 1;
            if create && present.calls >= MOST_CALLS {
                present.state = ProvisionState::Failed {
                    reason: "no answer".into(),
                };
            } else {
                present.state = waiting("no answer".into());
                present.next_call_at = now.plus(Duration::from_secs(1 << present.calls.min(5)));
            }
        }
    }
    provision_update(tx, &present)
}
