//! Where a store is, parsed at the edge.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Operation, StoreError, StoreErrorKind};

/// What a store may be written as, for messages.
const KNOWN: &str = "a path, file:PATH";

/// Where a store is.
///
/// | written as | is |
/// |---|---|
/// | `PATH` | a local folder; the part before the first `/` has no colon, or starts with a dot |
/// | `file:PATH`, `file:///PATH` | a local folder, whatever its name looks like |
/// | `memory:NAME` | memory of this process, for tests; equal names are the same store |
/// | `s3://`, `gs://`, `az://` | recognised and refused: not in this version |
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
            Place::Memory(_) => None,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0
    }
}

impl FromStr for StoreUrl {
    type Err = StoreError;

    /// # Errors
    /// [`Unsupported`](StoreErrorKind::Unsupported) for the stores of later versions,
    /// [`Invalid`](StoreErrorKind::Invalid) for everything else that is no store.
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
            scheme @ ("s3" | "gs" | "az") => Err(StoreError::new(
                StoreErrorKind::Unsupported,
                Operation::ParseUrl,
                &format!("{scheme}://…"),
                format!("{scheme}:// stores are not in this version yet"),
            )
            .with_next_step(format!("give {KNOWN}"))),
            _ => Err(unknown(scheme)),
        }
    }
}

impl fmt::Display for StoreUrl {
    /// The path, or `memory:NAME`. Never a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Folder(path) => write!(f, "{}", path.display()),
            Place::Memory(name) => write!(f, "memory:{name}"),
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
    fn what_looks_like_a_url_never_becomes_a_folder() {
        for text in ["s3:/x", "s3://b/p", "S3://b", "gs://b", "az://c"] {
            assert_eq!(refusal(text).kind(), StoreErrorKind::Unsupported, "{text}");
        }
        for text in [
            "",
            ":",
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
        insta::assert_snapshot!(refusal("s3://b/p"), @"cannot use s3://… as a store: s3:// stores are not in this version yet; give a path, file:PATH");
        insta::assert_snapshot!(refusal("s3:/x"), @"cannot use s3://… as a store: s3:// stores are not in this version yet; give a path, file:PATH");
        insta::assert_snapshot!(refusal("foo://b"), @"cannot use foo:… as a store: foo: is not a kind of store; give a path, file:PATH; a folder with a colon in its name is written file:PATH");
        insta::assert_snapshot!(refusal(" s3://b"), @"cannot use …:… as a store: what is before the colon is not a kind of store; give a path, file:PATH; a folder with a colon in its name is written file:PATH");
        insta::assert_snapshot!(refusal(""), @r#"cannot use "" as a store: it is empty; give a path, file:PATH"#);
        insta::assert_snapshot!(refusal("memory:"), @"cannot use memory:… as a store: the name is not one or more of A-Z a-z 0-9 . _ = -; give memory:NAME");
        insta::assert_snapshot!(refusal("file:"), @"cannot use file: as a store: the path is missing; give file:PATH");
        insta::assert_snapshot!(refusal("file://host/x"), @"cannot use file://… as a store: what follows file:// is a host; give file:PATH or file:///PATH");
    }

    #[test]
    fn refusals_hold_no_secret() {
        for text in [
            "s3://key:hunter2@b/p",
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
