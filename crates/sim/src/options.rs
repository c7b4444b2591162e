//! What kind of world a seed makes: how large, how rough, and with which deliberate defect.
//!
//! Each seed draws its own mixture of faults ("swarm testing"): a run in which everything fails all the time hides what a run with one
//! kind of fault would show.

use std::time::Duration;

use crate::chance::Chance;

/// A defect that is built into the simulated parts on purpose, to prove that the checks notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Supervisors let their ranks run on when the lease is over.
    SupervisorsIgnoreFence,
    /// After its restart the server counts silence from long ago instead of from its start.
    NoGraceAfterRestart,
    /// The network brings an old desired state, numbered as if it were new, so that the agent cannot tell.
    OldDesiredAsNew,
    /// The server acknowledges what an agent says before it is stored.
    AcknowledgesBeforeStoring,
    /// The agent's disk says that the ledger is stored, and forgets it when the agent is killed.
    DiskForgetsLedger,
    /// A client takes a new idempotency key when it repeats a request.
    NewKeyForRepeatedRequest,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The server is killed and comes back.
    ServerKill,
    /// An agent is killed and comes back.
    AgentKill,
    /// An agent is halted (SIGSTOP) and goes on later.
    AgentHalt,
    /// A node goes down and boots again.
    Reboot,
    /// A node and the server do not hear each other, in one or both directions.
    Partition,
    /// The connection of a node is reset.
    Reset,
    /// The server's wall clock jumps.
    ClockJump,
    /// The supervisor of a rank is killed.
    SupervisorKill,
    /// A node's disk takes nothing for a while.
    DiskFull,
    /// Environments cannot be applied on a node for a while.
    EnvironmentBroken,
}

/// How rough a world is.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Which faults happen, and how often compared with the others.
    pub kinds: Vec<(FaultKind, u32)>,
    /// Time between two faults.
    pub interval: (Duration, Duration),
    /// How long a message travels.
    pub delay: (Duration, Duration),
    /// How many messages in a hundred travel for up to three seconds.
    pub slow_percent: u32,
    /// Whether what the server sends can arrive in another order, or twice.
    pub disorder: bool,
    /// How many requests, and how many answers, in a hundred are lost; as many requests arrive twice.
    pub request_loss_percent: u32,
    /// How long the disk of a node takes.
    pub disk: (Duration, Duration),
    /// How many disk operations in a hundred take seconds or fail.
    pub bad_disk_percent: u32,
    /// How long a change of the environment takes.
    pub environment: (Duration, Duration),
    /// How many of them in a hundred fail, or leave an item that is not right.
    pub bad_environment_percent: u32,
    /// How many changes of a rank directory in a hundred nobody is told of.
    pub lost_watch_percent: u32,
    /// Seconds by which the wall clock may jump.
    pub clock_jump_seconds: u32,
}

/// A world.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes there are.
    pub machines: u32,
    /// How many devices the nodes have; half of them may have this many and the others another number.
    pub devices: u32,
    /// How many hyperplanes the nodes are in.
    pub hyperplanes: u32,
    /// Whether there are nodes of a second spec.
    pub two_specs: bool,
    /// Whether a provisioner makes nodes when there are not enough spares.
    pub provisioner: bool,
    /// For how long requests come and things fail.
    pub chaos: Duration,
    /// Time between two requests of the operator; none when absent.
    pub requests: Option<(Duration, Duration)>,
    /// Silence after which a node is lost; the fence is shorter.
    pub lost_after: Duration,
    /// How often the server's loop looks by itself.
    pub loop_period: Duration,
    /// How rough it is.
    pub faults: Faults,
    /// The deliberate defect, if any.
    pub defect: Option<Defect>,
}

const MILLISECOND: Duration = Duration::from_millis(1);

impl Options {
    /// A world in which nothing fails, nothing takes long, and nobody asks for anything; for scripts.
    pub fn calm(machines: u32) -> Self {
        let faults = Faults {
            kinds: Vec::new(),
            interval: (Duration::from_secs(1), Duration::from_secs(1)),
            delay: (MILLISECOND, MILLISECOND),
            slow_percent: 0,
            disorder: false,
            request_loss_percent: 0,
            disk: (4 * MILLISECOND, 4 * MILLISECOND),
            bad_disk_percent: 0,
            environment: (50 * MILLISECOND, 50 * MILLISECOND),
            bad_environment_percent: 0,
            lost_watch_percent: 0,
            clock_jump_seconds: 0,
        };
        Self {
            machines,
            devices: 1,
            hyperplanes: 1,
            two_specs: false,
            provisioner: false,
            chaos: Duration::ZERO,
            requests: None,
            lost_after: Duration::from_secs(10),
            loop_period: Duration::from_millis(500),
            faults,
            defect: None,
        }
    }

    /// The world that belongs to a seed: mostly small and short, because many short stories find more than a few long ones.
    pub fn of_seed(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x5eed);
        let machines = if chance.percent(75) {
            chance.range(2, 3)
        } else {
            chance.range(4, 5)
        };
        let mut options = Self::calm(machines);
        options.devices = chance.range(1, 2);
        options.hyperplanes = if chance.percent(25) { 2 } else { 1 };
        options.two_specs = chance.percent(15);
        options.provisioner = !options.two_specs && chance.percent(25);
        options.chaos = if chance.percent(75) {
            chance.milliseconds(4000, 10_000)
        } else {
            chance.milliseconds(10_000, 35_000)
        };
        let pace = u64::from(chance.range(150, 900));
        options.requests = Some((
            Duration::from_millis(pace / 4),
            Duration::from_millis(pace * 2),
        ));
        // The shortest that a server accepts, nearly: so that what comes with it fits into a short story.
        options.lost_after = Duration::from_secs(6);
        options.loop_period =
            Duration::from_millis(*chance.pick(&[1000, 2000, 3000]).expect("there are some"));
        options.faults = Faults::of_chance(&mut chance);
        options
    }
}

impl Faults {
    fn of_chance(chance: &mut Chance) -> Self {
        let all = [
            FaultKind::ServerKill,
            FaultKind::AgentKill,
            FaultKind::AgentHalt,
            FaultKind::Reboot,
            FaultKind::Partition,
            FaultKind::Reset,
            FaultKind::ClockJump,
            FaultKind::SupervisorKill,
            FaultKind::DiskFull,
            FaultKind::EnvironmentBroken,
        ];
        let mut kinds = Vec::new();
        for kind in all {
            if chance.percent(40) {
                kinds.push((kind, chance.range(1, 5)));
            }
        }
        if chance.percent(10) {
            kinds.clear();
        }
        let pace = u64::from(chance.range(300, 3000));
        let quick = chance.percent(50);
        let (delay, environment) = if quick {
            (
                (MILLISECOND, 5 * MILLISECOND),
                (10 * MILLISECOND, 300 * MILLISECOND),
            )
        } else {
            (
                (MILLISECOND, 120 * MILLISECOND),
                (50 * MILLISECOND, 4000 * MILLISECOND),
            )
        };
        let sometimes = |chance: &mut Chance, most: u32| {
            if chance.percent(50) {
                chance.range(1, most)
            } else {
                0
            }
        };
        Self {
            kinds,
            interval: (
                Duration::from_millis(pace / 4),
                Duration::from_millis(pace * 2),
            ),
            delay,
            slow_percent: sometimes(chance, 8),
            disorder: chance.percent(40),
            request_loss_percent: sometimes(chance, 25),
            disk: (
                MILLISECOND,
                *chance
                    .pick(&[5 * MILLISECOND, 40 * MILLISECOND, 400 * MILLISECOND])
                    .expect("there are some"),
            ),
            bad_disk_percent: sometimes(chance, 6),
            environment,
            bad_environment_percent: sometimes(chance, 25),
            lost_watch_percent: sometimes(chance, 20),
            clock_jump_seconds: if chance.percent(20) { 3600 } else { 40 },
        }
    }

    /// After the faults have stopped.
    pub(crate) fn heal(&mut self) {
        self.kinds.clear();
        self.slow_percent = 0;
        self.disorder = false;
        self.request_loss_percent = 0;
        self.bad_disk_percent = 0;
        self.bad_environment_percent = 0;
        self.lost_watch_percent = 0;
    }
}
