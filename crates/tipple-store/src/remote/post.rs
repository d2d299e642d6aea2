//! `POST`, for services beside a store. Public as [`crate::http`].

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use object_store::CredentialProvider;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpClient, HttpErrorKind, HttpRequestBody};

use super::answer::{Cause, Failure, Seen};
use super::client::region;
use super::credentials::Credentials;
use super::engine::Engine;
use super::web::web;
use crate::{StoreError, StoreOptions};

/// Sends requests. Made once for many: it keeps connections, credentials and two threads.
pub struct Poster {
    engine: Engine,
    web: HttpClient,
    credentials: Arc<Credentials>,
    region: String,
}

/// One request.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// `http://` or `https://`; credentials do not belong into it.
    pub url: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The AWS service for which it is signed, such as `sqs`, with the credentials of the store's
    /// options. Default: none, and it is not signed.
    pub aws_service: Option<String>,
    /// The region for which it is signed. Default: that of the store's options.
    pub aws_region: Option<String>,
    /// How long it may take in all. Default: 30 s.
    pub time_max: Duration,
    /// The longest answer that is taken. Default: 1 MiB.
    pub answer_bytes_max: usize,
}

impl Request {
    /// A request that is not signed, with the default bounds.
    pub fn new(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            body: body.into(),
            aws_service: None,
            aws_region: None,
            time_max: Duration::from_secs(30),
            answer_bytes_max: 1 << 20,
        }
    }
}

impl fmt::Debug for Request {
    /// Neither URL, headers nor body: webhooks have secrets in all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("body_bytes", &self.body.len())
            .field("aws_service", &self.aws_service)
            .finish_non_exhaustive()
    }
}

/// What came back, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status. Redirects are not followed.
    pub status: u16,
    /// The seconds of `Retry-After`, if the server asked to be left alone.
    pub retry_after: Option<Duration>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why there is no answer. Its text holds no part of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostError {
    kind: PostErrorKind,
    reason: String,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PostErrorKind {
    /// The URL or a header can never work.
    Invalid,
    /// No credentials to sign with.
    Denied,
    /// Nothing was sent. It may be tried again.
    Unreachable,
    /// The connection broke, or time was up: the request may have been taken.
    MayHaveBeenTaken,
    /// The answer is longer than allowed: the request was taken.
    TooLarge,
}

impl PostError {
    fn new(kind: PostErrorKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> PostErrorKind {
        self.kind
    }
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for PostError {}

impl Poster {
    /// Reads certificates; sends nothing.
    ///
    /// # Errors
    /// [`Invalid`](crate::StoreErrorKind::Invalid): a variable makes no sense.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        const WHO: &str = "a service";
        let engine = Engine::start()
            .map_err(|source| StoreError::from_io(crate::Operation::Open, WHO, source))?;
        let web = web(options, WHO)?;
        Ok(Self {
            engine,
            credentials: Arc::new(Credentials::of(options, WHO, &web)?),
            web: HttpClient::new(web),
            region: region(options),
        })
    }

    /// The region of the options that it was made with.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Sends `request` once, and waits for its answer. Any number of threads may do so at a time.
    ///
    /// # Errors
    /// [`PostError`], by kind. An answer with an error in it is an [`Answer`].
    pub fn post(&self, request: &Request) -> Result<Answer, PostError> {
        self.engine.block_on(async {
            match tokio::time::timeout(request.time_max, self.send(request)).await {
                Ok(answered) => answered,
                Err(_) => Err(PostError::new(
                    PostErrorKind::MayHaveBeenTaken,
                    format!("no answer within {:?}", request.time_max),
                )),
            }
        })
    }

    async fn send(&self, request: &Request) -> Result<Answer, PostError> {
        use PostErrorKind as K;
        let url = request.url.as_str();
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(PostError::new(
                K::Invalid,
                "the URL is neither http:// nor https://",
            ));
        }
        let mut builder = http::Request::post(url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let mut sent = builder
            .header(http::header::CONTENT_LENGTH, request.body.len())
            .body(HttpRequestBody::from(Bytes::copy_from_slice(&request.body)))
            .map_err(|_| PostError::new(K::Invalid, "the URL or a header is malformed"))?;
        if sent
            .uri()
            .authority()
            .is_none_or(|authority| authority.as_str().contains('@'))
        {
            return Err(PostError::new(
                K::Invalid,
                "the URL has no host, or credentials before it",
            ));
        }
        if let Some(service) = &request.aws_service {
            self.sign(&mut sent, service, request.aws_region.as_deref())
                .await?;
        }
        let answer = self.web.execute(sent).await.map_err(|error| {
            let kind = match error.kind() {
                HttpErrorKind::Connect => K::Unreachable,
                _ => K::MayHaveBeenTaken,
            };
            let mut seen = Seen::default();
            seen.broken(&error);
            PostError::new(kind, Failure::of_broken(seen).words())
        })?;
        let (parts, body) = answer.into_parts();
        let mut seen = Seen::default();
        seen.head(
            parts.status.as_u16(),
            &parts.headers,
            std::time::SystemTime::now(),
        );
        let collected = Limited::new(body, request.answer_bytes_max).collect().await;
        let body = collected.map_err(|error| {
            match error.downcast_ref::<http_body_util::LengthLimitError>() {
                Some(_) => PostError::new(
                    K::TooLarge,
                    format!(
                        "the answer is longer than {} bytes",
                        request.answer_bytes_max
                    ),
                ),
                None => PostError::new(K::MayHaveBeenTaken, "the answer broke off"),
            }
        })?;
        Ok(Answer {
            status: parts.status.as_u16(),
            retry_after: seen.retry_after,
            body: body.to_bytes().into(),
        })
    }

    async fn sign(
        &self,
        request: &mut object_store::client::HttpRequest,
        service: &str,
        region: Option<&str>,
    ) -> Result<(), PostError> {
        use PostErrorKind as K;
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let region = region.unwrap_or(&self.region);
        if !plain(service) || !plain(region) {
            return Err(PostError::new(
                K::Invalid,
                "the service or the region is malformed",
            ));
        }
        let credential = self.credentials.get_credential().await.map_err(|error| {
            let failure = Failure::of(&error, Seen::default());
            match failure.cause {
                Cause::NoCredentials => PostError::new(K::Denied, failure.words()),
                _ => PostError::new(K::Denied, "the credentials cannot be read"),
            }
        })?;
        AwsAuthorizer::new(&credential, service, region)
            .try_authorize(request, None)
            .map_err(|_| PostError::new(K::Invalid, "the request cannot be signed"))
    }

    /// Asks for new credentials before the next request: the service takes the last ones for
    /// expired.
    pub fn forget_credentials(&self) {
        self.credentials.forget();
    }
}
