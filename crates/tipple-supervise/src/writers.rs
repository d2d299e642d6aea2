//! Who has a file open for writing.
//!
//! The system's own lists are asked: the descriptors of every process that this user may look into (root: all), and the
//! shared writable mappings of the command's processes, since a mapping outlives its descriptor.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process;

use crate::processes::{self, Process};

/// Device and inode of a file.
pub(crate) type FileKey = (u64, u64);

/// Which of `files` are open for writing, and by which process.
pub(crate) fn open_for_writing(
    files: &HashSet<FileKey>,
    members: &[Process],
) -> HashMap<FileKey, i32> {
    let mut open = HashMap::new();
    let own = process::id() as i32;
    for process in processes::all() {
        if process.pid != own {
            descriptors(process.pid, files, &mut open);
        }
    }
    for member in members {
        mappings(member.pid, files, &mut open);
    }
    open
}

/// A process that ends meanwhile has closed its files.
fn descriptors(pid: i32, files: &HashSet<FileKey>, open: &mut HashMap<FileKey, i32>) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return;
    };
    for entry in entries.flatten() {
        // Sockets and pipes have no path, and most descriptors are those.
        let is_path = fs::read_link(entry.path()).is_ok_and(|target| target.is_absolute());
        if !is_path {
            continue;
        }
        let Ok(meta) = fs::metadata(entry.path()) else {
            continue;
        };
        let key = (meta.dev(), meta.ino());
        if files.contains(&key) && is_for_writing(pid, &entry.file_name().to_string_lossy()) {
            open.insert(key, pid);
        }
    }
}

/// What cannot be read is taken for the worse, unless the descriptor is gone.
fn is_for_writing(pid: i32, number: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) {
        Ok(text) => text
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
            .is_none_or(|flags| flags & 3 != 0),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

fn mappings(pid: i32, files: &HashSet<FileKey>, open: &mut HashMap<FileKey, i32>) {
    let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else {
        return;
    };
    for line in maps.split(|byte| *byte == b'\n') {
        if let Some(inode) = shared_writable(line) {
            // The device there is not always that of stat (btrfs), so the inode alone decides.
            open.extend(
                files
                    .iter()
                    .filter(|key| key.1 == inode)
                    .map(|key| (*key, pid)),
            );
        }
    }
}

/// `7f…-7f… rw-s 00000000 fd:01 1234   /path` → 1234
fn shared_writable(line: &[u8]) -> Option<u64> {
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let permissions = fields.nth(1)?;
    if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
        return None;
    }
    let inode = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
    (inode != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn shared_writable_mappings_are_told_from_others() {
        let line = |permissions: &str| {
            format!("7f0000000000-7f0000001000 {permissions} 00000000 fd:01 1234   /a b")
        };
        assert_eq!(shared_writable(line("rw-s").as_bytes()), Some(1234));
        for other in ["r--s", "rw-p", "r-xp"] {
            assert_eq!(shared_writable(line(other).as_bytes()), None);
        }
        assert_eq!(shared_writable(b"7f-7f rw-s 0 00:01 0 /dev/zero"), None);
        assert_eq!(shared_writable(b""), None);
    }

    #[test]
    fn writers_are_found_and_readers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (written, read) = (dir.path().join("written"), dir.path().join("read"));
        fs::write(&read, "x").unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec >\"$0\" 3<\"$1\"; echo begun; read wait"])
            .args([&written, &read])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tipple_testkit::wait_for("the file", || {
            fs::read(&written).is_ok_and(|b| !b.is_empty())
        });
        let key = |path| fs::metadata(path).map(|m| (m.dev(), m.ino())).unwrap();
        let files = HashSet::from([key(&written), key(&read)]);
        let open = open_for_writing(&files, &[]);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(open, HashMap::from([(key(&written), child.id() as i32)]));
        assert!(open_for_writing(&files, &[]).is_empty());
    }
}
