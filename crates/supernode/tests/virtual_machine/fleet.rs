//! Virtual machines that are the nodes of one super node, and what is done to all of them.

use std::fs;

use serde_json::Value;

use crate::guest::{Guest, Layout};
use crate::machine::{Bus, Machine, Start};
use crate::server::Server;

pub(crate) const GIB: u64 = 1 << 30;

#[derive(Debug)]
pub(crate) struct Fleet<'a> {
    // In this order everything is dropped: the machines, the server, the directory of both.
    pub(crate) machines: Vec<(Layout, Machine)>,
    pub(crate) server: Server,
    guest: &'a Guest,
    #[expect(dead_code, reason = "it holds the images until all machines are gone")]
    directory: tempfile::TempDir,
}

impl<'a> Fleet<'a> {
    /// A machine for each layout; all are members of the super node `train`.
    pub(crate) fn start(guest: &'a Guest, layouts: &[(Layout, Bus)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let machines = layouts.iter().zip(1..).map(|((layout, bus), number)| {
            let name = format!("node-{number}");
            (*layout, Machine::new(&name, layout, *bus, directory.path()))
        });
        let mut fleet = Self {
            machines: machines.collect(),
            server: Server::start(directory.path()),
            guest,
            directory,
        };
        fleet.each(|fleet, layout, machine| {
            fleet.guest.image(layout, &machine.image());
            fleet.switch_on(machine, None, 0);
        });
        let count = layouts.len();
        fleet
            .server
            .until("all to be spares whose disks are known", || {
                let disks = fleet.server.json(&["disk", "show"]);
                let disks = disks.as_array()?;
                let known = |disk: &Value| disk["system_disk"]["growth"]["can_grow"] == "yes";
                (disks.len() == count && disks.iter().all(known)).then_some(())
            });
        fleet
            .server
            .ok(&["spec", "declare", "guest", "--from-node", "node-1"]);
        let count = count.to_string();
        fleet
            .server
            .ok(&["super-node", "create", "train", "--nodes", &count, "--wait"]);
        fleet
    }

    /// Does the same to all machines at once.
    fn each(&mut self, work: impl Fn(&Context<'_>, Layout, &mut Machine) + Sync) {
        let context = Context {
            server: &self.server,
            guest: self.guest,
        };
        std::thread::scope(|scope| {
            for (layout, machine) in &mut self.machines {
                let (context, work) = (&context, &work);
                scope.spawn(move || work(context, layout, machine));
            }
        });
    }

    /// A job on all nodes that sleeps for so long; answers its id when it runs.
    pub(crate) fn submit(&self, seconds: &str) -> String {
        let nodes = self.machines.len().to_string();
        let job = self.server.ok(&[
            "job",
            "submit",
            "--super-node",
            "train",
            "--nodes",
            &nodes,
            "--output",
            "json",
            "--",
            "sleep",
            seconds,
        ]);
        let job: Value = serde_json::from_str(&job).expect("JSON");
        let id = job["id"].as_str().expect("an id").to_owned();
        self.server.until("the job to run", || {
            let shown = self.server.json(&["job", "show", &id]);
            (shown["state"]["state"] == "running").then_some(())
        });
        id
    }

    /// Cancels a job and waits until nothing of it is left.
    pub(crate) fn cancel(&self, job: &str) {
        self.server.ok(&["job", "cancel", job]);
        self.server.until("the job to be gone", || {
            let shown = self.server.json(&["job", "show", job]);
            (shown["state"]["state"] == "ended").then_some(())
        });
    }

    /// Every layer of every node has the size, as the newest operation, the agent and the image tell.
    pub(crate) fn assert_grown(&self, bytes: u64) {
        let operations = self.server.json(&["operation", "list"]);
        let newest = operations[0]["id"].as_str().expect("an id");
        let shown = self.server.json(&["operation", "show", newest]);
        for target in shown["targets"].as_array().expect("targets") {
            for step in target["steps"].as_array().expect("steps") {
                let (before, after) = (step["before_bytes"].as_u64(), step["after_bytes"].as_u64());
                let gained = after.zip(before).map(|(after, before)| after - before);
                // All but the last, which only reads back. Each layer gains what the device gains, but for what LVM rounds.
                let complete = step["layer"] == "verify"
                    || gained.is_some_and(|gained| gained.abs_diff(GIB) < GIB / 50);
                assert!(step["state"] == "done" && complete, "{step}\n{target}");
            }
        }
        self.server.until("the new layout to be known", || {
            let disks = self.server.json(&["disk", "show"]);
            let grown = |disk: &Value| {
                let disk = &disk["system_disk"];
                disk["size_bytes"] == bytes && disk["growth"]["at_size"] == true
            };
            disks.as_array()?.iter().all(grown).then_some(())
        });
        for (_, machine) in &self.machines {
            let image = fs::metadata(machine.image()).expect("it is there");
            assert_eq!(image.len(), bytes, "{}", machine.name);
        }
    }

    /// Grows all disks by one operation, and cuts the power of each machine at all moments of its layout, one after the other.
    pub(crate) fn expand_with_cuts(
        &mut self,
        bytes: u64,
        moments: impl Fn(Layout) -> Vec<String> + Sync,
    ) {
        // The moment before everything: the provisioner cannot reach a machine that is off.
        self.each(|_, _, machine| {
            machine.wait_for_record();
            machine.cut();
        });
        let size = format!("{}GiB", bytes / GIB);
        // A machine that others use as well takes its time for fifteen starts.
        let words = ["--super-node", "train", "--size", &size, "--deadline", "2h"];
        let started = self
            .server
            .json(&[&["disk", "expand"][..], &words].concat());
        self.each(|fleet, layout, machine| {
            for moment in moments(layout) {
                fleet.switch_on(machine, Some(&moment), bytes);
                machine.wait_for_word(&format!("cut {moment}"));
                machine.cut();
                eprintln!("{layout}: power cut at {moment}");
            }
            fleet.switch_on(machine, None, bytes);
        });
        self.wait_for_operation(&started);
    }

    /// Waits until an operation has succeeded.
    pub(crate) fn wait_for_operation(&self, started: &Value) {
        let operation = started["id"].as_str().expect("an id");
        let waited = self.server.run(&["operation", "wait", operation]);
        let shown = || self.server.json(&["operation", "show", operation]);
        assert!(waited.status.success(), "{:#}", shown());
    }

    /// Waits until the guests restart. Does what an operator's loop does then: gives each disk the size that the provisioner wrote
    /// down, and switches the machine on again. Cuts its power once more at `moment`.
    pub(crate) fn restart_with_cut(&mut self, bytes: u64, moment: &str) {
        self.each(|fleet, _, machine| {
            machine.wait_for_end();
            let wish = fs::read_to_string(machine.image().with_extension("size"));
            let wish: u64 = wish
                .expect("the provisioner wrote it")
                .trim()
                .parse()
                .expect("a number");
            let image = fs::File::options().write(true).open(machine.image());
            image
                .expect("it is there")
                .set_len(wish)
                .expect("a larger file");
            fleet.switch_on(machine, Some(moment), bytes);
            machine.wait_for_word(&format!("cut {moment}"));
            machine.cut();
            fleet.switch_on(machine, None, bytes);
        });
    }

    /// Every record that was acknowledged is there, and every file system is sound.
    pub(crate) fn check(&mut self) {
        self.each(|fleet, layout, machine| {
            machine.wait_for_record();
            machine.cut();
            machine.check(fleet.guest);
            eprintln!("{layout}: {} records, all there", machine.acknowledged());
        });
    }
}

impl Drop for Fleet<'_> {
    /// A failure in here is mostly one of the operation.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shown = self.server.run(&["operation", "list", "--output", "json"]);
            eprintln!("{}", String::from_utf8_lossy(&shown.stdout));
        }
    }
}

/// What is the same for all machines.
#[derive(Debug)]
struct Context<'a> {
    server: &'a Server,
    guest: &'a Guest,
}

impl Context<'_> {
    fn switch_on(&self, machine: &mut Machine, cut: Option<&str>, grown: u64) {
        let (ca, token) = (self.server.ca(), self.server.token());
        let start = Start::Run {
            server: &self.server.address(),
            ca: &ca,
            token: &token,
            cut,
            grown,
        };
        machine.start(self.guest, &start);
    }
}

/// The moments of an expansion at which the power of a machine can be cut, in their order.
pub(crate) fn moments(layout: Layout) -> Vec<String> {
    let mut tools = vec!["growpart"];
    if layout.contains("-lvm-") {
        tools.extend(["pvresize", "lvextend"]);
    }
    tools.push(match layout.rsplit('-').next() {
        Some("ext4") => "resize2fs",
        Some("xfs") => "xfs_growfs",
        _ => "filesystem",
    });
    let mut moments = vec!["arrived".to_owned()];
    for tool in tools {
        moments.extend(["before", "during", "after"].map(|when| format!("{tool}:{when}")));
    }
    moments.push("verify".to_owned());
    moments
}
