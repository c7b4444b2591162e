//! Typed ids with a readable prefix: `node-…`, `sn-…`, `job-…`. An id of one kind cannot be used as another.
//!
//! The body is 26 characters of Crockford base 32: 48 bits of milliseconds, then 80 random bits, so ids sort by creation. An id holds its
//! text in place: everything has ids and copies them, and none of it should cost an allocation.

use crate::{Entropy, Timestamp};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BODY_LENGTH: usize = 26;

/// Which bytes the alphabet has.
const IN_ALPHABET: [bool; 256] = {
    let mut known = [false; 256];
    let mut position = 0;
    while position < ALPHABET.len() {
        known[ALPHABET[position] as usize] = true;
        position += 1;
    }
    known
};

fn new_body(now: Timestamp, entropy: &dyn Entropy) -> [u8; BODY_LENGTH] {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let milliseconds = u128::from(u64::try_from(now.0 / 1000).unwrap_or(0) & 0xffff_ffff_ffff);
    let mut value = milliseconds << 80;
    for (index, byte) in random.iter().enumerate() {
        value |= u128::from(*byte) << (8 * (9 - index));
    }
    std::array::from_fn(|position| {
        let shift = (BODY_LENGTH - 1 - position) * 5;
        ALPHABET[usize::try_from((value >> shift) & 31).expect("5 bits fit")]
    })
}

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id; one looks like `{prefix}-01k…`")]
pub struct InvalidId {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

/// Checks the text; answers it as bytes.
fn parse<const LENGTH: usize>(
    text: &str,
    kind: &'static str,
    prefix: &'static str,
) -> Result<[u8; LENGTH], InvalidId> {
    let known = |byte: &u8| IN_ALPHABET[usize::from(*byte)];
    let valid = |bytes: &[u8; LENGTH]| {
        let (first, body) = bytes.split_at(prefix.len());
        first == prefix.as_bytes() && body[0] == b'-' && body[1..].iter().all(known)
    };
    let bytes = text.as_bytes().as_array().copied();
    bytes.filter(valid).ok_or_else(|| InvalidId {
        text: text.chars().take(80).collect(),
        kind,
        prefix,
    })
}

/// The id of a kind with this prefix, in front of a body.
fn join<const LENGTH: usize>(prefix: &'static str, body: [u8; BODY_LENGTH]) -> [u8; LENGTH] {
    let mut bytes = [b'-'; LENGTH];
    bytes[..prefix.len()].copy_from_slice(prefix.as_bytes());
    bytes[prefix.len() + 1..].copy_from_slice(&body);
    bytes
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
        #[schemars(with = "String")]
        pub struct $name([u8; $prefix.len() + 1 + BODY_LENGTH]);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, unique for all practical purposes and sorted by `now`.
            pub fn new(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(join($prefix, new_body(now, entropy)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).expect("an id is ASCII")
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.debug_tuple(stringify!($name)).field(&self.as_str()).finish()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
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
                id.as_str().to_owned()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        formatter.write_str(concat!("a ", $kind, " id"))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
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
