//! TLS to a server: the system's certificates, a file of them, or none.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::connection::ConnectionError;
use crate::options::TlsOptions;
use crate::url::Server;

/// The client side of a TLS session that has not begun.
pub(crate) fn client(
    server: &Server,
    options: &TlsOptions,
) -> Result<ClientConnection, ConnectionError> {
    let failed = |reason: String| ConnectionError::Tls {
        server: server.clone(),
        reason,
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    let config = if options.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth()
    } else {
        builder
            .with_root_certificates(roots(options).map_err(failed)?)
            .with_no_client_auth()
    };
    let name = match (&options.server_name, server) {
        (Some(name), _) => name.clone(),
        (None, Server::Tcp { host, .. }) => host.clone(),
        (None, Server::Unix(_)) => "localhost".to_owned(),
    };
    let name = ServerName::try_from(name.clone())
        .map_err(|_| failed(format!("{name:?} is no name that a certificate could have")))?;
    ClientConnection::new(Arc::new(config), name).map_err(|error| failed(error.to_string()))
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
pub(crate) fn explain(error: &rustls::Error) -> String {
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
