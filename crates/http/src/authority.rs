//! The server's own certificate authority: signs the server's certificate and those of its nodes.
//!
//! Key and certificate live in ONE file, `authority.pem`, written beside and then linked into place: either the whole pair is there or
//! nothing is, and two servers that start at once end up with the same authority. A file that others may read is refused. From a
//! certificate request nothing is taken but the public key; every name in the signed certificate is ours.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use supernode_types::{CertificateSerial, NodeId, Timestamp};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use crate::certificate::{BACKDATE, HostName, ServerCertificate, micros, set_validity};
use crate::identity::{NODE_URI_PREFIX, serial_to_bytes};
use crate::request::hexadecimal;

const AUTHORITY_FILE: &str = "authority.pem";
const SERVER_FILE: &str = "server.pem";
/// For people and programs that connect; has no secret.
const PUBLIC_FILE: &str = "ca.pem";
const LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// The longest certificate request that is looked at, in bytes.
const MAXIMUM_REQUEST_BYTES: usize = 16 * 1024;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The private key is not private.
    #[error(
        "{0} can be read by others than its owner; if nobody else has read it, run `chmod 600` on it"
    )]
    Exposed(PathBuf),
    /// The file is not what this server wrote.
    #[error(
        "{path} is not a certificate authority ({problem}); restore it from a backup: without it every node has to enrol again"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Its time is over.
    #[error(
        "the certificate authority in {path} ended at {not_after}; move the file away to make a new one, then enrol every node again"
    )]
    Expired {
        /// Which file.
        path: PathBuf,
        /// When.
        not_after: Timestamp,
    },
    /// Not a name for a server.
    #[error("`{0}` is not a host name or an IP address")]
    HostName(String),
    /// A server without a name.
    #[error("a server certificate needs at least one host name or IP address")]
    NoHostName,
    /// The cryptographic library refused.
    #[error("cannot make a key or certificate")]
    Sign(#[source] rcgen::Error),
}

/// Why a node gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Not a certificate request.
    #[error("the certificate request cannot be read; send a PKCS#10 request in PEM")]
    Malformed,
    /// The sender does not have the key.
    #[error("the certificate request is not signed with its own key")]
    BadSignature,
    /// A key that we do not sign.
    #[error(
        "the certificate request has a key of an unsupported kind; use ECDSA P-256, ECDSA P-384 or Ed25519"
    )]
    UnsupportedKey,
    /// It would be valid longer than the authority.
    #[error("the certificate would outlive the certificate authority, which ends at {0}")]
    OutlivesAuthority(Timestamp),
    /// The cryptographic library refused.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    not_after: Timestamp,
}

impl Authority {
    /// The authority in `directory`; a new one if there is none yet. Also writes `ca.pem`, its certificate alone, for clients.
    pub fn load_or_create(directory: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| AuthorityError::File {
                action: "create",
                path: directory.to_owned(),
                source,
            })?;
        let path = directory.join(AUTHORITY_FILE);
        let pem = if let Some(pem) = read_private(&path)? {
            pem
        } else {
            publish_once(&path, &new_authority(now)?)?;
            read_private(&path)?.ok_or_else(|| AuthorityError::Damaged {
                path: path.clone(),
                problem: "it vanished".to_owned(),
            })?
        };
        let authority = Self::from_pem(directory, &path, &pem, now)?;
        let public = directory.join(PUBLIC_FILE);
        if fs::read_to_string(&public).ok().as_deref() != Some(authority.certificate_pem()) {
            replace(&public, authority.certificate_pem(), 0o644)?;
        }
        Ok(authority)
    }

    fn from_pem(
        directory: &Path,
        path: &Path,
        pem: &str,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let damaged = |problem: &str| AuthorityError::Damaged {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| damaged("it has no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| damaged("it has no private key"))?;
        let key = KeyPair::try_from(&key).map_err(|_| damaged("its private key is malformed"))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|_| damaged("its certificate is malformed"))?;
        if !parsed.is_ca() {
            return Err(damaged("its certificate is not an authority's"));
        }
        if key.public_key_raw() != parsed.public_key().subject_public_key.data.as_ref() {
            return Err(damaged(
                "its key and its certificate do not belong together",
            ));
        }
        let not_after = Timestamp(
            parsed
                .validity()
                .not_after
                .timestamp()
                .saturating_mul(1_000_000),
        );
        if not_after <= now {
            return Err(AuthorityError::Expired {
                path: path.to_owned(),
                not_after,
            });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Sign)?;
        let certificate_pem =
            certificate_lines(pem).ok_or_else(|| damaged("it has no certificate"))?;
        Ok(Self {
            directory: directory.to_owned(),
            issuer,
            certificate,
            certificate_pem,
            not_after,
        })
    }

    /// The authority's certificate, PEM: what clients and agents trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of the certificate, hexadecimal: what a join command pins.
    pub fn fingerprint(&self) -> String {
        hexadecimal(
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.certificate).as_ref(),
        )
    }

    /// When the authority ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The certificate for a server that clients reach by `names` (host names and IP addresses). The one from last time is used again
    /// unless the names changed or its end is less than 30 days away; call it daily and give the result to
    /// [`ServerTls::replace_certificate`](crate::ServerTls::replace_certificate).
    pub fn server_certificate(
        &self,
        names: &[String],
        now: Timestamp,
    ) -> Result<ServerCertificate, AuthorityError> {
        let names = names
            .iter()
            .map(|name| HostName::parse(name))
            .collect::<Result<BTreeSet<_>, _>>()?;
        if names.is_empty() {
            return Err(AuthorityError::NoHostName);
        }
        let path = self.directory.join(SERVER_FILE);
        let present = read_private(&path)?
            .and_then(|pem| ServerCertificate::reuse(pem, &self.certificate, &names, now));
        if let Some(certificate) = present {
            return Ok(certificate);
        }
        let certificate = ServerCertificate::issue(&self.issuer, &names, now)?;
        replace(&path, certificate.pem(), 0o600)?;
        Ok(certificate)
    }

    /// A client certificate (PEM) for `node` with the public key of the request, which must be signed with its private key. Nothing
    /// else in the request counts: names, usages and extensions are ours.
    pub fn issue_node_certificate(
        &self,
        certificate_request_pem: &str,
        node: &NodeId,
        serial: &CertificateSerial,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Result<String, IssueError> {
        if not_after > self.not_after {
            return Err(IssueError::OutlivesAuthority(self.not_after));
        }
        let public_key = public_key_of(certificate_request_pem)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, node.as_str());
        let uri = format!("{NODE_URI_PREFIX}{node}");
        params.subject_alt_names = vec![SanType::URI(
            uri.as_str().try_into().map_err(IssueError::Sign)?,
        )];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial_to_bytes(serial)));
        set_validity(&mut params, not_before, not_after);
        params
            .signed_by(&public_key, &self.issuer)
            .map(|certificate| certificate.pem())
            .map_err(IssueError::Sign)
    }
}

/// The public key of a request, if the sender has the private one.
fn public_key_of(pem: &str) -> Result<rcgen::SubjectPublicKeyInfo, IssueError> {
    if pem.len() > MAXIMUM_REQUEST_BYTES {
        return Err(IssueError::Malformed);
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| IssueError::Malformed)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| IssueError::Malformed)?;
    if !rest.is_empty() {
        return Err(IssueError::Malformed);
    }
    // The key is read for itself: its kind must not be guessed from the kind of the signature.
    let key =
        rcgen::SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
            .map_err(|_| IssueError::UnsupportedKey)?;
    let supported = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    if !supported.contains(&rcgen::PublicKeyData::algorithm(&key)) {
        return Err(IssueError::UnsupportedKey);
    }
    request
        .verify_signature()
        .map_err(|_| IssueError::BadSignature)?;
    Ok(key)
}

fn new_authority(now: Timestamp) -> Result<String, AuthorityError> {
    let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "supernode authority");
    // It signs servers and nodes, never another authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(
        &mut params,
        Timestamp(now.0.saturating_sub(micros(BACKDATE))),
        now.plus(LIFETIME),
    );
    let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// The certificate's own lines of a PEM text.
fn certificate_lines(pem: &str) -> Option<String> {
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let start = pem.find(begin)?;
    let length = pem[start..].find(end)? + end.len();
    Some(format!("{}\n", &pem[start..start + length]))
}

/// The file's text if it exists, refused if others may read it.
fn read_private(path: &Path) -> Result<Option<String>, AuthorityError> {
    let failed = |source| AuthorityError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(AuthorityError::Exposed(path.to_owned()));
    }
    io::read_to_string(file).map(Some).map_err(failed)
}

/// Makes `path` appear with all of `text`, unless it exists already.
fn publish_once(path: &Path, text: &str) -> Result<(), AuthorityError> {
    let beside = write_beside(path, text, 0o600)?;
    let linked = fs::hard_link(&beside, path);
    let failed = |source| AuthorityError::File {
        action: "create",
        path: path.to_owned(),
        source,
    };
    fs::remove_file(&beside).map_err(failed)?;
    match linked {
        Ok(()) => sync_directory(path),
        // Another server was faster; its authority is used.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Replaces `path` by all of `text`.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let beside = write_beside(path, text, mode)?;
    fs::rename(&beside, path).map_err(|source| AuthorityError::File {
        action: "replace",
        path: path.to_owned(),
        source,
    })?;
    sync_directory(path)
}

static FILES_WRITTEN: AtomicU64 = AtomicU64::new(0);

/// A new file in the same directory with all of `text` on disk. What an interrupted process of the same id left is removed.
fn write_beside(path: &Path, text: &str, mode: u32) -> Result<PathBuf, AuthorityError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(
        ".{}-{}.new",
        std::process::id(),
        FILES_WRITTEN.fetch_add(1, Ordering::Relaxed)
    ));
    let beside = PathBuf::from(name);
    let failed = |source| AuthorityError::File {
        action: "write",
        path: beside.clone(),
        source,
    };
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    Ok(beside)
}

fn sync_directory(path: &Path) -> Result<(), AuthorityError> {
    let directory = path
        .parent()
        .expect("every file here is in the authority's directory");
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| AuthorityError::File {
            action: "sync",
            path: directory.to_owned(),
            source,
        })
}
