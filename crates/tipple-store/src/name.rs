//! Names of objects that are safe on every store.

use std::fmt;
use std::str::FromStr;

use crate::{Operation, StoreError, StoreErrorKind};

/// The longest segment, in bytes: what the usual file systems allow.
pub(crate) const SEGMENT_BYTES_MAX: usize = 255;
/// The longest name, in bytes: what S3 allows.
pub(crate) const NAME_BYTES_MAX: usize = 1024;

/// The relative name of an object, for example `parts/00000042.json`.
///
/// One or more segments, separated by `/`; each has 1..=255 bytes of `A-Z a-z 0-9 . _ = -` and
/// does not start with a dot. At most 1024 bytes in all. So it is never absolute, never leaves
/// the store, is never hidden, and means the same in a folder and in a bucket.
///
/// ```
/// use tipple_store::ObjectName;
///
/// let parts: ObjectName = "parts".parse()?;
/// assert_eq!(parts.join("00000042.json")?.as_str(), "parts/00000042.json");
/// assert!("../etc/passwd".parse::<ObjectName>().is_err());
/// # Ok::<(), tipple_store::StoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This name as a folder, with `rest` (one or more segments) below it.
    ///
    /// # Errors
    /// [`Invalid`](StoreErrorKind::Invalid) if the result would not be a name.
    pub fn join(&self, rest: &str) -> Result<Self, StoreError> {
        format!("{}/{rest}", self.0).try_into()
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl TryFrom<String> for ObjectName {
    type Error = StoreError;

    fn try_from(name: String) -> Result<Self, StoreError> {
        match check(&name) {
            Ok(()) => Ok(Self(name)),
            Err(reason) => Err(invalid(&name, reason)),
        }
    }
}

impl TryFrom<&str> for ObjectName {
    type Error = StoreError;

    fn try_from(name: &str) -> Result<Self, StoreError> {
        name.to_owned().try_into()
    }
}

impl FromStr for ObjectName {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<Self, StoreError> {
        name.try_into()
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0
    }
}

impl AsRef<str> for ObjectName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn check(name: &str) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, {NAME_BYTES_MAX} are allowed",
            name.len()
        ));
    }
    name.split('/').try_for_each(check_segment)
}

/// Whether `segment` can be a segment of a name.
pub(crate) fn is_segment(segment: &str) -> bool {
    check_segment(segment).is_ok()
}

fn check_segment(segment: &str) -> Result<(), String> {
    if segment.is_empty() {
        return Err("it is empty, or starts or ends with '/', or has '//' in it".to_owned());
    }
    if segment.starts_with('.') {
        return Err("a part of it starts with a dot".to_owned());
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        return Err(format!(
            "a part of it has {} bytes, {SEGMENT_BYTES_MAX} are allowed between slashes",
            segment.len()
        ));
    }
    match segment.chars().find(|&c| !is_name_char(c)) {
        Some(c) => Err(format!("{c:?} is not one of A-Z a-z 0-9 . _ = - /")),
        None => Ok(()),
    }
}

/// Whether `c` may stand in a segment.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '=' | '-')
}

/// Splits the prefix of a listing into its folders (empty, or ending in `/`) and the start of a
/// segment. `None`: no name starts like this.
pub(crate) fn split_prefix(prefix: &str) -> Option<(&str, &str)> {
    let (folders, start) = prefix.split_at(prefix.rfind('/').map_or(0, |slash| slash + 1));
    let folders_fit = match folders.strip_suffix('/') {
        Some(name) => check(name).is_ok(),
        None => true,
    };
    let start_fits = start.is_empty() || is_segment(start);
    (folders_fit && start_fits).then_some((folders, start))
}

/// `name` quoted in a message is cut at a length that fits a terminal.
fn invalid(name: &str, reason: String) -> StoreError {
    const SHOWN_CHARS_MAX: usize = 80;
    let shown: String = match name.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    };
    StoreError::new(StoreErrorKind::Invalid, Operation::ParseName, "", reason).with_object(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(name: &str) -> String {
        ObjectName::try_from(name).unwrap_err().to_string()
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        insta::assert_snapshot!(refusal(""), @r#"cannot use "" as an object name: it is empty, or starts or ends with '/', or has '//' in it"#);
        insta::assert_snapshot!(refusal("a//b"), @r#"cannot use "a//b" as an object name: it is empty, or starts or ends with '/', or has '//' in it"#);
        insta::assert_snapshot!(refusal("a/../b"), @r#"cannot use "a/../b" as an object name: a part of it starts with a dot"#);
        insta::assert_snapshot!(refusal("a b"), @r#"cannot use "a b" as an object name: ' ' is not one of A-Z a-z 0-9 . _ = - /"#);
        insta::assert_snapshot!(refusal("a\n"), @r#"cannot use "a\n" as an object name: '\n' is not one of A-Z a-z 0-9 . _ = - /"#);
        insta::assert_snapshot!(refusal(&"x".repeat(256)), @r#"cannot use "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…" as an object name: a part of it has 256 bytes, 255 are allowed between slashes"#);
        insta::assert_snapshot!(refusal(&"x/".repeat(513)), @r#"cannot use "x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/…" as an object name: it has 1026 bytes, 1024 are allowed"#);
    }

    #[test]
    fn the_longest_names_are_names() {
        let longest = [
            "x".repeat(255),
            "y".repeat(255),
            "z".repeat(255),
            "w".repeat(255),
        ]
        .join("/");
        assert!(ObjectName::try_from(format!("{longest}/")).is_err());
        assert_eq!(longest.len(), NAME_BYTES_MAX - 1);
        ObjectName::try_from(longest).unwrap();
        ObjectName::try_from(format!("{}xx", "x/".repeat(511))).unwrap();
        assert!(ObjectName::try_from(format!("{}xxx", "x/".repeat(511))).is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_stays_inside_and_visible(text in "[a.b/\\-_=A9 \\\\\u{e9}]{0,12}") {
            if let Ok(name) = ObjectName::try_from(text.as_str()) {
                prop_assert_eq!(name.as_str(), text.as_str());
                for segment in name.segments() {
                    prop_assert!(!segment.is_empty() && !segment.starts_with('.'));
                    prop_assert!(!segment.contains('\\'));
                }
                prop_assert_eq!(name.to_string().parse::<ObjectName>().unwrap(), name);
            }
        }

        #[test]
        fn join_is_concatenation(a in "[a-z]{1,8}", b in "[a-z]{1,8}(/[a-z]{1,8})?") {
            let joined = ObjectName::try_from(a.as_str()).unwrap().join(&b).unwrap();
            prop_assert_eq!(joined.as_str(), format!("{a}/{b}"));
        }
    }
}
