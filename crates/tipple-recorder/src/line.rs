//! From an entry to its line.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::{Config, OnOverflow, Settings};
use crate::core::{Core, StreamMeta};
use crate::entry::{CUT, Direction, EntryRef, Kind, NAME_OF_TYPE, REDACTED, name_of_type};
use crate::json;
use crate::options::Profile;
use crate::redact::{Redactor, render_redacted};
use crate::tape::Root;

/// What is added to a message that was cut.
const TRUNCATED: &str = " TRUNCATED";

/// Makes lines. What lines of one stream, or of one message, have in common, it makes once.
pub(crate) struct Lines {
    core: Arc<Core>,
    node: u16,
    profile: Profile,
    config: Arc<Config>,
    config_version: u64,
    streams: Vec<Option<StreamText>>,
    names: HashMap<NameKey, u32, std::hash::BuildHasherDefault<Mix>>,
    /// The name that was looked up last.
    last_name: Option<(NameKey, u32)>,
    name_texts: Vec<NameText>,
    rules: HashMap<(u32, u32), Rule, std::hash::BuildHasherDefault<Mix>>,
    /// A message that is cut.
    body: Vec<u8>,
}

/// The addresses and lengths of a name and its variant, and whether it is a type's.
type NameKey = (usize, usize, usize, usize, bool);

/// Multiplies and folds: keys are addresses of names, which nobody from outside chooses.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl std::hash::Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

/// What the lines of a stream have in common, with the commas around it.
struct StreamText {
    meta: Arc<StreamMeta>,
    /// `,"g":…` up to `"s":`
    before: Vec<u8>,
    /// `,"cl":…,"mn":`
    class: Vec<u8>,
    /// `,"mp":…,"mk":"`
    protocol: Vec<u8>,
}

struct NameText {
    /// As it is read.
    name: String,
    /// As it stands in a line.
    json: Vec<u8>,
}

/// What holds for a message of a channel.
struct Rule {
    max_size: usize,
    on_overflow: OnOverflow,
    redactor: Option<Redactor>,
}

impl Rule {
    fn new(settings: &Settings) -> Rule {
        Rule {
            max_size: settings.max_size_or_default(),
            on_overflow: settings.on_overflow.unwrap_or_default(),
            redactor: Redactor::new(&settings.redact),
        }
    }
}

/// What a line is about.
#[derive(Clone, Copy)]
pub(crate) struct LineFacts {
    pub(crate) channel: u32,
    pub(crate) name: u32,
}

impl Lines {
    pub(crate) fn new(core: Arc<Core>, node: u16, profile: Profile) -> Lines {
        Lines {
            config: core.config(),
            core,
            node,
            profile,
            config_version: 0,
            streams: Vec::new(),
            names: HashMap::default(),
            last_name: None,
            name_texts: Vec::new(),
            rules: HashMap::default(),
            body: Vec::new(),
        }
    }

    /// Looks whether the configuration has changed.
    pub(crate) fn refresh(&mut self) {
        let version = self.core.config_version.load(Ordering::Acquire);
        if version != self.config_version {
            self.config = self.core.config();
            self.config_version = version;
            self.rules.clear();
        }
    }

    /// The streams of these numbers are gone.
    pub(crate) fn forget(&mut self, streams: &[u32]) {
        for &stream in streams {
            if let Some(text) = self.streams.get_mut(stream as usize) {
                *text = None;
            }
        }
    }

    /// The channel of a stream.
    pub(crate) fn channel(&mut self, stream: u32) -> u32 {
        if !matches!(self.streams.get(stream as usize), Some(Some(_))) {
            self.add_stream(stream);
        }
        let text = self.streams[stream as usize]
            .as_ref()
            .expect("it was added");
        text.meta.channel.id
    }

    pub(crate) fn name(&self, name: u32) -> &str {
        &self.name_texts[name as usize].name
    }

    fn add_stream(&mut self, stream: u32) {
        let at = stream as usize;
        if self.streams.len() <= at {
            self.streams.resize_with(at + 1, || None);
        }
        let meta = self.core.registry().streams[at].clone();
        let Some(meta) = meta else {
            unreachable!("a stream is known as long as there are records of it")
        };
        let mut before = b",\"g\":".to_vec();
        json::string(&meta.channel.group.name, &mut before);
        if !meta.key.is_empty() {
            before.extend_from_slice(b",\"k\":");
            json::string(&meta.key, &mut before);
        }
        before.extend_from_slice(format!(",\"n\":{},\"s\":", self.node).as_bytes());
        let mut class = b",\"cl\":".to_vec();
        json::string(&meta.channel.class, &mut class);
        class.extend_from_slice(b",\"mn\":");
        let mut protocol = b",\"mp\":".to_vec();
        json::string(&meta.protocol, &mut protocol);
        protocol.extend_from_slice(b",\"mk\":\"");
        self.streams[at] = Some(StreamText {
            meta,
            before,
            class,
            protocol,
        });
    }

    #[inline]
    fn name_of(&mut self, root: Root, is_type: bool) -> u32 {
        let key = (
            root.name.as_ptr().addr(),
            root.name.len(),
            root.variant.as_ptr().addr(),
            root.variant.len(),
            is_type,
        );
        if let Some((last, name)) = self.last_name
            && last == key
        {
            return name;
        }
        let name = match self.names.get(&key) {
            Some(&name) => name,
            None => self.add_name(key, root, is_type),
        };
        self.last_name = Some((key, name));
        name
    }

    #[cold]
    fn add_name(&mut self, key: NameKey, root: Root, is_type: bool) -> u32 {
        let name = match (is_type, root.variant) {
            (true, _) => name_of_type(root.name).to_owned(),
            (false, "") => root.name.to_owned(),
            (false, variant) => format!("{}::{variant}", root.name),
        };
        let mut json = Vec::new();
        json::string(&name, &mut json);
        // One number for one name, wherever in the program it stands.
        let found = self.name_texts.iter().position(|text| text.name == name);
        let at = found.unwrap_or_else(|| {
            self.name_texts.push(NameText { name, json });
            self.name_texts.len() - 1
        });
        self.names.insert(key, at as u32);
        at as u32
    }

    fn add_rule(&mut self, meta: &StreamMeta, name: u32) {
        let channel = &meta.channel;
        let mut settings = self.config.of_channel(&channel.group.name, &channel.class);
        let name_text = &self.name_texts[name as usize].name;
        if let Some(own) = self.config.of_message(&meta.protocol, name_text) {
            settings.overlay(own);
        }
        self.rules.insert((meta.id, name), Rule::new(&settings));
    }

    /// Appends the line of `entry`, with its line feed. `Err`: it is too long, and nothing was appended.
    pub(crate) fn append(
        &mut self,
        entry: EntryRef<'_>,
        unix_ns: u64,
        thread: u64,
        out: &mut Vec<u8>,
    ) -> Result<LineFacts, u32> {
        let stream = entry.stream();
        if !matches!(self.streams.get(stream as usize), Some(Some(_))) {
            self.add_stream(stream);
        }
        let flags = entry.flags();
        let name = self.name_of(entry.root(), flags & NAME_OF_TYPE != 0);
        if !self.rules.contains_key(&(stream, name)) {
            let meta = self.streams[stream as usize]
                .as_ref()
                .map(|text| Arc::clone(&text.meta));
            self.add_rule(&meta.expect("it was added"), name);
        }
        let rule = &self.rules[&(stream, name)];
        let text = self.streams[stream as usize]
            .as_ref()
            .expect("it was added");
        let channel = text.meta.channel.id;

        let start = out.len();
        out.reserve(512);
        out.extend_from_slice(b"{\"ts\":");
        json::unsigned(unix_ns, out);
        out.extend_from_slice(&text.before);
        json::unsigned(entry.number(), out);
        out.extend_from_slice(b",\"t\":");
        json::unsigned(entry.trace(), out);
        out.extend_from_slice(b",\"th\":");
        json::unsigned(thread, out);
        out.extend_from_slice(match entry.direction() {
            Direction::In => b",\"d\":\"In\"",
            Direction::Out => b",\"d\":\"Out\"",
        });
        out.extend_from_slice(&text.class);
        out.extend_from_slice(&self.name_texts[name as usize].json);
        out.extend_from_slice(&text.protocol);
        let correlation = match entry.kind() {
            Kind::Regular => {
                out.extend_from_slice(b"Regular\",\"m\":");
                None
            }
            Kind::Request(id) => {
                out.extend_from_slice(b"Request\",\"m\":");
                Some(id)
            }
            Kind::Response(id) => {
                out.extend_from_slice(b"Response\",\"m\":");
                Some(id)
            }
        };
        let body = out.len();
        let mut is_hidden = flags & REDACTED != 0;
        match &rule.redactor {
            None => json::render(entry.ops(), out),
            Some(redactor) => is_hidden |= render_redacted(entry.ops(), redactor, out),
        }
        let marked = self.profile == Profile::Marked;
        end(correlation, marked && is_hidden, out);
        if out.len() - start > rule.max_size || flags & CUT != 0 {
            if rule.on_overflow == OnOverflow::Skip {
                out.truncate(start);
                return Err(channel);
            }
            // All but the message, and the quotes around what is left of it.
            let fixed = (body - start) + 2 + TRUNCATED.len() + 40;
            self.body.clear();
            self.body.extend_from_slice(&out[body..]);
            out.truncate(body);
            let room = rule.max_size.saturating_sub(fixed);
            let body = String::from_utf8_lossy(&self.body);
            let kept = fitting(&body, room);
            json::string(&format!("{kept}{TRUNCATED}"), out);
            end(correlation, marked, out);
        }
        out.push(b'\n');
        Ok(LineFacts { channel, name })
    }
}

fn end(correlation: Option<u64>, is_marked: bool, out: &mut Vec<u8>) {
    if let Some(id) = correlation {
        out.extend_from_slice(b",\"c\":");
        json::unsigned(id, out);
    }
    if is_marked {
        out.extend_from_slice(b",\"h\":1");
    }
    out.push(b'}');
}

/// The beginning of `text` that takes at most `room` bytes in a JSON string.
fn fitting(text: &str, room: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += match c {
            '"' | '\\' => 2,
            c if c < ' ' => 6,
            c => c.len_utf8(),
        };
        if used > room {
            return &text[..at];
        }
    }
    text
}
