//! Jobs on nodes with several devices: which rank gets which, and what it is told of its place.

use supernode_control::Refusal;
use supernode_types::agent::RankWish;
use supernode_types::inventory::{Accelerator, AcceleratorVendor};
use supernode_types::job::JobSpec;

use crate::ask::job_spec;
use crate::world::{Engine, World, on_every_engine};

on_every_engine!(
    devices_are_shared_between_jobs,
    every_rank_knows_its_place,
    ascend_ranks_get_a_rank_table,
);

/// A super node of nodes with several devices.
fn with_devices(engine: Engine, nodes: usize, devices: u32) -> World {
    let mut world = World::empty(engine, crate::world::settings());
    for number in 1..=nodes {
        let node = format!("n{number}");
        world.enrol(&node);
        let accelerator = |index| Accelerator::new(index, AcceleratorVendor::Ascend);
        world.agent(&node).inventory.accelerators = (0..devices).map(accelerator).collect();
    }
    world.settle();
    world.declare("npu", "n1");
    world.settle();
    world.created("train", u32::try_from(nodes).expect("few"));
    world
}

fn devices_are_shared_between_jobs(engine: Engine) {
    let mut world = with_devices(engine, 1, 4);
    let half = world.running(
        "train",
        JobSpec {
            devices: Some(2),
            ..job_spec(1)
        },
    );
    let other = world.running(
        "train",
        JobSpec {
            devices: Some(2),
            ..job_spec(1)
        },
    );
    let third = world
        .submit(
            "train",
            JobSpec {
                devices: Some(1),
                ..job_spec(1)
            },
        )
        .expect("queued")
        .id;
    world.settle();
    assert!(world.queue_reason(&third).contains("busy"));
    let devices = |job| {
        world
            .ranks(job)
            .iter()
            .map(|rank| rank.device)
            .collect::<Vec<_>>()
    };
    assert_eq!((devices(&half), devices(&other)), (vec![0, 1], vec![2, 3]));
    let over = world.submit(
        "train",
        JobSpec {
            devices: Some(5),
            ..job_spec(1)
        },
    );
    assert!(matches!(over, Err(Refusal::Invalid(_))), "{over:?}");
}

fn every_rank_knows_its_place(engine: Engine) {
    let mut world = with_devices(engine, 2, 2);
    let job = world.running("train", job_spec(2));
    let ranks = world.ranks(&job);
    let places: Vec<_> = ranks
        .iter()
        .map(|rank| (rank.rank, rank.node_rank, rank.local_rank, rank.device))
        .collect();
    assert_eq!(
        places,
        [(0, 0, 0, 0), (1, 0, 1, 1), (2, 1, 0, 0), (3, 1, 1, 1)]
    );
    // One rank of a node ends; what the other is told of the node's devices stays.
    world.exit(&job, 2, 0, &[]);
    world.settle();
    let id = world.node("n2").id;
    let desired = world.read(move |tx| Ok(supernode_control::desired(tx, [id.clone()])?));
    let desired = desired.values().next().expect("it is in service");
    assert_eq!(desired.ranks.len(), 1);
    let RankWish::Run(launch) = &desired.ranks[0].wish else {
        panic!("it runs");
    };
    assert_eq!(launch.place.devices, [0, 1]);
    assert_eq!(
        (
            launch.place.local_rank,
            launch.place.local_world_size,
            launch.place.node_rank
        ),
        (1, 2, 1)
    );
    assert_eq!(
        (
            launch.place.world_size,
            launch.place.nodes,
            launch.place.restart_count
        ),
        (4, 2, 0)
    );
    assert!((20_000..30_000).contains(&launch.place.master_port));
}

fn ascend_ranks_get_a_rank_table(engine: Engine) {
    let mut world = with_devices(engine, 2, 2);
    for (number, node) in ["n1", "n2"].into_iter().enumerate() {
        for accelerator in &mut world.agent(node).inventory.accelerators {
            let host = u8::try_from(10 * number).expect("small")
                + u8::try_from(accelerator.index).expect("small");
            accelerator.device_ip = Some(std::net::IpAddr::from([192, 168, 1, host]));
        }
    }
    world.settle();
    let job = world.running("train", job_spec(2));
    let desired = world.agent("n2").desired.clone().expect("it was told");
    let RankWish::Run(launch) = &desired.ranks[0].wish else {
        panic!("it runs");
    };
    let table = launch
        .rank_table
        .as_ref()
        .expect("an Ascend gang has one")
        .to_string();
    assert!(
        table.contains("192.168.1.11") && table.contains("192.168.1.0"),
        "{table}"
    );
    world.finish(&job);
    world.settle();
    assert_eq!(world.job(&job).state.word(), "succeeded");
}
