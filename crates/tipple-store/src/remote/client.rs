//! The clients of the clouds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::header::HeaderName;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, Checksum};
use object_store::client::{HttpClient, HttpRequestBody, HttpService};
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::{CredentialProvider, ObjectStore, RetryConfig};

use super::answer::{Failure, SEEN, Seen};
use super::credentials::{self, Credentials};
use super::web::web;
use super::wire::Wire;
use crate::url::{BucketPlace, Cloud};
use crate::{Operation, StoreError, StoreErrorKind, StoreOptions};

/// The region where none is given, as every tool has it.
const REGION: &str = "us-east-1";

/// What a store needs of a cloud.
pub(super) trait Backend: ObjectStore + MultipartStore + PaginatedListStore {}

impl<T: ObjectStore + MultipartStore + PaginatedListStore> Backend for T {}

/// A cloud, and the requests to it that `object_store` does not know.
pub(super) struct Client {
    pub(super) backend: Arc<dyn Backend>,
    /// Of S3 only.
    pub(super) s3: Option<S3>,
    /// Set once the server is known to honour it: a finished upload then refuses a name that is taken.
    pub(super) complete_if_absent: Arc<AtomicBool>,
    /// For messages: where the bucket was looked for.
    pub(super) whereabouts: String,
}

/// How payloads are protected on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protection {
    pub(super) signed: bool,
    pub(super) checksum: bool,
}

impl Client {
    /// Makes the client; nothing is sent yet.
    pub(super) fn new(
        place: &BucketPlace,
        options: &StoreOptions,
        store: &str,
        checksum: bool,
    ) -> Result<Self, StoreError> {
        let web = web(options, store)?;
        let complete_if_absent = Arc::new(AtomicBool::new(false));
        let wire = |credentials: Option<Arc<Credentials>>| Wire {
            web: HttpClient::new(web.clone()),
            credentials,
            complete_if_absent: Arc::clone(&complete_if_absent),
        };
        match place.cloud {
            Cloud::S3 => {
                let credentials = Arc::new(Credentials::of(options, store, &web)?);
                let wire = wire(Some(Arc::clone(&credentials)));
                let s3 = S3::new(place, options, store, credentials, wire.clone(), checksum)?;
                Ok(Self {
                    backend: s3.backend(options, wire, store)?,
                    whereabouts: format!("region {} at {}", s3.region, s3.endpoint),
                    s3: Some(s3),
                    complete_if_absent,
                })
            }
            Cloud::Gcp => Ok(Self {
                backend: gcp(place, options, wire(None), store)?,
                whereabouts: "Google Cloud Storage".to_owned(),
                s3: None,
                complete_if_absent,
            }),
            Cloud::Azure => Ok(Self {
                backend: azure(place, options, wire(None), store)?,
                whereabouts: "Azure Blob Storage".to_owned(),
                s3: None,
                complete_if_absent,
            }),
        }
    }
}

/// `object_store` repeats nothing: see [`super::retry`].
fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

fn unusable(store: &str, error: &object_store::Error) -> StoreError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let reason = super::answer::one_line(&cause.to_string(), 200);
    StoreError::new(StoreErrorKind::Invalid, Operation::Open, store, reason)
        .with_next_step("check the variables of this cloud: tipple --help names them")
}

#[cfg(feature = "gcp")]
fn gcp(
    place: &BucketPlace,
    options: &StoreOptions,
    wire: Wire,
    store: &str,
) -> Result<Arc<dyn Backend>, StoreError> {
    let mut builder = object_store::gcp::GoogleCloudStorageBuilder::new();
    for (name, value) in options.variables() {
        if name.starts_with("GOOGLE_")
            && let Ok(key) = name.to_ascii_lowercase().parse()
        {
            builder = builder.with_config(key, value);
        }
    }
    let built = builder
        .with_bucket_name(&place.bucket)
        .with_retry(no_retries())
        .with_http_connector(wire)
        .build();
    Ok(Arc::new(built.map_err(|error| unusable(store, &error))?))
}

#[cfg(feature = "azure")]
fn azure(
    place: &BucketPlace,
    options: &StoreOptions,
    wire: Wire,
    store: &str,
) -> Result<Arc<dyn Backend>, StoreError> {
    let mut builder = object_store::azure::MicrosoftAzureBuilder::new();
    for (name, value) in options.variables() {
        if name.starts_with("AZURE_")
            && let Ok(key) = name.to_ascii_lowercase().parse()
        {
            builder = builder.with_config(key, value);
        }
    }
    let built = builder
        .with_container_name(&place.bucket)
        .with_retry(no_retries())
        .with_http_connector(wire)
        .build();
    Ok(Arc::new(built.map_err(|error| unusable(store, &error))?))
}

#[cfg(not(all(feature = "gcp", feature = "azure")))]
fn not_built(store: &str, feature: &str) -> StoreError {
    StoreError::new(
        StoreErrorKind::Unsupported,
        Operation::Open,
        store,
        "this program was built without stores of this cloud",
    )
    .with_next_step(format!(
        "build it with the feature {feature} of tipple-store"
    ))
}

#[cfg(not(feature = "gcp"))]
fn gcp(
    _: &BucketPlace,
    _: &StoreOptions,
    _: Wire,
    store: &str,
) -> Result<Arc<dyn Backend>, StoreError> {
    Err(not_built(store, "gcp"))
}

#[cfg(not(feature = "azure"))]
fn azure(
    _: &BucketPlace,
    _: &StoreOptions,
    _: Wire,
    store: &str,
) -> Result<Arc<dyn Backend>, StoreError> {
    Err(not_built(store, "azure"))
}

/// An S3 bucket: where it is, and requests that are signed here.
pub(super) struct S3 {
    credentials: Arc<Credentials>,
    wire: Wire,
    region: String,
    /// For messages.
    endpoint: String,
    /// The URL of the bucket, without `/` at its end.
    bucket_url: String,
    bucket: String,
    anonymous: bool,
    pub(super) protection: Protection,
}

impl S3 {
    fn new(
        place: &BucketPlace,
        options: &StoreOptions,
        store: &str,
        credentials: Arc<Credentials>,
        wire: Wire,
        checksum: bool,
    ) -> Result<Self, StoreError> {
        let region = region(options);
        if region.is_empty()
            || !region
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            return Err(StoreError::new(
                StoreErrorKind::Invalid,
                Operation::Open,
                store,
                "the region is not one or more of a-z 0-9 -",
            )
            .with_next_step("set AWS_REGION, such as eu-central-1"));
        }
        let endpoint = endpoint(options, store)?;
        let flag = |name: &str| flag(options, store, name);
        let virtual_hosted = flag("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")?
            .or(flag("AWS_S3_FORCE_PATH_STYLE")?.map(|path_style| !path_style));
        let bucket = &place.bucket;
        let given = endpoint.is_some();
        let endpoint = endpoint.unwrap_or_else(|| {
            let top = match region.starts_with("cn-") {
                true => "amazonaws.com.cn",
                false => "amazonaws.com",
            };
            format!("https://s3.{region}.{top}")
        });
        // The certificate of `*.s3…` does not hold for a bucket with a dot; servers of one's own rarely have names for buckets.
        let virtual_hosted = virtual_hosted.unwrap_or(!given && !bucket.contains('.'));
        let bucket_url = match (virtual_hosted, endpoint.split_once("://")) {
            (true, Some((scheme, host))) => format!("{scheme}://{bucket}.{host}"),
            _ => format!("{endpoint}/{bucket}"),
        };
        let https = endpoint.starts_with("https://");
        Ok(Self {
            credentials,
            wire,
            region,
            bucket_url,
            bucket: bucket.clone(),
            anonymous: flag("AWS_SKIP_SIGNATURE")?.unwrap_or(false),
            // Never neither: TLS keeps bytes from others on the way, not from errors in memory and in servers.
            protection: Protection {
                signed: !https || !checksum,
                checksum,
            },
            endpoint,
        })
    }

    fn backend(
        &self,
        options: &StoreOptions,
        wire: Wire,
        store: &str,
    ) -> Result<Arc<dyn Backend>, StoreError> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_endpoint(&self.bucket_url)
            .with_virtual_hosted_style_request(true) // the endpoint has the bucket
            .with_allow_http(true)
            .with_credentials(Arc::clone(&self.credentials) as _)
            .with_skip_signature(self.anonymous)
            .with_unsigned_payload(!self.protection.signed)
            .with_disable_bulk_delete(true)
            .with_request_payer(options.variable("AWS_REQUEST_PAYER").is_some())
            .with_retry(no_retries())
            .with_http_connector(wire);
        if self.protection.checksum {
            builder = builder.with_checksum_algorithm(Checksum::CRC64NVME);
        }
        let built = builder.build();
        Ok(Arc::new(built.map_err(|error| unusable(store, &error))?))
    }

    /// Whether what it takes may have to be renewed, or cannot be.
    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Sends a request that is signed here. `key` is empty for the bucket itself. With `digest`, that SHA-256 is signed as the
    /// payload's, whatever the payload is.
    pub(super) async fn send(
        &self,
        method: http::Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, String)],
        payload: Bytes,
        digest: Option<[u8; 32]>,
    ) -> Result<Bytes, Failure> {
        let mut url = self.bucket_url.clone();
        if !key.is_empty() {
            url.push('/');
            encode_into(&mut url, key, true);
        }
        for (number, (name, value)) in query.iter().enumerate() {
            url.push(if number == 0 { '?' } else { '&' });
            encode_into(&mut url, name, false);
            url.push('=');
            encode_into(&mut url, value, false);
        }
        let nonsense =
            |error: &dyn fmt::Display| Failure::with_words(super::answer::Cause::Nonsense, error);
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(HeaderName::from_static(name), value);
        }
        let mut request = request
            .header(http::header::CONTENT_LENGTH, payload.len())
            .body(HttpRequestBody::from(payload))
            .map_err(|error| nonsense(&error))?;
        let failed = |error: &object_store::Error| Failure::of(error, Seen::default());
        if !self.anonymous {
            let credential = self
                .credentials
                .get_credential()
                .await
                .map_err(|error| failed(&error))?;
            AwsAuthorizer::new(&credential, "s3", &self.region)
                .with_sign_payload(self.protection.signed || digest.is_some())
                .try_authorize(&mut request, digest.as_ref().map(|digest| &digest[..]))
                .map_err(|error| failed(&error))?;
        }
        let seen = || SEEN.with(|seen| seen.borrow().clone());
        let Ok(answer) = self.wire.call(request).await else {
            return Err(Failure::of_broken(seen()));
        };
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            return Err(Failure::of_status(seen()));
        }
        // Collected by the wire already.
        body.bytes().await.map_err(|_| Failure::of_broken(seen()))
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }
}

/// The region: a variable, the profile's, or the usual one.
pub(super) fn region(options: &StoreOptions) -> String {
    options
        .variable("AWS_REGION")
        .or(options.variable("AWS_DEFAULT_REGION"))
        .map(str::to_owned)
        .or_else(|| credentials::profile_region(options))
        .unwrap_or_else(|| REGION.to_owned())
}

/// The server that is not AWS, if one is given, without `/` at its end.
fn endpoint(options: &StoreOptions, store: &str) -> Result<Option<String>, StoreError> {
    const NAMES: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let given = NAMES
        .iter()
        .find_map(|name| options.variable(name).map(|value| (*name, value)));
    let Some((name, value)) = given else {
        return Ok(None);
    };
    // Not repeated: it may hold a password.
    let refused = |reason: &str, next: &'static str| {
        let reason = format!("{name} {reason}");
        Err(
            StoreError::new(StoreErrorKind::Invalid, Operation::Open, store, reason)
                .with_next_step(next),
        )
    };
    let url = value.trim_end_matches('/');
    let rest = match url.split_once("://") {
        Some(("https" | "http", rest)) => rest,
        _ => {
            return refused(
                "is no http:// or https:// URL",
                "give it like https://s3.example.com",
            );
        }
    };
    if rest.is_empty() || rest.contains(['@', '?', '#', ' ']) || url.parse::<http::Uri>().is_err() {
        return refused(
            "is no URL of a host alone",
            "give it like https://s3.example.com, with credentials in their own variables",
        );
    }
    if url.starts_with("http://") && flag(options, store, "AWS_ALLOW_HTTP")? == Some(false) {
        return refused(
            "is not encrypted, and AWS_ALLOW_HTTP forbids that",
            "give https://…",
        );
    }
    Ok(Some(url.to_owned()))
}

fn flag(options: &StoreOptions, store: &str, name: &str) -> Result<Option<bool>, StoreError> {
    match options
        .variable(name)
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        None => Ok(None),
        Some("1" | "true" | "yes" | "on") => Ok(Some(true)),
        Some("0" | "false" | "no" | "off") => Ok(Some(false)),
        Some(_) => Err(StoreError::new(
            StoreErrorKind::Invalid,
            Operation::Open,
            store,
            format!("{name} is neither true nor false"),
        )
        .with_next_step("set it to true or false")),
    }
}

/// Escapes all but what every server takes as it is, as the signature wants it.
fn encode_into(url: &mut String, text: &str, slashes_stay: bool) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                url.push(byte.into())
            }
            b'/' if slashes_stay => url.push('/'),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(options: &StoreOptions, bucket: &str) -> Result<S3, StoreError> {
        let place = BucketPlace {
            cloud: Cloud::S3,
            bucket: bucket.to_owned(),
            prefix: String::new(),
        };
        Client::new(&place, options, "s3://b", true).map(|client| client.s3.unwrap())
    }

    fn options<const N: usize>(variables: [(&str, &str); N]) -> StoreOptions {
        StoreOptions::default().with_variables(variables)
    }

    #[test]
    fn a_bucket_is_looked_for_where_the_variables_say() {
        for (variables, name, url, signed) in [
            (
                options([]),
                "b",
                "https://b.s3.us-east-1.amazonaws.com",
                false,
            ),
            (
                options([("AWS_REGION", "cn-north-1")]),
                "a.b",
                "https://s3.cn-north-1.amazonaws.com.cn/a.b",
                false,
            ),
            (
                options([("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")]),
                "b",
                "http://127.0.0.1:1/b",
                true,
            ),
            (
                options([
                    ("AWS_ENDPOINT_URL", "http://no"),
                    ("AWS_ENDPOINT_URL_S3", "https://s3.example.com:9000"),
                    ("AWS_S3_FORCE_PATH_STYLE", "false"),
                ]),
                "b",
                "https://b.s3.example.com:9000",
                false,
            ),
        ] {
            let s3 = bucket(&variables, name).unwrap();
            assert_eq!(s3.bucket_url, url);
            assert_eq!(
                s3.protection,
                Protection {
                    signed,
                    checksum: true
                }
            );
        }
    }

    #[test]
    fn never_neither_signature_nor_checksum() {
        let place: crate::StoreUrl = "s3://b".parse().unwrap();
        let crate::url::Place::Bucket(place) = place.place() else {
            unreachable!("it is a bucket");
        };
        for endpoint in ["http://h", "https://h"] {
            for checksum in [true, false] {
                let options = options([("AWS_ENDPOINT_URL", endpoint)]);
                let client = Client::new(place, &options, "s3://b", checksum).unwrap();
                let protection = client.s3.unwrap().protection;
                assert!(protection.signed || protection.checksum);
                assert_eq!(protection.checksum, checksum);
            }
        }
    }

    #[test]
    fn variables_that_make_no_sense_are_refused() {
        let refusal = |name: &str, value: &str| {
            let error = bucket(&options([(name, value)]), "b").err().unwrap();
            assert_eq!(error.kind(), StoreErrorKind::Invalid);
            let text = error.to_string();
            assert!(!text.contains("hunter2"), "{text}");
            text
        };
        insta::assert_snapshot!(refusal("AWS_ENDPOINT_URL", "s3.example.com"), @"cannot open s3://b: AWS_ENDPOINT_URL is no http:// or https:// URL; give it like https://s3.example.com");
        insta::assert_snapshot!(refusal("AWS_ENDPOINT", "https://id:hunter2@h"), @"cannot open s3://b: AWS_ENDPOINT is no URL of a host alone; give it like https://s3.example.com, with credentials in their own variables");
        insta::assert_snapshot!(refusal("AWS_SKIP_SIGNATURE", "maybe"), @"cannot open s3://b: AWS_SKIP_SIGNATURE is neither true nor false; set it to true or false");
        insta::assert_snapshot!(refusal("AWS_CA_BUNDLE", "/nowhere/ca.pem"), @"cannot open s3://b: the certificates in /nowhere/ca.pem, which AWS_CA_BUNDLE names, cannot be used: I/O error: No such file or directory (os error 2); name a PEM file of certificates");
        insta::assert_snapshot!(refusal("HTTPS_PROXY", "http://[hunter2"), @"cannot open s3://b: HTTPS_PROXY is no URL of a proxy; give it like http://proxy:3128");
        let both = options([
            ("AWS_ENDPOINT_URL", "http://h"),
            ("AWS_ALLOW_HTTP", "false"),
        ]);
        insta::assert_snapshot!(bucket(&both, "b").err().unwrap(), @"cannot open s3://b: AWS_ENDPOINT_URL is not encrypted, and AWS_ALLOW_HTTP forbids that; give https://…");
    }

    #[test]
    fn keys_are_escaped_as_the_signature_wants_it() {
        let mut url = String::new();
        encode_into(&mut url, "a/b=c+d:e@f,g", true);
        assert_eq!(url, "a/b%3Dc%2Bd%3Ae%40f%2Cg");
    }
}
