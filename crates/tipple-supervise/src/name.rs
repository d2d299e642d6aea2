//! Names of files as names of objects, and back.
//!
//! A letter, digit, `.`, `_` or `-` stands for itself, `/` parts folders, and every other byte, and a dot at the
//! beginning of a part, is `=` and two uppercase hex digits: `db.my table.sql` → `db.my=20table.sql`. A name that is too
//! long for an object is `==` and the SHA-256 of the written form instead; the file's record has the written form.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use tipple_chunk::Sha256Digest;
use tipple_store::ObjectName;

/// A relative path in its written form, which is plain ASCII. Stable.
pub(crate) fn written(path: &Path) -> String {
    let mut text = String::new();
    for (n, part) in path.components().enumerate() {
        if n > 0 {
            text.push('/');
        }
        for (at, byte) in part.as_os_str().as_bytes().iter().enumerate() {
            match byte {
                b'.' if at == 0 => text.push_str("=2E"),
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                    text.push(char::from(*byte));
                }
                byte => text.push_str(&format!("={byte:02X}")),
            }
        }
    }
    text
}

/// The path of a written form; `None` if it is none, or would leave its folder.
pub(crate) fn path_of(written: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'=' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            byte => bytes.push(byte),
        }
    }
    if bytes.contains(&0) {
        return None;
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    // One path has one written form.
    (inside && !path.as_os_str().is_empty() && self::written(&path) == written).then_some(path)
}

/// `<folder>/<written>`, or the short form where that is too long.
pub(crate) fn object(folder: &str, written: &str, suffix: &str) -> ObjectName {
    format!("{folder}/{written}{suffix}")
        .parse()
        .unwrap_or_else(|_| {
            let digest = Sha256Digest::of(written.as_bytes());
            format!("{folder}/=={digest}{suffix}")
                .parse()
                .expect("the layout's folders and hex digits")
        })
}

/// For messages.
pub(crate) fn shown(path: &Path) -> String {
    let text = OsStr::to_string_lossy(path.as_os_str());
    text.replace(char::is_control, "\u{FFFD}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_stay_as_they_are() {
        for (path, expected) in [
            ("shop.orders.00001.sql", "shop.orders.00001.sql"),
            ("a/b-c/D_1", "a/b-c/D_1"),
            ("my table", "my=20table"),
            (".hidden/x", "=2Ehidden/x"),
            ("a=b", "a=3Db"),
            ("é", "=C3=A9"),
        ] {
            assert_eq!(written(Path::new(path)), expected);
            assert_eq!(path_of(expected).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn what_would_leave_the_folder_is_no_name() {
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "=2E=2E/x",
            "=2E./x",
            "a//b",
            "a/",
            "=2",
            "=zz",
            "a=00b",
            "=2Fetc",
            "=61",
            "./a",
            "a/./b",
        ] {
            assert_eq!(path_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn long_names_become_digests() {
        let long = "é".repeat(100);
        let text = written(Path::new(&long));
        let name = object("files/0001", &text, "");
        assert_eq!(
            name.as_str(),
            format!("files/0001/=={}", Sha256Digest::of(text.as_bytes()))
        );
        assert_eq!(path_of(&text).unwrap(), Path::new(&long));
    }

    proptest! {
        #[test]
        fn every_path_comes_back(parts in prop::collection::vec(prop::collection::vec(1..=255_u8, 1..40), 1..4)) {
            let parts: Vec<_> = parts.into_iter().map(|mut part| {
                part.iter_mut().for_each(|byte| if *byte == b'/' { *byte = b'_' });
                part
            }).filter(|part| part != b"." && part != b"..").collect();
            prop_assume!(!parts.is_empty());
            let path = PathBuf::from(std::ffi::OsString::from_vec(parts.join(&b'/')));
            let text = written(&path);
            prop_assert_eq!(path_of(&text), Some(path));
            object("files/0001", &text, ".json");
        }

        #[test]
        fn whatever_is_read_stays_inside(text in "[a=2EF./]{0,12}") {
            if let Some(path) = path_of(&text) {
                prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
            }
        }
    }
}
