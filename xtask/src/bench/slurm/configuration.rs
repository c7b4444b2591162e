//! The configuration that Slurm is measured with: loopback, no accounting, tuned for short latency and high throughput.
//! Nothing is set to make it look bad; where a default costs it time, the line says what was done.

use std::fmt::Write as _;
use std::path::Path;

/// Jobs that a node may run at once. More do not help a small machine: the figure is bound by starting processes.
const CPUS_PER_NODE: u32 = 4;

pub(super) struct Layout<'a> {
    pub(super) directory: &'a Path,
    /// As the kernel has it: Slurm compares.
    pub(super) hostname: &'a str,
    pub(super) user: &'a str,
    /// Of the controller; node `i` (from 1) listens on `first_port + i`.
    pub(super) first_port: u16,
    pub(super) nodes: u32,
}

/// Without the per-run paths, names and ports: what a reader has to know.
pub(super) const TUNING: &str = "\
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PriorityType=priority/basic
PropagateResourceLimits=NONE
SlurmctldDebug=error
SlurmdDebug=error
ReturnToService=2
JobRequeue=1
MessageTimeout=10
MaxJobCount=100000
MinJobAge=10
# Defaults: 3 s delay for batch jobs, 100 jobs deep, every 60 s and 30 s. `defer` stays off: a submit tries to start its job at once.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,default_queue_depth=1000,sched_interval=1,bf_interval=1
# Default 2000 us: spreads the ends of jobs for the sake of a slow controller.
EpilogMsgTime=1
CompleteWait=0
KillWait=5
# Default 300 s.
SlurmdTimeout=10
";

/// Default 120 s. Also how long a requeued job waits before it may start again, which is most of Slurm's time after a node loss.
pub(super) const CREDENTIAL_SECONDS: u32 = 10;

pub(super) fn slurm_conf(layout: &Layout<'_>) -> String {
    let Layout {
        directory,
        hostname,
        user,
        first_port,
        nodes,
    } = layout;
    let directory = directory.display();
    let mut text = format!(
        "\
ClusterName=bench
SlurmctldHost={hostname}(127.0.0.1)
SlurmctldPort={first_port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={directory}/munge/socket,cred_expire={CREDENTIAL_SECONDS}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/spool/%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/%n.log
{TUNING}"
    );
    for index in 1..=*nodes {
        let port = u32::from(*first_port) + index;
        let _ = writeln!(
            text,
            "NodeName=n{index} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} RealMemory=1000"
        );
    }
    let _ = writeln!(
        text,
        "PartitionName=main Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE State=UP"
    );
    text
}

/// What is printed with the figures.
pub(super) fn description(version: &str, nodes: u32) -> String {
    format!(
        "{version}, slurmctld and {nodes} slurmd -N on loopback, munge with its own key\n\
         AuthInfo=socket=…,cred_expire={CREDENTIAL_SECONDS}   # default 120 s: a requeued job waits that long\n\
         {TUNING}NodeName=n[1-{nodes}] CPUs={CPUS_PER_NODE} …\n\
         submits are acknowledged from memory: slurmctld writes its state seconds later"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_own_port_and_the_tuning_is_in() {
        let layout = Layout {
            directory: Path::new("/tmp/x"),
            hostname: "host",
            user: "root",
            first_port: 21000,
            nodes: 2,
        };
        let text = slurm_conf(&layout);
        assert!(text.contains("SlurmctldHost=host(127.0.0.1)\nSlurmctldPort=21000\n"));
        assert!(text.contains("NodeName=n2 NodeHostname=host NodeAddr=127.0.0.1 Port=21002 "));
        assert!(text.contains("Nodes=n[1-2] "));
        assert!(text.contains(TUNING));
        assert!(description("slurm 22", 2).contains(TUNING));
    }
}
