//! A Slurm cluster in a private directory: munged, slurmctld and one `slurmd -N` per node, all in the foreground as children, so that
//! each can be killed and waited for. The `Yard` ends them whatever happens.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::configuration::{Layout, slurm_conf};
use crate::bench::ports::free_ports;
use crate::ci::setup::find_program;
use crate::processes::{Yard, kill, text_within, wait_for, with_descendants};

/// Where Debian's packages put daemons that are not on a user's PATH.
fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} is not installed"))
}

pub(super) struct Cluster {
    munged: Child,
    controller: Child,
    /// Node `n{i}` at index `i - 1`.
    daemons: Vec<Child>,
    pub(super) nodes: u32,
    /// Last: its drop ends what the fields above started.
    yard: Yard,
}

const READY: Duration = Duration::from_mins(1);
const CLIENT: Duration = Duration::from_mins(1);

impl Cluster {
    pub(super) fn start(nodes: u32) -> Result<Self> {
        let yard = Yard::new("slurm")?;
        // Ranks may run as other users: they must reach their working directory.
        for directory in ["", "munge", "state", "spool", "log"] {
            let directory = yard.directory().join(directory);
            fs::create_dir_all(&directory)?;
            fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        }
        let hostname = fs::read_to_string("/proc/sys/kernel/hostname")?
            .trim()
            .to_owned();
        let user = text_within(Command::new("id").arg("-un"), CLIENT)?
            .trim()
            .to_owned();
        let configuration = slurm_conf(&Layout {
            directory: yard.directory(),
            hostname: &hostname,
            user: &user,
            first_port: free_ports(nodes + 1)?,
            nodes,
        });
        fs::write(yard.directory().join("slurm.conf"), configuration)?;
        let munged = start_munged(&yard)?;
        let controller = start_controller(&yard, &["-c"])?;
        let daemons = (1..=nodes)
            .map(|index| start_daemon(&yard, index))
            .collect::<Result<_>>()?;
        let mut cluster = Self {
            munged,
            controller,
            daemons,
            nodes,
            yard,
        };
        cluster.wait_until_idle()?;
        Ok(cluster)
    }

    pub(super) fn directory(&self) -> &Path {
        self.yard.directory()
    }

    /// A client command of this cluster.
    pub(super) fn client(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        slurm_command(&self.yard, program)
    }

    /// Every node is idle and the queue is empty.
    pub(super) fn wait_until_idle(&mut self) -> Result<()> {
        let wanted = format!("{} idle", self.nodes);
        let mut last = String::new();
        let nodes_idle = wait_for("idle nodes", READY, || {
            for child in [&mut self.munged, &mut self.controller]
                .into_iter()
                .chain(&mut self.daemons)
            {
                if let Some(status) = child.try_wait()? {
                    bail!("a daemon of Slurm ended: {status}");
                }
            }
            let mut sinfo = slurm_command(&self.yard, "sinfo");
            last = text_within(sinfo.args(["-h", "-o", "%D %t"]), CLIENT)
                .unwrap_or_else(|error| error.to_string());
            Ok((last.trim() == wanted).then_some(()))
        });
        nodes_idle.with_context(|| format!("nodes are: {}; {}", last.trim(), self.log_tail()))?;
        wait_for("an empty queue", READY, || {
            let queue = text_within(self.client("squeue").args(["-h", "-o", "%i"]), CLIENT)?;
            Ok(queue.trim().is_empty().then_some(()))
        })
    }

    pub(super) fn cancel_everything(&self) -> Result<()> {
        let user = text_within(Command::new("id").arg("-un"), CLIENT)?;
        text_within(self.client("scancel").args(["-u", user.trim()]), CLIENT)?;
        Ok(())
    }

    pub(super) fn controller_pid(&self) -> u32 {
        self.controller.id()
    }

    pub(super) fn daemon_pids(&self) -> impl Iterator<Item = u32> {
        self.daemons.iter().map(Child::id)
    }

    /// What stays beside the ranks of a running job.
    pub(super) fn step_pid(&self) -> Option<u32> {
        self.yard
            .members()
            .iter()
            .find(|process| process.command_line.starts_with("slurmstepd:"))
            .map(|process| process.pid)
    }

    /// `kill -9`, and started again at once, as a service manager would.
    pub(super) fn kill_and_restart_controller(&mut self) -> Result<()> {
        self.controller.kill()?;
        self.controller.wait()?;
        self.controller = start_controller(&self.yard, &[])?;
        Ok(())
    }

    /// The node is gone with everything that runs on it.
    pub(super) fn kill_node(&mut self, index: u32, job_id: &str) -> Result<()> {
        let daemon = &mut self.daemons[index as usize - 1];
        let mut victims = with_descendants(daemon.id());
        for process in self.yard.members() {
            if process.command_line.starts_with("slurmstepd:")
                || process.has_variable("SLURM_JOB_ID", job_id)
            {
                victims.extend(with_descendants(process.pid));
            }
        }
        kill(&victims);
        daemon.wait()?;
        Ok(())
    }

    pub(super) fn restart_node(&mut self, index: u32) -> Result<()> {
        self.daemons[index as usize - 1] = start_daemon(&self.yard, index)?;
        Ok(())
    }

    /// The controller's last words, for an error message.
    fn log_tail(&self) -> String {
        let text =
            fs::read_to_string(self.directory().join("log/slurmctld.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }
}

impl Drop for Cluster {
    /// The yard would end them too; whoever waits for its own children leaves no zombies.
    fn drop(&mut self) {
        let children = [&mut self.controller, &mut self.munged]
            .into_iter()
            .chain(&mut self.daemons);
        for child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn slurm_command(yard: &Yard, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = yard.command(program);
    for (name, _) in std::env::vars_os() {
        if ["SLURM", "SBATCH", "SRUN"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command.env("SLURM_CONF", yard.directory().join("slurm.conf"));
    command
}

fn start_quietly(mut command: Command, yard: &Yard, name: &str) -> Result<Child> {
    let output = File::create(yard.directory().join("log").join(format!("{name}.out")))?;
    command
        .stdout(output.try_clone()?)
        .stderr(output)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {name}"))
}

fn start_munged(yard: &Yard) -> Result<Child> {
    let directory = yard.directory().join("munge");
    let mut key = vec![0; 1024];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    fs::write(directory.join("key"), key)?;
    fs::set_permissions(directory.join("key"), Permissions::from_mode(0o600))?;
    let mut command = yard.command(program("munged")?);
    command.args(["--foreground", "--force", "--num-threads=4"]);
    for (option, file) in [
        ("key-file", "key"),
        ("socket", "socket"),
        ("pid-file", "pid"),
        ("seed-file", "seed"),
    ] {
        command.arg(format!("--{option}={}", directory.join(file).display()));
    }
    command.arg(format!(
        "--log-file={}",
        yard.directory().join("log/munged.log").display()
    ));
    let child = start_quietly(command, yard, "munged")?;
    wait_for("munged's socket", READY, || {
        Ok(directory.join("socket").exists().then_some(()))
    })?;
    Ok(child)
}

fn start_controller(yard: &Yard, options: &[&str]) -> Result<Child> {
    let mut command = slurm_command(yard, program("slurmctld")?);
    command.arg("-D").args(options);
    start_quietly(command, yard, "slurmctld")
}

fn start_daemon(yard: &Yard, index: u32) -> Result<Child> {
    let name = format!("n{index}");
    fs::create_dir_all(yard.directory().join("spool").join(&name))?;
    let mut command = slurm_command(yard, program("slurmd")?);
    command.args(["-D", "-N", &name]);
    start_quietly(command, yard, &name)
}
