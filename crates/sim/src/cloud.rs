//! A simulated provisioner: calls that are lost, late or repeated, and machines that come and go.
//!
//! The server's side calls as `control::provisioner` does, with the same halves of it inside the database. The other side keeps the
//! promise that a provisioner has to keep: the same request has one effect, and what was deleted is not made again by a late
//! repetition.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use supernode_control::provisioner::ProvisionAnswer;
use supernode_control::provisioner::wish::{NodeAction, action, is_due, record, token_insert};
use supernode_store::provision::provision_list_open;
use supernode_types::node::Position;
use supernode_types::operation::{Provision, ProvisionState};
use supernode_types::{JoinTokenId, ProvisionId, Timestamp};

use crate::event::{Event, MachineEvent, ServerEvent};
use crate::machine::{Hardware, Machine, Power};
use crate::world::World;

/// How often the server looks for wishes that are due.
const PERIOD: Duration = Duration::from_secs(1);
/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

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
            if is_due(&wish, now)
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
        let create = action(&wish) == NodeAction::Create;
        let mut token = self
            .calls()
            .and_then(|calls| calls.tokens.get(&wish.id).cloned())
            .filter(|_| create);
        if create && token.is_none() {
            let secret = format!("token-{}", self.entropy.next_u64());
            let id = JoinTokenId::new(now, &*self.entropy);
            let (hash, provision) = (secret.clone(), wish.id.clone());
            let made = self.store.write_inline("provision_token", move |tx| {
                token_insert(tx, &id, &provision, &hash, now)
            });
            match made {
                Err(error) => {
                    return self.violated(format!("a join token cannot be stored: {error}"));
                }
                Ok(false) => {
                    if let Some(calls) = self.calls() {
                        calls.under_way.remove(&wish.id);
                    }
                    return;
                }
                Ok(true) => {}
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
            answer: ProvisionAnswer::Retry("no answer".into()),
        };
        self.queue.push(self.now + PATIENCE, Event::Server(late));
    }

    /// The provisioner does what it is asked for, whatever became of the server meanwhile.
    pub(crate) fn cloud(&mut self, process: u64, call: Box<Call>) {
        let id = call.wish.id.clone();
        let mut answer = ProvisionAnswer::Done;
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
            0 => answer = ProvisionAnswer::Pending("it takes its time".into()),
            1 => answer = ProvisionAnswer::Retry("busy".into()),
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
    pub(crate) fn call_answered(&mut self, process: u64, call: &Call, answer: ProvisionAnswer) {
        if self.server_processes != process
            || !self
                .calls()
                .is_some_and(|calls| calls.under_way.remove(&call.wish.id))
        {
            return;
        }
        let (wish, now) = (call.wish.clone(), self.time.wall());
        let stored = self.store.write_inline("provision_answer", move |tx| {
            record(tx, &wish, action(&wish), &answer, now)
        });
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
