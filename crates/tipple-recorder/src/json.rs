//! From a tape to JSON, byte for byte what `serde_json` writes of the same message.

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::tape::{Op, Ops};

/// Appends the JSON of a whole tape to `out`.
pub(crate) fn render(ops: Ops<'_>, out: &mut Vec<u8>) {
    // Whether the next key or element comes after another one.
    let mut follows = false;
    for op in ops {
        if follows && !matches!(op, Op::EndMap | Op::EndSeq) {
            out.push(b',');
        }
        follows = value(op, out);
    }
}

/// Appends one operation; says whether what comes after it is separated by a comma.
#[inline(always)]
pub(crate) fn value(op: Op<'_>, out: &mut Vec<u8>) -> bool {
    match op {
        Op::Null => out.extend_from_slice(b"null"),
        Op::Bool(true) => out.extend_from_slice(b"true"),
        Op::Bool(false) => out.extend_from_slice(b"false"),
        Op::U64(number) => unsigned(number, out),
        Op::I64(number) => {
            if number < 0 {
                out.push(b'-');
            }
            unsigned(number.unsigned_abs(), out);
        }
        Op::U128(number) => formatted(|formatter, out| formatter.write_u128(out, number), out),
        Op::I128(number) => formatted(|formatter, out| formatter.write_i128(out, number), out),
        Op::F32(number) if number.is_finite() => {
            formatted(|formatter, out| formatter.write_f32(out, number), out);
        }
        Op::F64(number) if number.is_finite() => {
            formatted(|formatter, out| formatter.write_f64(out, number), out);
        }
        Op::F32(_) | Op::F64(_) => out.extend_from_slice(b"null"),
        Op::Str(text) => string(text, out),
        Op::Bytes(bytes) => formatted(|formatter, out| formatter.write_byte_array(out, bytes), out),
        // A line is a line: between the tokens of JSON a line feed means no more than a space.
        Op::Raw(text) => out.extend(text.bytes().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            byte => byte,
        })),
        Op::Key(key) => {
            string(key, out);
            out.push(b':');
            return false;
        }
        Op::Map => {
            out.push(b'{');
            return false;
        }
        Op::Seq => {
            out.push(b'[');
            return false;
        }
        Op::EndMap => out.push(b'}'),
        Op::EndSeq => out.push(b']'),
    }
    true
}

fn formatted(
    write: impl FnOnce(&mut CompactFormatter, &mut Vec<u8>) -> std::io::Result<()>,
    out: &mut Vec<u8>,
) {
    write(&mut CompactFormatter, out).expect("a Vec takes all bytes");
}

/// `number` in digits.
#[inline]
pub(crate) fn unsigned(number: u64, out: &mut Vec<u8>) {
    formatted(|formatter, out| formatter.write_u64(out, number), out);
}

/// `text` as a JSON string.
#[inline]
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    match plain_len(bytes) {
        len if len == bytes.len() => out.extend_from_slice(bytes),
        len => {
            out.extend_from_slice(&bytes[..len]);
            escaped(&bytes[len..], out);
        }
    }
    out.push(b'"');
}

/// How many bytes at the beginning need no escape: eight at a time.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        // The high bit of a byte of each: it is below 0x20, it is a quote, it is a backslash. Borrows make false ones
        // only above a true one, and what they claim is looked at byte by byte.
        let control = word.wrapping_sub(ONES * 0x20);
        let quote = (word ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        if (control | quote | backslash) & !word & HIGHS != 0 {
            break;
        }
        at += 8;
    }
    while at < bytes.len() && !needs_escape(bytes[at]) {
        at += 1;
    }
    at
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cold]
fn escaped(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in bytes {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

/// `value` as `serde_json` writes it.
///
/// # Panics
/// If it cannot be written, which is for those that can.
pub(crate) fn plain(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("plain values serialize");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_escaped_as_by_serde_json_at_every_place() {
        for byte in 0..=0x7f_u8 {
            for place in 0..20 {
                let mut text = "é".repeat(10).into_bytes()[..20].to_vec();
                text.insert(place - place % 2, byte);
                let text = String::from_utf8(text).unwrap();
                let mut out = Vec::new();
                string(&text, &mut out);
                assert_eq!(out, serde_json::to_vec(&text).unwrap());
            }
        }
    }
}
