//! What a test does to the health of a node.
//!
//! ```text
//!  Unproven --passed--> Proven <--passed everything--> Suspect | Quarantined
//!  any --wrong result, or slower twice in the same way--> Quarantined, or Suspect where the brake holds
//!  any but Quarantined --slower once--> Suspect
//!  Suspect | Quarantined --released (operator)--> Unproven
//! ```
//! What was cut short, skipped or disturbed says nothing. A node comes back by itself only through a test of everything in its full
//! length; one that a network test pointed at only when a network test has nothing against it. The brake: of the nodes of one super node only a share is quarantined at once, because what hits many at the same time is
//! rarely the fault of each; past it, people are told and decide.

use supernode_types::node::{Node, NodeHealth};
use supernode_types::operation::Operation;
use supernode_types::stress::{Item, StressNetwork, StressOutcome};

/// Whether a test may bring back a node that was suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Everything, in its full length.
    Everything,
    /// Less.
    Part,
}

impl Coverage {
    /// Of a test of a node with these items, with kernels of the tier's own length when `kernel_seconds` is absent, and with the test of
    /// its network if there was one. A node that is alone can be proven all the same, unless it is its network that is doubted.
    pub fn of(
        node: &Node,
        items: &[Item],
        kernel_seconds: Option<u32>,
        network: Option<&StressNetwork>,
    ) -> Self {
        let own = Item::OF_ONE_NODE.iter().all(|item| items.contains(item));
        let cleared = network.is_some_and(|network| network.clears(&node.id));
        if kernel_seconds.is_none() && own && (cleared || node.stress.network_doubt.is_none()) {
            Self::Everything
        } else {
            Self::Part
        }
    }
}

/// The health of a node after a test, if that changes it.
pub fn after(
    node: &Node,
    operation: &Operation,
    coverage: Coverage,
    outcome: &StressOutcome,
    brake: Brake,
) -> Option<NodeHealth> {
    let quarantined = matches!(node.health, NodeHealth::Quarantined { .. });
    let doubted = quarantined || matches!(node.health, NodeHealth::Suspect { .. });
    let finding = |finding: &str| format!("{finding} ({})", operation.id);
    let health = match outcome {
        StressOutcome::Passed if doubted && coverage == Coverage::Part => return None,
        StressOutcome::Passed => NodeHealth::Proven {
            run: operation.id.to_string(),
        },
        StressOutcome::Failed { finding: what } if quarantined || brake == Brake::Off => {
            NodeHealth::Quarantined {
                finding: finding(what),
            }
        }
        StressOutcome::Suspect { .. } if quarantined => return None,
        StressOutcome::Failed { finding: what } | StressOutcome::Suspect { finding: what } => {
            NodeHealth::Suspect {
                finding: finding(what),
            }
        }
        StressOutcome::Undecided { .. }
        | StressOutcome::Incomplete { .. }
        | StressOutcome::Skipped { .. } => return None,
    };
    (health != node.health).then_some(health)
}

/// Whether another node of the super node may be quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brake {
    /// It may.
    Off,
    /// Enough of them are.
    On,
}

impl Brake {
    /// Of `members` nodes `quarantined` are; at most `percent` of a hundred may be, but one of several always.
    pub fn of(members: usize, quarantined: usize, percent: u32) -> Self {
        let share = usize::try_from(percent).unwrap_or(100) * members / 100;
        let most = share.max(usize::from(members > 1));
        if quarantined < most {
            Self::Off
        } else {
            Self::On
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brake_holds_back_a_share_and_the_only_node() {
        let most = |members| {
            (0..=members)
                .take_while(|quarantined| Brake::of(members, *quarantined, 20) == Brake::Off)
                .count()
        };
        assert_eq!([1, 2, 5, 10, 48].map(most), [0, 1, 1, 2, 9]);
    }
}
