//! The certificate authority: what it keeps on disk, what it signs, and what it refuses to sign.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use supernode_http::{Authority, AuthorityError, IdentityError, IssueError, node_identity};
use supernode_types::entropy::SeededEntropy;
use supernode_types::{CertificateSerial, NodeId, Timestamp};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const DAY: Duration = Duration::from_hours(24);

fn authority() -> (tempfile::TempDir, Authority) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::load_or_create(directory.path(), NOW).expect("a new authority");
    (directory, authority)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
}

#[test]
fn an_authority_is_made_once_and_kept_private() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let inside = directory.path().join("state/authority");
    let first = Authority::load_or_create(&inside, NOW).expect("a new authority");
    let second = Authority::load_or_create(&inside, NOW.plus(DAY)).expect("the same authority");
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_eq!(
        (mode(&inside), mode(&inside.join("authority.pem"))),
        (0o700, 0o600)
    );
    let mut files: Vec<_> = fs::read_dir(&inside)
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["authority.pem", "ca.pem"]);
    let public = fs::read_to_string(inside.join("ca.pem")).expect("readable");
    assert_eq!(public, first.certificate_pem());
    assert!(
        public.starts_with("-----BEGIN CERTIFICATE-----") && !public.contains("PRIVATE"),
        "{public}"
    );
}

#[test]
fn servers_that_start_at_once_have_one_authority() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let fingerprints: Vec<String> = std::thread::scope(|scope| {
        let start = || {
            Authority::load_or_create(directory.path(), NOW)
                .expect("an authority")
                .fingerprint()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert!(
        fingerprints.iter().all(|one| *one == fingerprints[0]),
        "{fingerprints:?}"
    );
}

#[test]
fn a_state_that_is_not_whole_is_never_used() {
    let (directory, first) = authority();
    let path = directory.path().join("authority.pem");
    let whole = fs::read_to_string(&path).expect("readable");
    let load = || Authority::load_or_create(directory.path(), NOW);
    for length in (0..whole.len()).step_by(97) {
        write_private(&path, &whole[..length]);
        let error = load().expect_err("a part of the file");
        assert!(
            matches!(error, AuthorityError::Damaged { .. }),
            "{length}: {error}"
        );
        assert_eq!(
            fs::read_to_string(&path).expect("readable").len(),
            length,
            "it is left as it is, for people to look at"
        );
    }
    let (other, _) = authority();
    let strange = fs::read_to_string(other.path().join("authority.pem")).expect("readable");
    let key = strange
        .find("-----BEGIN PRIVATE KEY-----")
        .expect("there is one");
    write_private(
        &path,
        &format!("{}{}", first.certificate_pem(), &strange[key..]),
    );
    assert!(
        load()
            .expect_err("another key")
            .to_string()
            .contains("do not belong together")
    );

    write_private(&path, &whole);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
    assert!(matches!(
        load().expect_err("others can read it"),
        AuthorityError::Exposed(_)
    ));
    write_private(&path, &whole);
    // What a server that was killed while writing left behind.
    write_private(
        &directory.path().join("authority.pem.1-0.new"),
        &whole[..100],
    );
    assert_eq!(
        load().expect("whole again").fingerprint(),
        first.fingerprint()
    );
    let error = Authority::load_or_create(directory.path(), NOW.plus(DAY * 3651))
        .expect_err("ten years later");
    assert!(matches!(error, AuthorityError::Expired { .. }), "{error}");
}

#[test]
fn the_authority_may_sign_only_what_it_should() {
    let (_directory, authority) = authority();
    let (_, certificate) =
        X509Certificate::from_der(authority.certificate_der()).expect("a certificate");
    let constraints = certificate
        .basic_constraints()
        .expect("readable")
        .expect("there are some");
    assert!(
        constraints.critical
            && constraints.value.ca
            && constraints.value.path_len_constraint == Some(0)
    );
    let usage = certificate
        .key_usage()
        .expect("readable")
        .expect("there is one")
        .value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());
    let years =
        (certificate.validity().not_after.timestamp() - NOW.0 / 1_000_000) / (365 * 24 * 3600);
    assert_eq!(years, 10);
}

#[test]
fn the_server_certificate_follows_its_names_and_its_time() {
    let (directory, authority) = authority();
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let at = |list: &[&str], now| {
        authority
            .server_certificate(&names(list), now)
            .expect("a certificate")
    };
    let first = at(&["localhost", "10.0.0.1", "::1"], NOW);
    assert_eq!(mode(&directory.path().join("server.pem")), 0o600);
    assert_eq!(
        at(
            &["::1", "LOCALHOST", "10.0.0.1", "10.0.0.1"],
            NOW.plus(DAY * 59)
        ),
        first,
        "order, case and repetition do not matter"
    );
    let renewed = at(&["localhost", "10.0.0.1", "::1"], NOW.plus(DAY * 61));
    assert!(renewed.not_after() > first.not_after());
    let renamed = at(&["localhost"], NOW.plus(DAY * 61));
    assert_ne!(renamed, renewed);
    write_private(&directory.path().join("server.pem"), "half a certif");
    let repaired = at(&["localhost"], NOW.plus(DAY * 61));
    assert_ne!(repaired, renamed);
    // A certificate of another authority is not kept, whatever its names.
    fs::remove_file(directory.path().join("authority.pem")).expect("it was there");
    let other = Authority::load_or_create(directory.path(), NOW).expect("another authority");
    assert_ne!(
        other
            .server_certificate(&names(&["localhost"]), NOW.plus(DAY * 61))
            .expect("a certificate"),
        repaired
    );

    assert!(matches!(
        authority.server_certificate(&[], NOW),
        Err(AuthorityError::NoHostName)
    ));
    let error = authority
        .server_certificate(&names(&["https://x"]), NOW)
        .expect_err("not a name");
    assert_eq!(
        error.to_string(),
        "`https://x` is not a host name or an IP address"
    );
}

struct Ids {
    node: NodeId,
    serial: CertificateSerial,
}

fn ids(seed: u64) -> Ids {
    let entropy = SeededEntropy::new(seed);
    Ids {
        node: NodeId::new(NOW, &entropy),
        serial: CertificateSerial::new(NOW, &entropy),
    }
}

fn issue(authority: &Authority, request: &str, ids: &Ids) -> Result<String, IssueError> {
    authority.issue_node_certificate(request, &ids.node, &ids.serial, NOW, NOW.plus(DAY))
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .expect("a certificate")
        .to_vec()
}

#[test]
fn names_and_powers_in_a_request_are_ignored() {
    let (_directory, authority) = authority();
    let (own, other) = (ids(1), ids(2));
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, other.node.as_str());
    params.subject_alt_names = vec![
        SanType::URI(
            format!("supernode:node:{}", other.node)
                .as_str()
                .try_into()
                .expect("ASCII"),
        ),
        SanType::DnsName("localhost".try_into().expect("ASCII")),
    ];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::Any,
    ];
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    let request = params
        .serialize_request(&key)
        .expect("a request")
        .pem()
        .expect("PEM");
    let der = der(&issue(&authority, &request, &own).expect("a certificate"));

    let identity = node_identity(&der).expect("a node's certificate");
    assert_eq!(
        (identity.node, identity.serial, identity.not_after),
        (own.node.clone(), own.serial, NOW.plus(DAY))
    );
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    assert_eq!(
        certificate.subject().to_string(),
        format!("CN={}", own.node)
    );
    let names = &certificate
        .subject_alternative_name()
        .expect("readable")
        .expect("there are some")
        .value
        .general_names;
    assert_eq!(
        names[..],
        [GeneralName::URI(&format!("supernode:node:{}", own.node))]
    );
    assert!(!certificate.is_ca());
    let usage = certificate
        .extended_key_usage()
        .expect("readable")
        .expect("there is one")
        .value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let usage = certificate
        .key_usage()
        .expect("readable")
        .expect("there is one")
        .value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    assert_eq!(
        certificate.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
    assert!(
        !certificate
            .extensions()
            .iter()
            .any(|extension| extension.oid.to_id_string() == "1.2.3.4")
    );
    let (_, issuer) =
        X509Certificate::from_der(authority.certificate_der()).expect("a certificate");
    certificate
        .verify_signature(Some(issuer.public_key()))
        .expect("signed by the authority");
}

fn plain_request(key: &KeyPair) -> rcgen::CertificateSigningRequest {
    CertificateParams::default()
        .serialize_request(key)
        .expect("a request")
}

#[test]
fn a_request_without_its_private_key_is_refused() {
    let (_directory, authority) = authority();
    let (own, victim) = (
        KeyPair::generate().expect("a key"),
        KeyPair::generate().expect("a key"),
    );
    // Somebody else's public key under our signature.
    let mut der = plain_request(&own).der().to_vec();
    let position = der
        .windows(own.public_key_raw().len())
        .position(|window| window == own.public_key_raw())
        .expect("it is in there");
    der[position..position + victim.public_key_raw().len()]
        .copy_from_slice(victim.public_key_raw());
    assert!(matches!(
        issue(&authority, &pem(&der), &ids(1)),
        Err(IssueError::BadSignature)
    ));
    // A broken signature.
    let mut der = plain_request(&own).der().to_vec();
    *der.last_mut().expect("not empty") ^= 1;
    let refused = issue(&authority, &pem(&der), &ids(1));
    assert!(
        matches!(
            refused,
            Err(IssueError::BadSignature | IssueError::Malformed)
        ),
        "{refused:?}"
    );
    // Anything after the request.
    let mut der = plain_request(&own).der().to_vec();
    der.push(0);
    assert!(matches!(
        issue(&authority, &pem(&der), &ids(1)),
        Err(IssueError::Malformed)
    ));
}

/// DER as the PEM of a certificate request.
fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::new();
    for chunk in der.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            body.push(if digit <= chunk.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn only_some_keys_and_lengths_are_signed() {
    let (_directory, authority) = authority();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let request = plain_request(&KeyPair::generate_for(algorithm).expect("a key"))
            .pem()
            .expect("PEM");
        node_identity(&der(
            &issue(&authority, &request, &ids(1)).expect("a certificate")
        ))
        .expect("a node's");
    }
    let weak = plain_request(&KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key"))
        .pem()
        .expect("PEM");
    assert!(matches!(
        issue(&authority, &weak, &ids(1)),
        Err(IssueError::UnsupportedKey)
    ));
    let request = plain_request(&KeyPair::generate().expect("a key"))
        .pem()
        .expect("PEM");
    for text in [
        "",
        "nonsense",
        authority.certificate_pem(),
        &format!("{request}{}", " ".repeat(20_000)),
    ] {
        assert!(matches!(
            issue(&authority, text, &ids(1)),
            Err(IssueError::Malformed)
        ));
    }
    let Ids { node, serial } = ids(1);
    let too_long =
        authority.issue_node_certificate(&request, &node, &serial, NOW, NOW.plus(DAY * 4000));
    assert!(
        matches!(too_long, Err(IssueError::OutlivesAuthority(end)) if end == authority.not_after())
    );
}

fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(
        format!("supernode:node:{}", ids(1).node)
            .as_str()
            .try_into()
            .expect("ASCII"),
    )];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[1; 16]));
    change(&mut params);
    params
        .self_signed(&KeyPair::generate().expect("a key"))
        .expect("a certificate")
        .der()
        .to_vec()
}

#[test]
fn only_a_node_certificate_identifies_a_node() {
    node_identity(&self_signed(|_| {})).expect("as ours");
    let (_directory, authority) = authority();
    let why = |der: &[u8]| match node_identity(der) {
        Err(IdentityError::NotANode(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(authority.certificate_der()), "it is an authority's");
    assert_eq!(
        why(&self_signed(
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
        )),
        "it is not for clients"
    );
    assert_eq!(
        why(&self_signed(|params| params.subject_alt_names.clear())),
        "it does not have exactly one name"
    );
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let second = format!("supernode:node:{}", ids(2).node);
    assert_eq!(
        why(&self_signed(|params| params
            .subject_alt_names
            .push(uri(&second)))),
        "it does not have exactly one name"
    );
    let named = |name: SanType| self_signed(|params| params.subject_alt_names = vec![name]);
    assert_eq!(
        why(&named(SanType::DnsName(
            "localhost".try_into().expect("ASCII")
        ))),
        "it does not have exactly one name"
    );
    assert_eq!(
        why(&named(uri("supernode:server:x"))),
        "its name is not a node's"
    );
    assert_eq!(
        why(&named(uri("supernode:node:../../etc"))),
        "its node id is malformed"
    );
    assert_eq!(
        why(&self_signed(
            |params| params.serial_number = Some(rcgen::SerialNumber::from_slice(&[1; 17]))
        )),
        "its serial number is not one of ours"
    );
    assert_eq!(node_identity(b"nonsense"), Err(IdentityError::Malformed));
    let mut trailing = self_signed(|_| {});
    trailing.push(0);
    assert_eq!(node_identity(&trailing), Err(IdentityError::Malformed));
}
