//! What policies become for each library, and what is found to stand in the way: tables from the vendors' documents.

use std::collections::BTreeMap;

use proptest::prelude::*;
use supernode_plan::retry_policy::{Member, Question, Rendering, findings, inject, render};
use supernode_types::environment::EnvironmentDocument;
use supernode_types::inventory::{Accelerator, AcceleratorVendor, Inventory};
use supernode_types::retry_policy::RetryEffect::{Limits, Prevents, Unknown};
use supernode_types::retry_policy::RetryFindingKind as Kind;
use supernode_types::retry_policy::{
    OverriddenBy, RetryEffect, RetryLevel, RetryLibrary, RetryPolicy, RetrySettings, RetryWish,
};

fn settings(change: impl FnOnce(&mut RetryWish)) -> RetrySettings {
    let mut wish = RetryWish::default();
    change(&mut wish);
    RetrySettings::new(wish).expect("the numbers fit")
}

fn usual() -> RetrySettings {
    settings(|_| {})
}

/// A node with `vendor`'s devices; versions as `component=version`.
fn node(vendor: Option<AcceleratorVendor>, model: &str, versions: &[&str]) -> Inventory {
    let accelerators = vendor.into_iter().flat_map(|vendor| {
        (0..2).map(move |index| Accelerator {
            model: model.to_owned(),
            super_pod_id: (vendor == AcceleratorVendor::Ascend).then(|| "0".to_owned()),
            ..Accelerator::new(index, vendor)
        })
    });
    let pair = |text: &&str| {
        let (component, version) = text.split_once('=').expect("component=version");
        (component.to_owned(), version.to_owned())
    };
    Inventory {
        accelerators: accelerators.collect(),
        versions: versions.iter().map(pair).collect(),
        ..Inventory::default()
    }
}

fn a3(cann: &str) -> Inventory {
    let cann = format!("cann={cann}");
    let model = "Ascend910_9392";
    node(
        Some(AcceleratorVendor::Ascend),
        model,
        &[&cann, "ascend_driver=25.0.rc1"],
    )
}

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

fn members(inventories: &[Inventory]) -> Vec<Member<'_>> {
    let with_name = inventories.iter().zip(NAMES);
    with_name
        .map(|(inventory, name)| Member {
            name,
            address: "10.0.0.1",
            inventory: Some(inventory),
        })
        .collect()
}

fn rendered(policy: &RetryPolicy, inventories: &[Inventory]) -> Rendering {
    render(policy, &members(inventories)).expect("nodes are known")
}

fn variables(policy: &RetryPolicy, inventories: &[Inventory]) -> Vec<String> {
    let rendering = rendered(policy, inventories);
    let pairs = rendering.variables.iter();
    pairs
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[test]
fn hccl_is_told_everything_in_the_words_of_its_version() {
    let on = RetryPolicy::Enabled(usual());
    for (cann, levels) in [
        ("8.1.RC1", "L0:0,L1:1,L2:0"),
        ("8.2.RC1", "L0:0,L1:1,L2:0"),
        ("8.3.RC1", "L1:1,L2:0"),
        ("8.5.0", "L1:1,L2:0"),
        ("9.1.0", "L1:1,L2:0"),
        ("not a version", "L1:1,L2:0"),
    ] {
        assert_eq!(
            variables(&on, &[a3(cann), a3(cann)]),
            [
                "HCCL_CONNECT_TIMEOUT=300".to_owned(),
                "HCCL_EXEC_TIMEOUT=2136".to_owned(),
                "HCCL_OP_EXPANSION_MODE=AI_CPU".to_owned(),
                format!("HCCL_OP_RETRY_ENABLE={levels}"),
                "HCCL_OP_RETRY_PARAMS=MaxCnt:3,HoldTime:5000,IntervalTime:1000".to_owned(),
            ],
            "{cann}"
        );
        // Some releases repeat between servers unless they are told not to.
        let off = levels.replace("L1:1", "L1:0");
        assert_eq!(
            variables(&RetryPolicy::Disabled, &[a3(cann)]),
            [format!("HCCL_OP_RETRY_ENABLE={off}")],
            "{cann}"
        );
    }
    // One value for all ranks: the older node decides.
    let mixed = variables(&on, &[a3("8.5.0"), a3("8.1.RC1")]);
    assert!(mixed.contains(&"HCCL_OP_RETRY_ENABLE=L0:0,L1:1,L2:0".to_owned()));
    let both = RetryPolicy::Enabled(settings(|wish| {
        wish.levels = [RetryLevel::L1, RetryLevel::L2].into();
        wish.max_retries = 10;
        wish.hold_milliseconds = 60_000;
        wish.interval_milliseconds = 0;
        wish.retry_timeout_seconds = 60;
    }));
    let both = variables(&both, &[a3("9.0.0")]);
    assert!(both.contains(&"HCCL_OP_RETRY_ENABLE=L1:1,L2:1".to_owned()));
    assert!(
        both.contains(&"HCCL_OP_RETRY_PARAMS=MaxCnt:10,HoldTime:60000,IntervalTime:0".to_owned())
    );
    assert!(
        both.contains(&"HCCL_CONNECT_TIMEOUT=120".to_owned()),
        "HCCL takes no less"
    );
}

#[test]
fn the_effective_times_are_those_of_hccl() {
    let times = |timeout| {
        let policy = RetryPolicy::Enabled(settings(|wish| wish.retry_timeout_seconds = timeout));
        let times = rendered(&policy, &[a3("8.5.0")]).times.into_iter();
        times.map(|time| time.milliseconds).collect::<Vec<_>>()
    };
    assert_eq!(times(300), [7000, 310_000, 2_136_000]);
    assert_eq!(
        times(60),
        [7000, 210_000, 1_896_000],
        "a step waits 200 s and 10 more at least"
    );
}

#[test]
fn nothing_is_set_where_it_does_no_good() {
    let on = RetryPolicy::Enabled(usual());
    let ascend = |model| node(Some(AcceleratorVendor::Ascend), model, &["cann=8.5.0"]);
    for inventory in [
        ascend("Ascend910B3"),
        ascend("Ascend950PR"),
        ascend("Ascend910"),
        ascend(""),
        a3("8.0.RC3"),
    ] {
        for policy in [&on, &RetryPolicy::Disabled] {
            assert!(variables(policy, &[a3("8.5.0"), inventory.clone()]).is_empty());
        }
    }
    assert_eq!(render(&on, &[]), None);
}

#[test]
fn nccl_gets_its_nearest_settings() {
    let gpu = || [node(Some(AcceleratorVendor::Nvidia), "H100", &[])];
    let with = |change: fn(&mut RetryWish)| RetryPolicy::Enabled(settings(change));
    assert_eq!(
        variables(&with(|_| {}), &gpu()),
        [
            "NCCL_IB_RESILIENCY_PORT_FAILOVER=0",
            "NCCL_IB_RETRY_CNT=7",
            "NCCL_IB_TIMEOUT=22"
        ]
    );
    let short = with(|wish| {
        wish.retry_timeout_seconds = 30;
        wish.levels.insert(RetryLevel::L2);
    });
    assert_eq!(
        variables(&short, &gpu()),
        [
            "NCCL_IB_RESILIENCY_PORT_FAILOVER=1",
            "NCCL_IB_RESILIENCY_PORT_FAILOVER_MAX_ATTEMPTS=1",
            "NCCL_IB_RETRY_CNT=7",
            "NCCL_IB_TIMEOUT=20"
        ]
    );
    let rendering = rendered(&with(|_| {}), &gpu());
    assert_eq!(
        rendering.times[0].milliseconds, 137_438,
        "8 x 4.096 us x 2^22"
    );
    assert!(
        rendering
            .limits
            .iter()
            .any(|limit| limit.contains("repeats no operator"))
    );
    assert_eq!(
        variables(&RetryPolicy::Disabled, &gpu()),
        ["NCCL_IB_RESILIENCY_PORT_FAILOVER=0"]
    );
}

#[test]
fn plain_hosts_get_the_two_numbers_that_their_library_reads() {
    let plain = || [node(None, "", &[])];
    assert_eq!(
        variables(&RetryPolicy::Enabled(usual()), &plain()),
        [
            "SUPERNODE_COLLECTIVE_MAX_RETRIES=3",
            "SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS=300"
        ]
    );
    assert_eq!(
        variables(&RetryPolicy::Disabled, &plain()),
        ["SUPERNODE_COLLECTIVE_MAX_RETRIES=0"]
    );
}

/// A situation in which nothing stands in the way, to change one thing of.
struct Situation {
    inventories: Vec<Inventory>,
    addresses: Vec<&'static str>,
    nodes: u32,
    settings: RetrySettings,
    environment: EnvironmentDocument,
    job: BTreeMap<String, String>,
    differing: Vec<String>,
}

impl Situation {
    fn good() -> Self {
        let sysctl = ("net.ipv4.ip_local_reserved_ports", "60000-60015");
        Self {
            inventories: vec![a3("8.5.0"), a3("8.5.0")],
            addresses: vec!["10.0.0.1", "10.0.0.2"],
            nodes: 2,
            settings: usual(),
            environment: EnvironmentDocument {
                sysctls: [(sysctl.0.to_owned(), sysctl.1.to_owned())].into(),
                ..EnvironmentDocument::default()
            },
            job: BTreeMap::new(),
            differing: Vec::new(),
        }
    }

    fn job(&mut self, name: &str, value: &str) {
        self.job.insert(name.to_owned(), value.to_owned());
    }

    fn found(&self) -> Vec<(Kind, RetryEffect, String)> {
        let mut members = members(&self.inventories);
        for (member, address) in members.iter_mut().zip(&self.addresses) {
            member.address = address;
        }
        let question = Question {
            settings: &self.settings,
            members: &members,
            nodes: self.nodes,
            environment: &self.environment,
            job: &self.job,
            differing: &self.differing,
        };
        let found = findings(&question).into_iter();
        found
            .map(|finding| (finding.kind, finding.effect, finding.message))
            .collect()
    }
}

/// The change adds exactly this to what is always unknown, and says `words`.
fn check(kind: Kind, effect: RetryEffect, words: &str, change: impl FnOnce(&mut Situation)) {
    let mut situation = Situation::good();
    change(&mut situation);
    let found = situation.found();
    let hit = found.iter().find(|(one, ..)| *one == kind);
    let (_, found_effect, message) = hit.unwrap_or_else(|| panic!("no {kind:?} in {found:?}"));
    assert_eq!(*found_effect, effect, "{message}");
    assert!(message.contains(words), "{message}");
}

#[test]
fn a_program_keeps_its_secrets() {
    let found = Situation::good().found();
    let kinds: Vec<_> = found
        .iter()
        .map(|(kind, effect, _)| (*kind, *effect))
        .collect();
    assert_eq!(
        kinds,
        [
            (Kind::InPlaceOperators, Unknown),
            (Kind::Communicators, Unknown)
        ]
    );
}

#[test]
fn each_documented_condition_is_found() {
    let ascend = |model: &str| {
        node(
            Some(AcceleratorVendor::Ascend),
            model,
            &["cann=8.5.0", "ascend_driver=25.0.0"],
        )
    };
    check(Kind::Product, Prevents, "Ascend910B3 cannot", |it| {
        it.inventories = vec![ascend("Ascend910B3"), ascend("Ascend910B3")];
    });
    check(Kind::Product, Prevents, "n2 has is not known", |it| {
        it.inventories[1].accelerators[0].model = "Ascend910".into();
    });
    check(Kind::MixedProducts, Prevents, "Ascend910B3 on n2", |it| {
        it.inventories[1] = ascend("Ascend910B3");
    });
    check(Kind::ToolkitVersion, Prevents, "CANN 8.0.RC2 on n1", |it| {
        it.inventories[0] = a3("8.0.RC2");
    });
    check(
        Kind::ToolkitVersion,
        Unknown,
        "no CANN was found on n1, n2",
        |it| {
            it.inventories
                .iter_mut()
                .for_each(|one| drop(one.versions.remove("cann")));
        },
    );
    check(Kind::ToolkitVersion, Unknown, "`latest`", |it| {
        it.inventories[0] = a3("latest");
    });
    check(
        Kind::MixedToolkitVersions,
        Limits,
        "8.1.RC1 on n2; 8.5.0 on n1",
        |it| it.inventories[1] = a3("8.1.RC1"),
    );
    check(Kind::DriverVersion, Prevents, "24.1.rc2 on n2", |it| {
        it.inventories[1]
            .versions
            .insert("ascend_driver".into(), "24.1.rc2".into());
    });
    check(Kind::DriverVersion, Unknown, "of n2 is not known", |it| {
        it.inventories[1].versions.remove("ascend_driver");
    });
    check(Kind::SingleServer, Prevents, "between servers only", |it| {
        it.nodes = 1;
    });
    check(Kind::Levels, Prevents, "add L1", |it| {
        it.settings = settings(|wish| wish.levels = [RetryLevel::L2].into());
    });
    check(Kind::Levels, Limits, "several super pods", |it| {
        it.inventories[1].accelerators[0].super_pod_id = Some("7".into());
    });
    check(Kind::Levels, Unknown, "is not known", |it| {
        it.inventories[1].accelerators[0].super_pod_id = None;
    });
    check(Kind::BackupLane, Limits, "backup_device_ip for n2", |it| {
        it.settings = settings(|wish| wish.levels = [RetryLevel::L1, RetryLevel::L2].into());
        for inventory in &mut it.inventories {
            for (number, device) in (1..).zip(&mut inventory.accelerators) {
                device.device_ip = Some(std::net::Ipv4Addr::new(192, 168, 1, number).into());
            }
        }
        it.inventories[1].accelerators[0].device_ip = None;
    });
    check(Kind::HostAddress, Prevents, "host_ip for n2", |it| {
        it.addresses[1] = "node-2.cluster";
    });
    check(
        Kind::OtherSuperNodes,
        Limits,
        "train-b have other levels",
        |it| it.differing.push("train-b".into()),
    );
    check(Kind::ReservedPorts, Limits, "60000-60015", |it| {
        it.environment.sysctls.clear();
    });
    check(Kind::ReservedPorts, Limits, "50000-50015", |it| {
        it.job("HCCL_IF_BASE_PORT", "50000");
    });
}

#[test]
fn what_is_set_by_hand_is_read_as_hccl_reads_it() {
    check(Kind::ExpansionMode, Prevents, "`AIV` by the job", |it| {
        it.job("HCCL_OP_EXPANSION_MODE", "AIV");
    });
    check(
        Kind::ExpansionMode,
        Prevents,
        "by the super node's environment",
        |it| {
            it.environment
                .variables
                .insert("HCCL_OP_EXPANSION_MODE".into(), "AIV".into());
        },
    );
    check(Kind::ZeroCopy, Prevents, "overwrite their input", |it| {
        it.job("TORCH_HCCL_ZERO_COPY", "1");
    });
    check(Kind::OverriddenVariable, Prevents, "EI0001", |it| {
        it.job("HCCL_OP_RETRY_ENABLE", "L1:yes");
    });
    check(
        Kind::OverriddenVariable,
        Prevents,
        "switches re-execution off",
        |it| it.job("HCCL_OP_RETRY_ENABLE", "L1:0,L2:0"),
    );
    check(Kind::OverriddenVariable, Prevents, "in this order", |it| {
        it.job("HCCL_OP_RETRY_PARAMS", "MaxCnt:3");
    });
    check(Kind::OverriddenVariable, Prevents, "120 to 7200", |it| {
        it.job("HCCL_CONNECT_TIMEOUT", "60");
    });
    check(
        Kind::OverriddenVariable,
        Limits,
        "before the retry timeout",
        |it| it.job("HCCL_EXEC_TIMEOUT", "120"),
    );
    for (name, value) in [
        ("HCCL_OP_EXPANSION_MODE", "AI_CPU"),
        ("HCCL_OP_RETRY_ENABLE", "L1:1"),
        ("HCCL_EXEC_TIMEOUT", "0"),
        ("TORCH_HCCL_ZERO_COPY", "0"),
    ] {
        let mut situation = Situation::good();
        situation.job(name, value);
        assert_eq!(
            situation.found().len(),
            2,
            "{name}={value} stands in nothing's way"
        );
    }
}

#[test]
fn other_libraries_have_their_own_findings() {
    let mut situation = Situation::good();
    situation.inventories = vec![node(Some(AcceleratorVendor::Nvidia), "H100", &[])];
    let found = situation.found();
    assert_eq!((found[0].0, found[0].1), (Kind::NoReExecution, Prevents));
    situation.inventories = vec![node(None, "", &[])];
    assert_eq!(situation.found(), []);
    situation.job("SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS", "soon");
    assert_eq!(situation.found()[0].0, Kind::OverriddenVariable);
    situation.job("SUPERNODE_COLLECTIVE_MAX_RETRIES", "11");
    assert_eq!(situation.found().len(), 2);
    situation.inventories.clear();
    assert_eq!(
        (situation.found()[0].0, situation.found()[0].1),
        (Kind::Product, Unknown)
    );
}

proptest! {
    /// Every variable goes to the ranks or is said to be overridden; the job comes before the environment.
    #[test]
    fn no_variable_is_lost(by_job in 0_u8..32, by_environment in 0_u8..32) {
        let policy = RetryPolicy::Enabled(usual());
        let rendering = rendered(&policy, &[a3("8.5.0")]);
        let some = |bits: u8| -> BTreeMap<String, String> {
            let names = rendering.variables.keys().enumerate();
            names.filter(|(index, _)| bits & (1 << index) != 0).map(|(_, name)| (name.clone(), "by hand".to_owned())).collect()
        };
        let (job, environment) = (some(by_job), some(by_environment));
        let given = inject(&policy, rendering.clone(), &environment, &job);
        prop_assert_eq!(given.library, RetryLibrary::Hccl);
        for (name, value) in &rendering.variables {
            let by = given.overridden.iter().find(|one| one.variable == *name).map(|one| one.by);
            let expected = if job.contains_key(name) {
                Some(OverriddenBy::Job)
            } else {
                environment.contains_key(name).then_some(OverriddenBy::Environment)
            };
            prop_assert_eq!(by, expected);
            prop_assert_eq!(given.variables.get(name), expected.is_none().then_some(value));
        }
        prop_assert_eq!(given.variables.len() + given.overridden.len(), rendering.variables.len());
    }

    /// HCCL can read whatever is rendered, whatever the policy.
    #[test]
    fn whatever_is_rendered_is_in_the_ranges_of_hccl(
        max_retries in 1_u32..=10, hold_milliseconds in 0_u32..=60_000, interval_milliseconds in 0_u32..=60_000,
        retry_timeout_seconds in 1_u32..=7200, levels in 1_usize..4,
    ) {
        let all = [RetryLevel::L1, RetryLevel::L2];
        let levels = (0..2).filter(|index| levels & (1 << index) != 0).map(|index| all[index]).collect();
        let wish = RetryWish { max_retries, hold_milliseconds, interval_milliseconds, retry_timeout_seconds, levels };
        if let Ok(settings) = RetrySettings::new(wish) {
            let rendering = rendered(&RetryPolicy::Enabled(settings.clone()), &[a3("8.1.RC1")]);
            let connect: u32 = rendering.variables["HCCL_CONNECT_TIMEOUT"].parse().expect("a number");
            prop_assert!((120..=7200).contains(&connect));
            let operator: u32 = rendering.variables["HCCL_EXEC_TIMEOUT"].parse().expect("a number");
            prop_assert!(operator > connect, "an operator must outlive its negotiation");
            // Said by hand, the same values are found to be in order.
            let mut situation = Situation { settings, job: rendering.variables, ..Situation::good() };
            situation.inventories = vec![a3("8.1.RC1"), a3("8.1.RC1")];
            let found = situation.found();
            prop_assert!(!found.iter().any(|(kind, ..)| *kind == Kind::OverriddenVariable), "{:?}", found);
        }
    }
}
