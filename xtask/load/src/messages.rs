//! What a simulated agent reads of the server's messages. The contract's own types would build every member of a large super node in
//! memory, for each of thousands of agents in one process; here all that is not acted upon is skipped while reading.

use serde::Deserialize;
use supernode_types::{AttemptId, Generation};

/// A message, whatever kind it is: fields of other kinds are absent.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct FromServer {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) sequence: u64,
    pub(crate) interval_milliseconds: u64,
    pub(crate) generation: Generation,
    pub(crate) environment: Environment,
    pub(crate) ranks: Vec<WantedRank>,
    /// The number of a request for a log.
    pub(crate) request: u64,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Environment {
    /// 0 for none.
    pub(crate) generation: Generation,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct WantedRank {
    pub(crate) attempt: AttemptId,
    pub(crate) rank: u32,
    pub(crate) wish: Wish,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Wish {
    /// `run` or `stop`.
    pub(crate) wish: String,
    #[serde(default)]
    pub(crate) arguments: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use std::collections::BTreeMap;
    use supernode_api::agent::{Desired, DesiredRank, EnvironmentWish, RankWish, ToAgent};
    use supernode_types::entropy::SeededEntropy;
    use supernode_types::environment::{EnvironmentDesired, Member};
    use supernode_types::{JobId, Timestamp};

    fn read(message: &ToAgent) -> FromServer {
        serde_json::from_str(&serde_json::to_string(message).expect("plain data"))
            .expect("is understood")
    }

    #[test]
    fn the_contract_is_understood() {
        let entropy = SeededEntropy::new(1);
        let attempt = AttemptId::new(Timestamp(1), &entropy);
        let environment = EnvironmentDesired {
            super_node_name: "train".into(),
            generation: 7,
            members: vec![Member {
                name: "n1".into(),
                address: "10.0.0.1".into(),
            }],
            variables: BTreeMap::new(),
            files: Vec::new(),
            sysctls: BTreeMap::new(),
            required_versions: BTreeMap::new(),
        };
        let rank = DesiredRank {
            attempt: attempt.clone(),
            job: JobId::new(Timestamp(1), &entropy),
            rank: 3,
            boot_id: "b".into(),
            wish: RankWish::Stop {
                grace_milliseconds: 1,
                why: "w".into(),
            },
        };
        let desired = |environment| {
            read(&ToAgent::Desired(Box::new(Desired {
                generation: 5,
                environment,
                ranks: vec![rank.clone()],
                disk_expand: None,
                stress: None,
            })))
        };
        let message = desired(EnvironmentWish::Have(Arc::new(environment)));
        assert_eq!(message.kind, "desired");
        assert_eq!((message.generation, message.environment.generation), (5, 7));
        assert_eq!(
            (&message.ranks[0].attempt, message.ranks[0].rank),
            (&attempt, 3)
        );
        assert_eq!(message.ranks[0].wish.wish, "stop");
        assert_eq!(
            desired(EnvironmentWish::Keep { generation: 8 })
                .environment
                .generation,
            8
        );
        assert_eq!(desired(EnvironmentWish::Clean).environment.generation, 0);

        let acknowledge = read(&ToAgent::Acknowledge {
            sequence: 9,
            fence_seconds: 8,
            interval_milliseconds: 1000,
        });
        assert_eq!(
            (acknowledge.kind.as_str(), acknowledge.sequence),
            ("acknowledge", 9)
        );
        assert_eq!(acknowledge.interval_milliseconds, 1000);
    }
}
