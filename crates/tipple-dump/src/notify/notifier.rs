//! Tells the targets of what is in the stores, on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tipple_flow::PartName;
use tipple_store::http::Poster;

use super::message::{Message, Messages, store_url};
use super::record::{Delivered, delivered_anywhere};
use super::retry::{Refused, Retry};
use super::sqs::{BATCH_BYTES_MAX, BATCH_MAX, Queue};
use super::target::Place;
use super::{NotifyOptions, NotifyTarget, webhook};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job};
use crate::layout::{self, Done, Head, PartRecord};
use crate::sealing::Sealing;
use crate::stores::Stores;

/// Parts that wait to be told of. What does not fit is told at the end: nobody waits for a slow target.
const WAITING_MAX: usize = 4096;
/// How soon a cancel is seen.
const TICK: Duration = Duration::from_millis(50);

/// A queue of parts for the notifier, from committers.
pub(crate) fn to_notifier() -> (SyncSender<PartName>, Receiver<PartName>) {
    sync_channel(WAITING_MAX)
}

/// Whoever is told, and how far that is.
pub(crate) struct Notifier<'a> {
    job: &'a Job,
    stores: &'a Stores<'a>,
    options: &'a NotifyOptions,
    sealing: Option<&'a Sealing>,
    poster: Arc<Poster>,
    links: Vec<Link>,
    /// Parts all of whose messages all targets took, in this run or an earlier one.
    delivered: BTreeSet<PartName>,
    /// Of other parts that were begun: for each target, the messages that it took.
    begun: BTreeMap<PartName, Vec<usize>>,
    /// At the end, a target that failed before is tried once more, and only once.
    is_end: bool,
    cannot_record: bool,
}

/// A target, and what becomes of it.
struct Link {
    target: NotifyTarget,
    way: Way,
    /// A message failed for good: it is told nothing more.
    is_dead: bool,
    /// It was dead before the end.
    is_revived: bool,
    undelivered: u64,
}

enum Way {
    Queue(Queue),
    Webhook(String),
}

impl<'a> Notifier<'a> {
    /// Finds the targets. `None` if there are none.
    ///
    /// # Errors
    /// `Notify` if one of them cannot be used.
    pub(crate) fn open(
        job: &'a Job,
        stores: &'a Stores<'a>,
        options: &'a NotifyOptions,
    ) -> Result<Option<Self>, DumpError> {
        if options.targets.is_empty() {
            return Ok(None);
        }
        let poster = Arc::new(Poster::new(&options.services)?);
        let link = |target: &NotifyTarget| {
            let way = match target.place() {
                Place::Webhook(url) => Way::Webhook(url.clone()),
                Place::Queue(place) => {
                    let poster = Arc::clone(&poster);
                    let queue = Queue::open(poster, place, &options.services, job.gate());
                    Way::Queue(queue.map_err(|refused| DumpError::notify(target, refused))?)
                }
            };
            Ok(Link {
                target: target.clone(),
                way,
                is_dead: false,
                is_revived: false,
                undelivered: 0,
            })
        };
        let links = options.targets.iter().map(link);
        Ok(Some(Self {
            job,
            stores,
            options,
            sealing: None,
            links: links.collect::<Result<_, DumpError>>()?,
            poster,
            delivered: BTreeSet::new(),
            begun: BTreeMap::new(),
            is_end: false,
            cannot_record: false,
        }))
    }

    /// The same for a dump that is sealed.
    pub(crate) fn with_sealing(self, sealing: Option<&'a Sealing>) -> Self {
        Self { sealing, ..self }
    }

    /// Looks for what earlier runs have told of `plan`.
    pub(crate) fn resume(&mut self, plan: &str) -> Result<(), DumpError> {
        self.delivered = delivered_anywhere(self.stores, plan)?;
        Ok(())
    }

    /// Tells of parts that earlier runs have committed, and then of those that come, until no more will come. What
    /// cannot be told now is tried again at the end.
    pub(crate) fn run(&mut self, head: &Head, earlier: &[PartName], parts: &Receiver<PartName>) {
        let messages = Messages::new(self.options.format, head);
        for part in earlier {
            self.now(&messages, part);
        }
        loop {
            match parts.recv_timeout(TICK) {
                Ok(part) => self.now(&messages, &part),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.job.gate().check().is_err() {
                return;
            }
        }
    }

    fn now(&mut self, messages: &Messages, part: &PartName) {
        let is_cancelled = self.job.gate().check().is_err();
        if is_cancelled || self.links.iter().all(|link| link.is_dead) {
            return;
        }
        // A store that cannot be read now is read again at the end, and is in order then or fails the job there.
        let _ = self.part(messages, part);
    }

    /// Tells of everything in `parts` that was not told yet, and gives the targets that failed a last chance.
    ///
    /// # Errors
    /// `Store` or `Damaged` if a part record cannot be read; `Interrupted`. Never because of a target.
    pub(crate) fn rest<'p>(
        &mut self,
        head: &Head,
        parts: impl Iterator<Item = &'p PartName>,
    ) -> Result<(), DumpError> {
        self.is_end = true;
        for link in &mut self.links {
            link.is_revived = link.is_dead;
            link.is_dead = false;
        }
        let messages = Messages::new(self.options.format, head);
        for part in parts {
            self.part(&messages, part)?;
        }
        Ok(())
    }

    /// The last message, after DONE. Returns how many messages each target did not get.
    ///
    /// # Errors
    /// `Interrupted`.
    pub(crate) fn done(
        mut self,
        head: &Head,
        done: &Done,
    ) -> Result<BTreeMap<String, u64>, DumpError> {
        let urls = self.store_urls();
        let messages = Messages::new(self.options.format, head);
        let last: Vec<Message> = messages.done(&urls, done).into_iter().collect();
        failpoint!("notifying");
        for number in 0..self.links.len() {
            if self.links[number].is_dead {
                self.links[number].undelivered += last.len() as u64;
                continue;
            }
            let taken = self.send(number, &last)?;
            self.links[number].undelivered += (last.len() - taken) as u64;
        }
        failpoint!("notified");
        if self.links.iter().all(|link| link.undelivered == 0) {
            self.record(&layout::notified_done(), last.len() as u64);
        }
        let mut undelivered = BTreeMap::new();
        for link in self.links.iter().filter(|link| link.undelivered > 0) {
            *undelivered.entry(link.target.to_string()).or_default() += link.undelivered;
        }
        Ok(undelivered)
    }

    /// Tells of a part whose record is in all stores: of what the stores have, whoever committed it first.
    fn part(&mut self, messages: &Messages, part: &PartName) -> Result<(), DumpError> {
        if self.delivered.contains(part) {
            return Ok(());
        }
        let object = layout::part_object(part);
        let record: PartRecord =
            (self.stores).any(|store| layout::read_json(store, &object, self.sealing))?;
        let urls = self.store_urls();
        let all = record.chunks.len();
        let none = vec![0; self.links.len()];
        let mut taken = self.begun.remove(part).unwrap_or(none);
        failpoint!("notifying");
        let mut ended = Ok(());
        for (number, taken) in taken.iter_mut().enumerate() {
            let mut waiting: Vec<Message> = Vec::new();
            let mut bytes = 0;
            for (place, chunk) in record.chunks.iter().enumerate().skip(*taken) {
                if self.links[number].is_dead || ended.is_err() {
                    break;
                }
                let message = messages.chunk(&urls, &record, chunk);
                if waiting.len() == BATCH_MAX || bytes + message.body.len() > BATCH_BYTES_MAX {
                    ended = self.batch(number, &mut waiting, taken);
                    bytes = 0;
                }
                bytes += message.body.len();
                waiting.push(message);
                if place + 1 == all && ended.is_ok() && !self.links[number].is_dead {
                    ended = self.batch(number, &mut waiting, taken);
                }
            }
            if self.is_end {
                self.links[number].undelivered += (all - *taken) as u64;
            }
        }
        if ended.is_ok() && taken.iter().all(|taken| *taken == all) {
            failpoint!("notified");
            self.record(&layout::notified_object(part), all as u64);
            self.delivered.insert(part.clone());
        } else {
            self.begun.insert(part.clone(), taken);
        }
        ended
    }

    fn batch(
        &mut self,
        number: usize,
        waiting: &mut Vec<Message>,
        taken: &mut usize,
    ) -> Result<(), DumpError> {
        *taken += self.send(number, waiting)?;
        waiting.clear();
        Ok(())
    }

    /// Sends messages to one target; returns how many of them it took, in order. A target that fails is dead then.
    fn send(&mut self, number: usize, messages: &[Message]) -> Result<usize, DumpError> {
        let (services, gate) = (&self.options.services, self.job.gate());
        let link = &mut self.links[number];
        let retry = || match link.is_revived {
            true => Retry::once(services),
            false => Retry::new(services),
        };
        let mut taken = 0;
        let sent = match &link.way {
            Way::Queue(queue) if !messages.is_empty() => {
                let sent = queue.send(messages, retry(), gate);
                taken = if sent.is_ok() { messages.len() } else { 0 };
                sent
            }
            Way::Queue(_) => Ok(()),
            Way::Webhook(url) => messages.iter().try_for_each(|message| {
                webhook::send(&self.poster, url, message, services, retry(), gate)?;
                taken += 1;
                Ok(())
            }),
        };
        match sent {
            Ok(()) => link.is_revived = false,
            Err(Refused::Cancelled) => return Err(DumpError::Interrupted),
            Err(Refused::Failed(reason)) => {
                link.is_dead = true;
                let then = match self.is_end {
                    true => "run the same command again to send what it did not get",
                    false => "it is left alone until the end of this job, which goes on",
                };
                let message = format!("{} takes no notifications: {reason}; {then}", link.target);
                self.job.tell(&Event::Warning { message });
            }
        }
        Ok(taken)
    }

    /// What cannot be recorded is sent again by the next run: at least once. A store that failed is found by those who
    /// put data there.
    fn record(&mut self, object: &tipple_store::ObjectName, messages: u64) {
        let targets = self.links.iter().map(|link| link.target.to_string());
        let delivered = Delivered::now(targets.collect(), messages);
        if let Err(error) = delivered.put(self.stores, object)
            && !std::mem::replace(&mut self.cannot_record, true)
        {
            let message = format!(
                "notifications were delivered, and that cannot be recorded: {error}; going on again would send them again"
            );
            self.job.tell(&Event::Warning { message });
        }
    }

    fn store_urls(&self) -> Vec<String> {
        let living = self.stores.living();
        living.iter().map(|(_, store)| store_url(*store)).collect()
    }
}
