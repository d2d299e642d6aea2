//! Where a store is, parsed at the edge.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Operation, StoreError, StoreErrorKind};

/// What a store may be written as, for messages.
const KNOWN: &str =
    "a path, file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX";

/// The longest prefix: what S3 allows for a key, less room for names.
const PREFIX_BYTES_MAX: usize = 512;

/// Where a store is.
///
/// | written as | is |
/// |---|---|
/// | `PATH` | a local folder; the part before the first `/` has no colon, or starts with a dot |
/// | `file:PATH`, `file:///PATH` | a local folder, whatever its name looks like |
/// | `memory:NAME` | memory of this process, for tests; equal names are the same store |
/// | `s3://BUCKET[/PREFIX]` | what lies under a prefix of an S3 bucket |
/// | `gs://BUCKET[/PREFIX]` | the same in Google Cloud Storage |
/// | `az://CONTAINER[/PREFIX]` | the same in Azure Blob Storage; the account is a variable |
///
/// A bucket is one or more of `A-Z a-z 0-9 . _ -`, a prefix one or more segments of
/// `A-Z a-z 0-9 . _ = - + : @ ,` with `/` between them; a `/` at its end changes nothing.
///
/// Anything else with a colon before the first `/` is refused, so that a mistyped URL never
/// becomes a local folder. A URL that was refused is not repeated in the error beyond its scheme,
/// since it may hold a password.
///
/// ```
/// use tipple_store::StoreUrl;
///
/// assert_eq!("file:/data/d".parse::<StoreUrl>()?.to_string(), "/data/d");
/// assert!("s3:/bucket".parse::<StoreUrl>().is_err());
/// # Ok::<(), tipple_store::StoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreUrl(Place);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Folder(PathBuf),
    Memory(String),
    Bucket(BucketPlace),
}

/// A prefix of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BucketPlace {
    pub(crate) cloud: Cloud,
    pub(crate) bucket: String,
    /// Without `/` at its ends; empty for the whole bucket.
    pub(crate) prefix: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cloud {
    S3,
    Gcp,
    Azure,
}

impl Cloud {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcp => "gs",
            Self::Azure => "az",
        }
    }
}

impl fmt::Display for BucketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.cloud.scheme(), self.bucket)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl StoreUrl {
    /// The local folder `path`, which need not be UTF-8 and is taken as it is.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self(Place::Folder(path.into()))
    }

    /// The path, if this is a local folder.
    pub fn as_folder(&self) -> Option<&Path> {
        match &self.0 {
            Place::Folder(path) => Some(path),
            Place::Memory(_) | Place::Bucket(_) => None,
        }
    }

    /// Whether what is put there stays when this process ends: not for `memory:`.
    pub fn outlives_process(&self) -> bool {
        !matches!(self.0, Place::Memory(_))
    }

    /// Whether it is reached over a network.
    pub fn is_remote(&self) -> bool {
        matches!(self.0, Place::Bucket(_))
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0
    }
}

impl FromStr for StoreUrl {
    type Err = StoreError;

    /// # Errors
    /// [`Invalid`](StoreErrorKind::Invalid) for everything that is no store.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let first = text.split('/').next().unwrap_or_default();
        let scheme = match first.split_once(':') {
            Some((scheme, _)) if !first.starts_with('.') => scheme,
            _ if text.is_empty() => return Err(refuse("\"\"", "it is empty")),
            _ => return Ok(Self::folder(text)),
        };
        let rest = &text[scheme.len() + 1..];
        match scheme.to_ascii_lowercase().as_str() {
            "file" => file(rest),
            "memory" => memory(rest),
            "s3" => bucket(Cloud::S3, rest),
            "gs" => bucket(Cloud::Gcp, rest),
            "az" => bucket(Cloud::Azure, rest),
            _ => Err(unknown(scheme)),
        }
    }
}

impl fmt::Display for StoreUrl {
    /// The path, the bucket and prefix, or `memory:NAME`. Never a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Folder(path) => write!(f, "{}", path.display()),
            Place::Memory(name) => write!(f, "memory:{name}"),
            Place::Bucket(place) => place.fmt(f),
        }
    }
}

fn file(rest: &str) -> Result<StoreUrl, StoreError> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        // file://localhost/PATH and file:///PATH are the same folder.
        Some(authority) => match authority.strip_prefix("localhost").unwrap_or(authority) {
            path if path.starts_with('/') => path,
            _ => {
                return Err(refuse("file://…", "what follows file:// is a host")
                    .with_next_step("give file:PATH or file:///PATH"));
            }
        },
    };
    if path.is_empty() {
        return Err(refuse("file:", "the path is missing").with_next_step("give file:PATH"));
    }
    Ok(StoreUrl::folder(path))
}

fn memory(name: &str) -> Result<StoreUrl, StoreError> {
    if name.is_empty() || !name.chars().all(crate::name::is_name_char) {
        return Err(refuse(
            "memory:…",
            "the name is not one or more of A-Z a-z 0-9 . _ = -",
        )
        .with_next_step("give memory:NAME"));
    }
    Ok(StoreUrl(Place::Memory(name.to_owned())))
}

/// `rest` is what follows the scheme's colon.
fn bucket(cloud: Cloud, rest: &str) -> Result<StoreUrl, StoreError> {
    let scheme = cloud.scheme();
    let named = match cloud {
        Cloud::Azure => "CONTAINER",
        Cloud::S3 | Cloud::Gcp => "BUCKET",
    };
    // What is wrong may be a password: only the scheme is repeated.
    let refused = |reason: &str| {
        Err(
            refuse(&format!("{scheme}://…"), reason.to_owned()).with_next_step(format!(
                "give {scheme}://{named} or {scheme}://{named}/PREFIX"
            )),
        )
    };
    let Some(rest) = rest.strip_prefix("//") else {
        return refused("two slashes belong behind the colon");
    };
    if rest
        .split('/')
        .next()
        .is_some_and(|host| host.contains('@'))
    {
        return refused(
            "credentials do not belong into a URL: they come from variables or profiles",
        );
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let starts = |text: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if bucket.is_empty() {
        return refused("the bucket is missing");
    }
    if bucket.len() > 255 || !starts(bucket) || !bucket.chars().all(is_bucket) {
        return refused(
            "a bucket is one or more of A-Z a-z 0-9 . _ -, the first a letter or digit",
        );
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_prefix = |c: char| is_bucket(c) || matches!(c, '=' | '+' | ':' | '@' | ',');
    let segment_fits =
        |segment: &str| !matches!(segment, "" | "." | "..") && segment.chars().all(is_prefix);
    if prefix.len() > PREFIX_BYTES_MAX
        || !(prefix.is_empty() || prefix.split('/').all(segment_fits))
    {
        return refused(
            "a prefix is at most 512 bytes of A-Z a-z 0-9 . _ = - + : @ , in segments with one / between them, none of them . or ..",
        );
    }
    Ok(StoreUrl(Place::Bucket(BucketPlace {
        cloud,
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })))
}

fn unknown(scheme: &str) -> StoreError {
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let (shown, reason) = if is_scheme {
        (
            format!("{scheme}:…"),
            format!("{scheme}: is not a kind of store"),
        )
    } else {
        (
            "…:…".to_owned(),
            "what is before the colon is not a kind of store".to_owned(),
        )
    };
    refuse(&shown, reason).with_next_step(format!(
        "give {KNOWN}; a folder with a colon in its name is written file:PATH"
    ))
}

fn refuse(shown: &str, reason: impl Into<std::borrow::Cow<'static, str>>) -> StoreError {
    StoreError::new(StoreErrorKind::Invalid, Operation::ParseUrl, shown, reason)
        .with_next_step(format!("give {KNOWN}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(text: &str) -> PathBuf {
        let url: StoreUrl = text.parse().unwrap();
        url.as_folder().unwrap().to_owned()
    }

    fn refusal(text: &str) -> StoreError {
        text.parse::<StoreUrl>().unwrap_err()
    }

    #[test]
    fn paths_are_folders() {
        for path in [
            "/data/d", "d", "./s3:/x", "../a:b", "d/a:b", ".", "..", ".a:b",
        ] {
            assert_eq!(folder(path), Path::new(path));
        }
        assert_eq!(folder("file:a:b"), Path::new("a:b"));
        assert_eq!(folder("file:/data"), Path::new("/data"));
        assert_eq!(folder("file:///data"), Path::new("/data"));
        assert_eq!(folder("file://localhost/data"), Path::new("/data"));
        assert_eq!(folder("FILE:s3://x"), Path::new("s3://x"));
    }

    #[test]
    fn memory_has_a_name() {
        let url: StoreUrl = "memory:a-1".parse().unwrap();
        assert_eq!(url.to_string(), "memory:a-1");
        assert_eq!(url.as_folder(), None);
    }

    #[test]
    fn buckets_have_a_prefix_or_none() {
        for (text, shown) in [
            ("s3://b", "s3://b"),
            ("s3://b/", "s3://b"),
            ("S3://b/p/q/", "s3://b/p/q"),
            (
                "gs://b.c/2026-01-01T00:00:00+01:00",
                "gs://b.c/2026-01-01T00:00:00+01:00",
            ),
            ("az://c/a@b,c=d/.e", "az://c/a@b,c=d/.e"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(url.is_remote() && url.outlives_process());
            assert_eq!(url.as_folder(), None);
        }
    }

    #[test]
    fn what_looks_like_a_url_never_becomes_a_folder() {
        for text in [
            "",
            ":",
            "s3:/x",
            "s3:x",
            "s3://",
            "s3:///p",
            "s3://b//p",
            "s3://b/p//",
            "s3://b/../p",
            "s3://b/a b",
            "s3://-b",
            "gs://b/%41",
            "az://b/a?b",
            "foo://",
            "foo:/x",
            "s3a://b",
            " s3://b",
            "C:\\d",
            "1:2",
            "://x",
            "memory:",
            "memory://x",
            "memory:a b",
            "file:",
            "file://",
            "file://host/x",
            "file://localhostx/y",
        ] {
            assert_eq!(refusal(text).kind(), StoreErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn refusals_name_the_scheme_and_the_known_ones() {
        insta::assert_snapshot!(refusal("s3:/x"), @"cannot use s3://… as a store: two slashes belong behind the colon; give s3://BUCKET or s3://BUCKET/PREFIX");
        insta::assert_snapshot!(refusal("s3://"), @"cannot use s3://… as a store: the bucket is missing; give s3://BUCKET or s3://BUCKET/PREFIX");
        insta::assert_snapshot!(refusal("s3://b_ö"), @"cannot use s3://… as a store: a bucket is one or more of A-Z a-z 0-9 . _ -, the first a letter or digit; give s3://BUCKET or s3://BUCKET/PREFIX");
        insta::assert_snapshot!(refusal("az://c//p"), @"cannot use az://… as a store: a prefix is at most 512 bytes of A-Z a-z 0-9 . _ = - + : @ , in segments with one / between them, none of them . or ..; give az://CONTAINER or az://CONTAINER/PREFIX");
        insta::assert_snapshot!(refusal("s3://id:hunter2@bucket"), @"cannot use s3://… as a store: credentials do not belong into a URL: they come from variables or profiles; give s3://BUCKET or s3://BUCKET/PREFIX");
        insta::assert_snapshot!(refusal("foo://b"), @"cannot use foo:… as a store: foo: is not a kind of store; give a path, file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX; a folder with a colon in its name is written file:PATH");
        insta::assert_snapshot!(refusal(" s3://b"), @"cannot use …:… as a store: what is before the colon is not a kind of store; give a path, file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX; a folder with a colon in its name is written file:PATH");
        insta::assert_snapshot!(refusal(""), @r#"cannot use "" as a store: it is empty; give a path, file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX"#);
        insta::assert_snapshot!(refusal("memory:"), @"cannot use memory:… as a store: the name is not one or more of A-Z a-z 0-9 . _ = -; give memory:NAME");
        insta::assert_snapshot!(refusal("file:"), @"cannot use file: as a store: the path is missing; give file:PATH");
        insta::assert_snapshot!(refusal("file://host/x"), @"cannot use file://… as a store: what follows file:// is a host; give file:PATH or file:///PATH");
    }

    #[test]
    fn refusals_hold_no_secret() {
        for text in [
            "s3://key:hunter2@b/p",
            "s3://hunter2+/=/p",
            "gs://b/?hunter2",
            "foo://u:hunter2@h",
            "file://u:hunter2@h/x",
            "memory:u@hunter2",
            "u@hunter2:x",
            "s3://b?secret=hunter2",
        ] {
            let error = refusal(text);
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{text}: {error}"
            );
        }
    }
}
