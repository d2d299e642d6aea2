//! TLS to live systems: the system's certificates, a file of them, or none; and a socket that speaks it or not. It is the
//! only one that knows TLS to anything but a store, and never knows what is said over it.
//!
//! ```
//! use tipple_tls::TlsOptions;
//!
//! let options = TlsOptions {
//!     insecure: true,
//!     ..TlsOptions::default()
//! };
//! assert!(tipple_tls::client("localhost", &options).is_ok());
//! assert!(tipple_tls::client("no name", &options).is_err());
//! ```

mod socket;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

pub use rustls::{ClientConnection, Error};
pub use socket::Socket;

/// How to speak TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// A PEM file of certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Believe any certificate: encrypted, but with whom is not known.
    pub insecure: bool,
    /// The name that the certificate must have, if it is not the host of the URL.
    pub server_name: Option<String>,
}

/// The client side of a TLS session with `host` that has not begun.
///
/// # Errors
/// Why there can be none: the certificates to trust cannot be read, or the name is none.
pub fn client(host: &str, options: &TlsOptions) -> Result<ClientConnection, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = if options.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth()
    } else {
        builder
            .with_root_certificates(roots(options)?)
            .with_no_client_auth()
    };
    let name = options.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| format!("{name:?} is no name that a certificate could have"))?;
    ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = &options.ca_file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(
                "this system has no trusted certificates: give a file of them with --tls-ca"
                    .to_owned(),
            );
        }
        return Ok(roots);
    };
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("the CA file {} cannot be used: {error}", file.display())
    };
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"it holds no certificate"));
    }
    Ok(roots)
}

/// A TLS error with what to do about it.
pub fn explain(error: &Error) -> String {
    match error {
        rustls::Error::InvalidMessage(_) => {
            format!("{error}: it does not seem to speak TLS here")
        }
        rustls::Error::InvalidCertificate(_) => {
            format!(
                "{error}: give the CA file that signed it with --tls-ca, or the name in it with --tls-name"
            )
        }
        _ => error.to_string(),
    }
}

/// Believes any certificate, but not any signature: the session is still with whoever holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
