//! One record: what is said about a message beside the message itself, and how both stand in a buffer.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | length of the entry, this header included |
//! | 4 | 4 | stream |
//! | 8 | 8 | sequence number |
//! | 16 | 8 | time, in ticks |
//! | 24 | 8 | trace |
//! | 32 | 8 | correlation |
//! | 40 | 8 | address of the message's name |
//! | 48 | 8 | address of its variant's name |
//! | 56 | 4 | length of the message's name |
//! | 60 | 4 | length of its variant's name |
//! | 64 | 1 | direction and kind |
//! | 65 | 1 | flags |
//! | 66 | – | tape |

use serde::{Deserialize, Serialize};

use crate::tape::{Ops, Root, name_at, name_parts};

/// Bytes before the tape.
pub(crate) const HEADER_BYTES: usize = 66;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// It was received.
    In,
    /// It was sent.
    Out,
}

/// What a message is to others. The number of a request and its response is the same, and is the line's `c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It stands alone.
    #[default]
    Regular,
    /// It asks for a response.
    Request(u64),
    /// It is the response.
    Response(u64),
}

/// The name that was found by the type of the message, with its path.
pub(crate) const NAME_OF_TYPE: u8 = 1;
/// A field was redacted by the message itself.
pub(crate) const REDACTED: u8 = 2;
/// The tape ends before the message does, between two operations.
pub(crate) const CUT: u8 = 4;

/// What is said about a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) stream: u32,
    pub(crate) number: u64,
    pub(crate) ticks: u64,
    pub(crate) trace: u64,
    pub(crate) direction: Direction,
    pub(crate) kind: Kind,
    /// The name that is given; else it is that of the message.
    pub(crate) name: &'a Option<Root>,
}

impl Entry<'_> {
    /// Fills in the header of an entry of `len` bytes, with the message's name and flags as they were found.
    #[inline]
    pub(crate) fn encode(&self, len: usize, root: Root, flags: u8, header: &mut [u8]) {
        let header: &mut [u8; HEADER_BYTES] = header.try_into().expect("a header has its length");
        let (kind, correlation) = match self.kind {
            Kind::Regular => (0, 0),
            Kind::Request(id) => (2, id),
            Kind::Response(id) => (4, id),
        };
        let (name, name_len) = name_parts(root.name);
        let (variant, variant_len) = name_parts(root.variant);
        header[..4].copy_from_slice(&(len as u32).to_le_bytes());
        header[4..8].copy_from_slice(&self.stream.to_le_bytes());
        header[8..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&self.ticks.to_le_bytes());
        header[24..32].copy_from_slice(&self.trace.to_le_bytes());
        header[32..40].copy_from_slice(&correlation.to_le_bytes());
        header[40..48].copy_from_slice(&name.to_le_bytes());
        header[48..56].copy_from_slice(&variant.to_le_bytes());
        header[56..60].copy_from_slice(&name_len.to_le_bytes());
        header[60..64].copy_from_slice(&variant_len.to_le_bytes());
        header[64] = kind | self.direction as u8;
        header[65] = flags;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("a header is whole"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("a header is whole"))
}

/// An entry as it stands in a buffer.
#[derive(Clone, Copy)]
pub(crate) struct EntryRef<'a> {
    bytes: &'a [u8],
}

impl<'a> EntryRef<'a> {
    /// The first entry of what was committed to a buffer, if there is one.
    ///
    /// # Safety
    /// `bytes` must begin where an entry begins that [`Entry::encode`] and a tape wrote in this process.
    #[inline]
    #[expect(unsafe_code, reason = "the promise of the caller")]
    pub(crate) unsafe fn first(bytes: &'a [u8]) -> Option<EntryRef<'a>> {
        if bytes.is_empty() {
            return None;
        }
        let len = u32_at(bytes, 0) as usize;
        Some(EntryRef {
            bytes: &bytes[..len],
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn stream(&self) -> u32 {
        u32_at(self.bytes, 4)
    }

    pub(crate) fn number(&self) -> u64 {
        u64_at(self.bytes, 8)
    }

    #[inline]
    pub(crate) fn ticks(&self) -> u64 {
        u64_at(self.bytes, 16)
    }

    pub(crate) fn trace(&self) -> u64 {
        u64_at(self.bytes, 24)
    }

    pub(crate) fn kind(&self) -> Kind {
        let correlation = u64_at(self.bytes, 32);
        match self.bytes[64] >> 1 {
            0 => Kind::Regular,
            1 => Kind::Request(correlation),
            _ => Kind::Response(correlation),
        }
    }

    pub(crate) fn direction(&self) -> Direction {
        match self.bytes[64] & 1 {
            0 => Direction::In,
            _ => Direction::Out,
        }
    }

    pub(crate) fn flags(&self) -> u8 {
        self.bytes[65]
    }

    pub(crate) fn root(&self) -> Root {
        let (name, name_len) = (u64_at(self.bytes, 40), u32_at(self.bytes, 56));
        let (variant, variant_len) = (u64_at(self.bytes, 48), u32_at(self.bytes, 60));
        #[expect(unsafe_code, reason = "names are held by their addresses")]
        // SAFETY: `encode` wrote them, as `first` demands.
        unsafe {
            Root {
                name: name_at(name, name_len),
                variant: name_at(variant, variant_len),
            }
        }
    }

    pub(crate) fn ops(&self) -> Ops<'a> {
        #[expect(unsafe_code, reason = "the tape was written by this process")]
        // SAFETY: a tape wrote it, as `first` demands.
        unsafe {
            Ops::new(&self.bytes[HEADER_BYTES..])
        }
    }
}

/// The name of a message whose `Serialize` says none: that of its type without its path, and of what is around it. Empty
/// for numbers, tuples, slices, lists and hash maps. As elfo has it, so that lines are the same.
pub(crate) fn name_of_type(mut path: &str) -> &str {
    const AROUND: [&str; 8] = [
        "&",
        "core::option::Option<",
        "core::result::Result<",
        "alloc::boxed::Box<",
        "alloc::sync::Arc<",
        "alloc::rc::Rc<",
        "core::cell::Cell<",
        "core::cell::RefCell<",
    ];
    const NAMELESS: [&str; 4] = ["[", "(", "std::collections::", "alloc::vec::"];
    while let Some(inner) = AROUND.iter().find_map(|around| path.strip_prefix(around)) {
        path = inner;
    }
    if NAMELESS.iter().any(|nameless| path.starts_with(nameless)) {
        return "";
    }
    let end = path.find(['<', '>', ',']).unwrap_or(path.len());
    let name = path[..end].rsplit("::").next().unwrap_or_default();
    match name.starts_with(char::is_lowercase) {
        true => "",
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types() {
        for (path, name) in [
            ("program::orders::Order", "Order"),
            ("&program::Order", "Order"),
            ("core::option::Option<program::Order>", "Order"),
            (
                "alloc::boxed::Box<core::cell::RefCell<program::Order<u8>>>",
                "Order",
            ),
            (
                "core::result::Result<program::Order, std::io::Error>",
                "Order",
            ),
            ("u64", ""),
            ("&str", ""),
            ("alloc::string::String", "String"),
            ("alloc::vec::Vec<program::Order>", ""),
            (
                "alloc::collections::btree::map::BTreeMap<u8, u8>",
                "BTreeMap",
            ),
            ("std::collections::hash::map::HashMap<u8, u8>", ""),
            ("(program::Order, u8)", ""),
            ("[u8; 3]", ""),
            ("()", ""),
        ] {
            assert_eq!(name_of_type(path), name, "{path}");
        }
    }
}
