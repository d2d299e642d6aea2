//! Edits of a snapshot's bytes behind which all lengths and digests are right again. Also a part of the fuzz target of that name.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
}

/// Puts a byte in, or takes one out, and corrects the lengths that this changes: of the header, or of the first frame.
pub(crate) fn grow(bytes: &mut Vec<u8>, at: usize, byte: Option<u8>) -> Option<()> {
    let end = bytes.len().checked_sub(64)?;
    let by = if byte.is_some() { 1 } else { u32::MAX };
    let (header_end, index) = (32 + word(bytes, 12)?, word(bytes, end)?);
    let mut add = |at: usize| {
        let changed = (word(bytes, at)? as u32).wrapping_add(by);
        bytes
            .get_mut(at..at + 4)?
            .copy_from_slice(&changed.to_le_bytes());
        Some(())
    };
    match at {
        at if at < 32 || at >= index => return None,
        at if at < header_end => add(12)?,
        _ => {
            add(index)?;
            add(index + 4)?;
        }
    }
    add(end)?;
    match byte {
        Some(byte) => bytes.insert(at, byte),
        None => _ = bytes.remove(at),
    }
    Some(())
}

/// Makes all digests of a file right; `None` if its parts do not fit into it.
pub(crate) fn forge(bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len().checked_sub(64)?;
    let (header_end, index) = (32 + word(bytes, 12)?, word(bytes, end)?);
    if header_end > index || index > end {
        return None;
    }
    bytes[24..32].fill(0);
    let header = xxh3_64(&bytes[..header_end]).to_le_bytes();
    bytes[24..32].copy_from_slice(&header);
    bytes[end + 24..end + 32].copy_from_slice(&header);
    let (mut at, mut raw) = (header_end, 0u64);
    for entry in (index..end).step_by(32) {
        let stored = word(bytes, entry)?;
        raw += word(bytes, entry + 4)? as u64;
        let digest = xxh3_128(bytes.get(at..at.checked_add(stored)?)?).to_le_bytes();
        bytes
            .get_mut(entry + 16..entry + 32)?
            .copy_from_slice(&digest);
        at += stored;
    }
    bytes[end + 16..end + 24].copy_from_slice(&raw.to_le_bytes());
    let content = xxh3_128(&bytes[index..end]).to_le_bytes();
    bytes[end + 32..end + 48].copy_from_slice(&content);
    let footer = xxh3_64(&bytes[end..end + 48]).to_le_bytes();
    bytes[end + 48..end + 56].copy_from_slice(&footer);
    Some(())
}
