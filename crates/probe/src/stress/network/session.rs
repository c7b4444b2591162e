//! How the two ends of a network test know each other, and what they say before and after the bytes.
//!
//! Both prove that they have the key of this test (HMAC-SHA-256 over two fresh nonces and the role), which the caller made and gave to
//! both. The bytes of the test themselves are worthless and go in the clear. A listener tells nobody else anything, and never
//! sends more than the one who asked is sending or has asked for with the key.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use supernode_types::Entropy;
use supernode_types::job::GroupKey;

/// Bytes of a nonce and of a proof.
pub(super) const PROOF: usize = 32;
/// Bytes of a message at most.
const MOST_BYTES: u32 = 1 << 20;
/// First bytes of a connection: nobody else's protocol begins so.
const MAGIC: [u8; 8] = *b"snstrss1";

/// The key of one test, in hexadecimal: made by the caller, used once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(String);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key(..)")
    }
}

impl Key {
    /// A fresh key.
    pub fn fresh(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; PROOF];
        entropy.fill(&mut bytes);
        let mut text = String::with_capacity(2 * PROOF);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The one that the server made for both.
    pub fn shared(key: &GroupKey) -> Self {
        Self(key.expose().to_owned())
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }

    /// What marks the datagrams of one session.
    pub(super) fn token(&self, session: &Session) -> [u8; 16] {
        let proof = proof(&self.hmac(), b"datagrams", session);
        *proof.first_chunk().expect("32 bytes are more than 16")
    }
}

/// What both ends contributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    asker: [u8; PROOF],
    listener: [u8; PROOF],
}

/// What the asker wants to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// The listener reads until the asker stops writing, and answers with [`Received`].
    Upload,
    /// The listener writes for so many milliseconds.
    Download { milliseconds: u64 },
    /// The listener sends datagrams of this session back for so many milliseconds, and answers with [`Echoed`].
    Echo { milliseconds: u64 },
    /// The listener answers with [`Account`].
    Account,
}

/// What the reading end of a stream saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Received {
    /// The number of the first interval on the clock of this end. A peer of an older version does not say it.
    #[serde(default)]
    pub(super) first: u64,
    /// Gbit/s of each interval.
    pub(super) rates: Vec<f64>,
}

/// Where datagrams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EchoPort {
    pub(super) port: u16,
}

/// How many datagrams arrived at the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Echoed {
    pub(super) datagrams: u64,
}

/// How the listener's process has run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
    /// The longest time in which it did not.
    pub(super) longest_pause_seconds: f64,
    /// Of the time of each stream, what its thread did not have to wait for a processor.
    pub(super) cpu_shares: Vec<f64>,
}

/// The asker's side: both prove themselves.
pub(super) fn ask(stream: &mut TcpStream, key: &Key, entropy: &dyn Entropy) -> io::Result<Session> {
    let mut asker = [0; PROOF];
    entropy.fill(&mut asker);
    stream.write_all(&MAGIC)?;
    stream.write_all(&asker)?;
    let listener = read_array(stream)?;
    let session = Session { asker, listener };
    stream.write_all(proof(&key.hmac(), b"asker", &session).as_ref())?;
    let answer: [u8; PROOF] = read_array(stream)?;
    verify(&key.hmac(), b"listener", &session, &answer)?;
    Ok(session)
}

/// The listener's side: the asker proves itself first.
pub(super) fn answer(
    stream: &mut TcpStream,
    key: &Key,
    entropy: &dyn Entropy,
) -> io::Result<Session> {
    if read_array(stream)? != MAGIC {
        return Err(io::Error::other("not a peer of a network test"));
    }
    let asker = read_array(stream)?;
    let mut listener = [0; PROOF];
    entropy.fill(&mut listener);
    stream.write_all(&listener)?;
    let session = Session { asker, listener };
    let answer: [u8; PROOF] = read_array(stream)?;
    verify(&key.hmac(), b"asker", &session, &answer)?;
    stream.write_all(proof(&key.hmac(), b"listener", &session).as_ref())?;
    Ok(session)
}

fn context(role: &[u8], session: &Session) -> Vec<u8> {
    [role, &session.asker, &session.listener].concat()
}

fn proof(key: &hmac::Key, role: &[u8], session: &Session) -> [u8; PROOF] {
    let tag = hmac::sign(key, &context(role, session));
    *tag.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

fn verify(key: &hmac::Key, role: &[u8], session: &Session, answer: &[u8]) -> io::Result<()> {
    hmac::verify(key, &context(role, session), answer)
        .map_err(|_| io::Error::other("the other end does not have the key of this test"))
}

fn read_array<const BYTES: usize>(stream: &mut TcpStream) -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Says something: its length, then JSON.
pub(super) fn write_message(stream: &mut TcpStream, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&text)
}

/// Hears something.
pub(super) fn read_message<T: DeserializeOwned>(stream: &mut TcpStream) -> io::Result<T> {
    let length = u32::from_be_bytes(read_array(stream)?);
    if length > MOST_BYTES {
        return Err(io::Error::other("the other end says too much"));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
