//! What is between `object_store` and the wire.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use http::header::{HeaderValue, IF_NONE_MATCH};
use http_body_util::{BodyExt, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

use super::answer::{Cause, Failure, SEEN, Seen};
use super::credentials::Credentials;

/// Answers other than objects are never longer: a page of 1,000 names of 1,024 bytes, escaped.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What is between `object_store` and the wire: it notes each answer, and bounds what it holds of it.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) web: HttpClient,
    /// Forgotten when the server takes them for expired.
    pub(super) credentials: Option<Arc<Credentials>>,
    /// Whether a finished upload must not replace an object.
    pub(super) complete_if_absent: Arc<AtomicBool>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let is_post = request.method() == http::Method::POST;
        let is_complete = is_post && query.contains("uploadId=");
        // Lists are collected, objects are not. A query alone does not tell: Azure may sign in it.
        let is_object = request.method() == http::Method::GET
            && !["list-type=", "comp=list", "uploads", "uploadId="]
                .iter()
                .any(|list| query.contains(list));
        if is_complete && self.complete_if_absent.load(Ordering::Relaxed) {
            // No header that must be signed.
            request
                .headers_mut()
                .insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let answer = match self.web.execute(request).await {
            Ok(answer) => answer,
            Err(error) => return Err(noted(error)),
        };
        let (parts, body) = answer.into_parts();
        let status = parts.status;
        note(|seen| seen.head(status.as_u16(), &parts.headers, SystemTime::now()));
        if is_object && status.is_success() {
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let body = match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let error = match error.downcast::<HttpError>() {
                    Ok(error) => *error,
                    Err(other) => HttpError::new_boxed(HttpErrorKind::Decode, other),
                };
                return Err(noted(error));
            }
        };
        // A POST may be answered with 200 and an error.
        if !status.is_success() || (is_post && body.windows(7).take(200).any(|w| w == b"<Error>")) {
            note(|seen| seen.error_body(&body));
            let expired = SEEN
                .try_with(|seen| Failure::of_status(seen.borrow().clone()).cause)
                .is_ok_and(|cause| cause == Cause::Expired);
            if let (true, Some(credentials)) = (expired, &self.credentials) {
                credentials.forget();
            }
        }
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

fn noted(error: HttpError) -> HttpError {
    note(|seen| seen.broken(&error));
    error
}

/// Requests that nobody made through [`super::retry::ask`] are those for tokens of other clouds.
fn note(change: impl FnOnce(&mut Seen)) {
    let _ = SEEN.try_with(|seen| change(&mut seen.borrow_mut()));
}
