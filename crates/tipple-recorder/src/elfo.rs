//! A recorder in the place of elfo's own dumper: `elfo-core` with its feature `unstable`, 0.2.0-alpha.21.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use elfo_core::ActorMeta;
use elfo_core::dumping::{self, CheckResult, Dump, MessageKind, MessageName};
use elfo_core::scope::{self, SerdeMode};

use crate::core::Core;
use crate::entry::{Direction, Kind};
use crate::loss::Why;
use crate::recorder::Recorder;
use crate::stream::Stream;

/// A program has one recorder under elfo for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("elfo has a recorder already: mount one, once, and not `elfo_dumper` beside it")]
pub struct MountError;

/// From now on, what actors send and receive is recorded by `recorder`, with elfo's groups, keys, classes, protocols,
/// names, kinds and traces. To be called before anything else of elfo: a `Dumper` that was made before is mute for ever.
///
/// `dumping = "disabled"` of a message and elfo's `hide` of a field hold as ever, and so does each group's
/// `system.dumping`: what its `max_rate` denies takes a number and is a loss by rate. The limits of the recorder's own
/// [configuration](crate::Config) come after that. Numbers, times and threads are the recorder's.
///
/// ```no_run
/// use std::sync::Arc;
/// use tipple_recorder::{Recorder, RecorderOptions};
///
/// # async fn program(topology: elfo_core::Topology) -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = Arc::new(Recorder::start(RecorderOptions::new("/var/lib/app/recording"))?);
/// tipple_recorder::elfo::mount(&recorder)?; // in the place of topology.local("system.dumpers")
/// elfo_core::init::try_start(topology).await?;
/// let report = recorder.shutdown(std::time::Duration::from_secs(5));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If elfo has one already.
pub fn mount(recorder: &Recorder) -> Result<(), MountError> {
    let core = Arc::clone(&recorder.core);
    let is_mounted = dumping::set_make_recorder(Box::new(move |class| {
        Arc::new(OfClass {
            core: Arc::clone(&core),
            class,
        })
    }));
    is_mounted.then_some(()).ok_or(MountError)
}

/// What elfo gives the dumps of one class to.
struct OfClass {
    core: Arc<Core>,
    class: &'static str,
}

impl dumping::Recorder for OfClass {
    fn enabled(&self) -> bool {
        // Outside of actors there is no group.
        let check = scope::try_with(|scope| {
            let base = |of: &mut OfActor| of.base.is_enabled();
            let is_enabled = self.with_actor(scope.meta(), base);
            match is_enabled {
                false => CheckResult::NotInterested,
                true => scope.dumping().check(self.class),
            }
        });
        match check {
            Some(CheckResult::Passed) => true,
            Some(CheckResult::Limited) => {
                scope::with(|scope| {
                    self.with_actor(scope.meta(), |of| of.base.lose(Why::Rate));
                });
                false
            }
            Some(CheckResult::NotInterested) | None => false,
        }
    }

    fn record(&self, dump: Dump) {
        let direction = match dump.direction {
            dumping::Direction::In => Direction::In,
            dumping::Direction::Out => Direction::Out,
        };
        let kind = match dump.message_kind {
            MessageKind::Regular => Kind::Regular,
            MessageKind::Request(id) => Kind::Request(id),
            MessageKind::Response(id) => Kind::Response(id),
        };
        let stream = self.with_actor(&dump.meta, |of| of.stream(dump.message_protocol));
        let stream = stream
            .trace(dump.trace_id.into())
            .named(name_of(&dump.message_name));
        // Its `hide` looks at this.
        scope::with_serde_mode(SerdeMode::Dumping, || {
            stream.record(direction, kind, &*dump.message);
        });
    }
}

/// The streams of one actor and class, by protocol.
struct OfActor {
    /// So that no other actor comes to lie at the same address.
    _meta: Arc<ActorMeta>,
    base: Stream,
    by_protocol: Vec<(&'static str, Stream)>,
}

impl OfActor {
    fn stream(&mut self, protocol: &'static str) -> Stream {
        let found = self
            .by_protocol
            .iter()
            .find(|(known, _)| *known == protocol);
        match found {
            Some((_, stream)) => stream.clone(),
            None => {
                let stream = self.base.clone().protocol(protocol);
                self.by_protocol.push((protocol, stream.clone()));
                stream
            }
        }
    }
}

/// An actor by its address, and a class.
type ActorKey = (usize, &'static str);

/// A thread that has met so many actors forgets them, and meets them again.
const ACTORS_MAX: usize = 4096;

thread_local! {
    static ACTORS: RefCell<HashMap<ActorKey, OfActor>> = RefCell::default();
    static NAMES: RefCell<(String, HashMap<String, &'static str>)> = RefCell::default();
}

impl OfClass {
    fn with_actor<R>(&self, meta: &Arc<ActorMeta>, ask: impl FnOnce(&mut OfActor) -> R) -> R {
        ACTORS.with_borrow_mut(|actors| {
            let key = (Arc::as_ptr(meta).addr(), self.class);
            if actors.len() >= ACTORS_MAX && !actors.contains_key(&key) {
                actors.clear();
            }
            ask(actors.entry(key).or_insert_with(|| OfActor {
                _meta: Arc::clone(meta),
                base: Stream::new(&self.core, &meta.group)
                    .key(&meta.key)
                    .class(self.class),
                by_protocol: Vec::new(),
            }))
        })
    }
}

/// The name as text that lives as long as the program, which a tape needs. elfo keeps the two halves of a variant's name
/// to itself: there are as many of them as variants in the program.
fn name_of(name: &MessageName) -> &'static str {
    static ALL: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    NAMES.with_borrow_mut(|(buffer, names)| {
        let text = name.to_str(buffer);
        if let Some(known) = names.get(text) {
            return *known;
        }
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_default();
        let known = match all.get(text) {
            Some(known) => *known,
            None => {
                let leaked: &'static str = Box::leak(text.into());
                all.insert(leaked);
                leaked
            }
        };
        names.insert(text.to_owned(), known);
        known
    })
}
