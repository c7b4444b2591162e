//! TLS towards `PostgreSQL`: always with a verified certificate, from the host's own authorities or from one file.

use std::path::{Path, PathBuf};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Whether and how a connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Not at all: a socket, loopback, or the administrator said so.
    Off,
    /// TLS; the server's certificate and name are verified.
    Verified {
        /// PEM file with the authorities to trust; the host's own when absent.
        root_certificates: Option<PathBuf>,
    },
}

/// The connector that trusts the authorities in `root_certificates`, or the host's own. The error is a sentence fragment.
pub(crate) fn connector(root_certificates: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    if let Some(path) = root_certificates {
        return Ok(MakeRustlsConnect::new(config_trusting(path)?));
    }
    // The helper below asks for the process-wide provider; when one is installed already, that one is right.
    let _ = aws_lc_rs::default_provider().install_default();
    let (connector, _) = MakeRustlsConnect::with_native_certs().map_err(|_| {
        "this host has no certificate authorities: install the package ca-certificates, or name a file with \
         sslrootcert=PATH"
            .to_owned()
    })?;
    Ok(connector)
}

fn config_trusting(path: &Path) -> Result<ClientConfig, String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("sslrootcert {} cannot be used: {error}", path.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        roots
            .add(certificate.map_err(|error| unreadable(&error))?)
            .map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"it has no certificate"));
    }
    Ok(
        ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| unreadable(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}
