//! A socket, plain or TLS, and what waits to be sent on it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tipple_budget::Gate;

use super::{ConnectionError, OUTBOX_BYTES_MAX, check};
use crate::options::MemcachedOptions;
use crate::url::Server;

/// How long a wait for the server goes on before it looks whether the job was cancelled.
const TICK: Duration = Duration::from_millis(100);

/// What a connection is beside its receive buffer.
pub(super) struct Link {
    pub(super) server: Server,
    stream: Stream,
    tls: Option<Box<tipple_tls::ClientConnection>>,
    // To be sent: sent.. of it.
    pub(super) outbox: Vec<u8>,
    pub(super) sent: usize,
    ticks_max: u32,
    pub(super) greeted: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Ready {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Link {
    /// Connects, with a handshake if it is TLS.
    pub(super) fn connect(
        server: &Server,
        options: &MemcachedOptions,
        gate: Option<&Gate>,
    ) -> Result<Self, ConnectionError> {
        let failed = |source| ConnectionError::Connect {
            server: server.clone(),
            source,
        };
        let stream = Stream::connect(server, options.connect_timeout).map_err(failed)?;
        stream.set_tick().map_err(failed)?;
        let mut link = Self {
            server: server.clone(),
            stream,
            tls: None,
            outbox: Vec::with_capacity(OUTBOX_BYTES_MAX),
            sent: 0,
            ticks_max: ticks(options.io_timeout),
            greeted: false,
        };
        if let Some(tls) = &options.tls {
            let host = match server {
                Server::Tcp { host, .. } => host,
                Server::Unix(_) => "localhost",
            };
            let session = tipple_tls::client(host, tls);
            let session = session.map_err(|reason| ConnectionError::Tls {
                server: server.clone(),
                reason,
            })?;
            link.tls = Some(Box::new(session));
            link.handshake(gate)?;
        }
        Ok(link)
    }

    pub(super) fn has_outbox(&self) -> bool {
        self.sent < self.outbox.len()
    }

    fn wants_write(&self) -> bool {
        self.has_outbox() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends of the outbox what goes without waiting; whether anything went.
    pub(super) fn push(&mut self) -> Result<bool, ConnectionError> {
        let mut pushed = false;
        while self.has_outbox() {
            let outbox = std::mem::take(&mut self.outbox);
            let taken = self.write(&outbox[self.sent..]);
            self.outbox = outbox;
            match taken? {
                0 => return Ok(pushed),
                n => self.sent += n,
            }
            pushed = true;
        }
        if self.tls.is_some() {
            pushed |= self.flush_tls()?;
        }
        Ok(pushed)
    }

    /// Sends of `bytes` what goes without waiting; 0 if nothing does.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, ConnectionError> {
        if self.tls.is_some() {
            self.flush_tls()?;
            let tls = self.tls.as_mut().expect("just seen");
            let taken = write_records(&mut tls.writer(), bytes);
            let taken = taken.map_err(|source| self.lost(source))?;
            self.flush_tls()?;
            return Ok(taken);
        }
        match self.stream.send(bytes) {
            Ok(n) => Ok(n),
            Err(error) if waits(&error) => Ok(0),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn flush_tls(&mut self) -> Result<bool, ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return Ok(false);
        };
        let mut flushed = false;
        while tls.wants_write() {
            match tls.write_tls(&mut &self.stream) {
                Ok(_) => flushed = true,
                Err(error) if waits(&error) => return Ok(flushed),
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(flushed)
    }

    /// Receives at least one byte into `out`, sending the outbox meanwhile.
    pub(super) fn receive(
        &mut self,
        out: &mut [u8],
        gate: Option<&Gate>,
    ) -> Result<usize, ConnectionError> {
        let mut silent = 0;
        loop {
            check(gate)?;
            if self.wants_write() && self.push()? {
                silent = 0;
            }
            if let Some(n) = self.decrypted(out)? {
                return Ok(n);
            }
            if self.wants_write() {
                let ready = self.poll(true, true)?;
                if !ready.read {
                    if !ready.write {
                        self.count_silence(&mut silent)?;
                    }
                    continue;
                }
            }
            let read = match &mut self.tls {
                None => (&self.stream).read(out),
                Some(tls) => tls.read_tls(&mut &self.stream),
            };
            match read {
                Ok(0) => {
                    let server = self.server.clone();
                    return Err(ConnectionError::Closed {
                        server,
                        greeted: self.greeted,
                    });
                }
                Ok(n) if self.tls.is_none() => return Ok(n),
                Ok(_) => {
                    self.decrypt()?;
                    silent = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => self.count_silence(&mut silent)?,
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    fn decrypt(&mut self) -> Result<(), ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        if let Err(error) = tls.process_new_packets() {
            // The alert that tells the server why; it need not arrive.
            let _ = tls.write_tls(&mut &self.stream);
            return Err(ConnectionError::Tls {
                server: self.server.clone(),
                reason: tipple_tls::explain(&error),
            });
        }
        Ok(())
    }

    /// Plain bytes that TLS has ready.
    fn decrypted(&mut self, out: &mut [u8]) -> Result<Option<usize>, ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return Ok(None);
        };
        match tls.reader().read(out) {
            Ok(0) => Err(ConnectionError::Closed {
                server: self.server.clone(),
                greeted: self.greeted,
            }),
            Ok(n) => Ok(Some(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn handshake(&mut self, gate: Option<&Gate>) -> Result<(), ConnectionError> {
        let mut silent = 0;
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            check(gate)?;
            self.flush_tls()?;
            let Some(tls) = &mut self.tls else { break };
            if !tls.wants_read() {
                continue;
            }
            match tls.read_tls(&mut &self.stream) {
                Ok(0) => {
                    return Err(ConnectionError::Tls {
                        server: self.server.clone(),
                        reason: "it closed the connection: check that it speaks TLS (-Z)".into(),
                    });
                }
                Ok(_) => {
                    self.decrypt()?;
                    silent = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => self.count_silence(&mut silent)?,
                Err(error) => return Err(self.lost(error)),
            }
        }
        self.flush_tls().map(drop)
    }

    /// Waits a tick for the socket to be ready for what is wanted. A broken socket is ready for everything: the read
    /// or write that follows says why.
    pub(super) fn poll(&self, read: bool, write: bool) -> Result<Ready, ConnectionError> {
        let mut events = 0;
        if read {
            events |= libc::POLLIN;
        }
        if write {
            events |= libc::POLLOUT;
        }
        let mut entry = libc::pollfd {
            fd: self.stream.as_raw_fd(),
            events,
            revents: 0,
        };
        // SAFETY: one valid entry, and the count says so; the descriptor is open as long as `self`.
        let ready = unsafe { libc::poll(&raw mut entry, 1, TICK.as_millis() as libc::c_int) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(self.lost(error));
            }
            entry.revents = 0;
        }
        let broken = entry.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
        Ok(Ready {
            read: read && (broken || entry.revents & libc::POLLIN != 0),
            write: write && (broken || entry.revents & libc::POLLOUT != 0),
        })
    }

    pub(super) fn count_silence(&self, silent: &mut u32) -> Result<(), ConnectionError> {
        *silent += 1;
        if *silent < self.ticks_max {
            return Ok(());
        }
        Err(ConnectionError::Silent {
            server: self.server.clone(),
            silence: TICK * *silent,
        })
    }

    fn lost(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Lost {
            server: self.server.clone(),
            source,
        }
    }
}

/// Writes `bytes` so that the last one has a TLS record of its own. A memcached reads as much of a record as it has room
/// or use for, and then waits for its socket; what its TLS library holds of the record it does not ask for. Were that
/// all there is, both sides would wait for ever. With another record behind it there is something at the socket, and of
/// one byte nothing stays behind.
fn write_records(records: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let Some((last, most)) = bytes.split_last() else {
        return Ok(0);
    };
    let mut taken = 0;
    if !most.is_empty() {
        taken = records.write(most)?;
        if taken < most.len() {
            return Ok(taken);
        }
    }
    taken += records.write(&[*last])?;
    Ok(taken)
}

/// Whether it is no error but nothing to read, or no room to write, for now.
fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// A socket whose reads wait a tick at most and whose writes do not wait.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(server: &Server, timeout: Duration) -> io::Result<Self> {
        match server {
            Server::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Server::Tcp { host, port } => {
                let mut refusal =
                    io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => refusal = error,
                    }
                }
                Err(refusal)
            }
        }
    }

    fn set_tick(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(TICK)),
            Self::Unix(stream) => stream.set_read_timeout(Some(TICK)),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // Not waiting is a flag of this call and not of the socket: reads do wait, and cost one system call.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        loop {
            // SAFETY: the pointer and the length are those of `bytes`, which the call only reads.
            let n =
                unsafe { libc::send(self.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
            if let Ok(n) = usize::try_from(n) {
                return Ok(n);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(out),
            Stream::Unix(stream) => (&mut &*stream).read(out),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn ticks(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}
