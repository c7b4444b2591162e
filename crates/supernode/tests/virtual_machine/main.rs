//! System disks of virtual machines: a real agent in a real kernel joins a real server, its disk grows while it is its root, and its
//! power is cut at every step.
//!
//! A binary of its own, because emulated machines take all processors for minutes, and other tests measure time. What is
//! missing makes a test say that it is skipped.

mod archive;
mod fleet;
mod guest;
mod machine;
mod server;
mod tools;

use fleet::{Fleet, GIB, moments};
use guest::Guest;
use machine::Bus;

const EXPAND: [&str; 4] = ["disk", "expand", "--super-node", "train"];

#[test]
fn roots_on_ext4_and_lvm_grow_under_a_job_and_survive_a_power_cut_in_every_step() {
    let Some(guest) = Guest::find() else {
        return;
    };
    let layouts = [("gpt-ext4", Bus::Virtio), ("gpt-lvm-ext4", Bus::Virtio)];
    let mut fleet = Fleet::start(&guest, &layouts);
    let job = fleet.submit("3600");
    fleet
        .server
        .ok(&[&EXPAND[..], &["--size", "2GiB", "--wait"]].concat());
    fleet.assert_grown(2 * GIB);
    let shown = fleet.server.json(&["job", "show", &job]);
    assert_eq!(
        (&shown["attempts"], &shown["state"]["state"]),
        (&1.into(), &"running".into()),
        "the job did not notice: {shown}"
    );
    fleet.cancel(&job);

    // Each step once: what LVM adds, and everything else without it.
    fleet.expand_with_cuts(3 * GIB, |layout| {
        let mut moments = moments(layout);
        if layout == "gpt-lvm-ext4" {
            let others = fleet::moments("gpt-ext4");
            moments.retain(|moment| !others.contains(moment));
        }
        moments.retain(|moment| !moment.contains(':') || moment.ends_with(":during"));
        moments
    });
    fleet.assert_grown(3 * GIB);
    fleet.check();
}

/// QEMU changes the size of an `NVMe` device only while the machine is off, so this one has to restart.
#[test]
fn a_node_that_must_restart_is_drained_restarted_and_put_back() {
    let Some(guest) = Guest::find() else {
        return;
    };
    let mut fleet = Fleet::start(&guest, &[("gpt-ext4", Bus::Nvme)]);
    let job = fleet.submit("3600");
    let refused = |more: &[&str]| {
        let words = [&EXPAND[..], &["--size", "2GiB", "--wait"], more].concat();
        let output = fleet.server.run(&words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout)
    };
    let without_consent = refused(&[]);
    assert!(
        without_consent.contains("run it again with --allow-restart"),
        "{without_consent}"
    );
    let with_a_job = refused(&["--allow-restart"]);
    assert!(with_a_job.contains(&job), "{with_a_job}");
    let shown = fleet.server.json(&["job", "show", &job]);
    assert_eq!(
        shown["state"]["state"], "running",
        "nothing was disturbed: {shown}"
    );
    fleet.cancel(&job);

    let job = fleet.submit("5");
    let words = ["--size", "2GiB", "--allow-restart", "--mode", "wait"];
    let started = fleet.server.json(&[&EXPAND[..], &words].concat());
    fleet.restart_with_cut(2 * GIB, "growpart:during");
    fleet.wait_for_operation(&started);
    fleet.assert_grown(2 * GIB);
    let shown = fleet.server.json(&["job", "show", &job]);
    assert_eq!(
        (&shown["attempts"], &shown["state"]["outcome"]["outcome"]),
        (&1.into(), &"succeeded".into()),
        "the restart waited for it: {shown}"
    );
    // It is in service again.
    let job = fleet.submit("1");
    fleet.server.ok(&["job", "wait", &job]);
    fleet.check();
}

/// Every layout at every moment, a test each. `cargo xtask ci --only vm-matrix` runs them.
mod matrix {
    use crate::fleet::{Fleet, GIB, moments};
    use crate::guest::{Guest, Layout};
    use crate::machine::Bus;

    fn survives_a_power_cut_at_every_moment(layout: Layout) {
        let Some(guest) = Guest::find() else {
            return;
        };
        let mut fleet = Fleet::start(&guest, &[(layout, Bus::Virtio)]);
        fleet.expand_with_cuts(2 * GIB, moments);
        fleet.assert_grown(2 * GIB);
        fleet.check();
    }

    macro_rules! layouts {
        ($($test:ident $layout:literal)*) => {$(
            #[test]
            #[ignore = "takes minutes"]
            fn $test() {
                survives_a_power_cut_at_every_moment($layout);
            }
        )*};
    }

    layouts! {
        gpt_ext4 "gpt-ext4"
        gpt_xfs "gpt-xfs"
        gpt_btrfs "gpt-btrfs"
        gpt_lvm_ext4 "gpt-lvm-ext4"
        gpt_lvm_xfs "gpt-lvm-xfs"
        mbr_ext4 "mbr-ext4"
    }
}
