//! Consumer groups: how far each has read, and what was delivered and not acknowledged.

use serde::{Deserialize, Serialize};

use super::connection::{Answer, Talk, Trouble, command};
use super::info::{self, id, name, number};
use crate::place::Place;

/// Entries of an answer.
const PAGE: usize = 1000;
/// Pending entries of all groups of a stream that are kept: they are in memory, and in DONE.
const PENDING_MAX: usize = 10_000;

/// A consumer group. Stable: part of a dump's DONE.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    #[serde(with = "name")]
    pub name: Vec<u8>,
    #[serde(with = "id")]
    pub last_delivered: Place,
    /// Unknown to Redis, too, once a group was set to some id.
    pub entries_read: Option<u64>,
    /// Delivered and not acknowledged.
    pub pending: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Pending>,
}

/// An entry that a consumer has got and not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    #[serde(with = "id")]
    pub id: Place,
    #[serde(with = "name")]
    pub consumer: Vec<u8>,
    /// When it was delivered last, in milliseconds since 1970 by the server's clock.
    pub delivered: u64,
    /// How often.
    pub deliveries: u64,
}

/// What became of the groups of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Restored {
    pub groups_made: u64,
    /// Left as they are: whoever uses them may have gone on.
    pub groups_there_before: u64,
    pub pending_made: u64,
    /// Those of a group that was there, those whose entries are gone, and those that were too many.
    pub pending_not_kept: u64,
}

/// Reads the groups of `key`, and what is pending in them up to `end`.
pub(super) fn read(talk: &mut Talk<'_>, key: &[u8], end: Place) -> Result<Vec<Group>, Trouble> {
    let mut groups = read_groups(talk, key)?;
    let now = clock(talk)?;
    let mut room = PENDING_MAX;
    for group in &mut groups {
        if group.pending > 0 {
            group.entries = read_pending(talk, key, &group.name, end, now, room)?;
            room -= group.entries.len();
        }
    }
    Ok(groups)
}

fn read_groups(talk: &mut Talk<'_>, key: &[u8]) -> Result<Vec<Group>, Trouble> {
    let mut groups = Vec::new();
    talk.send(&[b"XINFO", b"GROUPS", key])?;
    for _ in 0..talk.list()? {
        let mut group = Group::default();
        for _ in 0..talk.list()? / 2 {
            let field = talk.short()?;
            match &field[..] {
                b"name" => {
                    let bytes = talk.string()?;
                    talk.bytes(bytes, |piece| {
                        group.name.extend_from_slice(piece);
                        Ok::<_, Trouble>(())
                    })?;
                }
                b"pending" => group.pending = number(&field, talk)?,
                b"last-delivered-id" => group.last_delivered = info::next_id(talk)?,
                b"entries-read" => group.entries_read = talk.answer()?.number(),
                _ => talk.skip()?,
            }
        }
        groups.push(group);
    }
    Ok(groups)
}

/// The server's clock, in milliseconds since 1970.
fn clock(talk: &mut Talk<'_>) -> Result<u64, Trouble> {
    let answer = talk.ask(&[b"TIME"])?;
    let seconds = match &answer {
        Answer::List(list) => list.first().and_then(Answer::text),
        _ => None,
    };
    (seconds.and_then(|text| text.parse::<u64>().ok()))
        .and_then(|seconds| seconds.checked_mul(1000))
        .ok_or_else(|| Trouble::Protocol("no time in the answer to TIME".into()))
}

/// At most `room` of what is pending up to `end`, page by page.
fn read_pending(
    talk: &mut Talk<'_>,
    key: &[u8],
    group: &[u8],
    end: Place,
    now: u64,
    room: usize,
) -> Result<Vec<Pending>, Trouble> {
    let mut entries: Vec<Pending> = Vec::new();
    let end = info::text(end);
    while entries.len() < room {
        let from = match entries.last() {
            None => b"-".to_vec(),
            Some(last) => info::text(last.id.next()),
        };
        let page = PAGE.min(room - entries.len());
        let count = page.to_string();
        talk.send(&[b"XPENDING", key, group, &from, &end, count.as_bytes()])?;
        let found = talk.list()?;
        for _ in 0..found {
            talk.list()?;
            let id = info::next_id(talk)?;
            let consumer = match talk.answer()? {
                Answer::Bytes(name) => name,
                _ => return Err(Trouble::Protocol("a consumer without a name".into())),
            };
            let idle = number(b"idle", talk)?;
            entries.push(Pending {
                id,
                consumer,
                delivered: now.saturating_sub(idle),
                deliveries: number(b"deliveries", talk)?,
            });
        }
        if found < page as u64 {
            break;
        }
    }
    Ok(entries)
}

/// Makes the groups that are not there, each with all that is pending in it or not at all.
pub(super) fn restore(
    talk: &mut Talk<'_>,
    key: &[u8],
    groups: &[Group],
) -> Result<Restored, Trouble> {
    let mut restored = Restored::default();
    for group in groups {
        restored.pending_not_kept += group.pending;
        // From before the look, so that a group which somebody else makes meanwhile is seen.
        talk.ask(&[b"WATCH", key])?;
        let there = read_groups(talk, key)?;
        if there.iter().any(|there| there.name == group.name) {
            talk.ask(&[b"UNWATCH"])?;
            restored.groups_there_before += 1;
            continue;
        }
        let made = make(talk, key, group)?;
        restored.groups_made += 1;
        restored.pending_made += made;
        restored.pending_not_kept -= made;
    }
    Ok(restored)
}

/// Makes a group; how many entries are pending in it.
fn make(talk: &mut Talk<'_>, key: &[u8], group: &Group) -> Result<u64, Trouble> {
    let delivered = info::text(group.last_delivered);
    let read = group.entries_read.map(|read| read.to_string());
    let mut create: Vec<&[u8]> = vec![b"XGROUP", b"CREATE", key, &group.name, &delivered];
    if let Some(read) = &read {
        create.extend([&b"ENTRIESREAD"[..], read.as_bytes()]);
    }
    let mut commands = Vec::new();
    command(&mut commands, [&b"MULTI"[..]].into_iter());
    command(&mut commands, create.into_iter());
    for entry in &group.entries {
        let (id, time) = (info::text(entry.id), entry.delivered.to_string());
        let deliveries = entry.deliveries.to_string();
        let claim: [&[u8]; 12] = [
            b"XCLAIM",
            key,
            &group.name,
            &entry.consumer,
            b"0",
            &id,
            b"TIME",
            time.as_bytes(),
            b"RETRYCOUNT",
            deliveries.as_bytes(),
            b"FORCE",
            b"JUSTID",
        ];
        command(&mut commands, claim.into_iter());
    }
    command(&mut commands, [&b"EXEC"[..]].into_iter());
    talk.write(&commands)?;
    let mut refused = None;
    let mut note = |answer: Result<Answer, Trouble>| match answer {
        Err(trouble @ Trouble::Refused(_)) => {
            refused.get_or_insert(trouble);
            Ok(Answer::Null)
        }
        answer => answer,
    };
    // MULTI's, and QUEUED.
    for _ in 0..group.entries.len() + 2 {
        note(talk.answer())?;
    }
    let answers = note(talk.answer())?;
    if let Some(refused) = refused {
        return Err(refused);
    }
    let Answer::List(answers) = answers else {
        return Err(Trouble::Lost(
            "somebody else has changed the stream meanwhile".into(),
        ));
    };
    // Each of an entry that is there is a list of its id.
    let is_made = |answer: &&Answer| matches!(answer, Answer::List(ids) if !ids.is_empty());
    Ok(answers.iter().skip(1).filter(is_made).count() as u64)
}
