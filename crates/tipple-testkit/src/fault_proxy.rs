//! A proxy that knows what is asked of an object store or a queue, and spoils it as told.
//!
//! # The faults
//! A request passes six points: its head is read; its body passes; the server has it all and acts; the answer's head passes;
//! the answer's body passes; the connection serves the next request. At each of them a connection can break, stand still or
//! lie, and a server can refuse before it acts. Those are the faults. What cannot be told apart from outside is not among
//! them: a server that is down refuses connections, which [`FaultProxy::stop_listening`] does.

mod exchange;
mod rule;

use std::collections::HashMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::exchange::Connection;
pub use self::rule::{Fault, Refusal, Rule};
use crate::account::Account;
use crate::http::Head;
use crate::operation::{Operation, split_target};

const BUFFER_BYTES: usize = 64 << 10;
/// What a limit that was not used for a moment makes up for.
const CATCH_UP: Duration = Duration::from_millis(20);

/// A proxy on a free port of 127.0.0.1 in front of one server. Requests pass as they are, with the client's `Host`, so
/// that their signatures stay good; each on a connection of its own to the server. Dropping it cuts all connections and
/// waits for their end.
#[derive(Debug)]
pub struct FaultProxy {
    account: Account,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: String,
    stopped: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    to_server: Limit,
    to_client: Limit,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<RuleState>,
    seen: Vec<(Operation, String)>,
    under_way: HashMap<Operation, UnderWay>,
    connections: HashMap<u64, Vec<TcpStream>>,
    connections_accepted: u64,
    stalled: u64,
    released: bool,
}

#[derive(Debug)]
struct RuleState {
    rule: Rule,
    counted: u64,
    hits: u64,
    is_set: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct UnderWay {
    now: u64,
    max: u64,
}

impl FaultProxy {
    /// Starts one in front of `server`, whose endpoint must be plain HTTP.
    ///
    /// # Panics
    /// If no port can be had.
    #[track_caller]
    pub fn start(server: &Account, rules: impl IntoIterator<Item = Rule>) -> Self {
        assert!(
            !server.endpoint.starts_with("https:"),
            "faults need plain HTTP"
        );
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: server.addr().to_owned(),
            stopped: AtomicBool::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            to_server: Limit::default(),
            to_client: Limit::default(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, &shared))
        };
        let proxy = Self {
            account: server.at(&format!("http://{addr}")),
            shared,
            accepting: Some(accepting),
        };
        for rule in rules {
            proxy.add(rule);
        }
        proxy
    }

    /// The server's account at this proxy.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Sets one more rule, and returns its number: from 0, in the order they were set. Of several rules for a request
    /// the first is done; all of them count it.
    pub fn add(&self, rule: Rule) -> usize {
        let mut state = self.shared.state();
        state.rules.push(RuleState {
            rule,
            counted: 0,
            hits: 0,
            is_set: true,
        });
        state.rules.len() - 1
    }

    /// Ends all rules and stalls: requests pass untouched from here on. What was counted stays.
    pub fn heal(&self) {
        for rule in &mut self.shared.state().rules {
            rule.is_set = false;
        }
        self.release();
    }

    /// How often the fault of a rule was done.
    ///
    /// # Panics
    /// If there is no rule of this number.
    #[track_caller]
    pub fn hits(&self, rule: usize) -> u64 {
        self.shared.state().rules[rule].hits
    }

    /// How many requests of this kind came, spoiled or not.
    pub fn requests(&self, operation: Operation) -> u64 {
        let state = self.shared.state();
        state.seen.iter().filter(|seen| seen.0 == operation).count() as u64
    }

    /// What came, in order: operations and paths with queries, as they were written.
    pub fn seen(&self) -> Vec<(Operation, String)> {
        self.shared.state().seen.clone()
    }

    /// The most requests of this kind that were under way at once.
    pub fn under_way_max(&self, operation: Operation) -> u64 {
        let state = self.shared.state();
        state.under_way.get(&operation).map_or(0, |now| now.max)
    }

    /// Bodies pass at so many bytes a second in each direction, over all connections together. `None` takes a limit away.
    pub fn limit(&self, to_server: Option<u64>, to_client: Option<u64>) {
        self.shared.to_server.set(to_server);
        self.shared.to_client.set(to_client);
    }

    /// Bytes of bodies passed to the server.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.passed.load(Ordering::SeqCst)
    }

    /// Bytes of bodies passed to clients.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.passed.load(Ordering::SeqCst)
    }

    /// Requests that stand still now. One whose client has gone does not.
    pub fn stalled(&self) -> u64 {
        self.shared.state().stalled
    }

    /// Ends every stall, present and future: those requests go on.
    pub fn release(&self) {
        self.shared.state().released = true;
        self.shared.changed.notify_all();
    }

    /// Cuts every open connection now. New ones are accepted.
    pub fn sever(&self) {
        self.shared.state().sever();
    }

    /// Cuts every open connection, and refuses new ones from here on: the server is down.
    pub fn stop_listening(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept; nobody listens any more if it ended by itself.
        let _ = TcpStream::connect(self.account.addr());
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let mut state = self.shared.state();
        self.shared.changed.notify_all();
        while !state.connections.is_empty() {
            state.sever();
            state = self
                .shared
                .changed
                .wait_timeout(state, CATCH_UP)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

impl State {
    fn sever(&mut self) {
        for stream in self.connections.values().flatten() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, and finds what becomes of it.
    fn begin(&self, head: &Head) -> Request<'_> {
        let operation = Operation::of(head);
        let path = split_target(head).0;
        let mut state = self.state();
        let target = head.first.split(' ').nth(1).unwrap_or_default();
        state.seen.push((operation, target.to_owned()));
        let under_way = state.under_way.entry(operation).or_default();
        under_way.now += 1;
        under_way.max = under_way.max.max(under_way.now);
        let mut found = None;
        for (number, rule) in state.rules.iter_mut().enumerate() {
            if rule.is_set && rule.rule.counts(operation, path) {
                rule.counted += 1;
                if found.is_none() && rule.rule.which.contains(&rule.counted) {
                    found = Some((number, rule.rule.fault.clone()));
                }
            }
        }
        Request {
            shared: self,
            operation,
            fault: found,
        }
    }

    /// Waits until it is released, or `client` has gone, or all is over.
    fn stall(&self, client: &TcpStream) {
        let mut state = self.state();
        state.stalled += 1;
        while !state.released && !self.stopped.load(Ordering::SeqCst) && !has_gone(client) {
            state = self
                .changed
                .wait_timeout(state, CATCH_UP)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.stalled -= 1;
    }
}

/// A request under way.
struct Request<'a> {
    shared: &'a Shared,
    operation: Operation,
    fault: Option<(usize, Fault)>,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let under_way = state.under_way.get_mut(&self.operation);
        under_way.expect("it began").now -= 1;
    }
}

impl Request<'_> {
    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref().map(|(_, fault)| fault)
    }

    fn hit(&self) {
        let (number, _) = self.fault.as_ref().expect("a fault that is done");
        self.shared.state().rules[*number].hits += 1;
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let number = {
            let mut state = shared.state();
            let number = state.connections_accepted;
            state.connections_accepted += 1;
            let stream = client.try_clone().unwrap();
            state.connections.insert(number, vec![stream]);
            number
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let connection = Connection {
                client,
                number,
                shared: &shared,
            };
            // It ended early: that is what this proxy is for.
            let _ = connection.serve();
            drop(connection);
            shared.state().connections.remove(&number);
            shared.changed.notify_all();
        });
    }
}

/// Not more than so many bytes a second.
#[derive(Debug, Default)]
struct Limit {
    /// 0 without a limit.
    bytes_per_second: AtomicU64,
    passed: AtomicU64,
    /// When the next bytes may go.
    next: Mutex<Option<Instant>>,
}

impl Limit {
    fn set(&self, bytes_per_second: Option<u64>) {
        assert_ne!(bytes_per_second, Some(0), "nothing would pass");
        self.bytes_per_second
            .store(bytes_per_second.unwrap_or(0), Ordering::SeqCst);
    }

    /// How many bytes go at once: a limit bites in steps of a fiftieth of a second.
    fn step(&self) -> u64 {
        match self.bytes_per_second.load(Ordering::SeqCst) {
            0 => u64::MAX,
            rate => (rate / 50).max(1),
        }
    }

    /// Waits until `bytes` may go.
    fn take(&self, bytes: u64, shared: &Shared) {
        let rate = self.bytes_per_second.load(Ordering::SeqCst);
        if rate > 0 {
            let now = Instant::now();
            let due = {
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
                let due = next.map_or(now, |next| next.max(earliest));
                *next = Some(due + Duration::from_secs_f64(bytes as f64 / rate as f64));
                due
            };
            let mut state = shared.state();
            while let Some(left) = due.checked_duration_since(Instant::now())
                && !left.is_zero()
                && !shared.stopped.load(Ordering::SeqCst)
            {
                state = shared
                    .changed
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
        self.passed.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// Whether the other side has closed or reset the connection, whatever is still to be read from it.
fn has_gone(stream: &TcpStream) -> bool {
    let mut asked = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
    ready > 0
}
