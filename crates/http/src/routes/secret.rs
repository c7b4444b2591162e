//! Secrets of tokens: 256 random bits, shown once, stored as SHA-256.
//!
//! A fast hash is right here: the secret is random, so there is nothing to guess that a slow hash would protect.

use std::fmt::Write;

use supernode_types::Entropy;

/// What every secret begins with, so that scanners find one that leaked.
const PREFIX: &str = "snp_";

/// A new secret and its hash.
pub fn new_secret(entropy: &dyn Entropy) -> (String, String) {
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    let secret = format!("{PREFIX}{}", hexadecimal(&bytes));
    let hash = hash_secret(&secret);
    (secret, hash)
}

/// The form in which a secret is stored and looked up.
pub(crate) fn hash_secret(secret: &str) -> String {
    hexadecimal(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
