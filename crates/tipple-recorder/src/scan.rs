//! Reading a recording without its index: from its beginning, block by block.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use tipple_chunk::{Decoder, FRAME_BYTES_MAX, LooseFrames};

use crate::error::RecorderError;
use crate::index::{BlockBuilder, IndexedLine, RecordingIndex};

/// What the index needs of a line.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    ts: u64,
    #[serde(borrow, default)]
    g: std::borrow::Cow<'a, str>,
    #[serde(default)]
    s: u64,
    #[serde(default)]
    t: u64,
    #[serde(borrow, default)]
    mn: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    mk: std::borrow::Cow<'a, str>,
}

/// Whether what begins so is compressed: with a frame, or with one that is skipped.
pub(crate) fn is_zstd(head: &[u8]) -> bool {
    head.first_chunk().is_some_and(|magic| {
        let magic = u32::from_le_bytes(*magic);
        magic == 0xFD2F_B528 || magic & !0xF == 0x184D_2A50
    })
}

/// A block: where it is in the file, and its text.
pub(crate) struct Block<'a> {
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u32,
    pub(crate) text: &'a [u8],
}

/// Gives the blocks of a recording, one after the other, each beginning and ending with a line; what is torn at the end
/// is left away. Gives how many bytes were whole.
pub(crate) fn blocks(
    mut input: impl Read,
    mut give: impl FnMut(Block<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut head = [0; 4];
    let mut have = 0;
    while have < head.len() {
        match input.read(&mut head[have..])? {
            0 => break,
            read => have += read,
        }
    }
    let input = (&head[..have]).chain(input);
    match is_zstd(&head[..have]) {
        true => zstd_blocks(input, give),
        false => plain_blocks(input, &mut give),
    }
}

fn plain_blocks(
    mut input: impl Read,
    give: &mut impl FnMut(Block<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut text = vec![0; FRAME_BYTES_MAX];
    let (mut have, mut offset) = (0, 0);
    loop {
        if have == text.len() {
            // One line is longer than all of it.
            text.resize(text.len() * 2, 0);
        }
        let read = match input.read(&mut text[have..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        have += read;
        if have < text.len() && read > 0 {
            continue;
        }
        if let Some(end) = memchr::memrchr(b'\n', &text[..have]) {
            let end = end + 1;
            give(Block {
                offset,
                stored_bytes: u32::try_from(end).unwrap_or(u32::MAX),
                text: &text[..end],
            })?;
            offset += end as u64;
            text.copy_within(end..have, 0);
            have -= end;
        }
        if read == 0 {
            return Ok(offset);
        }
    }
}

fn zstd_blocks(
    input: impl Read,
    mut give: impl FnMut(Block<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let wrong = |error: tipple_chunk::ChunkError| {
        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
    };
    let mut decoder = Decoder::new().map_err(wrong)?;
    let mut frames = LooseFrames::new(input);
    let mut text: Vec<u8> = Vec::new();
    let (mut offset, mut stored_bytes, mut whole) = (0, 0_u32, 0);
    while let Some(frame) = frames.next_frame(&mut decoder).map_err(wrong)? {
        if text.is_empty() {
            offset = frame.offset;
        }
        stored_bytes = stored_bytes.saturating_add(frame.stored_len);
        let end = frame.offset + u64::from(frame.stored_len);
        // A line that is longer than a frame goes on in the next ones.
        if text.is_empty() && frame.raw.ends_with(b"\n") {
            give(Block {
                offset,
                stored_bytes,
                text: frame.raw,
            })?;
        } else {
            text.extend_from_slice(frame.raw);
            if !text.ends_with(b"\n") {
                continue;
            }
            give(Block {
                offset,
                stored_bytes,
                text: &text,
            })?;
            text.clear();
        }
        stored_bytes = 0;
        whole = end;
    }
    Ok(whole)
}

/// The text of one block, from its bytes in the file.
pub(crate) fn decode(stored: &[u8], decoder: &mut Decoder, text: &mut Vec<u8>) -> io::Result<()> {
    text.clear();
    if !is_zstd(stored) {
        text.extend_from_slice(stored);
        return Ok(());
    }
    let wrong = |error: tipple_chunk::ChunkError| {
        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
    };
    let mut frames = LooseFrames::small(stored);
    while let Some(frame) = frames.next_frame(decoder).map_err(wrong)? {
        text.extend_from_slice(frame.raw);
    }
    Ok(())
}

/// Makes the index of a recording by reading all of it.
///
/// # Errors
/// `Io`; `Damaged` if there are lines that are none of a recording, or frames that are damaged.
pub fn index_of(path: &Path) -> Result<RecordingIndex, RecorderError> {
    let file = File::open(path).map_err(RecorderError::io("open", path))?;
    let file_bytes = file
        .metadata()
        .map_err(RecorderError::io("look at", path))?
        .len();
    let mut index = RecordingIndex {
        file_bytes,
        blocks: Vec::new(),
    };
    let mut names: HashMap<String, u32> = HashMap::new();
    let mut by_number: Vec<String> = Vec::new();
    let mut number_of = |name: &str, by_number: &mut Vec<String>| match names.get(name) {
        Some(&number) => number,
        None => {
            let number = by_number.len() as u32;
            names.insert(name.to_owned(), number);
            by_number.push(name.to_owned());
            number
        }
    };
    let mut builder = BlockBuilder::default();
    let mut line_number = 0;
    blocks(file, |block| {
        for text in block.text.split_inclusive(|&byte| byte == b'\n') {
            line_number += 1;
            let line: Line<'_> = serde_json::from_slice(text).map_err(|error| {
                let reason = format!("line {line_number} is none of a recording: {error}");
                io::Error::new(io::ErrorKind::InvalidData, reason)
            })?;
            match &*line.mk {
                "Open" | "Close" => builder.mark(line.ts, false),
                "Loss" => builder.mark(line.ts, true),
                _ => builder.line(IndexedLine {
                    unix_ns: line.ts,
                    group: number_of(&line.g, &mut by_number),
                    number: line.s,
                    trace: line.t,
                    name: number_of(&line.mn, &mut by_number),
                }),
            }
        }
        let entry = builder.finish(
            block.offset,
            block.stored_bytes,
            u32::try_from(block.text.len()).unwrap_or(u32::MAX),
            |id| by_number[id as usize].clone(),
            |id| by_number[id as usize].clone(),
        );
        index.blocks.push(entry);
        Ok(())
    })
    .map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => RecorderError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        },
        _ => RecorderError::io("read", path)(error),
    })?;
    Ok(index)
}
