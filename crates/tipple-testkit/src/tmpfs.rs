//! Small disks.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::process::{not_started, program};

/// A file system of a given size, unmounted when dropped: what a full disk is tried on.
#[derive(Debug)]
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Mounts one of `bytes`, which the kernel rounds up to whole pages.
    ///
    /// # Panics
    /// If this user may not mount.
    #[track_caller]
    pub fn mount(bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new("mount");
        command
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={bytes},mode=0700"),
                "tipple-test",
            ])
            .arg(dir.path());
        match command.output() {
            Ok(output) => assert!(
                output.status.success(),
                "cannot mount a tmpfs of {bytes} bytes: {}; run the tests as root, in a container with --cap-add SYS_ADMIN",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            Err(error) => not_started(&program(&command), "apt-get install -y mount", &error),
        }
        Self { dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, since a child that is about to be killed may still have a file open there.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.dir.path())
            .status();
    }
}
