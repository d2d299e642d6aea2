//! A proxy that knows what is asked of an object store or a queue, and spoils it as told.
//!
//! # The faults
//! A request passes six points: its head is read; its body passes; the server has it all and acts; the answer's head passes;
//! the answer's body passes; the connection serves the next request. At each of them a connection can break, stand still or
//! lie, and a server can refuse before it acts. Those are the faults. What cannot be told apart from outside is not among
//! them: a server that is down refuses connections, which [`FaultProxy::stop_listening`] does.

use std::collections::HashMap;
use std::io::{self, BufReader, Error, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::http::{Framing, Head, Piece, read_body};
use crate::operation::{Operation, method, split_target};
use crate::proxy::reset;

const BUFFER_BYTES: usize = 64 << 10;
/// What a limit that was not used for a moment makes up for.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Which requests are spoiled, and how.
#[derive(Clone, Debug)]
pub struct Rule {
    operation: Option<Operation>,
    path: String,
    which: RangeInclusive<u64>,
    fault: Fault,
}

impl Rule {
    /// Spoils these requests of `operation`, counted from 1 when the rule is set.
    pub fn on(operation: Operation, which: RangeInclusive<u64>, fault: Fault) -> Self {
        Self {
            operation: Some(operation),
            path: String::new(),
            which,
            fault,
        }
    }

    /// Spoils every request of `operation`.
    pub fn always(operation: Operation, fault: Fault) -> Self {
        Self::on(operation, 1..=u64::MAX, fault)
    }

    /// Spoils these requests, whatever they ask.
    pub fn on_any(which: RangeInclusive<u64>, fault: Fault) -> Self {
        Self {
            operation: None,
            ..Self::on(Operation::Other, which, fault)
        }
    }

    /// Only counts requests whose path contains this text, as the request writes it.
    pub fn with_path(mut self, text: &str) -> Self {
        text.clone_into(&mut self.path);
        self
    }

    fn counts(&self, operation: Operation, path: &str) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation) && path.contains(&self.path)
    }
}

/// What becomes of a request. A fault at a byte needs that byte: a shorter body passes untouched, and is no hit.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The body is read to its end; the server never sees the request; this is the answer. The connection goes on.
    Refuse(Refusal),
    /// The same, but the answer comes before any of the body is read, and is the last on this connection.
    RefuseEarly(Refusal),
    /// The connection is reset as soon as the head was read; the server never sees the request.
    Reset,
    /// The server gets the head and so many bytes of the body; then both connections are reset.
    ResetRequest(u64),
    /// After so many bytes of the body nothing more passes until [`FaultProxy::release`].
    StallRequest(u64),
    /// All bits of this byte of the body are turned over.
    FlipRequest(u64),
    /// The first text becomes the second, as long, wherever it comes in the body, which is still what its format wants.
    SwapInRequest(&'static str, &'static str),
    /// The body passes at so many bytes a second.
    SlowRequest(u64),
    /// The server gets the request this much later.
    Delay(Duration),
    /// The server gets and answers the request; the client's connection is reset without a byte of the answer.
    LoseAnswer,
    /// The server gets and answers the request; the answer waits for [`FaultProxy::release`].
    HoldAnswer,
    /// The client gets so many bytes of the answer's body, and then a reset.
    ResetAnswer(u64),
    /// The client gets so many bytes of the answer's body, and then an orderly end.
    CutAnswer(u64),
    /// After so many bytes of the answer's body nothing more passes until [`FaultProxy::release`].
    StallAnswer(u64),
    /// All bits of this byte of the answer's body are turned over.
    FlipAnswer(u64),
    /// As [`SwapInRequest`](Self::SwapInRequest), in the answer's body.
    SwapInAnswer(&'static str, &'static str),
    /// The answer's body passes at so many bytes a second.
    SlowAnswer(u64),
}

/// What a server says when it does not do what it is asked: in XML to S3, in JSON to SQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The error's code.
    pub code: &'static str,
    /// What it says to people.
    pub message: &'static str,
    /// Headers that come with it.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Refusal {
    /// 500: something broke inside.
    pub const INTERNAL_ERROR: Self = Self::new(500, "InternalError", "We encountered an error.");
    /// 503: too many requests.
    pub const SLOW_DOWN: Self = Self::new(503, "SlowDown", "Please reduce your request rate.");
    /// The same, with `Retry-After: 1`.
    pub const SLOW_DOWN_RETRY_AFTER: Self = Self {
        headers: &[("retry-after", "1")],
        ..Self::SLOW_DOWN
    };
    /// 403: not allowed.
    pub const ACCESS_DENIED: Self = Self::new(403, "AccessDenied", "Access Denied");
    /// 400: the session's time is over.
    pub const EXPIRED_TOKEN: Self =
        Self::new(400, "ExpiredToken", "The provided token has expired.");
    /// 403: the clocks are more than 15 minutes apart.
    pub const REQUEST_TIME_TOO_SKEWED: Self = Self::new(
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    );
    /// 400: the body did not come in time.
    pub const REQUEST_TIMEOUT: Self = Self::new(
        400,
        "RequestTimeout",
        "Your socket connection to the server was not read from or written to within the timeout period.",
    );
    /// 400: what arrived is not what was sent.
    pub const BAD_DIGEST: Self = Self::new(
        400,
        "BadDigest",
        "The checksum you specified did not match what we received.",
    );
    /// 404: no such bucket.
    pub const NO_SUCH_BUCKET: Self =
        Self::new(404, "NoSuchBucket", "The specified bucket does not exist");
    /// 404: no such upload: it was completed or aborted.
    pub const NO_SUCH_UPLOAD: Self =
        Self::new(404, "NoSuchUpload", "The specified upload does not exist.");
    /// 409: another conditional request for the same name is under way.
    pub const CONDITIONAL_REQUEST_CONFLICT: Self = Self::new(
        409,
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    );
    /// 412: the condition does not hold.
    pub const PRECONDITION_FAILED: Self = Self::new(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    );
    /// 501: a server that knows no conditions.
    pub const NOT_IMPLEMENTED: Self = Self::new(
        501,
        "NotImplemented",
        "A header you provided implies functionality that is not implemented",
    );
    /// 301: the bucket is in eu-central-1.
    pub const WRONG_REGION: Self = Self {
        headers: &[("x-amz-bucket-region", "eu-central-1")],
        ..Self::new(
            301,
            "PermanentRedirect",
            "The bucket you are attempting to access must be addressed using the specified endpoint.",
        )
    };

    /// One without headers.
    pub const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code,
            message,
            headers: &[],
        }
    }

    /// The same body under another status: S3 may fail to complete an upload after it has said 200.
    pub const fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn answer(&self, head: &Head, closes: bool) -> Vec<u8> {
        let Self { code, message, .. } = self;
        let (kind, body) = if head.header("x-amz-target").is_some() {
            let body = serde_json::json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": message});
            ("application/x-amz-json-1.0", body.to_string())
        } else {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
                 <Message>{message}</Message><RequestId>fault</RequestId></Error>"
            );
            ("application/xml", body)
        };
        let mut answer = format!(
            "HTTP/1.1 {} {code}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n",
            self.status,
            body.len()
        );
        for (name, value) in self.headers {
            answer += &format!("{name}: {value}\r\n");
        }
        if closes {
            answer += "connection: close\r\n";
        }
        answer += "\r\n";
        if method(head) != "HEAD" {
            answer += &body;
        }
        answer.into_bytes()
    }
}

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

/// One connection of a client.
struct Connection<'a> {
    client: TcpStream,
    number: u64,
    shared: &'a Shared,
}

impl Connection<'_> {
    /// Serves one request after the other.
    fn serve(&self) -> io::Result<()> {
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
