//! The processes of a command: who they are, and stopping, continuing and ending all of them.
//!
//! A process belongs to the command if it is in the command's process group or session, if its parent belongs, or if
//! its environment holds the run's mark. The mark is inherited, so it finds what left the group and whose parent has
//! ended, and also what outlived a supervisor that was killed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The variable whose name holds the run's mark.
const MARK: &str = "TIPPLE_SUPERVISED_";
/// Between two looks while processes stop, end or go on.
const LOOK: Duration = Duration::from_micros(300);
/// How long `gentle` waits for those that stop by themselves.
pub(crate) const GENTLE_WAIT: Duration = Duration::from_millis(50);
/// How long processes may take to stop: one that waits for a disk stops when the disk answers.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);

/// A process as `/proc/PID/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    /// Clock ticks after boot. With the pid it names a process for good.
    pub(crate) started: u64,
    state: u8,
}

impl Process {
    /// `None` if there is no such process.
    pub(crate) fn find(pid: i32) -> Option<Self> {
        Self::parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name stands in brackets and may hold anything, brackets too.
    fn parse(pid: i32, stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |n: usize| fields.get(n)?.parse().ok();
        Some(Self {
            pid,
            state: *fields.first()?.as_bytes().first()?,
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// Whether every thread of it is stopped, or can do nothing before one of its children goes on, which are stopped.
    ///
    /// The second is how `vfork` and `posix_spawn` work: a thread waits, out of reach of signals, until its child has begun
    /// another program; if the child is stopped before that, the parent never gets to stop.
    fn is_stopped(&self, members: &[Self]) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return true; // it has ended since
        };
        let mut waits = false;
        for task in tasks.flatten() {
            let stat = fs::read(task.path().join("stat")).ok();
            match stat
                .and_then(|stat| Self::parse(self.pid, &stat))
                .map(|task| task.state)
            {
                None | Some(b'T' | b't' | b'Z' | b'X') => {}
                Some(b'D') => waits = true,
                Some(_) => return false,
            }
        }
        !waits || self.has_lent_its_memory(members)
    }

    /// Whether a stopped child of it uses its very memory.
    fn has_lent_its_memory(&self, members: &[Self]) -> bool {
        let memory = |pid: i32| fs::read(format!("/proc/{pid}/statm")).ok();
        let own = memory(self.pid);
        members.iter().any(|member| {
            member.parent == self.pid
                && matches!(member.state, b'T' | b't')
                && own.is_some()
                && memory(member.pid) == own
        })
    }
}

/// Every process that this one may see, in the order of their pids as the system gives them.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Some processes did not stop or end in time.
#[derive(Debug)]
pub(crate) struct Unstoppable {
    pub(crate) pids: Vec<i32>,
}

/// The processes of one command.
pub(crate) struct Tree {
    variable: String,
    leader: Option<(i32, u64)>,
    /// Whether a process belongs, by pid and start: what once belonged always does.
    belongs: HashMap<(i32, u64), bool>,
}

impl Tree {
    /// Those of the run with this mark; `leader` leads their group, if it is known.
    pub(crate) fn new(mark: &str, leader: Option<(i32, u64)>) -> Self {
        Self {
            variable: format!("{MARK}{mark}"),
            leader,
            belongs: HashMap::new(),
        }
    }

    /// The variable to set in the command's environment.
    pub(crate) fn variable(&self) -> &str {
        &self.variable
    }

    pub(crate) fn lead_by(&mut self, leader: &Process) {
        self.leader = Some((leader.pid, leader.started));
    }

    /// Those that are alive.
    pub(crate) fn members(&mut self) -> Vec<Process> {
        let all = all();
        let own = process::id() as i32;
        let leader = self.leader_group(&all);
        let mut members: HashSet<i32> = HashSet::new();
        let mut belongs = HashMap::with_capacity(all.len());
        for process in &all {
            let key = (process.pid, process.started);
            let known = self.belongs.get(&key).copied();
            let is_member = process.pid != own
                && (known == Some(true)
                    || leader.is_some_and(|id| process.group == id || process.session == id)
                    || (known.is_none() && self.is_marked(process.pid)));
            belongs.insert(key, is_member);
            if is_member {
                members.insert(process.pid);
            }
        }
        // Children of members, and theirs.
        loop {
            let more: Vec<&Process> = all
                .iter()
                .filter(|process| {
                    process.pid != own
                        && members.contains(&process.parent)
                        && !members.contains(&process.pid)
                })
                .collect();
            if more.is_empty() {
                break;
            }
            for process in more {
                members.insert(process.pid);
                belongs.insert((process.pid, process.started), true);
            }
        }
        self.belongs = belongs;
        all.into_iter()
            .filter(|process| members.contains(&process.pid) && !process.is_over())
            .collect()
    }

    /// The group's id, unless another process has got the number since.
    fn leader_group(&self, all: &[Process]) -> Option<i32> {
        let (pid, started) = self.leader?;
        let reused = all
            .iter()
            .any(|process| process.pid == pid && process.started != started);
        (!reused).then_some(pid)
    }

    fn is_marked(&self, pid: i32) -> bool {
        let Ok(variables) = fs::read(format!("/proc/{pid}/environ")) else {
            return false;
        };
        let mark = self.variable.as_bytes();
        variables.split(|byte| *byte == 0).any(|variable| {
            variable
                .strip_prefix(mark)
                .is_some_and(|rest| rest.starts_with(b"="))
        })
    }

    /// Stops all of them, and returns when every thread of each is stopped.
    ///
    /// `gentle`: with SIGTSTP first, which a process may catch to stop by itself; SIGSTOP follows for those that did
    /// not within 50 ms.
    pub(crate) fn stop(&mut self, gentle: bool) -> Result<(), Unstoppable> {
        let began = Instant::now();
        let signal = match gentle {
            true => Signal::TSTP,
            false => Signal::STOP,
        };
        self.signal_group(signal);
        let mut confirmed: Option<Vec<Process>> = None;
        let mut told: HashSet<(i32, u64)> = HashSet::new();
        loop {
            let members = self.members();
            let running: Vec<&Process> =
                members.iter().filter(|m| !m.is_stopped(&members)).collect();
            if running.is_empty() {
                // A second look: who was forked during the first one may be missing in it.
                let pids = |list: &[Process]| list.iter().map(|m| m.pid).collect::<HashSet<_>>();
                if confirmed.is_some_and(|before| pids(&before) == pids(&members)) {
                    return Ok(());
                }
                confirmed = Some(members);
                continue;
            }
            confirmed = None;
            if began.elapsed() > STOP_WAIT_MAX {
                return Err(Unstoppable {
                    pids: running.iter().map(|m| m.pid).collect(),
                });
            }
            let insist = !gentle || began.elapsed() > GENTLE_WAIT;
            for member in running {
                if insist {
                    send(member, Signal::STOP);
                } else if told.insert((member.pid, member.started)) {
                    send(member, Signal::TSTP);
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// Lets all of them go on.
    pub(crate) fn go_on(&mut self) {
        self.signal_group(Signal::CONT);
        for member in self.members() {
            send(&member, Signal::CONT);
        }
    }

    /// Lets those go on that are stopped though nobody wants them to be: who catches SIGTSTP to stop by itself may come to
    /// do so only after the pause.
    pub(crate) fn go_on_late(&mut self) {
        let members = self.members();
        for member in members.iter().filter(|m| m.is_stopped(&members)) {
            send(member, Signal::CONT);
        }
    }

    /// Ends all of them: SIGTERM, and after `grace`, or as soon as they may not go on, SIGKILL.
    pub(crate) fn end(
        &mut self,
        grace: Duration,
        may_go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Unstoppable> {
        let began = Instant::now();
        let mut kill = false;
        let mut told: HashSet<(i32, u64)> = HashSet::new();
        loop {
            let members = self.members();
            if members.is_empty() {
                return Ok(());
            }
            if began.elapsed() > grace + STOP_WAIT_MAX {
                return Err(Unstoppable {
                    pids: members.iter().map(|m| m.pid).collect(),
                });
            }
            kill |= began.elapsed() >= grace || !may_go_on();
            for member in &members {
                if kill {
                    send(member, Signal::KILL);
                } else if told.insert((member.pid, member.started)) {
                    send(member, Signal::TERM);
                    // One that is stopped hears nothing before it goes on.
                    send(member, Signal::CONT);
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// All of the group at once, which is faster than one after the other.
    fn signal_group(&self, signal: Signal) {
        let Some((pid, started)) = self.leader else {
            return;
        };
        // The leader is not waited for before its group is empty of others, or its number is checked here.
        let is_leader = Process::find(pid).is_some_and(|process| process.started == started);
        if let (true, Some(group)) = (is_leader, Pid::from_raw(pid)) {
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Only to the very process that was looked at; one that has ended needs no signal.
fn send(process: &Process, signal: Signal) {
    let same = Process::find(process.pid).is_some_and(|now| now.started == process.started);
    if let (true, Some(pid)) = (same, Pid::from_raw(process.pid)) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let stat = b"7 (a) R (b) S 3 4 5 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0\n";
        let process = Process::parse(7, stat).unwrap();
        assert_eq!(
            (
                process.state,
                process.parent,
                process.group,
                process.session,
                process.started
            ),
            (b'S', 3, 4, 5, 123_456)
        );
        for bad in [&b""[..], b"7 (x", b"7 (x) S 1 2", b"7 (x) S a b c"] {
            assert_eq!(Process::parse(7, bad), None);
        }
    }

    #[test]
    fn this_process_is_found_and_belongs_to_nobody() {
        let own = process::id() as i32;
        let found = Process::find(own).unwrap();
        assert!(
            all()
                .iter()
                .any(|p| p.pid == own && p.started == found.started)
        );
        let mut tree = Tree::new("0123456789abcdef", Some((own, found.started)));
        assert!(tree.members().iter().all(|member| member.pid != own));
    }

    /// Whoever starts programs all the time is often between two of them.
    #[test]
    fn who_starts_programs_is_stopped_and_goes_on() {
        use std::os::unix::process::CommandExt;
        use std::process::{Command, Stdio};

        let mark = crate::layout::random_hex();
        let mut tree = Tree::new(&mark, None);
        let mut child = Command::new("sh")
            .args(["-c", "while :; do /bin/true; done"])
            .env(tree.variable(), "1")
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        tree.lead_by(&Process::find(child.id() as i32).unwrap());
        let cpu = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let after = stat[stat.rfind(')').unwrap() + 2..].to_owned();
            let field = |n: usize| after.split(' ').nth(n).unwrap().parse::<u64>().unwrap();
            // Page faults, its own and its children's: each new program makes some.
            field(7) + field(8)
        };
        let since = Instant::now();
        for _ in 0..100 {
            tree.stop(false).unwrap();
            let stopped = cpu();
            let members: Vec<_> = tree.members();
            assert!(!members.is_empty());
            assert_eq!(cpu(), stopped, "it works while it is stopped");
            tree.go_on();
            tipple_testkit::wait_for("it to go on", || cpu() > stopped);
        }
        assert!(
            since.elapsed() < STOP_WAIT_MAX,
            "each waited for {:?}",
            since.elapsed() / 100
        );
        tree.end(Duration::ZERO, &mut || true).unwrap();
        child.wait().unwrap();
        assert!(tree.members().is_empty());
    }
}
