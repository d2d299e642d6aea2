//! Header blocks: `NATS/1.0`, a line each, an empty line.

const VERSION: &[u8] = b"NATS/1.0";

/// Names and values of a block in their order, byte for byte; one space after a colon is not part of the value. A line
/// without a colon is a name with no value.
pub(super) fn each(block: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> + Clone {
    lines(block)
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| match line.iter().position(|byte| *byte == b':') {
            None => (line, None),
            Some(at) => {
                let value = &line[at + 1..];
                (&line[..at], Some(value.strip_prefix(b" ").unwrap_or(value)))
            }
        })
}

fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = Some(block);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
            rest = None;
            return Some(bytes);
        };
        rest = Some(&bytes[end + 2..]);
        Some(&bytes[..end])
    })
}

/// The number and the words of a block that says how a request went.
pub(super) fn status(block: &[u8]) -> Option<(u16, String)> {
    let line = lines(block).next()?.strip_prefix(VERSION)?;
    let text = String::from_utf8_lossy(line);
    let (number, words) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    Some((number.parse().ok()?, words.trim().to_owned()))
}

/// Begins a block.
pub(super) fn begin(block: &mut Vec<u8>) {
    block.extend_from_slice(VERSION);
    block.extend_from_slice(b"\r\n");
}

/// Adds a line.
pub(super) fn push(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.extend_from_slice(name);
    block.extend_from_slice(b": ");
    block.extend_from_slice(value);
    block.extend_from_slice(b"\r\n");
}

/// Ends it.
pub(super) fn end(block: &mut Vec<u8>) {
    block.extend_from_slice(b"\r\n");
}

/// Whether a block can hold it and give it back.
pub(super) fn fits(name: &[u8], value: Option<&[u8]>) -> bool {
    let is_of_line = |byte: &u8| !b"\r\n".contains(byte);
    let is_name = !name.is_empty() && !name.contains(&b':') && name.iter().all(is_of_line);
    is_name && value.is_some_and(|value| value.iter().all(is_of_line))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_fits_is_read_as_it_was_written(
            headers in vec((vec(any::<u8>(), 0..5), vec(any::<u8>(), 0..5)), 0..6),
        ) {
            let mut block = Vec::new();
            begin(&mut block);
            let headers: Vec<_> = (headers.iter())
                .filter(|(name, value)| fits(name, Some(value)))
                .map(|(name, value)| (&name[..], Some(&value[..])))
                .collect();
            for (name, value) in &headers {
                push(&mut block, name, value.unwrap());
            }
            end(&mut block);
            prop_assert_eq!(each(&block).collect::<Vec<_>>(), headers);
        }

        #[test]
        fn any_bytes_are_read(block in vec(any::<u8>(), 0..60)) {
            each(&block).for_each(drop);
            status(&block);
        }
    }

    #[test]
    fn what_a_request_is_answered_is_read() {
        assert_eq!(
            status(b"NATS/1.0 404 No Messages\r\n\r\n"),
            Some((404, "No Messages".into()))
        );
        assert_eq!(status(b"NATS/1.0 503\r\n\r\n"), Some((503, String::new())));
        assert_eq!(status(b"NATS/1.0\r\na: b\r\n\r\n"), None);
        assert_eq!(
            each(b"NATS/1.0\r\nplain\r\n\r\n").collect::<Vec<_>>(),
            [(&b"plain"[..], None)]
        );
    }
}
