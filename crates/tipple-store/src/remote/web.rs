//! The HTTP client of this crate.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::{Operation, StoreError, StoreErrorKind, StoreOptions};

const AGENT: &str = concat!("tipple/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Servers close what is idle for longer, some without a word.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// The HTTP client: TLS by ring, the system's certificates or those of `AWS_CA_BUNDLE`, proxies as the variables say.
pub(super) fn web(options: &StoreOptions, store: &str) -> Result<reqwest::Client, StoreError> {
    let refused = |reason: String, next: &'static str| {
        StoreError::new(StoreErrorKind::Invalid, Operation::Open, store, reason)
            .with_next_step(next)
    };
    let roots = match options.variable("AWS_CA_BUNDLE") {
        None => system_roots().clone(),
        Some(file) => roots_of(file).map_err(|reason| {
            refused(
                format!("the certificates in {file}, which AWS_CA_BUNDLE names, cannot be used: {reason}"),
                "name a PEM file of certificates",
            )
        })?,
    };
    let tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string(), "report this"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    let mut builder = reqwest::Client::builder()
        .user_agent(AGENT)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIME)
        .pool_idle_timeout(IDLE_TIME)
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls)
        .no_proxy();
    let variable = |upper: &str, lower: &str| options.variable(upper).or(options.variable(lower));
    let except = variable("NO_PROXY", "no_proxy").and_then(reqwest::NoProxy::from_string);
    type Make = fn(String) -> reqwest::Result<reqwest::Proxy>;
    let proxies: [(&str, &str, Make); 2] = [
        ("HTTPS_PROXY", "https_proxy", |url| {
            reqwest::Proxy::https(url)
        }),
        ("HTTP_PROXY", "http_proxy", |url| reqwest::Proxy::http(url)),
    ];
    for (upper, lower, make) in proxies {
        if let Some(url) = variable(upper, lower) {
            let proxy = make(url.to_owned()).map_err(|_| {
                refused(
                    format!("{upper} is no URL of a proxy"),
                    "give it like http://proxy:3128",
                )
            })?;
            builder = builder.proxy(proxy.no_proxy(except.clone()));
        }
    }
    builder
        .build()
        .map_err(|error| refused(error.without_url().to_string(), "report this"))
}

/// Read once in a process: it takes tens of milliseconds.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        // With none, each TLS connection says so; a server of one's own may need none.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

fn roots_of(file: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("there is none".to_owned()),
        false => Ok(roots),
    }
}
