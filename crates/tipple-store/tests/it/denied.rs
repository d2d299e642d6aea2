//! Folders that belong to someone else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tipple_store::{Access, StoreError, StoreErrorKind};

use crate::child::{self, Running, say};
use crate::{name, names, open, try_open};

/// The role of a child without rights: says what it was refused.
pub fn try_everything(folder: &str) {
    fn report<T>(result: Result<T, StoreError>) {
        match result {
            Ok(_) => say("done"),
            Err(error) => say(&format!("{:?}: {error}", error.kind())),
        }
    }
    let folder = Path::new(folder);
    report(try_open(&folder.join("closed"), Access::Write));
    report(try_open(&folder.join("closed/below"), Access::Write));
    report(try_open(&folder.join("secret"), Access::Read).and_then(|store| names(&*store)));
    let reader = try_open(&folder.join("closed"), Access::Read).unwrap();
    report(reader.get(&name("a/b"), 10));
    report(reader.get(&name("a/private"), 10));
    // The folder is this user's, one in it is not.
    let store = open(&folder.join("mixed"));
    report(store.put_if_absent(&name("theirs/x"), b"bytes"));
    report(store.delete(&name("theirs/b")));
    report(store.put_if_absent(&name("mine/x"), b"bytes"));
}

#[test]
fn what_is_not_permitted_is_denied() {
    let folder = tempfile::tempdir().unwrap();
    let owner = fs::metadata(folder.path()).unwrap().uid();
    assert_eq!(
        owner, 0,
        "run this test as root: it starts a process as another user"
    );
    let set_mode = |path: &str, mode| {
        fs::set_permissions(folder.path().join(path), Permissions::from_mode(mode)).unwrap();
    };
    set_mode("", 0o755);
    let closed = open(&folder.path().join("closed"));
    closed.put_if_absent(&name("a/b"), b"bytes").unwrap();
    closed.put_if_absent(&name("a/private"), b"bytes").unwrap();
    set_mode("closed/a/private", 0o600);
    open(&folder.path().join("secret"));
    set_mode("secret", 0o711);
    let mixed = open(&folder.path().join("mixed"));
    mixed.put_if_absent(&name("theirs/b"), b"bytes").unwrap();
    for path in ["mixed", "mixed/.tipple", "mixed/.tipple/staging"] {
        std::os::unix::fs::chown(folder.path().join(path), Some(65534), Some(65534)).unwrap();
    }

    let argument = folder.path().to_str().unwrap();
    let mut child = Running::start_as_nobody(child::STRANGER, argument, folder.path());
    let mut said = Vec::new();
    while let Some(line) = child.hear() {
        said.push(line.replace(argument, "/data"));
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    done
    Denied: cannot open /data/closed/below: permission denied; check who owns the folder, its permissions, and whether its file system is mounted read-only
    Denied: cannot list /data/secret: permission denied; check who owns the folder, its permissions, and whether its file system is mounted read-only
    done
    Denied: cannot read a/private from /data/closed: permission denied; check who owns the folder, its permissions, and whether its file system is mounted read-only
    Denied: cannot write theirs/x to /data/mixed: permission denied; check who owns the folder, its permissions, and whether its file system is mounted read-only
    Denied: cannot delete theirs/b from /data/mixed: permission denied; check who owns the folder, its permissions, and whether its file system is mounted read-only
    done
    ");
    assert_eq!(names(&*mixed).unwrap(), ["mine/x", "theirs/b"]);
    assert_eq!(mixed.leftovers().unwrap(), []);
}

#[test]
fn reading_needs_no_more_than_the_objects() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("a")).unwrap();
    fs::write(folder.path().join("a/b"), b"bytes").unwrap();
    let store = try_open(folder.path(), Access::Read).unwrap();
    assert_eq!(store.get(&name("a/b"), 5).unwrap(), b"bytes");
    assert_eq!(names(&*store).unwrap(), ["a/b"]);
    assert_eq!(store.leftovers().unwrap(), []);
    store.capabilities().unwrap();
    assert_eq!(store.lock().unwrap_err().kind(), StoreErrorKind::Denied);
    assert!(!folder.path().join(".tipple").exists());
}
