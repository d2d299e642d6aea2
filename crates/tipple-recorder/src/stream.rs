//! The handle that a program records with, and what happens on the thread that calls it.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::config::{Level, is_sampled};
use crate::core::{Channel, Core, MessageRule, StreamMeta, ThreadSide, locked};
use crate::entry::{
    CUT, Direction, Entry, HEADER_BYTES, Kind, NAME_OF_TYPE, REDACTED, name_of_type,
};
use crate::handover::Filling;
use crate::limit::Allowance;
use crate::loss::{LossCell, Why};
use crate::mode::{Recording, UNRECORDED};
use crate::tape::{Root, Tape, TapeError};
use crate::trace;

/// Records messages of one group, class and key. Cheap to clone; may be used by any thread.
///
/// Its records go to a buffer of the thread that calls; nothing is locked, cloned or allocated, but for a new buffer when
/// one is full. What happens when memory is used up is [`OnFull`](crate::OnFull).
#[derive(Clone)]
pub struct Stream {
    owner: Arc<Owner>,
    level: Level,
    trace: Option<u64>,
    name: Option<Root>,
}

/// Tells the recorder when the last handle of a stream is gone.
struct Owner {
    core: Arc<Core>,
    meta: Arc<StreamMeta>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        locked(&self.core.retired).push((self.meta.id, self.core.clock.now()));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("meta", &self.owner.meta)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(core: &Arc<Core>, group: &str) -> Stream {
        Stream::of(core, core.stream(group, CLASS_DEFAULT, "", ""))
    }

    fn of(core: &Arc<Core>, meta: Arc<StreamMeta>) -> Stream {
        let core = Arc::clone(core);
        Stream {
            owner: Arc::new(Owner { core, meta }),
            level: Level::Normal,
            trace: None,
            name: None,
        }
    }

    fn with(self, class: &str, key: &str, protocol: &str) -> Stream {
        let core = &self.owner.core;
        let group = &self.owner.meta.channel.group.name;
        Stream {
            owner: Stream::of(core, core.stream(group, class, key, protocol)).owner,
            ..self
        }
    }

    /// The same, of one of several alike within the group: a line's `k`. Default: none.
    pub fn key(self, key: impl fmt::Display) -> Stream {
        let meta = Arc::clone(&self.owner.meta);
        self.with(&meta.channel.class, &key.to_string(), &meta.protocol)
    }

    /// The same, of another class: a line's `cl`. A class has a rate of its own within each group, and files of its own.
    /// Default: `default`.
    pub fn class(self, class: &str) -> Stream {
        let meta = Arc::clone(&self.owner.meta);
        self.with(class, &meta.key, &meta.protocol)
    }

    /// The same, of messages of this protocol: a line's `mp`. Default: empty.
    pub fn protocol(self, protocol: &str) -> Stream {
        let meta = Arc::clone(&self.owner.meta);
        self.with(&meta.channel.class, &meta.key, protocol)
    }

    /// The same, for records of this level. Default: [`Level::Normal`].
    pub fn level(self, level: Level) -> Stream {
        Stream { level, ..self }
    }

    /// The same, for records of this trace instead of [the current one](trace::current).
    pub fn trace(self, trace: u64) -> Stream {
        Stream {
            trace: Some(trace),
            ..self
        }
    }

    /// The same, for messages of this name, instead of that of their type: a line's `mn`.
    pub fn named(self, name: &'static str) -> Stream {
        let root = Root { name, variant: "" };
        Stream {
            name: (!name.is_empty()).then_some(root),
            ..self
        }
    }

    /// Records `message`. Its `Serialize` is called once, or once more when it does not fit into the rest of a buffer, on
    /// this thread, before the call returns.
    ///
    /// Waits only with [`OnFull::Block`](crate::OnFull::Block). What is not recorded is lost with a cause, which the
    /// recording and the [report](crate::RecordingReport) tell; after the recorder was shut down, nothing happens.
    ///
    /// # Panics
    /// If `Serialize` panics; the record is lost with the cause `error`.
    #[inline]
    pub fn record<M: Serialize + ?Sized>(&self, direction: Direction, kind: Kind, message: &M) {
        if !self.owner.meta.channel.lets(self.level) {
            return;
        }
        let mark = Mark {
            trace: self.trace_of_now(),
            direction,
            kind,
        };
        self.with_local(|local| local.record(self, &mark, message));
    }

    /// Takes a number that is lost: somebody else has denied the record, and the recording is to tell.
    #[cfg(feature = "elfo")]
    pub(crate) fn lose(&self, why: Why) {
        let (core, meta) = (&*self.owner.core, &*self.owner.meta);
        self.with_local(|local| local.lose(core, meta, why));
    }

    /// The trace of a record that is recorded now.
    #[inline]
    pub(crate) fn trace_of_now(&self) -> u64 {
        self.trace.unwrap_or_else(trace::current)
    }

    /// What this thread has for the recorder.
    #[inline]
    fn with_local(&self, mut work: impl FnMut(&mut Local)) {
        let core = &self.owner.core;
        let done = LOCALS.try_with(|locals| {
            // Taken while a `Serialize` that this thread runs for a recorder records something itself.
            let mut locals = locals.try_borrow_mut().ok()?;
            work(locals.of(core));
            Some(())
        });
        if !matches!(done, Ok(Some(()))) {
            // In the midst of another record, or of the end of the thread: from a place of its own.
            elsewhere(core, &mut work);
        }
    }

    /// Records a message that was received: [`record`](Stream::record) of [`Direction::In`], [`Kind::Regular`].
    #[inline]
    pub fn received<M: Serialize + ?Sized>(&self, message: &M) {
        self.record(Direction::In, Kind::Regular, message);
    }

    /// Records a message that is sent: [`record`](Stream::record) of [`Direction::Out`], [`Kind::Regular`].
    #[inline]
    pub fn sent<M: Serialize + ?Sized>(&self, message: &M) {
        self.record(Direction::Out, Kind::Regular, message);
    }

    /// Whether a record would be recorded by level and configuration; limits aside. To save what making the message
    /// would cost.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.owner.meta.channel.lets(self.level)
            && !self.owner.core.is_closed.load(Ordering::Relaxed)
    }
}

/// The class of records that say no other.
pub(crate) const CLASS_DEFAULT: &str = "default";

/// What a call says beside the message.
struct Mark {
    trace: u64,
    direction: Direction,
    kind: Kind,
}

#[cold]
fn elsewhere(core: &Arc<Core>, work: &mut dyn FnMut(&mut Local)) {
    work(&mut Local::new(core));
}

thread_local! {
    static LOCALS: RefCell<Locals> = const { RefCell::new(Locals(Vec::new())) };
}

/// What this thread has for each recorder: usually there is one.
struct Locals(Vec<Local>);

impl Locals {
    #[inline]
    fn of(&mut self, core: &Arc<Core>) -> &mut Local {
        let at = match self.0.first() {
            Some(first) if first.core_id == core.id => 0,
            _ => self.find(core),
        };
        &mut self.0[at]
    }

    #[cold]
    fn find(&mut self, core: &Arc<Core>) -> usize {
        // Those of recorders that are gone hold memory for nothing.
        self.0.retain(|local| {
            !local.core.is_closed.load(Ordering::Relaxed) || local.core_id == core.id
        });
        let found = self.0.iter().position(|local| local.core_id == core.id);
        found.unwrap_or_else(|| {
            self.0.push(Local::new(core));
            self.0.len() - 1
        })
    }
}

/// What one thread has for one recorder.
struct Local {
    core_id: u64,
    core: Arc<Core>,
    side: Arc<ThreadSide>,
    filling: Option<Filling>,
    /// By channel.
    slots: Vec<Option<Slot>>,
}

/// What one thread has for one channel.
struct Slot {
    losses: SlotLosses,
    allowance: Allowance,
    messages: Messages,
}

/// What one thread has lost of one channel.
struct SlotLosses {
    cell: Arc<LossCell>,
    /// Causes of which a run is open, as bits: nothing was recorded since it began.
    open: Cell<u16>,
}

impl SlotLosses {
    fn lose(&self, why: Why, number: u64) {
        let bit = 1 << why as u8;
        let open = self.open.get();
        self.cell.lose(why, number, open & bit == 0);
        self.open.set(open | bit);
    }
}

/// What is said of single messages, as far as this thread has met them.
#[derive(Default)]
struct Messages {
    version: u64,
    /// By the addresses of the names.
    rules: HashMap<(usize, usize, u32), Option<(MessageRule, Allowance)>>,
}

impl Messages {
    /// What is said of this message.
    #[cold]
    fn rule<M: Serialize + ?Sized>(
        &mut self,
        core: &Core,
        stream: &Stream,
        message: &M,
    ) -> Option<&mut (MessageRule, Allowance)> {
        let meta = &*stream.owner.meta;
        let version = core.config_version.load(Ordering::Acquire);
        if self.version != version {
            self.rules.clear();
            self.version = version;
        }
        let root = stream.name.unwrap_or_else(|| {
            // The first thing that a message says is its name; there is no room for the rest.
            let mut tape = Tape::new(&mut []);
            let _recording = Recording::begin();
            let _ = message.serialize(&mut tape);
            match tape.root() {
                Root { name: "", .. } => Root {
                    name: name_of_type(type_name::<M>()),
                    variant: "",
                },
                root => root,
            }
        });
        let key = (
            root.name.as_ptr().addr(),
            root.variant.as_ptr().addr(),
            meta.id,
        );
        let rule = self.rules.entry(key).or_insert_with(|| {
            let name = match root.variant {
                "" => root.name.to_owned(),
                variant => format!("{}::{variant}", root.name),
            };
            let rule = core.message_rule(&meta.protocol, &name)?;
            Some((rule, Allowance::default()))
        });
        rule.as_mut()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.filling = None;
        self.side.has_ended.store(true, Ordering::Release);
        // Others may wait for the buffer.
        self.core.wake();
    }
}

/// The thread is busy as long as it lives; a record that is not done by then is lost.
struct Attempt<'a> {
    side: &'a ThreadSide,
    slot: &'a SlotLosses,
    number: u64,
    /// What it is lost as, unless it is recorded.
    lost: Option<Why>,
}

impl Drop for Attempt<'_> {
    #[inline]
    fn drop(&mut self) {
        match self.lost {
            Some(why) => self.slot.lose(why, self.number),
            None => self.slot.open.set(0),
        }
        self.side.is_busy.store(false, Ordering::Release);
    }
}

impl Local {
    #[cold]
    fn new(core: &Arc<Core>) -> Local {
        Local {
            core_id: core.id,
            core: Arc::clone(core),
            side: core.register(),
            filling: None,
            slots: Vec::new(),
        }
    }

    /// The place of what there is for a channel.
    #[inline]
    fn slot(&mut self, channel: &Channel) -> usize {
        let at = channel.id as usize;
        if !matches!(self.slots.get(at), Some(Some(_))) {
            self.add_slot(channel);
        }
        at
    }

    #[cold]
    fn add_slot(&mut self, channel: &Channel) {
        let at = channel.id as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        let cell = Arc::new(LossCell::default());
        locked(&self.side.cells).push((channel.id, Arc::clone(&cell)));
        let losses = SlotLosses {
            cell,
            open: Cell::new(0),
        };
        self.slots[at] = Some(Slot {
            losses,
            allowance: Allowance::default(),
            messages: Messages::default(),
        });
    }

    #[cfg(feature = "elfo")]
    fn lose(&mut self, core: &Core, meta: &StreamMeta, why: Why) {
        let at = self.slot(&meta.channel);
        let slot = self.slots[at].as_ref().expect("it was added");
        if core.is_closed.load(Ordering::SeqCst) {
            return;
        }
        // As in `record`.
        self.side.is_busy.store(true, Ordering::Relaxed);
        drop(Attempt {
            side: &self.side,
            slot: &slot.losses,
            number: meta.channel.group.numbers.next(),
            lost: Some(why),
        });
    }

    fn record<M: Serialize + ?Sized>(&mut self, stream: &Stream, mark: &Mark, message: &M) {
        let (core, meta) = (&*stream.owner.core, &*stream.owner.meta);
        let channel = &*meta.channel;
        let at = self.slot(channel);
        let slot = self.slots[at].as_mut().expect("it was added");
        let mut rule = match channel.has_messages.load(Ordering::Relaxed) {
            false => None,
            true => slot.messages.rule(core, stream, message),
        };
        if rule.as_ref().is_some_and(|(rule, _)| rule.disabled) {
            return;
        }
        if core.is_closed.load(Ordering::SeqCst) {
            return;
        }
        // First that it is busy, then its number, then the time: so that the writer, which reads them the other way
        // round, never believes that all of a moment is there while this record is not.
        self.side.is_busy.store(true, Ordering::Relaxed);
        let mut attempt = Attempt {
            side: &self.side,
            slot: &slot.losses,
            number: channel.group.numbers.next(),
            lost: Some(Why::Error),
        };
        attempt.lost = match refused(core, channel, mark.trace, &mut slot.allowance, &mut rule) {
            Some(why) => Some(why),
            None => {
                let entry = Entry {
                    stream: meta.id,
                    number: attempt.number,
                    ticks: core.clock.now(),
                    trace: mark.trace,
                    direction: mark.direction,
                    kind: mark.kind,
                    name: &stream.name,
                };
                write(core, &self.side, &mut self.filling, entry, message)
            }
        };
    }
}

/// Why the record is lost before its message is looked at.
#[inline]
fn refused(
    core: &Core,
    channel: &Channel,
    trace: u64,
    allowance: &mut Allowance,
    rule: &mut Option<&mut (MessageRule, Allowance)>,
) -> Option<Why> {
    // The recorder may have been shut down since the number was taken.
    if core.is_closed.load(Ordering::SeqCst) {
        return Some(Why::Shutdown);
    }
    let sample = channel.sample.load(Ordering::Relaxed);
    if sample != u64::MAX && !is_sampled(trace, sample) {
        return Some(Why::Sampled);
    }
    let now = || core.clock.now();
    if let Some((rule, allowance)) = rule {
        if !is_sampled(trace, rule.sample) {
            return Some(Why::Sampled);
        }
        if let Some(limiter) = &rule.limiter
            && !limiter.pass(allowance, now)
        {
            return Some(Why::Rate);
        }
    }
    (!channel.limiter.pass(allowance, now)).then_some(Why::Rate)
}

/// Writes the entry of `message` into the buffer, or a new one. Gives why it is lost if it is.
#[inline]
fn write<M: Serialize + ?Sized>(
    core: &Core,
    side: &ThreadSide,
    filling: &mut Option<Filling>,
    entry: Entry<'_>,
    message: &M,
) -> Option<Why> {
    let tried = match filling {
        Some(filling) => encode(filling, &entry, message, false),
        None => Err(TapeError::Full),
    };
    match tried {
        Ok(()) => None,
        Err(TapeError::Full) => write_elsewhere(core, side, filling, entry, message),
        Err(TapeError::Message(reason)) => Some(failed(core, &reason)),
    }
}

/// A `Serialize` that says it cannot, or is not to be recorded.
#[cold]
fn failed(core: &Core, reason: &str) -> Why {
    if reason == UNRECORDED {
        return Why::Disabled;
    }
    core.note_error(reason.to_owned());
    Why::Error
}

/// The same, when there is no buffer, or too little room in it: in a new one of the usual size, then in larger ones.
#[cold]
#[inline(never)]
fn write_elsewhere<M: Serialize + ?Sized>(
    core: &Core,
    side: &ThreadSide,
    filling: &mut Option<Filling>,
    mut entry: Entry<'_>,
    message: &M,
) -> Option<Why> {
    let mut bytes = core.pool.buffer_bytes;
    loop {
        // The thread lets go of the full one first: it may be what makes room.
        *filling = None;
        let Some(new) = core.buffer(side, bytes) else {
            let why = match core.is_closed.load(Ordering::Relaxed) {
                true => Why::Shutdown,
                false => Why::Memory,
            };
            return Some(why);
        };
        let new = filling.insert(new);
        // Time may have passed.
        entry.ticks = core.clock.now();
        let largest = core.tape_bytes_max.load(Ordering::Relaxed);
        let is_largest = bytes >= largest;
        match encode(new, &entry, message, is_largest) {
            Ok(()) => {
                if bytes > core.pool.buffer_bytes {
                    // A large one is for one record.
                    *filling = None;
                }
                return None;
            }
            Err(TapeError::Full) => bytes = (bytes * 8).min(largest),
            Err(TapeError::Message(reason)) => return Some(failed(core, &reason)),
        }
    }
}

/// Writes one entry into the room of a buffer and commits it. With `cut`, what does not fit is left away.
#[inline]
fn encode<M: Serialize + ?Sized>(
    filling: &mut Filling,
    entry: &Entry<'_>,
    message: &M,
    cut: bool,
) -> Result<(), TapeError> {
    let Some((header, room)) = filling.room().split_at_mut_checked(HEADER_BYTES) else {
        return Err(TapeError::Full);
    };
    let mut tape = Tape::new(room);
    let mut flags = 0;
    let recording = Recording::begin();
    let done = message.serialize(&mut tape);
    if recording.has_redacted() {
        flags |= REDACTED;
    }
    drop(recording);
    match done {
        Ok(()) => {}
        Err(TapeError::Full) if cut => flags |= CUT,
        Err(error) => return Err(error),
    }
    let mut root = entry.name.unwrap_or_else(|| tape.root());
    if root.name.is_empty() {
        root.name = type_name::<M>();
        flags |= NAME_OF_TYPE;
    }
    let len = HEADER_BYTES + tape.len();
    entry.encode(len, root, flags, header);
    filling.commit(len);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::next_entry;
    use crate::handover::buffer;

    #[derive(serde::Serialize)]
    enum Shape {
        Unit,
        Number(i128),
        Pair(f64, &'static str),
        Fields { some: Option<u8>, list: Vec<Shape> },
    }

    #[derive(serde::Serialize)]
    struct Message {
        number: u64,
        text: String,
        by_name: BTreeMap<String, Shape>,
    }

    fn message(number: u64) -> Message {
        let shape = Shape::Fields {
            some: number.is_multiple_of(2).then_some(7),
            list: vec![
                Shape::Unit,
                Shape::Number(-(number as i128) << 80),
                Shape::Pair(0.5, "\"é"),
            ],
        };
        Message {
            number,
            text: "x".repeat(number as usize),
            by_name: BTreeMap::from([(format!("key {number}"), shape)]),
        }
    }

    fn entry(number: u64) -> Entry<'static> {
        Entry {
            stream: 1,
            number,
            ticks: number,
            trace: u64::MAX - number,
            direction: Direction::Out,
            kind: Kind::Request(number),
            name: &None,
        }
    }

    /// All that is `unsafe` on the way of a message, which is what Miri is to look at.
    #[test]
    fn what_one_thread_records_another_reads_meanwhile() {
        const COUNT: u64 = 20;
        let (mut filling, filled) = buffer(16 << 10);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..COUNT {
                    encode(&mut filling, &entry(number), &message(number), false).unwrap();
                }
            });
            let (mut read, mut number) = (0, 0);
            while number < COUNT {
                let mut rest = &filled.bytes()[read..];
                while let Some(found) = next_entry(&mut rest) {
                    read += found.len();
                    assert_eq!((found.number(), found.trace()), (number, u64::MAX - number));
                    assert_eq!((found.root().name, found.flags()), ("Message", 0));
                    let mut json = Vec::new();
                    crate::json::render(found.ops(), &mut json);
                    assert_eq!(json, serde_json::to_vec(&message(number)).unwrap());
                    number += 1;
                }
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_buffer_of_any_length_takes_the_whole_message_or_nothing_or_what_fits() {
        let (mut filling, filled) = buffer(4096);
        encode(&mut filling, &entry(3), &message(3), false).unwrap();
        let whole = filled.bytes().len();
        for bytes in 0..whole {
            let (mut filling, filled) = buffer(bytes);
            assert!(matches!(
                encode(&mut filling, &entry(3), &message(3), false),
                Err(TapeError::Full)
            ));
            assert_eq!(filled.bytes(), [0; 0]);
            if encode(&mut filling, &entry(3), &message(3), true).is_ok() {
                let found = next_entry(&mut filled.bytes()).unwrap();
                assert_eq!((found.flags(), found.len() <= bytes), (CUT, true));
                assert!(found.ops().count() > 0 || bytes < HEADER_BYTES + 16);
            }
        }
    }
}
