//! Who an agent is: read from the certificate that this server's authority signed, never from a message.
//!
//! The node's id is the one SAN URI `supernode:node:<node id>`; the X.509 serial number is the 128 bits of the [`CertificateSerial`], so
//! a revoked certificate can be found by what it says about itself.

use supernode_types::{CertificateSerial, NodeId, Timestamp};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the SAN URI of a node's certificate begins with.
pub(crate) const NODE_URI_PREFIX: &str = "supernode:node:";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const SERIAL_BYTES: usize = 16;
const SERIAL_DIGITS: u32 = 26;

/// A node as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node.
    pub node: NodeId,
    /// The certificate.
    pub serial: CertificateSerial,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

/// Why a certificate does not identify a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is not a certificate.
    #[error("the client certificate cannot be read; enrol the node again")]
    Malformed,
    /// It is a certificate for something else.
    #[error("the client certificate is not a node certificate ({0}); enrol the node again")]
    NotANode(&'static str),
}

/// Who the certificate `der` identifies. That it was signed by our authority and is valid now was checked by the TLS handshake.
pub fn node_identity(der: &[u8]) -> Result<NodeIdentity, IdentityError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| IdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityError::Malformed);
    }
    if certificate.is_ca() {
        return Err(IdentityError::NotANode("it is an authority's"));
    }
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| IdentityError::Malformed)?;
    if !usage.is_some_and(|usage| usage.value.client_auth) {
        return Err(IdentityError::NotANode("it is not for clients"));
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed)?;
    let names = names
        .as_ref()
        .map_or(&[][..], |extension| &extension.value.general_names[..]);
    let [GeneralName::URI(uri)] = names else {
        return Err(IdentityError::NotANode("it does not have exactly one name"));
    };
    let id = uri
        .strip_prefix(NODE_URI_PREFIX)
        .ok_or(IdentityError::NotANode("its name is not a node's"))?;
    let node = id
        .parse()
        .map_err(|_| IdentityError::NotANode("its node id is malformed"))?;
    let serial = serial_from_bytes(certificate.raw_serial()).ok_or(IdentityError::NotANode(
        "its serial number is not one of ours",
    ))?;
    let not_after = Timestamp(
        certificate
            .validity()
            .not_after
            .timestamp()
            .saturating_mul(1_000_000),
    );
    Ok(NodeIdentity {
        node,
        serial,
        not_after,
    })
}

/// The 128 bits of a serial, as they stand in a certificate.
pub(crate) fn serial_to_bytes(serial: &CertificateSerial) -> [u8; SERIAL_BYTES] {
    let digits = serial
        .as_str()
        .bytes()
        .rev()
        .take_while(|byte| *byte != b'-');
    let mut value: u128 = 0;
    for (position, digit) in (0u32..).zip(digits) {
        let five_bits = ALPHABET
            .iter()
            .position(|known| *known == digit)
            .expect("an id has only digits of this alphabet");
        value |= (five_bits as u128) << (5 * position);
    }
    value.to_be_bytes()
}

fn serial_from_bytes(bytes: &[u8]) -> Option<CertificateSerial> {
    // DER drops leading zero bytes and adds one before a byte whose first bit is set.
    let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    let mut padded = [0; SERIAL_BYTES];
    padded
        .get_mut(SERIAL_BYTES.checked_sub(significant.len())?..)?
        .copy_from_slice(significant);
    let value = u128::from_be_bytes(padded);
    let body: String = (0..SERIAL_DIGITS)
        .rev()
        .map(|position| char::from(ALPHABET[((value >> (5 * position)) & 31) as usize]))
        .collect();
    format!("{}-{body}", CertificateSerial::PREFIX).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::entropy::SeededEntropy;

    #[test]
    fn serials_survive_the_certificate() {
        let entropy = SeededEntropy::new(3);
        for now in [0, 1, 1_700_000_000_000_000, i64::MAX] {
            let serial = CertificateSerial::new(Timestamp(now), &entropy);
            let bytes = serial_to_bytes(&serial);
            assert_eq!(serial_from_bytes(&bytes), Some(serial.clone()));
            let stripped: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            assert_eq!(serial_from_bytes(&stripped), Some(serial.clone()));
            assert_eq!(
                serial_from_bytes(&[&[0][..], &bytes].concat()),
                Some(serial)
            );
        }
        assert_eq!(serial_from_bytes(&[1; 17]), None, "longer than any of ours");
    }
}
