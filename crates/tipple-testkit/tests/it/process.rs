use std::fs;

use tipple_testkit::{Tmpfs, memory_max, wait_for, wait_for_some};

#[test]
fn a_small_disk_is_full_when_it_is_full() {
    let disk = Tmpfs::mount(64 << 10);
    fs::write(disk.path().join("fits"), vec![0; 48 << 10]).unwrap();
    let error = fs::write(disk.path().join("does not"), vec![0; 48 << 10]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let path = disk.path().to_owned();
    drop(disk);
    assert!(!path.exists());
}

#[test]
fn memory_counts_what_was_touched() {
    let before = memory_max(std::process::id());
    let touched = vec![1_u8; 64 << 20];
    let after = memory_max(std::process::id());
    assert!(
        after >= before.max(64 << 20),
        "{before} {after} {}",
        touched.len()
    );
}

#[test]
fn waits_end_with_the_condition() {
    let mut looks = 0;
    wait_for("three looks", || {
        looks += 1;
        looks == 3
    });
    assert_eq!(wait_for_some("more", || Some(looks)), 3);
}
