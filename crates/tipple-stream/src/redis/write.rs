//! Appending to a stream.
//!
//! A batch is a transaction: `MULTI`, its `XADD`s, `EXEC`. So a server that is killed, or refuses one of them, has all of
//! a batch or nothing, and the last event of the stream tells how far a load got. The key is watched from before it was
//! looked at, so what anybody else writes makes `EXEC` do nothing.

use tipple_budget::Gate;
use tipple_flow::{Cause, Failure, Party, Stop};

use super::connection::{Connection, Talk, Trouble, begin_arg, begin_command, command};
use super::info::{self, Info};
use super::{Redis, time_of};
use crate::event::{Event, EventRef};
use crate::place::{Numbering, Place};
use crate::sink::{Appender, Tail};

/// Bytes and events of a transaction; the server answers nobody else meanwhile.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_EVENTS: usize = 1000;
/// The most bytes of a string, if the server does not tell: Redis' default.
const STRING_BYTES_MAX: u64 = 512 << 20;

/// What a writer holds outside of one event.
pub(super) const WRITER_BYTES: u64 = 4 * BATCH_BYTES as u64 + Talk::ANSWER_BYTES_MAX;

/// Where an event came from whose place could not be kept, and which fields follow before its headers: the words `time`,
/// `key`, `payload`, and `null=` with the numbers of headers that have no value.
const POSITION: &[u8] = b"Tipple-Position";
const LAYOUT: &[u8] = b"Tipple-Layout";
const TIME: &[u8] = b"Tipple-Time";
const KEY: &[u8] = b"Tipple-Key";
const PAYLOAD: &[u8] = b"Tipple-Payload";

static PLACE: Cause = Cause::loss("position 0, which Redis cannot have");
static TOO_LARGE: Cause = Cause::loss("too large");

/// Names and values.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The only writer of a stream.
pub(super) struct RedisWriter<'a> {
    stream: &'a Redis,
    gate: &'a Gate,
    connection: Option<Connection>,
    string_bytes_max: u64,
    /// What is there, all acknowledged.
    there: There,
    /// Commands that were not sent, or not acknowledged, and the ids of their events.
    batch: Vec<u8>,
    ids: Vec<Place>,
}

/// What the stream must be unless somebody else writes to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct There {
    last: Place,
    added: u64,
    length: u64,
}

impl There {
    fn of(info: Option<&Info>) -> Self {
        info.map_or_else(Self::default, |info| Self {
            last: info.last_generated,
            added: info.entries_added,
            length: info.length,
        })
    }

    fn with(self, ids: &[Place]) -> Self {
        Self {
            last: ids.last().copied().unwrap_or(self.last),
            added: self.added + ids.len() as u64,
            length: self.length + ids.len() as u64,
        }
    }
}

/// What a transaction came to.
enum Done {
    Applied,
    /// Somebody else wrote.
    Foreign,
}

impl<'a> RedisWriter<'a> {
    pub fn open(stream: &'a Redis, gate: &'a Gate) -> Result<Self, Failure> {
        let mut writer = Self {
            stream,
            gate,
            connection: None,
            string_bytes_max: STRING_BYTES_MAX,
            there: There::default(),
            batch: Vec::new(),
            ids: Vec::new(),
        };
        let opened = stream.ask(Party::Sink, "write to", |connection| {
            let there = watch(stream, connection)?;
            let asked = connection
                .talk(None)
                .ask(&[b"CONFIG", b"GET", b"proto-max-bulk-len"]);
            Ok((there, asked))
        });
        let (there, asked) = opened?;
        writer.there = there;
        // Whoever may not ask gets the default.
        if let Ok(super::connection::Answer::List(pair)) = asked
            && let Some(bytes) = pair.get(1).and_then(|value| value.text()?.parse().ok())
        {
            writer.string_bytes_max = bytes;
        }
        writer.connection = stream.take_idle();
        Ok(writer)
    }

    fn last(&self) -> Result<Option<(Place, Fields)>, Failure> {
        let stream = self.stream;
        stream.ask(Party::Sink, "read the last event of", |connection| {
            last(&mut connection.talk(None), stream.key())
        })
    }

    fn foreign(&self, what: &str) -> Stop {
        Failure::new(
            Party::Sink,
            format!(
                "{} has another writer ({what}): stop it, and load into a stream that nobody else writes to",
                self.stream.url
            ),
        )
        .into()
    }

    /// Sends what was collected, and `large` behind it, as one transaction; nothing is collected afterwards.
    fn exchange(&mut self, large: Option<&EventRef<'_>>) -> Result<(), Stop> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let mut retry = self.stream.retry();
        loop {
            let trouble = match self.try_exchange(large) {
                Ok(Done::Applied) => break,
                Ok(Done::Foreign) => return Err(self.foreign("the stream was changed meanwhile")),
                Err(trouble) => trouble,
            };
            self.connection = None;
            if !trouble.may_pass() || !retry.wait(Some(self.gate))? {
                return Err(self.stream.failed(Party::Sink, "write to", trouble));
            }
        }
        self.there = self.there.with(&self.ids);
        self.ids.clear();
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH_BYTES);
        Ok(())
    }

    fn try_exchange(&mut self, large: Option<&EventRef<'_>>) -> Result<Done, Trouble> {
        let after = self.there.with(&self.ids);
        if self.connection.is_none() {
            let mut connection = self.stream.connect(Some(self.gate))?;
            let found = watch(self.stream, &mut connection)?;
            self.connection = Some(connection);
            if found == after {
                // It was applied, and the answer was lost.
                return Ok(Done::Applied);
            }
            if found.last < self.there.last || found.added < self.there.added {
                return Err(Trouble::Protocol(
                    "it came back without events that it had acknowledged (appendfsync, or a replica that was behind); load once more, which goes on behind its last event".into(),
                ));
            }
            if found != self.there {
                return Ok(Done::Foreign);
            }
        }
        let connection = self.connection.as_mut().expect("just made");
        let mut talk = connection.talk(Some(self.gate));
        talk.send(&[b"MULTI"])?;
        talk.write(&self.batch)?;
        if let Some(event) = large {
            let mut small = Vec::new();
            fields(self.stream.key(), event, &mut |bytes| {
                if bytes.len() > BATCH_BYTES {
                    talk.write(&small)?;
                    small.clear();
                    return talk.write(bytes);
                }
                small.extend_from_slice(bytes);
                match small.len() > BATCH_BYTES {
                    true => talk.write(&std::mem::take(&mut small)),
                    false => Ok(()),
                }
            })?;
            talk.write(&small)?;
        }
        let key = self.stream.key();
        let mut end = Vec::new();
        command(&mut end, [&b"EXEC"[..]].into_iter());
        command(&mut end, [&b"WATCH"[..], key].into_iter());
        command(&mut end, [&b"XLEN"[..], key].into_iter());
        talk.write(&end)?;
        // MULTI's, and QUEUED.
        let mut refused = None;
        for _ in 0..=self.ids.len() {
            note(talk.skip(), &mut refused)?;
        }
        if talk.is_null()? {
            return Ok(Done::Foreign);
        }
        let applied = talk.list();
        if let Some(refused) = refused {
            return Err(refused);
        }
        let mut kept = Vec::new();
        for n in 0..applied? as usize {
            match talk.skip() {
                Ok(()) if refused.is_some() => kept.push(self.ids[n]),
                skipped => note(skipped, &mut refused)?,
            }
        }
        talk.skip()?;
        let length = talk.answer()?.number();
        if let Some(refused) = refused {
            // Or the last event would tell of a load that got further than it did.
            for id in kept {
                talk.ask(&[b"XDEL", key, &info::text(id)])?;
            }
            return match refused {
                Trouble::Refused(text) if text.contains("equal or smaller") => Ok(Done::Foreign),
                refused => Err(refused),
            };
        }
        match length == Some(after.length) {
            true => Ok(Done::Applied),
            false => Ok(Done::Foreign),
        }
    }
}

/// Keeps the first refusal, and lets other troubles through.
fn note(read: Result<(), Trouble>, refused: &mut Option<Trouble>) -> Result<(), Trouble> {
    match read {
        Err(trouble @ Trouble::Refused(_)) => {
            refused.get_or_insert(trouble);
            Ok(())
        }
        read => read,
    }
}

/// Watches the key, and looks at it.
fn watch(stream: &Redis, connection: &mut Connection) -> Result<There, Trouble> {
    let mut talk = connection.talk(None);
    talk.ask(&[b"WATCH", stream.key()])?;
    let info = Info::read(&mut talk, stream.key())?;
    Ok(There::of(info.as_ref()))
}

/// Whether the event is just what Redis can hold: fields, and the time of its id.
fn is_plain(event: &EventRef<'_>) -> bool {
    let mut headers = event.headers();
    event.numbering() == Numbering::TimeAndNumber
        && event.time() == time_of(event.place())
        && event.key().is_none()
        && event.payload().is_none()
        && headers.clone().next().is_some()
        && headers.all(|(_, value)| value.is_some())
}

/// Gives the command that adds an event to `put`, piece by piece.
fn fields<E>(
    key: &[u8],
    event: &EventRef<'_>,
    put: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let headers = event.headers();
    let mut own: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let mut large: Vec<(&[u8], &[u8])> = Vec::new();
    if !is_plain(event) {
        let mut layout = Vec::new();
        own.push((POSITION, event.place().text(event.numbering()).into_bytes()));
        own.push((LAYOUT, Vec::new()));
        if let Some(time) = event.time() {
            layout.push("time".to_owned());
            own.push((TIME, time.to_string().into_bytes()));
        }
        if let Some(key) = event.key() {
            layout.push("key".to_owned());
            large.push((KEY, key));
        }
        if let Some(payload) = event.payload() {
            layout.push("payload".to_owned());
            large.push((PAYLOAD, payload));
        }
        let nulls = headers.clone().enumerate();
        let nulls = nulls.filter(|(_, (_, value))| value.is_none());
        let nulls: Vec<_> = nulls.map(|(n, _)| n.to_string()).collect();
        if !nulls.is_empty() {
            layout.push(format!("null={}", nulls.join(",")));
        }
        own[1].1 = layout.join(" ").into_bytes();
    }
    // Its own, or 0-42 for the sequence 42.
    let id = info::text(event.place());
    let pairs = own.len() + large.len() + headers.clone().count();
    let mut lines = Vec::new();
    begin_command(&mut lines, 3 + 2 * pairs);
    put(&lines)?;
    let mut arg = |bytes: &[u8]| {
        lines.clear();
        begin_arg(&mut lines, bytes.len());
        put(&lines)?;
        put(bytes)?;
        put(b"\r\n")
    };
    arg(b"XADD")?;
    arg(key)?;
    arg(&id)?;
    let own = own.iter().map(|(name, value)| (*name, &value[..]));
    let headers = headers.map(|(name, value)| (name, value.unwrap_or_default()));
    for (name, value) in own.chain(large.iter().copied()).chain(headers) {
        arg(name)?;
        arg(value)?;
    }
    Ok(())
}

/// An event that is just what these fields say.
fn verbatim(place: Place, fields: Fields) -> Tail {
    let headers = fields.into_iter();
    Tail {
        origin: (place, Numbering::TimeAndNumber),
        event: Event {
            time: time_of(place),
            headers: headers.map(|(name, value)| (name, Some(value))).collect(),
            ..Event::default()
        },
        is_begun: false,
    }
}

/// What [`fields`] made of an event, and where that was.
fn parse(place: Place, fields: Fields) -> Result<Tail, String> {
    let is_own = fields.first().is_some_and(|(name, _)| name == POSITION);
    if !is_own {
        return Ok(verbatim(place, fields));
    }
    let mut fields = fields.into_iter();
    let mut next = |expected: &[u8]| {
        let field = fields.next().filter(|(name, _)| name == expected);
        let (_, value) = field.ok_or_else(|| format!("no {}", expected.escape_ascii()))?;
        Ok::<_, String>(value)
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| "a field that is no text");
    let position = text(next(POSITION)?)?;
    let numbering = match position.contains('-') {
        true => Numbering::TimeAndNumber,
        false => Numbering::Sequence,
    };
    let origin = (position.parse::<Place>()?, numbering);
    let layout = text(next(LAYOUT)?)?;
    let mut event = Event::default();
    let mut nulls = Vec::new();
    for word in layout.split(' ').filter(|word| !word.is_empty()) {
        match word {
            "time" => event.time = text(next(TIME)?)?.parse().ok(),
            "key" => event.key = Some(next(KEY)?),
            "payload" => event.payload = Some(next(PAYLOAD)?),
            _ => {
                let list = word.strip_prefix("null=").ok_or("a layout that is none")?;
                nulls = (list.split(',').map(str::parse))
                    .collect::<Result<Vec<usize>, _>>()
                    .map_err(|_| "a layout that is none")?;
            }
        }
    }
    event.headers = fields.map(|(name, value)| (name, Some(value))).collect();
    for null in nulls {
        let header = event.headers.get_mut(null);
        header.ok_or("a layout of other headers")?.1 = None;
    }
    Ok(Tail {
        origin,
        event,
        is_begun: false,
    })
}

/// The last event of a stream, held whole.
fn last(talk: &mut Talk<'_>, key: &[u8]) -> Result<Option<(Place, Fields)>, Trouble> {
    talk.send(&[b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"])?;
    if talk.list()? == 0 {
        return Ok(None);
    }
    talk.list()?;
    let place = info::next_id(talk)?;
    let mut fields = Vec::new();
    let string = |talk: &mut Talk<'_>| {
        let bytes = talk.string()?;
        let mut string = Vec::new();
        talk.bytes(bytes, |piece| {
            string.extend_from_slice(piece);
            Ok::<_, Trouble>(())
        })?;
        Ok::<_, Trouble>(string)
    };
    for _ in 0..talk.list()? / 2 {
        fields.push((string(talk)?, string(talk)?));
    }
    Ok(Some((place, fields)))
}

impl Appender for RedisWriter<'_> {
    fn tail(&mut self) -> Result<Option<Tail>, Failure> {
        let stream = self.stream;
        let Some((place, fields)) = self.last()? else {
            return Ok(None);
        };
        let tail = parse(place, fields).map_err(|why| {
            Failure::new(
                Party::Sink,
                format!(
                    "the last event of {}, {}, does not tell where it came from ({why}): load into an empty stream",
                    stream.url,
                    place.text(Numbering::TimeAndNumber)
                ),
            )
        })?;
        Ok(Some(tail))
    }

    fn verbatim_tail(&mut self) -> Result<Option<Tail>, Failure> {
        let last = self.last()?;
        Ok(last.map(|(place, fields)| verbatim(place, fields)))
    }

    fn refuses(&self, event: &EventRef<'_>) -> Option<&'static Cause> {
        if event.place() == Place::ZERO {
            return Some(&PLACE);
        }
        let headers = event.headers();
        let strings = headers.flat_map(|(name, value)| [Some(name), value]);
        let mut strings = strings.chain([event.key(), event.payload()]).flatten();
        strings
            .any(|string| string.len() as u64 > self.string_bytes_max)
            .then_some(&TOO_LARGE)
    }

    fn append(&mut self, event: &EventRef<'_>) -> Result<(), Stop> {
        let id = event.place();
        if id <= self.there.with(&self.ids).last {
            return Err(Failure::new(
                Party::Sink,
                format!(
                    "{} cannot take the event {}, since it had one at {} before: load into a key that does not exist",
                    self.stream.url,
                    event.place().text(event.numbering()),
                    self.there.with(&self.ids).last.text(Numbering::TimeAndNumber)
                ),
            )
            .into());
        }
        if event.bytes().len() > BATCH_BYTES {
            self.exchange(None)?;
            self.ids.push(id);
            return self.exchange(Some(event));
        }
        let Ok(()) = fields(self.stream.key(), event, &mut |bytes| {
            self.batch.extend_from_slice(bytes);
            Ok::<_, std::convert::Infallible>(())
        });
        self.ids.push(id);
        if self.ids.len() == BATCH_EVENTS || self.batch.len() >= BATCH_BYTES {
            self.exchange(None)?;
        }
        Ok(())
    }

    /// Acknowledged by the server: how durable that is, its `appendfsync` says.
    fn commit(&mut self) -> Result<(), Stop> {
        self.exchange(None)?;
        let stream = self.stream;
        let info = stream.ask(Party::Sink, "look at", |connection| {
            Info::read(&mut connection.talk(None), stream.key())
        })?;
        let found = There::of(info.as_ref());
        if found != self.there {
            return Err(self.foreign(&format!(
                "{} events were added to it, and {} by this load and before",
                found.added, self.there.added
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::connection::Connection;
    use super::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(any::<u8>(), 0..4),
            proptest::sample::select(vec![POSITION, LAYOUT, TIME, KEY, PAYLOAD])
                .prop_map(<[u8]>::to_vec)
        ]
    }

    proptest! {
        /// Whatever an event is, what its fields tell is the event and its place.
        #[test]
        fn events_come_back_from_their_fields(
            time in any::<Option<i64>>(),
            own_time in any::<bool>(),
            key in proptest::option::of(name()),
            headers in vec((name(), proptest::option::of(name())), 0..4),
            payload in proptest::option::of(name()),
            number in 1..u64::MAX,
            ms in any::<u64>(),
            is_sequence in any::<bool>(),
        ) {
            let (place, numbering) = match is_sequence {
                true => (Place::sequence(number), Numbering::Sequence),
                false => (Place::time_and_number(ms, number), Numbering::TimeAndNumber),
            };
            let time = if own_time { time_of(place) } else { time };
            let event = Event { time, key, headers, payload };
            let mut record = Vec::new();
            event.encode(place, numbering, &mut record).unwrap();
            let mut bytes = Vec::new();
            let Ok(()) = fields(b"k", &EventRef::parse(&record).unwrap(), &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok::<_, std::convert::Infallible>(())
            });
            let args = Connection::parse_command(&bytes);
            prop_assert_eq!(&args[..2], &[b"XADD".to_vec(), b"k".to_vec()]);
            prop_assert!(args.len() > 3, "an event needs a field");
            let id = std::str::from_utf8(&args[2]).unwrap().parse().unwrap();
            let pairs = args[3..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            let pairs: Fields = pairs.collect();
            let expected = Tail { origin: (place, numbering), event, is_begun: false };
            let told = [parse(id, pairs.clone()), Ok(verbatim(id, pairs))];
            prop_assert!(told.contains(&Ok(expected)), "{told:?}");
        }
    }
}
