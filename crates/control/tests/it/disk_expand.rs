//! Growing system disks: what is refused at once, the provisioner's part, what agents report, and when a disk fills.

use std::time::Duration;

use supernode_control::disk_expand::{Selection, Wish, disk_expand, list, plan};
use supernode_control::provisioner::{JoinParameters, Provisioner, Runner};
use supernode_control::{Refusal, Settings, metrics};
use supernode_types::disk::{
    DiskBus, DiskReport, DiskReportState, DiskStep, DiskUsage, FileSystemKind, GIB, Growth,
    StepReport, StepState, SystemDisk,
};
use supernode_types::operation::{Operation, RestartConsent};

use crate::world::{DEADLINE, Engine, World, on_every_engine, settings};

on_every_engine!(
    what_cannot_be_is_refused_at_once_and_nothing_is_touched,
    a_disk_grows_from_the_provisioner_to_the_evidence,
    a_provisioner_that_refuses_fails_the_device_layer,
    a_restarted_server_goes_on,
    a_filling_disk_is_told_once_at_each_threshold,
);

fn disk(gib: u64, growth: Growth) -> SystemDisk {
    SystemDisk {
        mount_point: "/".into(),
        disk: Some("vda".into()),
        size_bytes: gib * GIB,
        tree: Vec::new(),
        growth,
    }
}

fn growable(at_size: bool) -> Growth {
    let steps = vec![
        DiskStep::Device {
            disk: "vda".into(),
            bus: DiskBus::Virtio,
        },
        DiskStep::FileSystem {
            kind: FileSystemKind::Xfs,
            name: "vda".into(),
            mount_point: "/".into(),
        },
        DiskStep::Verify,
    ];
    Growth::Yes { steps, at_size }
}

fn with_disks(engine: Engine, count: usize, settings: Settings) -> World {
    let mut world = World::with_spares_and(engine, count, settings);
    for number in 1..=count {
        world.agent(&format!("n{number}")).inventory.system_disk = Some(disk(40, growable(true)));
    }
    world.settle();
    world
}

fn wish(names: &[&str], gib: u64) -> Wish {
    Wish {
        selection: Selection::Named(names.iter().map(|name| (*name).to_owned()).collect()),
        size_bytes: gib * GIB,
        restart: RestartConsent::Refused,
        parallel: 1,
        fail_fast: false,
        deadline: DEADLINE,
    }
}

fn expand(world: &World, wish: &Wish) -> Result<Operation, Refusal> {
    let wish = wish.clone();
    world.change("disk_expand", move |tx, intent| {
        disk_expand(tx, intent, &wish)
    })
}

fn call_provisioner(world: &mut World) {
    let join = JoinParameters {
        server: "s:1".into(),
        api: "https://s".into(),
        token: String::new(),
        ca_pem: "PEM".into(),
    };
    let runner = Runner::new(world.control.clone(), join, |_| {
        ("secret".into(), "hash".into())
    });
    world
        .block_on(runner.run_due())
        .expect("the database works");
    world.settle();
}

fn exec(script: &str) -> Settings {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Settings {
        provisioner: Provisioner::Exec {
            command,
            time_limit: Duration::from_secs(20),
        },
        ..settings()
    }
}

fn what_cannot_be_is_refused_at_once_and_nothing_is_touched(engine: Engine) {
    let mut world = with_disks(engine, 2, settings());
    let refused = |world: &World, wish: &Wish| {
        let refusal = expand(world, wish).expect_err("refused");
        let planned = wish.clone();
        let same = world.change("plan", move |tx, intent| {
            plan(tx, intent, &planned).map(|_| ())
        });
        assert_eq!(
            same.expect_err("refused"),
            refusal,
            "the plan says the same"
        );
        refusal
    };
    let odd = Wish {
        size_bytes: 50 * GIB + 1,
        ..wish(&["n1"], 50)
    };
    assert!(matches!(refused(&world, &odd), Refusal::Invalid(_)));
    for gib in [30, 40, 1025] {
        let refusal = refused(&world, &wish(&["n1"], gib));
        assert!(matches!(refusal, Refusal::DiskSize(_)), "{gib}: {refusal}");
    }
    world.agent("n2").inventory.system_disk = Some(disk(
        40,
        Growth::No {
            why: "/ is an overlay".into(),
        },
    ));
    world.settle();
    let Refusal::DiskLayout { message, .. } = refused(&world, &wish(&["n1", "n2"], 50)) else {
        panic!("n2 cannot grow");
    };
    assert_eq!(message, "node n2: / is an overlay");
    assert!(world.nodes().iter().all(|node| node.disk.work.is_none()));
    assert_eq!(world.event_count("operation.accepted"), 0);
    expand(&world, &wish(&["n1"], 50)).expect("it can grow");
    let busy = expand(&world, &wish(&["n1"], 60)).expect_err("one at a time");
    assert!(matches!(busy, Refusal::Conflict(_)), "{busy}");
}

/// The agent of `node` has done what it was told.
fn agent_reports(world: &mut World, node: &str, state: DiskReportState) {
    let agent = world.agent(node);
    let wish = agent
        .desired
        .clone()
        .and_then(|desired| desired.disk_expand);
    let wish = wish.expect("it was told");
    agent.disk_expand = Some(DiskReport {
        operation: wish.operation,
        state,
        steps: vec![StepReport {
            layer: "device".into(),
            subject: "vda".into(),
            state: StepState::Done,
            before_bytes: Some(40 * GIB),
            after_bytes: Some(wish.size_bytes),
            detail: String::new(),
        }],
    });
    world.settle();
}

fn a_disk_grows_from_the_provisioner_to_the_evidence(engine: Engine) {
    let script =
        r#"grep -q '"action":"grow-disk".*"size_bytes":53687091200' && echo '{"status":"grown"}'"#;
    let mut world = with_disks(engine, 1, exec(script));
    let operation = expand(&world, &wish(&["n1"], 50)).expect("it can grow");
    assert_eq!(
        operation.targets[0].steps.len(),
        3,
        "planned steps are shown"
    );
    world.settle();
    assert!(
        world
            .agent("n1")
            .desired
            .as_ref()
            .is_none_or(|desired| desired.disk_expand.is_none()),
        "the agent waits for the provisioner"
    );
    call_provisioner(&mut world);
    agent_reports(&mut world, "n1", DiskReportState::Working);
    assert_eq!(world.operation(&operation.id).state.word(), "running");
    agent_reports(&mut world, "n1", DiskReportState::Done);
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state.word(), "succeeded");
    assert_eq!(ended.targets[0].steps[0].after_bytes, Some(50 * GIB));
    assert_eq!(world.event_count("node.disk_expanded"), 1);
    assert_eq!(world.node("n1").disk.work, None);
    let told = world.agent("n1").desired.clone().expect("told");
    assert_eq!(told.disk_expand, None, "the wish is gone");
}

fn a_provisioner_that_refuses_fails_the_device_layer(engine: Engine) {
    let mut world = with_disks(engine, 1, exec("echo no quota >&2; exit 2"));
    let operation = expand(&world, &wish(&["n1"], 50)).expect("it can grow");
    world.settle();
    call_provisioner(&mut world);
    let supernode_types::operation::OperationState::Failed { reason } =
        world.operation(&operation.id).state
    else {
        panic!("the provisioner refused");
    };
    assert!(
        reason.contains("node n1: device:") && reason.contains("no quota"),
        "{reason}"
    );
    assert_eq!(world.node("n1").disk.work, None);
}

fn a_restarted_server_goes_on(engine: Engine) {
    let mut world = with_disks(engine, 1, settings());
    let operation = expand(&world, &wish(&["n1"], 50)).expect("it can grow");
    world.settle();
    world.restart();
    call_provisioner(&mut world);
    agent_reports(&mut world, "n1", DiskReportState::Working);
    world.restart();
    world.settle();
    agent_reports(&mut world, "n1", DiskReportState::Done);
    assert_eq!(world.operation(&operation.id).state.word(), "succeeded");
}

fn a_filling_disk_is_told_once_at_each_threshold(engine: Engine) {
    let mut world = with_disks(engine, 1, settings());
    for percent in [79, 80, 85, 79, 94, 95, 99, 93, 50] {
        world.agent("n1").disk_usage = Some(DiskUsage {
            size_bytes: 1000,
            used_bytes: percent * 10,
        });
        world.settle();
    }
    let counts = ["node.disk_filling", "node.disk_full", "node.disk_relieved"]
        .map(|kind| world.event_count(kind));
    assert_eq!(counts, [1, 1, 1]);
    let metrics = world
        .block_on(metrics::render(&world.control, &world.metrics))
        .expect("the database works");
    assert!(
        metrics.contains("supernode_node_disk_used_bytes{node=\"n1\"} 500\n"),
        "{metrics}"
    );
    let listed = world.read(|tx| list(tx, Some("n1"), None));
    assert_eq!(
        listed[0].1.as_ref().map(|disk| disk.size_bytes),
        Some(40 * GIB)
    );
}
