//! The server's own certificate: which names it is for, and when it must be made again.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use supernode_types::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::AuthorityError;

/// How long a server certificate is valid.
const LIFETIME: Duration = Duration::from_hours(90 * 24);
/// It is made again when less than this is left.
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);
/// Certificates begin a little in the past, for peers whose clock is behind.
pub(crate) const BACKDATE: Duration = Duration::from_hours(1);

/// A certificate with its private key, for listeners.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    pem: String,
    not_after: Timestamp,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerCertificate")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl ServerCertificate {
    /// When it ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Certificate and private key, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A new key and a certificate for `names`, signed by `issuer`.
    pub(crate) fn issue(
        issuer: &Issuer<'_, KeyPair>,
        names: &BTreeSet<HostName>,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params
            .distinguished_name
            .push(DnType::CommonName, "supernode server");
        params.subject_alt_names = names
            .iter()
            .map(HostName::to_san)
            .collect::<Result<_, _>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let not_after = now.plus(LIFETIME);
        set_validity(
            &mut params,
            Timestamp(now.0.saturating_sub(micros(BACKDATE))),
            not_after,
        );
        let certificate = params
            .signed_by(&key, issuer)
            .map_err(AuthorityError::Sign)?;
        Ok(Self {
            pem: format!("{}{}", certificate.pem(), key.serialize_pem()),
            not_after,
        })
    }

    /// The certificate in `pem` if it is whole, for exactly these names, signed by `authority`, and has time left.
    pub(crate) fn reuse(
        pem: String,
        authority: &CertificateDer<'_>,
        names: &BTreeSet<HostName>,
        now: Timestamp,
    ) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let key = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let (_, issuer) = X509Certificate::from_der(authority).ok()?;
        certificate
            .verify_signature(Some(issuer.public_key()))
            .ok()?;
        let not_after = Timestamp(
            certificate
                .validity()
                .not_after
                .timestamp()
                .saturating_mul(1_000_000),
        );
        let begun = certificate
            .validity()
            .not_before
            .timestamp()
            .saturating_mul(1_000_000)
            <= now.0;
        let fits =
            key.public_key_raw() == certificate.public_key().subject_public_key.data.as_ref();
        let fresh = begun && not_after > now.plus(RENEW_BEFORE);
        (fits && fresh && names_of(&certificate)? == *names).then_some(Self { pem, not_after })
    }
}

/// A name that clients may reach the server by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HostName {
    Address(IpAddr),
    Dns(String),
}

impl HostName {
    pub(crate) fn parse(text: &str) -> Result<Self, AuthorityError> {
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self::Address(address));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        if name.len() <= 253 && name.split('.').all(label) {
            Ok(Self::Dns(name))
        } else {
            Err(AuthorityError::HostName(text.chars().take(80).collect()))
        }
    }

    fn to_san(&self) -> Result<SanType, AuthorityError> {
        match self {
            Self::Address(address) => Ok(SanType::IpAddress(*address)),
            Self::Dns(name) => Ok(SanType::DnsName(
                name.as_str().try_into().map_err(AuthorityError::Sign)?,
            )),
        }
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Option<BTreeSet<HostName>> {
    let extension = certificate.subject_alternative_name().ok()??;
    extension
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => Some(HostName::Dns((*name).to_owned())),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => Some(HostName::Address(<[u8; 4]>::try_from(*bytes).ok()?.into())),
                _ => Some(HostName::Address(<[u8; 16]>::try_from(*bytes).ok()?.into())),
            },
            _ => None,
        })
        .collect()
}

/// Sets when a certificate begins and ends; X.509 knows whole seconds only.
pub(crate) fn set_validity(
    params: &mut CertificateParams,
    not_before: Timestamp,
    not_after: Timestamp,
) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds =
        |moment: Timestamp| Duration::from_secs(u64::try_from(moment.0 / 1_000_000).unwrap_or(0));
    params.not_before = epoch + seconds(not_before);
    params.not_after = epoch + seconds(not_after);
}

/// A duration in the unit of [`Timestamp`].
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::HostName;

    #[test]
    fn host_names_are_names_or_addresses() {
        for good in [
            "localhost",
            "a.example.org",
            "10.0.0.1",
            "::1",
            "[::1]",
            "Node-1",
            "host.example.org.",
        ] {
            HostName::parse(good).expect(good);
        }
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a b",
            "*.example.org",
            "https://host",
            "host:8443",
            &"a".repeat(64),
        ] {
            HostName::parse(bad).expect_err(bad);
        }
    }
}
