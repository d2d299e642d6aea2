//! Who we are to AWS: variables, profiles, single sign-on, a process, a container, the machine.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use reqsign_aws_core::{Credential, DefaultCredentialProvider};
use reqsign_core::{
    CommandExecute, CommandOutput, Context, FileRead, HttpSend, ProvideCredential, StaticEnv,
};

use crate::{Operation, StoreError, StoreErrorKind, StoreOptions};

/// With what the error of missing credentials begins, on its way through `object_store`.
pub(super) const NONE: &str = "no credentials: ";

/// Credentials are renewed so long before they end.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// A file of settings or a token is never longer.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// A server of credentials answers at once or is not there.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// An answer with credentials is never longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Where the credentials of a store come from, and the last ones.
pub(super) struct Credentials {
    found: Found,
    last: Mutex<Option<Last>>,
}

enum Found {
    /// Given as variables; they do not change.
    Given(Arc<AwsCredential>),
    Chain {
        provider: DefaultCredentialProvider,
        context: Context,
    },
}

struct Last {
    credential: Arc<AwsCredential>,
    ends: Option<SystemTime>,
}

impl Credentials {
    /// Reads no file and asks nobody yet.
    ///
    /// # Errors
    /// `Invalid`: only half of a pair of variables is there.
    pub(super) fn of(
        options: &StoreOptions,
        store: &str,
        client: &reqwest::Client,
    ) -> Result<Self, StoreError> {
        let id = options.variable("AWS_ACCESS_KEY_ID");
        let secret = options.variable("AWS_SECRET_ACCESS_KEY");
        let found = match (id, secret) {
            (Some(id), Some(secret)) => Found::Given(Arc::new(AwsCredential {
                key_id: id.to_owned(),
                secret_key: secret.to_owned(),
                token: options.variable("AWS_SESSION_TOKEN").map(str::to_owned),
            })),
            (None, None) => Found::Chain {
                provider: DefaultCredentialProvider::new(),
                context: context(options, client),
            },
            (id, _) => {
                let (given, missing) = match id {
                    Some(_) => ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
                    None => ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
                };
                return Err(StoreError::new(
                    StoreErrorKind::Invalid,
                    Operation::Open,
                    store,
                    format!("{given} is set and {missing} is not"),
                )
                .with_next_step("set both, or neither"));
            }
        };
        if let Found::Given(given) = &found
            && !fits_header(given)
        {
            return Err(StoreError::new(
                StoreErrorKind::Invalid,
                Operation::Open,
                store,
                "AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN holds what no key and no token holds",
            )
            .with_next_step("set it without spaces and line ends"));
        }
        Ok(Self {
            found,
            last: Mutex::new(None),
        })
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request asks for new ones: the server takes the last ones for expired.
    pub(super) fn forget(&self) {
        *self.last() = None;
    }

    /// Whether they are variables, which nobody renews.
    pub(super) fn are_given(&self) -> bool {
        matches!(self.found, Found::Given(_))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let (provider, context) = match &self.found {
            Found::Given(given) => return Ok(Arc::clone(given)),
            Found::Chain { provider, context } => (provider, context),
        };
        let now = SystemTime::now();
        if let Some(last) = &*self.last()
            && last.ends.is_none_or(|ends| ends > now + RENEW_BEFORE)
        {
            return Ok(Arc::clone(&last.credential));
        }
        let missing = |why: &str| object_store::Error::Generic {
            store: "S3",
            source: format!("{NONE}{why}").into(),
        };
        let asked = provider.provide_credential(context).await;
        // Its error may repeat what a process or a server said, secrets included.
        let Ok(Some(credential)) = asked else {
            return Err(missing(
                "no variables, no profile, no single sign-on, no process, no container, no instance",
            ));
        };
        let ends = credential.expires_in.map(|at| at.as_system_time());
        let credential = Arc::new(aws(credential));
        if !fits_header(&credential) {
            return Err(missing(
                "what was found holds what no key and no token holds",
            ));
        }
        *self.last() = Some(Last {
            credential: Arc::clone(&credential),
            ends,
        });
        Ok(credential)
    }
}

/// Whether the parts that are sent can stand in a header; the signer takes that for granted.
fn fits_header(credential: &AwsCredential) -> bool {
    let fits = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    fits(&credential.key_id) && credential.token.as_deref().is_none_or(fits)
}

fn aws(credential: Credential) -> AwsCredential {
    AwsCredential {
        key_id: credential.access_key_id,
        secret_key: credential.secret_access_key,
        token: credential.session_token,
    }
}

/// What the chain of providers sees of the world: the variables it was given, files, processes, and HTTP.
fn context(options: &StoreOptions, client: &reqwest::Client) -> Context {
    Context::new()
        .with_env(StaticEnv {
            home_dir: options.variable("HOME").map(PathBuf::from),
            envs: options
                .variables()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect::<HashMap<_, _>>(),
        })
        .with_file_read(Files)
        .with_http_send(Web(client.clone()))
        .with_command_execute(Processes)
}

/// The region that the profile in use names, if the settings file can be read.
pub(super) fn profile_region(options: &StoreOptions) -> Option<String> {
    let path = match options.variable("AWS_CONFIG_FILE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(options.variable("HOME")?).join(".aws/config"),
    };
    let profile = options.variable("AWS_PROFILE").unwrap_or("default");
    let settings = read(&path).ok()?;
    region_of(&String::from_utf8_lossy(&settings), profile)
}

fn region_of(settings: &str, profile: &str) -> Option<String> {
    let mut ours = false;
    for line in settings.lines() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section.split(']').next().unwrap_or_default().trim();
            let name = section.strip_prefix("profile ").unwrap_or(section).trim();
            ours = name == profile;
        } else if let (true, Some((key, value))) = (ours, line.split_once('='))
            && key.trim() == "region"
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

fn read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failed(what: &str) -> reqsign_core::Error {
    reqsign_core::Error::unexpected(what.to_owned())
}

#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let path = PathBuf::from(path);
        tokio::task::spawn_blocking(move || read(&path))
            .await
            .map_err(|_| failed("the reader of a file panicked"))?
            .map_err(|_| failed("the file cannot be read"))
    }
}

#[derive(Debug)]
struct Processes;

impl CommandExecute for Processes {
    async fn command_execute<'a>(
        &'a self,
        program: &'a str,
        args: &'a [&'a str],
    ) -> reqsign_core::Result<CommandOutput> {
        let mut command = std::process::Command::new(program);
        command.args(args).stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .map_err(|_| failed("the starter of a process panicked"))?
            .map_err(|_| failed("the process cannot be started"))?;
        Ok(CommandOutput {
            status: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }
}

#[derive(Debug)]
struct Web(reqwest::Client);

impl HttpSend for Web {
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        // No words of the error: the request may hold a token.
        let unreachable = |_| failed("the server of credentials cannot be reached");
        let (parts, body) = request.into_parts();
        let answer = self
            .0
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .body(body)
            .timeout(REQUEST_TIME)
            .send()
            .await
            .map_err(unreachable)?;
        let answer: http::Response<reqwest::Body> = answer.into();
        let (parts, body) = answer.into_parts();
        let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
        let body = http_body_util::BodyExt::collect(body)
            .await
            .map_err(|_| failed("the answer of a server of credentials broke off"))?;
        Ok(http::Response::from_parts(parts, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_of_a_profile_is_found() {
        let settings = "# region = no\n[default]\nregion=eu-west-1\n[profile other]\noutput = json\n region = us-west-2 \n[sso-session x]\nregion = no\n";
        assert_eq!(region_of(settings, "default").unwrap(), "eu-west-1");
        assert_eq!(region_of(settings, "other").unwrap(), "us-west-2");
        assert_eq!(region_of(settings, "third"), None);
    }

    #[test]
    fn half_a_pair_is_refused() {
        let half = |name: &str| {
            let options = StoreOptions::default().with_variables([(name, "hunter2")]);
            let client = super::super::web::web(&options, "s3://b").unwrap();
            let error = Credentials::of(&options, "s3://b", &client).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
            error.to_string()
        };
        insta::assert_snapshot!(half("AWS_ACCESS_KEY_ID"), @"cannot open s3://b: AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both, or neither");
        insta::assert_snapshot!(half("AWS_SECRET_ACCESS_KEY"), @"cannot open s3://b: AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not; set both, or neither");
    }
}
