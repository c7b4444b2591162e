//! What an operator may set for a server.

use std::time::Duration;

use supernode_plan::Limits;
use supernode_types::operation::Admission;

use crate::provisioner::Provisioner;

/// Settings of one server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Silence after which a node is lost.
    pub lost_after: Duration,
    /// How often an agent says that it is there.
    pub sync_interval: Duration,
    /// How long a node's certificate is valid; agents renew after two thirds of it.
    pub certificate_lifetime: Duration,
    /// How nodes come and go.
    pub provisioner: Provisioner,
    /// How long events are kept.
    pub event_retention: Duration,
    /// How long idempotency keys are remembered.
    pub idempotency_retention: Duration,
    /// First and last port that rank 0 of a gang may be given.
    pub master_ports: (u16, u16),
    /// Of a hundred nodes of a super node, how many may be quarantined at once; one of several always may.
    pub quarantine_percent: u32,
    /// What nodes have to pass before they join a super node that grows, unless a request says that they join untested.
    pub admission: Admission,
    /// How long the measurements of stress tests are kept; what came of them is kept for ever.
    pub evidence_retention: Duration,
}

impl Settings {
    /// What fits a real cluster; `dev` shortens `lost_after` and tests nobody.
    pub fn new(provisioner: Provisioner) -> Self {
        Self {
            lost_after: Duration::from_secs(30),
            sync_interval: Duration::from_secs(1),
            certificate_lifetime: Duration::from_hours(24),
            provisioner,
            event_retention: Duration::from_hours(30 * 24),
            idempotency_retention: Duration::from_hours(24),
            master_ports: (20_000, 29_999),
            quarantine_percent: 20,
            admission: Admission::Quick {
                kernel_seconds: None,
            },
            evidence_retention: Duration::from_hours(90 * 24),
        }
    }

    /// How long after the sending of an acknowledged sync a node's ranks may run on without another. A fifth of `lost_after` is left
    /// for the last kill to take effect, so that nothing runs any more when leases are given away.
    pub fn fence(&self) -> Duration {
        self.lost_after * 4 / 5
    }

    /// What planners need to know.
    pub fn limits(&self) -> Limits {
        Limits {
            lost_after: self.lost_after,
            start_timeout: Duration::from_mins(2),
            master_ports: self.master_ports,
            queue_depth: 1000,
            quarantine_percent: self.quarantine_percent,
            admission: self.admission,
        }
    }
}
