//! The real binary.

use std::path::PathBuf;

/// The `tipple` binary of the profile that this test was built with.
///
/// # Panics
/// If it was not built.
#[track_caller]
pub fn tipple() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/<profile>/deps/<test> or target/<profile>/<binary>
    let profile = test
        .ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"))
        .expect("a test lives in a folder");
    let binary = profile.join("tipple");
    assert!(
        binary.is_file(),
        "{} is not there; run: cargo build -p tipple{}",
        binary.display(),
        if profile.ends_with("release") {
            " --release"
        } else {
            ""
        }
    );
    binary
}
