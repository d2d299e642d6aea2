//! Finding lines: by the index what may match, by a glance at the text what still may, and by parsing what does.

use std::io::{self, Read, Seek, SeekFrom};

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;
use tipple_chunk::Decoder;

use crate::entry::Direction;
use crate::index::BlockEntry;
use crate::json;
use crate::scan;
use crate::shelf::{Shelf, index_of};

/// Which lines are wanted: those for which all of it holds. The default is every record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of this trace.
    pub trace: Option<u64>,
    /// Not earlier than this, in nanoseconds of Unix time.
    pub from_ns: Option<u64>,
    /// Earlier than this.
    pub to_ns: Option<u64>,
    /// Of one of these messages: `Order`, `Event::Placed`. Empty: of any.
    pub names: Vec<String>,
    /// Of one of these groups. Empty: of any.
    pub groups: Vec<String>,
    /// Of one of these keys. Empty: of any.
    pub keys: Vec<String>,
    /// Of one of these classes. Empty: of any.
    pub classes: Vec<String>,
    /// In this direction.
    pub direction: Option<Direction>,
    /// With a number from the first to the second, both included.
    pub numbers: Option<(u64, u64)>,
    /// With this correlation.
    pub correlation: Option<u64>,
    /// With fields that are equal to these.
    pub fields: Vec<FieldEquals>,
    /// With this text anywhere in the line.
    pub text: Option<String>,
    /// Lines that are no records, too: of losses, and of files that begin and end.
    pub marks: bool,
}

/// A field of a line and what it is equal to: `m.symbol=BTCUSDT`, `m.price=1.5`, `m.tags.0=a`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldEquals {
    path: Vec<String>,
    value: serde_json::Value,
    /// Text that stands in every line with such a field, whatever is around it.
    needle: Option<Vec<u8>>,
}

impl std::str::FromStr for FieldEquals {
    type Err = String;

    /// The value is JSON, or else text.
    fn from_str(text: &str) -> Result<FieldEquals, String> {
        let (path, value) = text
            .split_once("==")
            .or_else(|| text.split_once('='))
            .ok_or_else(|| {
                format!("`{text}` is no comparison: give one such as `m.symbol=BTCUSDT`")
            })?;
        let (path, value) = (path.trim(), value.trim());
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!(
                "`{text}` names no field: give one such as `m.symbol=BTCUSDT`"
            ));
        }
        let value: serde_json::Value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        // Strings are written in one way only; numbers are not.
        let needle = value.as_str().map(|value| {
            let mut needle = Vec::new();
            json::string(value, &mut needle);
            needle
        });
        Ok(FieldEquals {
            path,
            value,
            needle,
        })
    }
}

impl FieldEquals {
    fn holds(&self, line: &serde_json::Value) -> bool {
        let mut at = line;
        for field in &self.path {
            let inner = match at {
                serde_json::Value::Array(all) => {
                    field.parse().ok().and_then(|place: usize| all.get(place))
                }
                at => at.get(field),
            };
            match inner {
                Some(inner) => at = inner,
                None => return false,
            }
        }
        match (at.as_f64(), self.value.as_f64()) {
            // 1 and 1.0 are equal; whole numbers are compared as such.
            (Some(there), Some(wanted)) if at.is_f64() || self.value.is_f64() => there == wanted,
            _ => *at == self.value,
        }
    }
}

/// What a line says, beside its message.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Line<'a> {
    /// Time, in nanoseconds of Unix time.
    #[serde(default)]
    pub ts: u64,
    /// Group.
    #[serde(borrow, default)]
    pub g: std::borrow::Cow<'a, str>,
    /// Key; empty: none.
    #[serde(borrow, default)]
    pub k: std::borrow::Cow<'a, str>,
    /// Node.
    #[serde(default)]
    pub n: u64,
    /// Number; of a record always there.
    #[serde(default)]
    pub s: Option<u64>,
    /// Trace; 0: none.
    #[serde(default)]
    pub t: u64,
    /// Thread.
    #[serde(default)]
    pub th: u64,
    /// Direction.
    #[serde(default)]
    pub d: Option<Direction>,
    /// Class.
    #[serde(borrow, default)]
    pub cl: std::borrow::Cow<'a, str>,
    /// Name of the message.
    #[serde(borrow, default)]
    pub mn: std::borrow::Cow<'a, str>,
    /// Protocol of the message.
    #[serde(borrow, default)]
    pub mp: std::borrow::Cow<'a, str>,
    /// Kind: `Regular`, `Request`, `Response`; or `Open`, `Close`, `Loss`.
    #[serde(borrow, default)]
    pub mk: std::borrow::Cow<'a, str>,
    /// The message, as it stands there.
    #[serde(borrow, default)]
    pub m: Option<&'a RawValue>,
    /// Correlation.
    #[serde(default)]
    pub c: Option<u64>,
    /// Something in it was redacted or truncated.
    #[serde(default)]
    pub h: Option<u8>,
    /// Of a loss.
    #[serde(default)]
    pub from: Option<u64>,
    /// Of a loss.
    #[serde(default)]
    pub to: Option<u64>,
    /// Of a loss.
    #[serde(default)]
    pub count: Option<u64>,
    /// Of a loss, and of the end of a file.
    #[serde(borrow, default)]
    pub why: std::borrow::Cow<'a, str>,
    /// Of the beginning and the end of a file: which run of a recorder.
    #[serde(borrow, default)]
    pub run: std::borrow::Cow<'a, str>,
    /// Of the same: the number of the file among those of its class and run.
    #[serde(default)]
    pub file: Option<u64>,
    /// Of the end of the last file of a run: how many numbers each group took.
    #[serde(borrow, default)]
    pub numbers: Option<&'a RawValue>,
}

impl<'a> Line<'a> {
    /// Parses a line.
    ///
    /// # Errors
    /// If it is none of a recording.
    pub fn parse(text: &'a [u8]) -> Result<Line<'a>, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Whether it is a record, and no mark.
    pub fn is_record(&self) -> bool {
        !matches!(&*self.mk, "Open" | "Close" | "Loss")
    }
}

impl Filter {
    /// Whether anything is asked but all records.
    fn is_empty(&self) -> bool {
        *self
            == Filter {
                marks: self.marks,
                ..Filter::default()
            }
    }

    /// Whether a block may hold a line that is wanted.
    pub(crate) fn may_match(&self, block: &BlockEntry) -> bool {
        if block.lines == block.marks && !self.marks {
            return false;
        }
        if self.from_ns.is_some_and(|from| block.last_ns < from)
            || self.to_ns.is_some_and(|to| block.first_ns >= to)
        {
            return false;
        }
        // A mark has none of what follows.
        if self
            .trace
            .is_some_and(|trace| trace != 0 && !block.traces.may_hold(trace))
        {
            return false;
        }
        if !self.names.is_empty()
            && !block.names.is_empty()
            && !self.names.iter().any(|name| block.names.contains(name))
        {
            return false;
        }
        if block.groups.is_empty() || self.marks {
            return true;
        }
        let in_range = |(least, greatest): (u64, u64)| {
            self.numbers
                .is_none_or(|(from, to)| least <= to && from <= greatest)
        };
        block.groups.iter().any(|(group, range)| {
            (self.groups.is_empty() || self.groups.contains(group)) && in_range(*range)
        })
    }

    /// Texts of which each must stand in every line that is wanted: the rarest first.
    fn needles(&self) -> Vec<Vec<u8>> {
        let mut needles = Vec::new();
        if let Some(trace) = self.trace {
            needles.push(format!("\"t\":{trace},").into_bytes());
        }
        if let Some(correlation) = self.correlation {
            needles.push(format!("\"c\":{correlation}").into_bytes());
        }
        needles.extend(self.text.iter().map(|text| text.clone().into_bytes()));
        needles.extend(self.fields.iter().filter_map(|field| field.needle.clone()));
        let quoted = |name: &str, values: &[String], needles: &mut Vec<Vec<u8>>| {
            if let [value] = values {
                let mut needle = format!("\"{name}\":").into_bytes();
                json::string(value, &mut needle);
                needles.push(needle);
            }
        };
        quoted("k", &self.keys, &mut needles);
        quoted("mn", &self.names, &mut needles);
        quoted("g", &self.groups, &mut needles);
        needles
    }

    /// Whether a line is wanted.
    pub fn matches(&self, text: &[u8], line: &Line<'_>) -> bool {
        let one_of = |wanted: &[String], there: &str| {
            wanted.is_empty() || wanted.iter().any(|name| name == there)
        };
        let head = (self.marks || line.is_record())
            && self
                .trace
                .is_none_or(|trace| line.t == trace && line.is_record())
            && self.from_ns.is_none_or(|from| line.ts >= from)
            && self.to_ns.is_none_or(|to| line.ts < to)
            && one_of(&self.names, &line.mn)
            && one_of(&self.groups, &line.g)
            && one_of(&self.keys, &line.k)
            && one_of(&self.classes, &line.cl)
            && self
                .direction
                .is_none_or(|direction| line.d == Some(direction))
            && self.numbers.is_none_or(|(from, to)| {
                line.s.is_some_and(|number| (from..=to).contains(&number))
            })
            && self
                .correlation
                .is_none_or(|correlation| line.c == Some(correlation))
            && self
                .text
                .as_ref()
                .is_none_or(|needle| memmem::find(text, needle.as_bytes()).is_some());
        if !head || self.fields.is_empty() {
            return head;
        }
        let Ok(value) = serde_json::from_slice(text) else {
            return false;
        };
        self.fields.iter().all(|field| field.holds(&value))
    }
}

/// What a search looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SearchReport {
    /// Lines that were given.
    pub matches: u64,
    /// Recordings that were opened.
    pub files: u64,
    /// Blocks that were read, and those that the index let it pass over.
    pub blocks_read: u64,
    /// See `blocks_read`.
    pub blocks_skipped: u64,
    /// Recordings without an index, or with one of another file: read as a whole.
    pub files_without_index: u64,
    /// Lines that are none of a recording.
    pub damaged_lines: u64,
}

/// Whether to go on.
pub type GoOn = std::ops::ControlFlow<()>;

/// Gives the lines of all recordings of `shelf` that `filter` wants, in the order of the files, without their line feeds,
/// and parsed, until `found` has enough.
///
/// # Errors
/// What the shelf says; what `found` says; `InvalidData` with the recording's name if a compressed one is damaged.
pub fn search(
    shelf: &dyn Shelf,
    filter: &Filter,
    mut found: impl FnMut(&[u8], &Line<'_>) -> io::Result<GoOn>,
) -> io::Result<SearchReport> {
    let mut report = SearchReport::default();
    let mut searching = Searching {
        filter,
        needles: filter.needles(),
        decoder: Decoder::new().map_err(|error| io::Error::other(error.to_string()))?,
        stored: Vec::new(),
        text: Vec::new(),
        report: &mut report,
    };
    for name in shelf.names()? {
        let told = searching
            .file(shelf, &name, &mut found)
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        if told.is_break() {
            break;
        }
    }
    Ok(report)
}

struct Searching<'a> {
    filter: &'a Filter,
    needles: Vec<Vec<u8>>,
    decoder: Decoder,
    stored: Vec<u8>,
    text: Vec<u8>,
    report: &'a mut SearchReport,
}

impl Searching<'_> {
    fn file(
        &mut self,
        shelf: &dyn Shelf,
        name: &str,
        found: &mut impl FnMut(&[u8], &Line<'_>) -> io::Result<GoOn>,
    ) -> io::Result<GoOn> {
        let mut input = shelf.open(name)?;
        self.report.files += 1;
        let bytes = input.seek(SeekFrom::End(0))?;
        input.seek(SeekFrom::Start(0))?;
        // An index says nothing that all of the file would not.
        let index = match self.filter.is_empty() {
            true => None,
            false => index_of(shelf, name, bytes)?,
        };
        let Some(index) = index else {
            self.report.files_without_index += u64::from(!self.filter.is_empty());
            let mut told = GoOn::Continue(());
            let (filter, needles) = (self.filter, &self.needles);
            let report = &mut *self.report;
            scan::blocks(input, |block| {
                if told.is_continue() {
                    report.blocks_read += 1;
                    told = lines(filter, needles, block.text, report, found)?;
                }
                Ok(())
            })?;
            return Ok(told);
        };
        let mut at = 0;
        for block in &index.blocks {
            if !self.filter.may_match(block) {
                self.report.blocks_skipped += 1;
                continue;
            }
            self.report.blocks_read += 1;
            if at != block.offset {
                input.seek(SeekFrom::Start(block.offset))?;
            }
            at = block.offset + u64::from(block.stored_bytes);
            self.stored.clear();
            let read = (&mut input)
                .take(block.stored_bytes.into())
                .read_to_end(&mut self.stored)?;
            if read != block.stored_bytes as usize {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = match scan::is_zstd(&self.stored) {
                false => &self.stored,
                true => {
                    scan::decode(&self.stored, &mut self.decoder, &mut self.text)?;
                    &self.text
                }
            };
            if lines(self.filter, &self.needles, text, self.report, found)?.is_break() {
                return Ok(GoOn::Break(()));
            }
        }
        Ok(GoOn::Continue(()))
    }
}

/// The lines of a block that are wanted.
fn lines(
    filter: &Filter,
    needles: &[Vec<u8>],
    text: &[u8],
    report: &mut SearchReport,
    found: &mut impl FnMut(&[u8], &Line<'_>) -> io::Result<GoOn>,
) -> io::Result<GoOn> {
    let mut give = |line: &[u8], report: &mut SearchReport| {
        let Ok(parsed) = Line::parse(line) else {
            report.damaged_lines += 1;
            return Ok(GoOn::Continue(()));
        };
        if !filter.matches(line, &parsed) {
            return Ok(GoOn::Continue(()));
        }
        report.matches += 1;
        found(line, &parsed)
    };
    let Some((first, others)) = needles.split_first() else {
        for line in text
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            if give(line, report)?.is_break() {
                return Ok(GoOn::Break(()));
            }
        }
        return Ok(GoOn::Continue(()));
    };
    // Parsing costs far more than looking for some bytes.
    let first = memmem::Finder::new(first);
    let mut at = 0;
    while let Some(place) = first.find(&text[at..]) {
        let place = at + place;
        let start = memchr::memrchr(b'\n', &text[..place]).map_or(0, |end| end + 1);
        let end = memchr::memchr(b'\n', &text[place..]).map_or(text.len(), |end| place + end);
        let line = &text[start..end];
        let all = others
            .iter()
            .all(|needle| memmem::find(line, needle).is_some());
        if all && give(line, report)?.is_break() {
            return Ok(GoOn::Break(()));
        }
        at = (end + 1).min(text.len());
    }
    Ok(GoOn::Continue(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(comparison: &str, line: &str) -> bool {
        let field: FieldEquals = comparison.parse().unwrap();
        field.holds(&serde_json::from_str(line).unwrap())
    }

    #[test]
    fn fields_are_compared_as_json_or_as_text() {
        let line = r#"{"m":{"symbol":"BTC","price":1.0,"id":18446744073709551615,"tags":["a","b"],"ok":true,"none":null,"n":"5"}}"#;
        for comparison in [
            "m.symbol=BTC",
            "m.symbol == \"BTC\"",
            "m.price=1",
            "m.price=1.0",
            "m.id=18446744073709551615",
            "m.tags.1=b",
            "m.ok=true",
            "m.none=null",
            "m.n=\"5\"",
        ] {
            assert!(holds(comparison, line), "{comparison}");
        }
        for comparison in [
            "m.symbol=BT",
            "m.price=2",
            "m.id=18446744073709551614",
            "m.tags.2=b",
            "m.tags=a",
            "m.n=5",
            "symbol=BTC",
        ] {
            assert!(!holds(comparison, line), "{comparison}");
        }
        assert!("m.symbol".parse::<FieldEquals>().is_err());
        assert!("m..symbol=1".parse::<FieldEquals>().is_err());
    }
}
