//! One of the two sides of a network test: waits for the partner, or measures to it.
//!
//! The key that both have goes to the kernel on its standard input, and nowhere else: what is reported of the kernel's settings leaves it out.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use supernode_probe::stress::child::{Heard, Outcome};
use supernode_probe::stress::evidence::evidence;
use supernode_probe::stress::network::{Key, pair};
use supernode_probe::stress::sample::{Ended, Event};
use supernode_probe::stress::suite;
use supernode_types::stress::{
    PairSide, PairWish, StepEvidence, StressReportState, StressWish, Validity,
};

use super::StressExecutor;

/// How often the order to stop is looked at while nobody has come yet.
const TICK: Duration = Duration::from_millis(100);

impl StressExecutor {
    /// Runs one side of a pair; the last thing that is told says how it ended.
    pub(super) fn run_pair(
        &self,
        wish: &StressWish,
        pair: &PairWish,
        tell: &dyn Fn(StressReportState),
    ) {
        let key = Key::shared(&pair.key);
        let seconds = wish.kernel_seconds.unwrap_or(wish.tier.pair_seconds());
        let last = match &pair.side {
            PairSide::Listen { address } => match resolve(address, 0) {
                Ok(own) => self.listen(own, key, seconds, tell),
                Err(error) => incomplete(format!("its address {address} is not known: {error}")),
            },
            PairSide::Ask {
                peer,
                address,
                port,
            } => match resolve(address, *port) {
                Ok(to) => self.ask(to, peer, key, seconds, tell),
                Err(error) => incomplete(format!("the address {address} of {peer}: {error}")),
            },
        };
        tell(last);
    }

    fn told_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn listen(
        &self,
        own: SocketAddr,
        key: Key,
        seconds: u32,
        tell: &dyn Fn(StressReportState),
    ) -> StressReportState {
        let running = match self.launcher.start(&pair::listen(own.ip(), key, seconds)) {
            Ok(running) => running,
            Err(error) => return incomplete(format!("its kernel cannot be started: {error}")),
        };
        let mut outcome = Outcome::default();
        while !self.told_to_stop() {
            match running.next(TICK) {
                Heard::Event(Event::Listening(address)) => {
                    let port = address.port();
                    tell(StressReportState::Listening { port });
                    break;
                }
                Heard::Event(event) => outcome.take(event),
                Heard::Nothing => {}
                Heard::Closed => break,
            }
        }
        running.finish(&*self.clock, &mut outcome, || self.told_to_stop());
        match outcome.ended {
            Ended::Complete => StressReportState::Ended {
                evidence: Vec::new(),
            },
            Ended::Incomplete(why) | Ended::CouldNotRun(why) => incomplete(why),
        }
    }

    fn ask(
        &self,
        to: SocketAddr,
        peer: &str,
        key: Key,
        seconds: u32,
        tell: &dyn Fn(StressReportState),
    ) -> StressReportState {
        let step = pair::ask(to, peer, key, seconds);
        tell(StressReportState::Running {
            step: step.name.clone(),
        });
        let told = || self.told_to_stop();
        let record = suite::run(&self.launcher, step, Path::new("/"), &*self.clock, told);
        match &record.validity {
            Validity::Incomplete(why) => incomplete(why.clone()),
            // A kernel that was never there says not even how long it ran; that is not the partner's doing.
            Validity::CouldNotRun(why) if record.outcome.seconds <= 0.0 => incomplete(why.clone()),
            _ => StressReportState::Ended {
                evidence: vec![StepEvidence {
                    settings: format!("{seconds} s"),
                    ..evidence(&record, env!("CARGO_PKG_VERSION"))
                }],
            },
        }
    }
}

fn incomplete(why: String) -> StressReportState {
    StressReportState::Incomplete {
        why,
        evidence: Vec::new(),
    }
}

fn resolve(address: &str, port: u16) -> io::Result<SocketAddr> {
    let mut all = (address, port).to_socket_addrs()?;
    all.next()
        .ok_or_else(|| io::Error::other("the name has no address"))
}
