//! How a node gets its first certificate, and the next ones.
//!
//! A join token proves the right to enrol, the machine id ties a name to a machine: the same machine may enrol again under its name
//! (its former certificates are revoked), another machine may not take a name that is in use. The certificate itself is signed by the
//! caller; here its serial is recorded first, so that none is in use that the database does not know.

use std::collections::BTreeMap;

use supernode_store::certificate::{certificate_insert, certificate_revoke_all, certificate_valid};
use supernode_store::event::event_insert;
use supernode_store::node::{node_find, node_get, node_insert, node_machine_id, node_update};
use supernode_store::provision::{provision_get, provision_update};
use supernode_store::token::{JoinTokenRecord, join_token_find, join_token_use};
use supernode_store::{StoreError, Tx};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::{Membership, Node, NodeCondition, NodeHealth, NodePolicy, Position, SpecMatch};
use supernode_types::{CertificateSerial, Name, NodeId, Timestamp};

use crate::intent::check_labels;
use crate::{Intent, Refusal};

/// What a new node says of itself.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Hash of the join token's secret.
    pub join_token_hash: String,
    /// The name that it wants.
    pub name: Name,
    /// The address that other nodes reach it at.
    pub address: String,
    /// Labels, added to the join token's.
    pub labels: BTreeMap<String, String>,
    /// Where it sits, if it knows.
    pub position: Position,
    /// Stable id of the machine.
    pub machine_id: String,
}

/// Enrols a node, or the same machine again. Answers what the certificate has to say.
pub fn enrol(tx: &mut Tx<'_>, intent: &Intent, wish: &Enrolment) -> Result<(NodeId, CertificateSerial, Timestamp), Refusal> {
    check(wish)?;
    let unknown = || Refusal::Forbidden("the join token is not valid: it is unknown, revoked, over or used up; make a new one with: supernode join-token create".into());
    let token = join_token_find(tx, &wish.join_token_hash, intent.now)?.ok_or_else(unknown)?;
    let node = match node_find(tx, wish.name.as_str())? {
        Some(known) if node_machine_id(tx, &known.id)? == wish.machine_id => enrol_again(tx, intent, known, wish)?,
        Some(known) => {
            return Err(Refusal::AlreadyExists(format!("another machine is enrolled as {}; choose another name or remove that node first", known.name)));
        }
        None if join_token_use(tx, &token.id)? => enrol_new(tx, intent, &token, wish)?,
        None => return Err(unknown()),
    };
    let (serial, ends_at) = certificate(tx, intent, &node)?;
    Ok((node, serial, ends_at))
}

fn check(wish: &Enrolment) -> Result<(), Refusal> {
    check_labels(&wish.labels)?;
    if wish.machine_id.is_empty() || wish.machine_id.len() > 128 {
        return Err(Refusal::Invalid("machine_id must have 1 to 128 characters".into()));
    }
    let host = wish.address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
    if wish.address.is_empty() || wish.address.len() > 255 || !host {
        return Err(Refusal::Invalid("address must be an IP address or a host name".into()));
    }
    Ok(())
}

fn enrol_again(tx: &mut Tx<'_>, intent: &Intent, mut node: Node, wish: &Enrolment) -> Result<NodeId, Refusal> {
    certificate_revoke_all(tx, &node.id, intent.now)?;
    node.address.clone_from(&wish.address);
    node_update(tx, &mut node)?;
    tell(tx, intent, &node, "node.enrolled_again", format!("{} enrolled again; its former certificates are revoked", node.name))?;
    Ok(node.id)
}

fn enrol_new(tx: &mut Tx<'_>, intent: &Intent, token: &JoinTokenRecord, wish: &Enrolment) -> Result<NodeId, Refusal> {
    let mut labels = token.labels.clone();
    labels.extend(wish.labels.clone());
    let own = &wish.position;
    let position = Position {
        hyperplane: own.hyperplane.clone().or_else(|| token.position.hyperplane.clone()),
        rack: own.rack.clone().or_else(|| token.position.rack.clone()),
        leaf: own.leaf.clone().or_else(|| token.position.leaf.clone()),
    };
    let node = Node {
        id: NodeId::new(intent.now, &*intent.entropy),
        name: wish.name.clone(),
        membership: Membership::Spare,
        spec: SpecMatch::Unknown,
        policy: NodePolicy::InService,
        condition: NodeCondition::Unknown,
        health: NodeHealth::Unproven,
        labels,
        position,
        address: wish.address.clone(),
        device_count: 1,
        boot_id: String::new(),
        agent_version: String::new(),
        provision: token.provision.clone(),
        environment_applied: 0,
        environment_problems: Vec::new(),
        desired_generation: 1,
        generation: 1,
        enrolled_at: intent.now,
    };
    node_insert(tx, &node, &wish.machine_id)?;
    if let Some(id) = &token.provision
        && let Some(mut provision) = provision_get(tx, id)?
    {
        provision.node = Some(node.id.clone());
        provision_update(tx, &provision)?;
    }
    tell(tx, intent, &node, "node.enrolled", format!("{} enrolled", node.name))?;
    Ok(node.id)
}

fn tell(tx: &mut Tx<'_>, intent: &Intent, node: &Node, kind: &'static str, message: String) -> Result<(), StoreError> {
    let subjects = Subjects { node: Some(node.id.clone()), ..Subjects::default() };
    event_insert(tx, &NewEvent { kind, severity: Severity::Info, message, subjects }, intent.now)?;
    Ok(())
}

fn certificate(tx: &mut Tx<'_>, intent: &Intent, node: &NodeId) -> Result<(CertificateSerial, Timestamp), Refusal> {
    let serial = CertificateSerial::new(intent.now, &*intent.entropy);
    let ends_at = intent.now.plus(intent.settings.certificate_lifetime);
    certificate_insert(tx, &serial, node, ends_at)?;
    Ok((serial, ends_at))
}

/// The next certificate of a node that still has a valid one.
pub fn renew(tx: &mut Tx<'_>, intent: &Intent, node: &NodeId, present: &CertificateSerial) -> Result<(CertificateSerial, Timestamp), Refusal> {
    check_certificate(tx, node, present, intent.now)?;
    certificate(tx, intent, node)
}

/// Refuses a node that was removed, and a certificate that is revoked, over or not ours.
pub fn check_certificate(tx: &mut Tx<'_>, node: &NodeId, serial: &CertificateSerial, now: Timestamp) -> Result<(), Refusal> {
    let in_service = node_get(tx, node)?.is_some_and(|node| node.policy != NodePolicy::Removed);
    if in_service && certificate_valid(tx, serial, node, now)? {
        Ok(())
    } else {
        Err(Refusal::Forbidden(format!("the certificate of {node} is revoked or over; enrol the node again with a new join token")))
    }
}
