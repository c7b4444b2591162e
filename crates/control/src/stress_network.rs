//! What the test of a network adds to what came of each node; and what is known of the networks of earlier runs.

use supernode_store::stress_network::{stress_network_get, stress_pair_list, stress_pair_list_of};
use supernode_store::{StoreError, Tx};
use supernode_types::stress::{
    Certainty, Finding, FindingKind, Item, NetworkVerdict, StressNetwork, StressOutcome,
    StressPair, StressResult,
};
use supernode_types::{NodeId, OperationId, Timestamp};

use crate::Refusal;

/// What came of a node, with what its run says of the network. A part of the node that was named twice fails it; everything less makes it
/// suspect; a network of which nothing can be said changes nothing, unless nothing else was tested.
pub(crate) fn after(
    mut result: StressResult,
    verdict: &NetworkVerdict,
    tested_alone: bool,
    now: Timestamp,
) -> StressResult {
    let node = result.node.clone();
    let why = match &verdict.undecided {
        Some(why) => Some(why.as_str()),
        None if verdict.unjudged.contains(&node) => Some("no flow of this node could be judged"),
        None => None,
    };
    if let Some(why) = why {
        result.undecided.push(format!("network: {why}"));
        if !tested_alone {
            result.outcome = StressOutcome::Undecided {
                why: format!("the network was not tested: {why}"),
            };
        }
    }
    for finding in verdict.findings_on(&node) {
        let own = finding.place.node() == Some(&node);
        let words = finding.words.clone();
        result.findings.insert(
            0,
            Finding {
                item: Item::Network,
                words: words.clone(),
                kind: FindingKind::Network(Box::new(finding.clone())),
                confidence: finding.confidence,
            },
        );
        result.outcome = match result.outcome {
            StressOutcome::Failed { finding } => StressOutcome::Failed { finding },
            _ if own && finding.certainty == Certainty::Confirmed => {
                StressOutcome::Failed { finding: words }
            }
            _ => StressOutcome::Suspect { finding: words },
        };
    }
    result.ended_at = now;
    result
}

/// The network test of a run with all its pairs, if it has begun.
pub fn network(
    tx: &mut Tx<'_>,
    run: &OperationId,
) -> Result<Option<(StressNetwork, Vec<StressPair>)>, Refusal> {
    let Some(network) = stress_network_get(tx, run)? else {
        return Ok(None);
    };
    Ok(Some((network, stress_pair_list(tx, run)?)))
}

/// The pairs of a run that a node was in.
pub fn pairs_of(
    tx: &mut Tx<'_>,
    run: &OperationId,
    node: &NodeId,
) -> Result<Vec<StressPair>, StoreError> {
    stress_pair_list_of(tx, run, node)
}
