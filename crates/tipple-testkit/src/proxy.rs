//! A TCP proxy that breaks connections at a byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What becomes of one connection: both directions pass untouched by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Script {
    /// From the client to the server.
    pub to_server: Flow,
    /// From the server to the client.
    pub to_client: Flow,
}

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// The most bytes written at once; `Some(1)` gives one byte per segment.
    pub segment_bytes_max: Option<usize>,
    /// Not more than this a second.
    pub bytes_per_second: Option<u64>,
    /// After exactly so many bytes were passed on, this.
    pub end_after: Option<(u64, End)>,
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides see an orderly end (FIN), in both directions.
    Cut,
    /// The side that was being written to sees a reset (RST), the other one an end.
    Reset,
    /// Nothing more passes in this direction, and the connection stays open, until [`Proxy::release`].
    Stall,
}

/// A proxy on a free port of 127.0.0.1. Dropping it cuts all connections and joins its threads.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    connections: AtomicU64,
    stalled: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    released: bool,
    streams: Vec<TcpStream>,
    pumps: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one in front of `target` (`host:port`); `script` tells what becomes of connection 0, 1, 2 and so on.
    ///
    /// # Panics
    /// If no port can be had.
    #[track_caller]
    pub fn start(target: &str, script: impl Fn(u64) -> Script + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let accepting = {
            let (shared, target) = (Arc::clone(&shared), target.to_owned());
            std::thread::spawn(move || accept(&listener, &target, script, &shared))
        };
        Self {
            port,
            shared,
            accepting: Some(accepting),
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Directions that stand still in an [`End::Stall`] now.
    pub fn stalled(&self) -> u64 {
        self.shared.stalled.load(Ordering::SeqCst)
    }

    /// Bytes passed to the server, over all connections.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.load(Ordering::SeqCst)
    }

    /// Bytes passed to clients, over all connections.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.load(Ordering::SeqCst)
    }

    /// Ends every stall, present and future: those directions pass untouched from here on.
    pub fn release(&self) {
        self.shared.state().released = true;
        self.shared.changed.notify_all();
    }

    /// Cuts every open connection now. New ones are accepted.
    pub fn sever(&self) {
        self.shared.state().sever();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept; nobody listens any more if it ended by itself.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let pumps = {
            let mut state = self.shared.state();
            state.sever();
            std::mem::take(&mut state.pumps)
        };
        self.shared.changed.notify_all();
        for pump in pumps {
            let _ = pump.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `until` or the end of the proxy.
    fn pause(&self, until: impl Fn(&State) -> Option<Duration>) {
        let mut state = self.state();
        while !self.stopped.load(Ordering::SeqCst)
            && let Some(wait) = until(&state)
        {
            state = self
                .changed
                .wait_timeout(state, wait.min(Duration::from_millis(20)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl State {
    fn sever(&mut self) {
        for stream in self.streams.drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(
    listener: &TcpListener,
    target: &str,
    script: impl Fn(u64) -> Script,
    shared: &Arc<Shared>,
) {
    while let Ok((client, _)) = listener.accept() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let script = script(shared.connections.fetch_add(1, Ordering::SeqCst));
        // A server that is down: the client sees its connection end.
        let Ok(server) = TcpStream::connect(target) else {
            continue;
        };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        let up = Pump {
            from: clone(&client),
            to: clone(&server),
            flow: script.to_server,
            passed: 0,
            shared: Arc::clone(shared),
            total: |shared| &shared.to_server,
        };
        let down = Pump {
            from: clone(&server),
            to: clone(&client),
            flow: script.to_client,
            passed: 0,
            shared: Arc::clone(shared),
            total: |shared| &shared.to_client,
        };
        let mut state = shared.state();
        state.streams.extend([client, server]);
        state
            .pumps
            .extend([up, down].map(|pump| std::thread::spawn(move || pump.run())));
    }
}

/// One direction of one connection.
struct Pump {
    from: TcpStream,
    to: TcpStream,
    flow: Flow,
    passed: u64,
    shared: Arc<Shared>,
    total: fn(&Shared) -> &AtomicU64,
}

impl Pump {
    fn run(mut self) {
        let start = Instant::now();
        let mut buffer = vec![0; 64 << 10];
        loop {
            if self.is_at_end() && !self.end() {
                return;
            }
            let n = match self.from.read(&mut buffer) {
                Ok(n) if n > 0 => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // An end passes on as an end of this direction only.
                _ => {
                    let _ = self.to.shutdown(Shutdown::Write);
                    return;
                }
            };
            let mut left = &buffer[..n];
            while !left.is_empty() {
                if self.is_at_end() && !self.end() {
                    return;
                }
                let step = self.step(left.len());
                self.pace(step, start);
                if self.to.write_all(&left[..step]).is_err() {
                    let _ = self.from.shutdown(Shutdown::Both);
                    return;
                }
                self.passed += step as u64;
                (self.total)(&self.shared).fetch_add(step as u64, Ordering::SeqCst);
                left = &left[step..];
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.flow
            .end_after
            .is_some_and(|(after, _)| self.passed == after)
    }

    /// How many of `bytes` go at once: never beyond the scripted end.
    fn step(&self, bytes: usize) -> usize {
        let to_end = self
            .flow
            .end_after
            .map_or(u64::MAX, |(n, _)| n - self.passed);
        // A rate bites in steps of a fiftieth of a second.
        let rate = self
            .flow
            .bytes_per_second
            .map_or(u64::MAX, |rate| (rate / 50).max(1));
        let segment = self.flow.segment_bytes_max.unwrap_or(usize::MAX);
        let most = usize::try_from(to_end.min(rate)).unwrap_or(usize::MAX);
        bytes.min(most).min(segment)
    }

    fn pace(&self, step: usize, start: Instant) {
        if let Some(rate) = self.flow.bytes_per_second {
            let due = Duration::from_secs_f64((self.passed + step as u64) as f64 / rate as f64);
            self.shared.pause(|_| due.checked_sub(start.elapsed()));
        }
    }

    /// Does what the script says here; whether the direction goes on.
    fn end(&mut self) -> bool {
        let (_, end) = self.flow.end_after.take().expect("it is at its end");
        match end {
            End::Stall => {
                self.shared.stalled.fetch_add(1, Ordering::SeqCst);
                self.shared
                    .pause(|state| (!state.released).then_some(Duration::MAX));
                self.shared.stalled.fetch_sub(1, Ordering::SeqCst);
                true
            }
            End::Cut => {
                let _ = self.to.shutdown(Shutdown::Both);
                let _ = self.from.shutdown(Shutdown::Both);
                false
            }
            End::Reset => {
                reset(&self.to);
                let _ = self.from.shutdown(Shutdown::Both);
                false
            }
        }
    }
}

/// Sends an RST at once, however many handles there are: connecting a TCP socket to no family dissolves its connection
/// (Linux, connect(2)).
pub(crate) fn reset(stream: &TcpStream) {
    // SAFETY: an all-zero sockaddr is a valid one.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    // SAFETY: the address is ours, lives through the call, and its length is its size.
    let result = unsafe {
        libc::connect(
            stream.as_raw_fd(),
            &nowhere,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
