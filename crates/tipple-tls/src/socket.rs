//! A socket that speaks TLS, or not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use crate::{Error, TlsOptions, client, explain};

/// A connected socket. Time limits of the [`TcpStream`] hold below TLS, too: a read or a write that was cut short by one
/// goes on where it was.
#[derive(Debug)]
pub enum Socket {
    /// Everybody reads along.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// Begins TLS with `host` over `stream`. Calls `look` whenever a time limit of the stream has passed; the handshake
    /// takes at most `limit`.
    ///
    /// # Errors
    /// `E` of `look`; or what `failed` makes of why there is no session, and of whether it may be another time.
    pub fn secure<E>(
        mut stream: TcpStream,
        host: &str,
        options: &TlsOptions,
        limit: Duration,
        mut look: impl FnMut() -> Result<(), E>,
        failed: impl Fn(String, bool) -> E,
    ) -> Result<Self, E> {
        let mut session = client(host, options).map_err(|why| failed(why, false))?;
        let until = Instant::now() + limit;
        while session.is_handshaking() {
            let error = match session.complete_io(&mut stream) {
                Ok(_) => continue,
                Err(error) => error,
            };
            let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
            match (of_tls, error.kind()) {
                (Some(of_tls), _) => return Err(failed(of_tls_text(of_tls), false)),
                (None, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    look()?;
                    if Instant::now() >= until {
                        return Err(failed(
                            "no TLS handshake in time: it does not seem to speak TLS here"
                                .to_owned(),
                            true,
                        ));
                    }
                }
                (None, _) => return Err(failed(format!("the TLS handshake broke: {error}"), true)),
            }
        }
        let session = StreamOwned::new(session, stream);
        Ok(Self::Tls(Box::new(session)))
    }
}

fn of_tls_text(error: &Error) -> String {
    format!("TLS: {}", explain(error))
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

/// What was written is on its way once [`Write::flush`] has returned.
impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
