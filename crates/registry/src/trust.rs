//! How a registry's host is known: by the machine's authorities, by others that an operator names, or not at all; and what
//! it is shown of us. Makes clients, sends nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;

/// What is said of one host. PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Its certificate is taken as it is.
    pub insecure: bool,
    /// Authorities that its certificate may come from, beside the machine's.
    pub authorities: Vec<PathBuf>,
    /// Certificates and their private keys that it may see; the first is shown.
    pub identities: Vec<(PathBuf, PathBuf)>,
}

/// A client that trusts so.
pub(crate) fn http(trust: &Trust) -> Result<reqwest::Client, Error> {
    let failed = |reason: String| Error::Unreachable { url: "the network".to_owned(), reason };
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(|e| failed(e.to_string()))?;
    let config = if trust.insecure {
        config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        config.with_root_certificates(roots(&trust.authorities)?)
    };
    let config = match trust.identities.first() {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, &e))?;
            config.with_client_auth_cert(chain, private).map_err(|e| unreadable(certificate, &e))?
        }
    };
    let made = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .connect_timeout(Duration::from_secs(15))
        // Servers that treat BuildKit in some way of their own are to treat this in the same way.
        .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION"), " buildkit/v0.30"))
        .build();
    made.map_err(|e| failed(e.to_string()))
}

fn unreadable(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(path, &e))?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|e| unreadable(path, &e))?;
    if all.is_empty() { Err(unreadable(path, &"it has no certificate")) } else { Ok(all) }
}

/// Certificates that this machine trusts, and those in `more`.
fn roots(more: &[PathBuf]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let files = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    if let Some(file) = files.iter().find(|f| Path::new(f).exists())
        && let Ok(certificates) = CertificateDer::pem_file_iter(file)
    {
        for certificate in certificates.flatten() {
            // One that rustls does not take is one that we do not trust.
            let _ = roots.add(certificate);
        }
    }
    for path in more {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| unreadable(path, &e))?;
        }
    }
    Ok(roots)
}

/// Believes every certificate: only where an operator has said so of that host.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
