//! Requests and answers on their way through.

use std::io::{self, BufReader, Error, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::rule::Fault;
use super::{BUFFER_BYTES, Limit, Request, Shared};
use crate::http::{Framing, Head, Piece, read_body};
use crate::operation::method;
use crate::proxy::reset;

/// One connection of a client.
pub(super) struct Connection<'a> {
    pub(super) client: TcpStream,
    pub(super) number: u64,
    pub(super) shared: &'a Shared,
}

impl Connection<'_> {
    /// Serves one request after the other.
    pub(super) fn serve(&self) -> io::Result<()> {
        self.client.set_nodelay(true)?;
        let mut from_client = BufReader::with_capacity(BUFFER_BYTES, self.client.try_clone()?);
        while let Some(head) = Head::read(&mut from_client)? {
            let request = self.shared.begin(&head);
            if !self.exchange(&request, &head, &mut from_client)? {
                let _ = self.client.shutdown(Shutdown::Both);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the connection goes on.
    fn exchange(
        &self,
        request: &Request<'_>,
        head: &Head,
        from_client: &mut BufReader<TcpStream>,
    ) -> io::Result<bool> {
        let framing = head.request_framing()?;
        let mut client = &self.client;
        match request.fault() {
            Some(Fault::Reset) => {
                request.hit();
                reset(&self.client);
                return Ok(false);
            }
            Some(Fault::RefuseEarly(refusal)) => {
                request.hit();
                client.write_all(&refusal.answer(head, true))?;
                client.shutdown(Shutdown::Write)?;
                // Closing at once would reset the connection, and might destroy the answer on its way.
                read_body(from_client, framing, |_| Ok(()))?;
                return Ok(false);
            }
            _ => {}
        }
        let expects = head.header("expect");
        if expects.is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        match request.fault() {
            Some(Fault::Refuse(refusal)) => {
                read_body(from_client, framing, |_| Ok(()))?;
                request.hit();
                client.write_all(&refusal.answer(head, false))?;
                return Ok(!head.closes());
            }
            Some(Fault::Delay(time)) => {
                request.hit();
                self.pause(*time);
            }
            _ => {}
        }
        let server = TcpStream::connect(&self.shared.target)?;
        server.set_nodelay(true)?;
        {
            let mut state = self.shared.state();
            let streams = state.connections.get_mut(&self.number);
            let streams = streams.expect("it is open");
            streams.truncate(1);
            streams.push(server.try_clone()?);
        }
        self.pass_request(request, head, framing, from_client, &server)?;
        self.pass_answer(request, head, server)
    }

    fn pass_request(
        &self,
        request: &Request<'_>,
        head: &Head,
        framing: Framing,
        from_client: &mut BufReader<TcpStream>,
        server: &TcpStream,
    ) -> io::Result<()> {
        let mut to_server = server;
        // A server may answer before it has read everything; the rest is thrown away then, and its answer tells why.
        let mut takes_more = to_server.write_all(&head.raw).is_ok();
        let mut body = Body::new(request, &self.shared.to_server, true);
        read_body(from_client, framing, |piece| {
            match piece {
                Piece::Framing(line) => {
                    takes_more = takes_more && to_server.write_all(line).is_ok()
                }
                Piece::Data(data) => body.pass(data, |step| match step {
                    Step::Bytes(bytes) => {
                        takes_more = takes_more && to_server.write_all(bytes).is_ok();
                        Ok(())
                    }
                    Step::Stall => {
                        self.shared.stall(&self.client);
                        Ok(())
                    }
                    Step::Reset | Step::Cut => {
                        reset(server);
                        reset(&self.client);
                        Err(Error::other("reset"))
                    }
                })?,
            }
            Ok(())
        })
    }

    /// Whether the connection goes on.
    fn pass_answer(
        &self,
        request: &Request<'_>,
        head: &Head,
        server: TcpStream,
    ) -> io::Result<bool> {
        let mut from_server = BufReader::with_capacity(BUFFER_BYTES, server);
        let answer = loop {
            let answer = Head::read(&mut from_server)?
                .ok_or_else(|| Error::other("the server closed without an answer"))?;
            if answer.status()? / 100 != 1 {
                break answer;
            }
        };
        let framing = answer.response_framing(method(head))?;
        match request.fault() {
            Some(Fault::LoseAnswer) => {
                read_body(&mut from_server, framing, |_| Ok(()))?;
                request.hit();
                reset(&self.client);
                return Ok(false);
            }
            Some(Fault::HoldAnswer) => {
                request.hit();
                self.shared.stall(&self.client);
            }
            _ => {}
        }
        let mut client = &self.client;
        client.write_all(&answer.raw)?;
        let mut body = Body::new(request, &self.shared.to_client, false);
        read_body(&mut from_server, framing, |piece| match piece {
            Piece::Framing(line) => client.write_all(line),
            Piece::Data(data) => body.pass(data, |step| match step {
                Step::Bytes(bytes) => client.write_all(bytes),
                Step::Stall => {
                    self.shared.stall(&self.client);
                    Ok(())
                }
                Step::Reset => {
                    reset(&self.client);
                    Err(Error::other("reset"))
                }
                Step::Cut => {
                    self.client.shutdown(Shutdown::Both)?;
                    Err(Error::other("cut"))
                }
            }),
        })?;
        Ok(framing != Framing::UntilEnd && !answer.closes() && !head.closes())
    }

    /// Waits so long, or until all is over.
    fn pause(&self, time: Duration) {
        let start = Instant::now();
        let mut state = self.shared.state();
        while let Some(left) = time.checked_sub(start.elapsed())
            && !self.shared.stopped.load(Ordering::SeqCst)
        {
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// The bytes of one body on their way.
struct Body<'a> {
    request: &'a Request<'a>,
    limit: &'a Limit,
    slow: Option<Limit>,
    at: Option<(u64, Done)>,
    swap: Option<(&'static str, &'static str)>,
    passed: u64,
    spoiled: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Flip,
    Reset,
    Cut,
    Stall,
}

enum Step<'a> {
    Bytes(&'a [u8]),
    Stall,
    Reset,
    Cut,
}

impl<'a> Body<'a> {
    fn new(request: &'a Request<'a>, limit: &'a Limit, is_request: bool) -> Self {
        let fault = request.fault().map(|fault| (fault, is_request));
        let at = match fault {
            Some((Fault::FlipRequest(n), true) | (Fault::FlipAnswer(n), false)) => {
                Some((*n, Done::Flip))
            }
            Some((Fault::ResetRequest(n), true) | (Fault::ResetAnswer(n), false)) => {
                Some((*n, Done::Reset))
            }
            Some((Fault::StallRequest(n), true) | (Fault::StallAnswer(n), false)) => {
                Some((*n, Done::Stall))
            }
            Some((Fault::CutAnswer(n), false)) => Some((*n, Done::Cut)),
            _ => None,
        };
        let slow = match fault {
            Some((Fault::SlowRequest(rate), true) | (Fault::SlowAnswer(rate), false)) => {
                let limit = Limit::default();
                limit.set(Some(*rate));
                Some(limit)
            }
            _ => None,
        };
        let swap = match fault {
            Some(
                (Fault::SwapInRequest(from, to), true) | (Fault::SwapInAnswer(from, to), false),
            ) => {
                assert_eq!(from.len(), to.len(), "the head has said the length");
                Some((*from, *to))
            }
            _ => None,
        };
        Self {
            request,
            limit,
            slow,
            at,
            swap,
            passed: 0,
            spoiled: Vec::new(),
        }
    }

    fn pass(
        &mut self,
        mut data: &[u8],
        mut step: impl FnMut(Step<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some((at, done)) = self.at
            && at < self.passed + data.len() as u64
        {
            self.at = None;
            let before = usize::try_from(at - self.passed).expect("within the data");
            self.pace(&data[..before], &mut step)?;
            self.request.hit();
            data = &data[before..];
            match done {
                Done::Flip => {
                    let mut spoiled = std::mem::take(&mut self.spoiled);
                    spoiled.extend_from_slice(data);
                    spoiled[0] = !spoiled[0];
                    return self.pace(&spoiled, &mut step);
                }
                Done::Reset => step(Step::Reset)?,
                Done::Cut => step(Step::Cut)?,
                Done::Stall => step(Step::Stall)?,
            }
        }
        if self.slow.is_some() && self.passed == 0 && !data.is_empty() {
            self.request.hit();
        }
        if let Some((from, to)) = self.swap
            && let Some(swapped) = swap(data, from, to)
        {
            self.swap = None;
            self.request.hit();
            return self.pace(&swapped, &mut step);
        }
        self.pace(data, &mut step)
    }

    fn pace(
        &mut self,
        data: &[u8],
        step: &mut impl FnMut(Step<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut left = data;
        while !left.is_empty() {
            let slow = self.slow.as_ref();
            let most = self.limit.step().min(slow.map_or(u64::MAX, Limit::step));
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let (now, later) = left.split_at(left.len().min(most));
            for limit in slow.into_iter().chain([self.limit]) {
                limit.take(now.len() as u64, self.request.shared);
            }
            step(Step::Bytes(now))?;
            self.passed += now.len() as u64;
            left = later;
        }
        Ok(())
    }
}

/// `None` if there is nothing to swap in what has come. What comes in pieces is short enough to come in one.
fn swap(data: &[u8], from: &str, to: &str) -> Option<Vec<u8>> {
    let mut swapped = data.to_vec();
    let mut at = 0;
    while let Some(found) = swapped[at..]
        .windows(from.len())
        .position(|bytes| bytes == from.as_bytes())
    {
        at += found;
        swapped[at..at + to.len()].copy_from_slice(to.as_bytes());
        at += to.len();
    }
    (at > 0).then_some(swapped)
}
