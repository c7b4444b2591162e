//! How two processes of one group know each other: a shared key, four messages, and the number of the connection.
//!
//! ```text
//! dialer                                            acceptor
//!   hello {group, epoch, who, to whom, number, nonce, mac}  -->
//!                            <--  challenge {nonce, mac} | refusal {why, mac}
//!   proof {mac}                                             -->
//!                            <--  welcome {bytes received so far, mac}
//! ```
//!
//! Every code is an HMAC-SHA256 under the group's key over all messages before, so no message can be used in another handshake. Who does
//! not know the key gets no answer at all. Epochs fence attempts: a process of an older (or newer) attempt is refused and told so. The
//! number of a connection rises with every dial, and the acceptor keeps the newest: a late or repeated connection cannot take
//! over a stream.
//!
//! It authenticates connections, not bytes: somebody who can change packets on the wire can change data.

use std::fmt;

use aws_lc_rs::hmac;

use crate::operator::Rank;

/// Bytes of each message.
pub(crate) const HELLO: usize = HELLO_PLAIN + MAC;
pub(crate) const CHALLENGE: usize = CHALLENGE_PLAIN + MAC;
pub(crate) const PROOF: usize = MAC;
pub(crate) const WELCOME: usize = 8 + MAC;

const MAC: usize = 32;
const HELLO_PLAIN: usize = 68;
const CHALLENGE_PLAIN: usize = 32;
const MAGIC: [u8; 8] = *b"snodecol";
const VERSION: u16 = 2;

/// A random number that is used once.
pub type Nonce = [u8; 16];

/// What the processes of one attempt of a group share, and nobody else knows.
#[derive(Clone)]
pub struct Secret {
    key: hmac::Key,
    group: [u8; 16],
    epoch: u64,
}

impl Secret {
    /// The secret of a group: 32 random bytes, the group's name, and a number that rises with every attempt.
    pub fn new(key: &[u8; 32], group: [u8; 16], epoch: u64) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            group,
            epoch,
        }
    }

    /// The code of a text in a context, for what is not a handshake of connections.
    pub(crate) fn seal(&self, label: &[u8], context: &[&[u8]], text: &[u8]) -> [u8; MAC] {
        let (epoch, mut parts) = (self.epoch.to_le_bytes(), vec![&self.group[..]]);
        parts.push(&epoch);
        parts.extend_from_slice(context);
        parts.push(text);
        self.sign(label, &parts)
    }

    /// Whether `code` is what [`Self::seal`] gives.
    pub(crate) fn is_sealed(
        &self,
        label: &[u8],
        context: &[&[u8]],
        text: &[u8],
        code: &[u8],
    ) -> bool {
        let (epoch, mut parts) = (self.epoch.to_le_bytes(), vec![&self.group[..]]);
        parts.push(&epoch);
        parts.extend_from_slice(context);
        parts.push(text);
        self.verify(label, &parts, code)
    }

    fn sign(&self, label: &[u8], parts: &[&[u8]]) -> [u8; MAC] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(label);
        for part in parts {
            context.update(part);
        }
        let mut code = [0; MAC];
        code.copy_from_slice(context.sign().as_ref());
        code
    }

    fn verify(&self, label: &[u8], parts: &[&[u8]], code: &[u8]) -> bool {
        let mut message = label.to_vec();
        for part in parts {
            message.extend_from_slice(part);
        }
        hmac::verify(&self.key, &message, code).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Secret")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The stream of the dialer, and acknowledgements back.
    Data,
    /// Heartbeats and last words.
    Control,
}

/// Who calls whom, for what, for the how-manieth time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What it carries.
    pub channel: Channel,
    /// The lane that the dialer took.
    pub lane: u8,
    /// The dialer.
    pub from: Rank,
    /// The acceptor.
    pub to: Rank,
    /// Rises with every dial of this channel.
    pub number: u64,
}

/// Why an acceptor wants no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The dialer belongs to an older attempt.
    StaleEpoch,
    /// The acceptor belongs to an older attempt.
    NewerEpoch,
    /// The call is for somebody else.
    WrongRank,
}

impl Refusal {
    const ALL: [Self; 3] = [Self::StaleEpoch, Self::NewerEpoch, Self::WrongRank];

    const fn code(self) -> u8 {
        match self {
            Self::StaleEpoch => 1,
            Self::NewerEpoch => 2,
            Self::WrongRank => 3,
        }
    }
}

/// The dialer's memory of a handshake.
#[derive(Debug)]
pub(crate) struct Dialer {
    hello: [u8; HELLO],
    challenge: [u8; CHALLENGE],
}

/// What a challenge says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Proof([u8; PROOF]),
    Refused(Refusal),
    /// Not from somebody who knows the key.
    Forged,
}

impl Dialer {
    /// Begins; the hello is the first thing to send.
    pub(crate) fn new(secret: &Secret, call: Call, nonce: &Nonce) -> (Self, [u8; HELLO]) {
        let mut hello = [0; HELLO];
        hello[0..8].copy_from_slice(&MAGIC);
        hello[8..10].copy_from_slice(&VERSION.to_le_bytes());
        hello[10] = u8::from(call.channel == Channel::Control);
        hello[11] = call.lane;
        hello[12..16].copy_from_slice(&small(call.from).to_le_bytes());
        hello[16..20].copy_from_slice(&small(call.to).to_le_bytes());
        hello[20..28].copy_from_slice(&secret.epoch.to_le_bytes());
        hello[28..36].copy_from_slice(&call.number.to_le_bytes());
        hello[36..52].copy_from_slice(&secret.group);
        hello[52..68].copy_from_slice(nonce);
        let code = secret.sign(b"hello", &[&hello[..HELLO_PLAIN]]);
        hello[HELLO_PLAIN..].copy_from_slice(&code);
        let challenge = [0; CHALLENGE];
        (Self { hello, challenge }, hello)
    }

    pub(crate) fn challenged(&mut self, secret: &Secret, challenge: &[u8; CHALLENGE]) -> Answer {
        let (plain, code) = challenge.split_at(CHALLENGE_PLAIN);
        if !secret.verify(b"challenge", &[&self.hello, plain], code) {
            return Answer::Forged;
        }
        if plain[0] != 0 {
            let known = Refusal::ALL.into_iter().find(|one| one.code() == plain[0]);
            return known.map_or(Answer::Forged, Answer::Refused);
        }
        self.challenge = *challenge;
        Answer::Proof(secret.sign(b"proof", &[&self.hello, challenge]))
    }

    /// How much the acceptor has, if the welcome is genuine.
    pub(crate) fn welcomed(&self, secret: &Secret, welcome: &[u8; WELCOME]) -> Option<u64> {
        let (plain, code) = welcome.split_at(8);
        secret
            .verify(b"welcome", &[&self.hello, &self.challenge, plain], code)
            .then(|| long(plain, 0))
    }
}

/// The acceptor's memory of a handshake.
#[derive(Debug)]
pub(crate) struct Acceptor {
    call: Call,
    hello: [u8; HELLO],
    challenge: [u8; CHALLENGE],
}

impl Acceptor {
    /// Reads a hello. `None`: not from somebody who knows the key. Otherwise the challenge or refusal to send; after a refusal, close.
    pub(crate) fn greeted(
        secret: &Secret,
        rank: Rank,
        hello: &[u8; HELLO],
        nonce: &Nonce,
    ) -> Option<(Result<Self, Refusal>, [u8; CHALLENGE])> {
        let (plain, code) = hello.split_at(HELLO_PLAIN);
        let is_ours = plain[0..8] == MAGIC
            && plain[8..10] == VERSION.to_le_bytes()
            && plain[36..52] == secret.group
            && secret.verify(b"hello", &[plain], code);
        if !is_ours {
            return None;
        }
        let call = Call {
            channel: if plain[10] == 0 {
                Channel::Data
            } else {
                Channel::Control
            },
            lane: plain[11],
            from: word(plain, 12) as usize,
            to: word(plain, 16) as usize,
            number: long(plain, 28),
        };
        let epoch = long(plain, 20);
        let refusal = if epoch < secret.epoch {
            Some(Refusal::StaleEpoch)
        } else if epoch > secret.epoch {
            Some(Refusal::NewerEpoch)
        } else if call.to != rank || call.from == rank {
            Some(Refusal::WrongRank)
        } else {
            None
        };
        let challenge = challenge(secret, hello, refusal, nonce);
        let result = match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(Self {
                call,
                hello: *hello,
                challenge,
            }),
        };
        Some((result, challenge))
    }

    pub(crate) const fn call(&self) -> Call {
        self.call
    }

    pub(crate) fn is_proof(&self, secret: &Secret, proof: &[u8; PROOF]) -> bool {
        secret.verify(b"proof", &[&self.hello, &self.challenge], proof)
    }

    pub(crate) fn welcome(&self, secret: &Secret, received: u64) -> [u8; WELCOME] {
        let mut welcome = [0; WELCOME];
        welcome[..8].copy_from_slice(&received.to_le_bytes());
        let code = secret.sign(b"welcome", &[&self.hello, &self.challenge, &welcome[..8]]);
        welcome[8..].copy_from_slice(&code);
        welcome
    }
}

fn challenge(
    secret: &Secret,
    hello: &[u8; HELLO],
    refusal: Option<Refusal>,
    nonce: &Nonce,
) -> [u8; CHALLENGE] {
    let mut challenge = [0; CHALLENGE];
    challenge[0] = refusal.map_or(0, Refusal::code);
    challenge[16..32].copy_from_slice(nonce);
    let code = secret.sign(b"challenge", &[hello, &challenge[..CHALLENGE_PLAIN]]);
    challenge[CHALLENGE_PLAIN..].copy_from_slice(&code);
    challenge
}

fn small(rank: Rank) -> u32 {
    u32::try_from(rank).expect("ranks are counted in 32 bits")
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call = Call {
        channel: Channel::Data,
        lane: 1,
        from: 0,
        to: 3,
        number: 5,
    };

    fn secret(key: u8, epoch: u64) -> Secret {
        Secret::new(&[key; 32], [9; 16], epoch)
    }

    #[test]
    fn members_of_one_attempt_meet() {
        let secret = secret(1, 4);
        let (mut dialer, hello) = Dialer::new(&secret, CALL, &[1; 16]);
        let (acceptor, challenge) =
            Acceptor::greeted(&secret, 3, &hello, &[2; 16]).expect("the key is right");
        let acceptor = acceptor.expect("nothing is wrong");
        assert_eq!(acceptor.call(), CALL);
        let Answer::Proof(proof) = dialer.challenged(&secret, &challenge) else {
            panic!("the challenge is genuine")
        };
        assert!(acceptor.is_proof(&secret, &proof));
        let welcome = acceptor.welcome(&secret, 77);
        assert_eq!(dialer.welcomed(&secret, &welcome), Some(77));
    }

    #[test]
    fn strangers_get_no_answer_and_other_attempts_are_told() {
        let ours = secret(1, 4);
        let greet = |theirs: &Secret, rank| {
            let (mut dialer, hello) = Dialer::new(theirs, CALL, &[1; 16]);
            let (_, challenge) = Acceptor::greeted(&ours, rank, &hello, &[2; 16])?;
            Some(dialer.challenged(theirs, &challenge))
        };
        assert_eq!(greet(&secret(2, 4), 3), None);
        assert_eq!(
            greet(&secret(1, 3), 3),
            Some(Answer::Refused(Refusal::StaleEpoch))
        );
        assert_eq!(
            greet(&secret(1, 5), 3),
            Some(Answer::Refused(Refusal::NewerEpoch))
        );
        assert_eq!(
            greet(&secret(1, 4), 2),
            Some(Answer::Refused(Refusal::WrongRank))
        );
    }

    #[test]
    fn nothing_can_be_played_back() {
        let secret = secret(1, 4);
        let (mut dialer, hello) = Dialer::new(&secret, CALL, &[1; 16]);
        let greet = |nonce| Acceptor::greeted(&secret, 3, &hello, nonce).expect("the key is right");
        let (first, challenge) = greet(&[2; 16]);
        let Answer::Proof(proof) = dialer.challenged(&secret, &challenge) else {
            panic!("the challenge is genuine")
        };
        let (second, _) = greet(&[3; 16]);
        let (first, second) = (first.expect("fine"), second.expect("fine"));
        assert!(first.is_proof(&secret, &proof) && !second.is_proof(&secret, &proof));
        let mut bent = first.welcome(&secret, 77);
        bent[0] ^= 1;
        assert_eq!(dialer.welcomed(&secret, &bent), None);
        assert_eq!(dialer.welcomed(&secret, &second.welcome(&secret, 77)), None);
    }
}
