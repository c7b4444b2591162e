//! What the nodes and their place say about re-execution.

use std::collections::BTreeMap;
use std::net::IpAddr;

use supernode_types::inventory::{Accelerator, Inventory};
use supernode_types::retry_policy::RetryEffect::{Limits, Prevents, Unknown};
use supernode_types::retry_policy::RetryFindingKind as Kind;
use supernode_types::retry_policy::{RetryFinding, RetryLevel};

use crate::rank_table::sibling;

use super::super::version::{Cann, Driver};
use super::super::{Member, Question, finding, names};
use super::{Product, product, super_pods};

/// Processors, toolkits and drivers.
pub(super) fn of_nodes(question: &Question<'_>) -> Vec<RetryFinding> {
    let mut findings = products(question.members);
    findings.extend(toolkits(question.members));
    findings.extend(drivers(question.members));
    findings
}

fn products(members: &[Member<'_>]) -> Vec<RetryFinding> {
    let mut others: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let (mut unknown, mut repeating) = (Vec::new(), 0_usize);
    for member in members {
        match member.inventory.map(product) {
            Some(Product::A3) => repeating += 1,
            Some(Product::Other(model)) => others.entry(model).or_default().push(member.name),
            Some(Product::Unknown) | None => unknown.push(member.name),
        }
    }
    let mut findings = Vec::new();
    if others.len() > 1 || (repeating > 0 && !others.is_empty()) {
        let all = others
            .iter()
            .map(|(model, nodes)| format!("{model} on {}", names(nodes.iter().copied())));
        findings.push(finding(
            Kind::MixedProducts,
            Prevents,
            format!(
                "the nodes have different processors ({}), and HCCL repeats nothing then",
                all.collect::<Vec<_>>().join("; ")
            ),
        ));
    }
    for (model, nodes) in &others {
        findings.push(finding(
            Kind::Product,
            Prevents,
            format!(
                "{} cannot repeat operators, Atlas A3 (Ascend910_93…) alone can; no variable is set for {}",
                model,
                names(nodes.iter().copied())
            ),
        ));
    }
    if !unknown.is_empty() {
        findings.push(finding(
            Kind::Product,
            Prevents,
            format!(
                "which Ascend processor {} has is not known, and Atlas A3 alone repeats operators, so no variable is set; see `supernode node show`",
                names(unknown.into_iter())
            ),
        ));
    }
    findings
}

/// The nodes by what they have of something; unknown is an entry of its own.
fn by_version<'a>(
    members: &[Member<'a>],
    component: &str,
) -> BTreeMap<Option<&'a str>, Vec<&'a str>> {
    let mut found: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for member in members {
        let version = member
            .inventory
            .and_then(|inventory| inventory.version(component));
        found.entry(version).or_default().push(member.name);
    }
    found
}

fn toolkits(members: &[Member<'_>]) -> Vec<RetryFinding> {
    let found = by_version(members, "cann");
    let mut findings = Vec::new();
    for (version, nodes) in &found {
        let nodes = names(nodes.iter().copied());
        match version.map(|text| (text, Cann::parse(text))) {
            Some((text, Some(cann))) if cann < Cann::FIRST => findings.push(finding(
                Kind::ToolkitVersion,
                Prevents,
                format!("CANN {text} on {nodes} cannot repeat operators; 8.1.RC1 is the first that can, so no variable is set"),
            )),
            Some((_, Some(_))) => {}
            Some((text, None)) => findings.push(finding(
                Kind::ToolkitVersion,
                Unknown,
                format!("the version `{text}` of CANN on {nodes} cannot be read; 8.1.RC1 is the first that repeats operators"),
            )),
            None => findings.push(finding(
                Kind::ToolkitVersion,
                Unknown,
                format!("no CANN was found on {nodes}; if the program brings its own, it has to be 8.1.RC1 or newer"),
            )),
        }
    }
    let known: Vec<String> = found
        .iter()
        .filter_map(|(version, nodes)| {
            Some(format!(
                "{} on {}",
                (*version)?,
                names(nodes.iter().copied())
            ))
        })
        .collect();
    if known.len() > 1 {
        findings.push(finding(
            Kind::MixedToolkitVersions,
            Limits,
            format!(
                "the nodes have different CANN versions ({}); every rank gets the same values, but HCCL is not made to negotiate between versions",
                known.join("; ")
            ),
        ));
    }
    findings
}

fn drivers(members: &[Member<'_>]) -> Vec<RetryFinding> {
    let mut findings = Vec::new();
    for (version, nodes) in by_version(members, "ascend_driver") {
        let nodes = names(nodes.into_iter());
        match version.map(|text| (text, Driver::parse(text))) {
            Some((_, Some(driver))) if driver.suffices() => {}
            Some((text, Some(_))) => findings.push(finding(
                Kind::DriverVersion,
                Prevents,
                format!("driver {text} on {nodes} is too old; {} is the first with which HCCL repeats operators", Driver::FIRST),
            )),
            Some((_, None)) | None => findings.push(finding(
                Kind::DriverVersion,
                Unknown,
                format!("the driver version of {nodes} is not known; {} is the first with which HCCL repeats operators", Driver::FIRST),
            )),
        }
    }
    findings
}

/// How many nodes, where they are, how they are reached, and what the others do.
pub(super) fn of_place(question: &Question<'_>) -> Vec<RetryFinding> {
    let mut findings = Vec::new();
    if question.nodes == 1 {
        findings.push(finding(
            Kind::SingleServer,
            Prevents,
            "the job has one node, and HCCL repeats operators between servers only".into(),
        ));
    }
    findings.extend(levels(question));
    let nameless: Vec<&str> = question
        .members
        .iter()
        .filter(|member| member.address.parse::<IpAddr>().is_err())
        .map(|member| member.name)
        .collect();
    if !nameless.is_empty() {
        findings.push(finding(
            Kind::HostAddress,
            Prevents,
            format!(
                "the rank table gets no usable host_ip for {}: their agents report names and not addresses; start them with an IP address",
                names(nameless.into_iter())
            ),
        ));
    }
    findings.extend(backup_lane(question));
    if !question.differing.is_empty() {
        findings.push(finding(
            Kind::OtherSuperNodes,
            Limits,
            format!(
                "{} have other levels; a communicator that spans them and this super node would time out while it connects",
                names(question.differing.iter().map(String::as_str))
            ),
        ));
    }
    findings
}

/// Nodes whose NPUs cannot borrow the lane of their sibling dies, because nobody knows its address.
fn backup_lane(question: &Question<'_>) -> Option<RetryFinding> {
    let is_lonely = |inventory: &Inventory| {
        let number = |device: &Accelerator| device.physical_index.unwrap_or(device.index);
        let reached: Vec<u32> = inventory
            .accelerators
            .iter()
            .filter(|device| device.device_ip.is_some())
            .map(number)
            .collect();
        let mut wanted = inventory
            .accelerators
            .iter()
            .map(|device| sibling(number(device)));
        wanted.any(|sibling| !reached.contains(&sibling))
    };
    let lonely: Vec<&str> = question
        .members
        .iter()
        .filter(|member| member.inventory.is_some_and(is_lonely))
        .map(|member| member.name)
        .collect();
    (question.settings.covers(RetryLevel::L2) && !lonely.is_empty()).then(|| {
        finding(
            Kind::BackupLane,
            Limits,
            format!(
                "the rank table has no backup_device_ip for {}: their agents do not find the addresses of all NPUs in /etc/hccn.conf, so the lane of a sibling die is borrowed only by programs that do not use the table",
                names(lonely.into_iter())
            ),
        )
    })
}

fn levels(question: &Question<'_>) -> Option<RetryFinding> {
    let (l1, l2) = (
        question.settings.covers(RetryLevel::L1),
        question.settings.covers(RetryLevel::L2),
    );
    let several = super_pods(question.members).map(|pods| pods.len() > 1);
    let (effect, message) = match (l1, l2, several) {
        (false, true, Some(false)) => (
            Prevents,
            "L2 is between super pods, and all nodes are in one; add L1",
        ),
        (true, false, Some(true)) => (
            Limits,
            "the nodes are in several super pods, and L2, which is between them, is off",
        ),
        (false, true, None) | (true, false, None) => (
            Unknown,
            "which super pod the nodes are in is not known, so it is not known whether the levels fit: L1 is between servers, L2 between super pods",
        ),
        _ => return None,
    };
    Some(finding(Kind::Levels, effect, message.into()))
}
