use std::fs;

use tempfile::TempDir;
use tipple_testkit::damage::{self, Damage};

#[test]
fn every_damage_does_what_it_says() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (dir.path().join("one.a.b"), dir.path().join("two"));
    let reset = || {
        fs::write(&one, b"12345").unwrap();
        fs::write(&two, b"x").unwrap();
    };
    let after = |damage: Damage| {
        reset();
        damage.apply(&one);
        (fs::read(&one).ok(), fs::read(&two).unwrap())
    };
    let x = b"x".to_vec();
    assert_eq!(
        after(Damage::Flip(4)),
        (Some(b"1234\xca".to_vec()), x.clone())
    );
    assert_eq!(
        after(Damage::Truncate(2)),
        (Some(b"12".to_vec()), x.clone())
    );
    assert_eq!(after(Damage::Delete), (None, x.clone()));
    assert_eq!(
        after(Damage::Append(b"67".into())),
        (Some(b"1234567".to_vec()), x.clone())
    );
    assert_eq!(
        after(Damage::Swap(two.clone())),
        (Some(x.clone()), b"12345".to_vec())
    );
    assert_eq!(after(Damage::Duplicate), (Some(b"12345".to_vec()), x));
    assert_eq!(fs::read(dir.path().join("one-copy.a.b")).unwrap(), b"12345");
}

#[test]
fn the_matrix_changes_something_in_every_case() {
    let dir = TempDir::new().unwrap();
    let (from, copy) = (dir.path().join("from"), dir.path().join("copy"));
    fs::create_dir_all(from.join("sub/deep")).unwrap();
    for (name, bytes) in [
        ("a", &b"aaaa"[..]),
        ("sub/b", b"b"),
        ("sub/c", b"cc"),
        ("sub/deep/e", b""),
    ] {
        fs::write(from.join(name), bytes).unwrap();
    }
    let tree = |dir| {
        let files = damage::files(dir);
        let bytes: Vec<_> = files
            .iter()
            .map(|f| fs::read(dir.join(f)).unwrap())
            .collect();
        (files, bytes)
    };
    let cases = damage::matrix(&from, &copy);
    assert_eq!(cases.len(), 9 + 6 + 7 + 3);
    for (file, damage) in cases {
        damage::copy_folder(&from, &copy);
        assert_eq!(tree(&from), tree(&copy));
        damage.apply(&copy.join(&file));
        assert_ne!(tree(&from), tree(&copy), "{file:?} {damage:?}");
    }
}

#[test]
#[should_panic(expected = "has 3 bytes, and none at 3")]
fn a_flip_beyond_the_end_is_a_mistake() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, b"123").unwrap();
    damage::flip(&path, 3);
}
