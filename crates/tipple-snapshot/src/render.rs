//! A value as JSON, by the schema in its file: without knowing its type.

use std::cell::Cell;
use std::io::Write;

use crate::any::{self, tag};
use crate::base64::to_base64;
use crate::moment::Moment;
use crate::schema::Shape;
use crate::{Dumpable, Reader, Schema, SnapshotError, TypeNumber};

/// How deep values may be nested, in any way.
const DEPTH_MAX: u32 = 1024;
/// How many values a byte may be: structs in structs have no bytes of their own.
const VALUES_PER_BYTE: u64 = 256;

/// Renders values of a schema.
pub(crate) struct Renderer<'a> {
    pub(crate) schema: &'a Schema,
    /// Nested sets and maps in the order of their text, so that equal ones are equal as text. Holds one of them.
    sorted: bool,
    depth: Cell<u32>,
    /// How many values there may still be: a schema that somebody made could have one of no bytes, endlessly.
    values_left: Cell<u64>,
}

fn writing(error: std::io::Error) -> SnapshotError {
    SnapshotError::io("cannot write what is read", error)
}

impl<'a> Renderer<'a> {
    /// Of a value of so many bytes.
    pub(crate) fn new(schema: &'a Schema, raw_bytes: u64, sorted: bool) -> Self {
        Self {
            schema,
            sorted,
            depth: Cell::new(0),
            values_left: Cell::new((1 << 20) + raw_bytes.saturating_mul(VALUES_PER_BYTE)),
        }
    }

    /// The next value, of type `of`.
    pub(crate) fn value(
        &self,
        of: TypeNumber,
        from: &mut Reader<'_>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        let (depth, values_left) = (self.depth.get(), self.values_left.get());
        if depth == DEPTH_MAX || values_left == 0 {
            return Err(SnapshotError::damaged(
                "its schema is that of no value: it would be nested endlessly",
            ));
        }
        self.depth.set(depth + 1);
        self.values_left.set(values_left - 1);
        self.plain(of, from, out)?;
        self.depth.set(depth);
        Ok(())
    }

    /// The next value, which says itself what it is.
    pub(crate) fn any(
        &self,
        from: &mut Reader<'_>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        let is_map = from.peek()? == tag::MAP;
        let mut comma = if is_map { "{" } else { "[" };
        let is_collection = any::elements(from, |from, is_map| {
            let mut text = Vec::new();
            let to: &mut dyn Write = match is_map && self.sorted {
                true => &mut text,
                false => {
                    out.write_all(comma.as_bytes()).map_err(writing)?;
                    &mut *out
                }
            };
            comma = ",";
            if is_map {
                self.any_key(from, to)?;
                to.write_all(b":").map_err(writing)?;
            }
            self.any(from, to)?;
            if is_map && self.sorted {
                texts.push(text);
            }
            Ok(())
        })?;
        if !is_collection {
            return self.any_plain(from, out);
        }
        texts.sort_unstable();
        let is_empty = comma != ",";
        if is_empty || !texts.is_empty() {
            out.write_all(if is_map { b"{" } else { b"[" })
                .map_err(writing)?;
            out.write_all(&texts.join(&b',')).map_err(writing)?;
        }
        out.write_all(if is_map { b"}" } else { b"]" })
            .map_err(writing)
    }

    /// JSON has texts only as keys.
    fn any_key(&self, from: &mut Reader<'_>, out: &mut dyn Write) -> Result<(), SnapshotError> {
        let mut key = Vec::new();
        self.any(from, &mut key)?;
        match key.first() {
            Some(b'"') => out.write_all(&key),
            _ => out.write_all(quoted(&String::from_utf8_lossy(&key)).as_bytes()),
        }
        .map_err(writing)
    }

    fn any_plain(&self, from: &mut Reader<'_>, out: &mut dyn Write) -> Result<(), SnapshotError> {
        let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => Ok(quoted(&text)),
            Err(_) => Err(SnapshotError::damaged("a text is no UTF-8")),
        };
        let put = match from.byte()? {
            number @ ..tag::TEXT_SHORT => number.to_string(),
            short @ tag::TEXT_SHORT..tag::NONE => {
                text(from.take(usize::from(short - tag::TEXT_SHORT))?)?
            }
            tag::NONE | tag::UNIT => "null".to_owned(),
            tag::FALSE => "false".to_owned(),
            tag::TRUE => "true".to_owned(),
            tag::UNSIGNED => from.unsigned()?.to_string(),
            tag::NEGATIVE => (!i128::from(from.unsigned()?)).to_string(),
            tag::UNSIGNED_128 => from.unsigned_128()?.to_string(),
            tag::NEGATIVE_128 => (!(from.unsigned_128()? as i128)).to_string(),
            tag::F32 => float(f32::from_le_bytes(from.array()?)),
            tag::F64 => float(f64::from_le_bytes(from.array()?)),
            tag::TEXT => quoted(&from.text()?),
            tag::BYTES => {
                let count = from.count(1)?;
                format!("{{\"base64\":\"{}\"}}", to_base64(&from.take(count)?))
            }
            tag::SOME => return from.nested(|from| self.any(from, out)),
            other => return Err(any::no_value(other)),
        };
        out.write_all(put.as_bytes()).map_err(writing)
    }

    fn plain(
        &self,
        of: TypeNumber,
        from: &mut Reader<'_>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        let mut put = |text: &str| out.write_all(text.as_bytes()).map_err(writing);
        match self.schema.shape(of) {
            Shape::Unit => put("null"),
            Shape::Bool => put(if from.flag()? { "true" } else { "false" }),
            Shape::U8 => put(&from.byte()?.to_string()),
            Shape::I8 => put(&(from.byte()? as i8).to_string()),
            Shape::Unsigned(128) => put(&u128::load(from)?.to_string()),
            Shape::Signed(128) => put(&i128::load(from)?.to_string()),
            Shape::Unsigned(16) => put(&u16::load(from)?.to_string()),
            Shape::Unsigned(32) => put(&u32::load(from)?.to_string()),
            Shape::Unsigned(_) => put(&from.unsigned()?.to_string()),
            Shape::Signed(16) => put(&i16::load(from)?.to_string()),
            Shape::Signed(32) => put(&i32::load(from)?.to_string()),
            Shape::Signed(_) => put(&from.signed()?.to_string()),
            Shape::F32 => put(&float(f32::load(from)?)),
            Shape::F64 => put(&float(f64::load(from)?)),
            Shape::Char => put(&quoted(&char::load(from)?.to_string())),
            Shape::Text => put(&quoted(&from.text()?)),
            Shape::Uuid => {
                let digits: String = from
                    .array::<16>()?
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                let parts = [
                    &digits[..8],
                    &digits[8..12],
                    &digits[12..16],
                    &digits[16..20],
                    &digits[20..],
                ];
                put(&format!("\"{}\"", parts.join("-")))
            }
            Shape::Ipv4 => put(&format!("\"{}\"", std::net::Ipv4Addr::load(from)?)),
            Shape::Ipv6 => put(&format!("\"{}\"", std::net::Ipv6Addr::load(from)?)),
            Shape::Time => {
                let time = std::time::SystemTime::load(from)?;
                put(&format!("\"{}\"", Moment::of(time)))
            }
            Shape::Span => {
                let span = std::time::Duration::load(from)?;
                put(&format!("{}.{:09}", span.as_secs(), span.subsec_nanos()))
            }
            Shape::Option(of) => match from.flag()? {
                false => put("null"),
                true => self.value(*of, from, out),
            },
            Shape::Sequence(of) if *self.schema.shape(*of) == Shape::U8 => {
                let count = from.count(1)?;
                put(&format!(
                    "{{\"base64\":\"{}\"}}",
                    to_base64(&from.take(count)?)
                ))
            }
            Shape::Sequence(of) => {
                let count = from.count(1)?;
                put("[")?;
                let mut comma = "";
                from.elements_with(count, |from| {
                    out.write_all(std::mem::replace(&mut comma, ",").as_bytes())
                        .map_err(writing)?;
                    self.value(*of, from, out)
                })?;
                out.write_all(b"]").map_err(writing)
            }
            Shape::Set { of, seeded } => {
                let count = begin(from, *seeded)?;
                self.unordered(count, ["[", "]"], from, out, |from, out| {
                    self.value(*of, from, out)
                })
            }
            Shape::Map { key, value, seeded } => {
                let count = begin(from, *seeded)?;
                let is_object = matches!(self.schema.shape(*key), Shape::Text | Shape::Char);
                let around = if is_object { ["{", "}"] } else { ["[", "]"] };
                self.unordered(count, around, from, out, |from, out| match is_object {
                    true => {
                        self.value(*key, from, out)?;
                        out.write_all(b":").map_err(writing)?;
                        self.value(*value, from, out)
                    }
                    false => self.entry(*key, *value, from, out),
                })
            }
            Shape::Array(of, len) => {
                put("[")?;
                for n in 0..*len {
                    out.write_all(if n > 0 { b"," } else { b"" })
                        .map_err(writing)?;
                    self.value(*of, from, out)?;
                }
                out.write_all(b"]").map_err(writing)
            }
            Shape::Any => self.any(from, out),
            Shape::Tuple(of) => self.list(of.iter(), from, out),
            Shape::Struct { fields, .. } => self.fields(fields, from, out),
            Shape::Enum { name, variants } => {
                let count = u32::try_from(variants.len()).unwrap_or(u32::MAX);
                if count == 0 {
                    return Err(SnapshotError::damaged("an enum without variants"));
                }
                let number = from.variant(name, count)?;
                let (name, fields) = &variants[number as usize];
                if fields.is_empty() {
                    return put(&quoted(name));
                }
                put(&format!("{{{}:", quoted(name)))?;
                match &fields[..] {
                    [(only, of)] if only == "0" => self.value(*of, from, out)?,
                    fields => self.fields(fields, from, out)?,
                }
                out.write_all(b"}").map_err(writing)
            }
        }
    }

    /// `{"key":…,"value":…}`.
    pub(crate) fn entry(
        &self,
        key: TypeNumber,
        value: TypeNumber,
        from: &mut Reader<'_>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        out.write_all(b"{\"key\":").map_err(writing)?;
        self.value(key, from, out)?;
        out.write_all(b",\"value\":").map_err(writing)?;
        self.value(value, from, out)?;
        out.write_all(b"}").map_err(writing)
    }

    /// An element of a list as it is; an entry of a map as above.
    pub(crate) fn any_element(
        &self,
        is_map: bool,
        from: &mut Reader<'_>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        if !is_map {
            return self.any(from, out);
        }
        out.write_all(b"{\"key\":").map_err(writing)?;
        self.any(from, out)?;
        out.write_all(b",\"value\":").map_err(writing)?;
        self.any(from, out)?;
        out.write_all(b"}").map_err(writing)
    }

    fn list<'t>(
        &self,
        types: impl Iterator<Item = &'t TypeNumber>,
        from: &mut Reader<'_>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        out.write_all(b"[").map_err(writing)?;
        for (n, of) in types.enumerate() {
            out.write_all(if n > 0 { b"," } else { b"" })
                .map_err(writing)?;
            self.value(*of, from, out)?;
        }
        out.write_all(b"]").map_err(writing)
    }

    fn fields(
        &self,
        fields: &[(String, TypeNumber)],
        from: &mut Reader<'_>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        // Those of a tuple have numbers.
        if fields.first().is_some_and(|(name, _)| name == "0") {
            return self.list(fields.iter().map(|(_, of)| of), from, out);
        }
        out.write_all(b"{").map_err(writing)?;
        for (n, (name, of)) in fields.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(out, "{comma}{}:", quoted(name)).map_err(writing)?;
            self.value(*of, from, out)?;
        }
        out.write_all(b"}").map_err(writing)
    }

    fn unordered(
        &self,
        count: usize,
        [open, close]: [&str; 2],
        from: &mut Reader<'_>,
        out: &mut dyn Write,
        mut each: impl FnMut(&mut Reader<'_>, &mut dyn Write) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        out.write_all(open.as_bytes()).map_err(writing)?;
        if self.sorted {
            let mut texts: Vec<Vec<u8>> = Vec::new();
            from.elements_with(count, |from| {
                let mut text = Vec::new();
                each(from, &mut text)?;
                texts.push(text);
                Ok(())
            })?;
            texts.sort_unstable();
            out.write_all(&texts.join(&b',')).map_err(writing)?;
        } else {
            let mut comma = "";
            from.elements_with(count, |from| {
                out.write_all(std::mem::replace(&mut comma, ",").as_bytes())
                    .map_err(writing)?;
                each(from, out)
            })?;
        }
        out.write_all(close.as_bytes()).map_err(writing)
    }
}

/// The length of a collection that may have a seed.
pub(crate) fn begin(from: &mut Reader<'_>, seeded: bool) -> Result<usize, SnapshotError> {
    let count = from.count(1)?;
    if seeded && count > 0 {
        from.array::<8>()?;
    }
    Ok(count)
}

/// JSON has no words for what is no number.
fn float(value: impl Into<f64> + std::fmt::Debug + Copy) -> String {
    match value.into().is_finite() {
        true => format!("{value:?}"),
        false => format!("\"{value:?}\""),
    }
}

/// A text in JSON.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
