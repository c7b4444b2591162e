//! Typed ids with a readable prefix: `node-…`, `sn-…`, `job-…`. An id of one kind cannot be used as another.
//!
//! The body is 26 characters of Crockford base 32: 48 bits of milliseconds, then 80 random bits, so ids sort by creation.

use crate::{Entropy, Timestamp};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BODY_LENGTH: usize = 26;

fn new_body(now: Timestamp, entropy: &dyn Entropy) -> String {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let milliseconds = u128::from(u64::try_from(now.0 / 1000).unwrap_or(0) & 0xffff_ffff_ffff);
    let mut value = milliseconds << 80;
    for (index, byte) in random.iter().enumerate() {
        value |= u128::from(*byte) << (8 * (9 - index));
    }
    (0..BODY_LENGTH)
        .rev()
        .map(|position| {
            char::from(
                ALPHABET[usize::try_from((value >> (position * 5)) & 31).expect("5 bits fit")],
            )
        })
        .collect()
}

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id; one looks like `{prefix}-01k…`")]
pub struct InvalidId {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

fn parse(text: &str, kind: &'static str, prefix: &'static str) -> Result<String, InvalidId> {
    let valid = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|body| {
            body.len() == BODY_LENGTH && body.bytes().all(|byte| ALPHABET.contains(&byte))
        });
    if valid {
        Ok(text.to_owned())
    } else {
        Err(InvalidId {
            text: text.chars().take(80).collect(),
            kind,
            prefix,
        })
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, unique for all practical purposes and sorted by `now`.
            pub fn new(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(format!("{}-{}", $prefix, new_body(now, entropy)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text, $kind, $prefix).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(/** A server that runs an agent. */ NodeId, "node", "node");
id!(/** A declared hardware specification. */ SpecId, "spec", "spec");
id!(/** A named group of nodes. */ SuperNodeId, "sn", "super node");
id!(/** A gang-scheduled program. */ JobId, "job", "job");
id!(/** One try at running a job; a requeue makes a new one. */ AttemptId, "try", "attempt");
id!(/** A durable, cancellable, long-running change. */ OperationId, "op", "operation");
id!(/** An API token of a person or a program. */ TokenId, "token", "token");
id!(/** A token that lets a new node enrol. */ JoinTokenId, "join", "join token");
id!(/** One request to a provisioner for one node. */ ProvisionId, "prov", "provision");
id!(/** A schedule of stress tests. */ StressPlanId, "plan", "stress plan");
id!(/** A place where people are told. */ ChannelId, "channel", "channel");
id!(/** A client certificate that this server's CA issued. */ CertificateSerial, "cert", "certificate");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn ids_sort_by_time_and_refuse_other_kinds() {
        let entropy = SeededEntropy::new(1);
        let early = NodeId::new(Timestamp(1_700_000_000_000_000), &entropy);
        let late = NodeId::new(Timestamp(1_800_000_000_000_000), &entropy);
        assert!(early < late);
        assert_eq!(early.as_str().parse::<NodeId>(), Ok(early.clone()));
        assert!(early.as_str().parse::<JobId>().is_err());
        assert!("node-../../etc/passwd".parse::<NodeId>().is_err());
    }
}
