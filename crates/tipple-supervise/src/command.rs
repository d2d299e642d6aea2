//! The command itself: started in a process group of its own, stopped, continued, ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::SuperviseError;
use crate::job::CommandExit;
use crate::options::SuperviseOptions;
use crate::processes::{Process, Tree, Unstoppable};

/// What stands for the folder in an argument.
const DIR: &[u8] = b"{dir}";

/// A command that was started, and all processes that it has started.
pub(crate) struct Supervised {
    child: Child,
    pub(crate) tree: Tree,
    pub(crate) leader: Process,
    exit: Option<CommandExit>,
}

impl Supervised {
    /// Starts it with `mark` in its environment.
    pub(crate) fn start(
        options: &SuperviseOptions,
        dir: &Path,
        mark: &str,
    ) -> Result<Self, SuperviseError> {
        let mut tree = Tree::new(mark, None);
        let args: Vec<OsString> = options
            .command
            .iter()
            .map(|arg| with_dir(arg, dir))
            .collect();
        let mut command = Command::new(&args[0]);
        command
            .args(&args[1..])
            .envs(options.variables.iter().map(|(name, value)| (name, value)))
            .env(tree.variable(), "1")
            .stdin(Stdio::null())
            .process_group(0);
        if options.output_to_stderr {
            let stderr = io::stderr().as_fd().try_clone_to_owned();
            command.stdout(Stdio::from(
                stderr.map_err(SuperviseError::disk("share", dir))?,
            ));
        }
        let program = args[0].to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|error| {
            SuperviseError::Usage(format!(
                "cannot start {program}: {error}; check the command after --"
            ))
        })?;
        let pid = child.id() as i32;
        let Some(leader) = Process::find(pid) else {
            // Not without looking at it: it must not run on alone.
            let _ = child.kill();
            let _ = child.wait();
            return Err(SuperviseError::Command(
                "/proc does not show the processes of this system: mount it".to_owned(),
            ));
        };
        tree.lead_by(&leader);
        Ok(Self {
            child,
            tree,
            leader,
            exit: None,
        })
    }

    /// How its first process ended, if it has.
    pub(crate) fn exit(&mut self) -> io::Result<Option<CommandExit>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait()?.map(|status| CommandExit {
                code: status.code(),
                signal: status.signal(),
            });
        }
        Ok(self.exit)
    }

    /// Stops all processes, and returns how long that took.
    pub(crate) fn stop(&mut self, gentle: bool) -> Result<Duration, Unstoppable> {
        let since = Instant::now();
        self.tree.stop(gentle)?;
        Ok(since.elapsed())
    }

    /// Ends all processes and waits for the first one. See [`Tree::end`].
    pub(crate) fn end(
        &mut self,
        grace: Duration,
        may_go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Unstoppable> {
        self.tree.end(grace, may_go_on)?;
        // It has ended: this only collects it.
        let _ = self.child.wait();
        Ok(())
    }
}

fn with_dir(arg: &OsStr, dir: &Path) -> OsString {
    let mut out = Vec::with_capacity(arg.len());
    let mut rest = arg.as_bytes();
    while let Some(at) = rest.windows(DIR.len()).position(|window| window == DIR) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(dir.as_os_str().as_bytes());
        rest = &rest[at + DIR.len()..];
    }
    out.extend_from_slice(rest);
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_stands_wherever_it_is_named() {
        let replaced = |arg: &str| {
            with_dir(OsStr::new(arg), Path::new("/d"))
                .into_string()
                .unwrap()
        };
        assert_eq!(replaced("--out={dir}/x:{dir}"), "--out=/d/x:/d");
        assert_eq!(replaced("{di"), "{di");
        assert_eq!(replaced(""), "");
    }
}
