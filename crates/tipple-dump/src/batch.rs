//! Records that a lane collects until it makes objects of them, in a form for other programs.

use std::collections::HashMap;

use tipple_flow::{Form, Records, Span};

/// What a record takes beside its bytes: its span, and some. So the spans of a batch are smaller than its bytes.
const RECORD_BYTES: u64 = 64;
/// The same of a folder, beside its name, which is there twice.
const FOLDER_BYTES: u64 = 256;
/// The longest name of a folder.
const FOLDER_NAME_BYTES_MAX: u64 = 1024;
const _: () = assert!(size_of::<Span>() as u64 * 2 <= RECORD_BYTES);

/// The most bytes of a batch that holds records of `bytes_max`.
pub(crate) fn batch_bytes(bytes_max: u64) -> u64 {
    bytes_max + 2 * (FOLDER_BYTES + 2 * FOLDER_NAME_BYTES_MAX)
}

/// Records in memory, each in a folder.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    folders: Folders,
    /// Bytes of all of it.
    used: u64,
    bytes_max: u64,
}

#[derive(Default)]
struct Folders {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The one that was asked for last: mostly it is asked for again.
    last: u32,
}

impl Batch {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes: Vec::new(),
            spans: Vec::new(),
            folders: Folders::default(),
            used: 0,
            bytes_max,
        }
    }

    /// The most bytes of a record that `form` takes, and that fits.
    pub(crate) fn record_bytes_max(&self, form: &dyn Form) -> u64 {
        form.record_bytes_max(self.bytes_max)
            .min(self.bytes_max / 2)
    }

    /// Whether a record of `bytes` fits, in whatever folder.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.used + bytes + RECORD_BYTES <= self.bytes_max
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Gives the memory back, too: the next batch may use it for something else.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Room for a record of `bytes`, of which `head` is there. It is filled by the caller, then [`add`](Self::add)ed.
    pub(crate) fn begin(&mut self, head: &[u8], bytes: usize) -> &mut [u8] {
        self.reserve();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(head);
        self.bytes.resize(start + bytes, 0);
        &mut self.bytes[start + head.len()..]
    }

    /// As a whole, since a buffer that grows would be there twice. What is not written to costs nothing.
    fn reserve(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(self.bytes_max as usize);
        }
    }

    /// The record that was begun last.
    pub(crate) fn begun(&self) -> &[u8] {
        &self.bytes[self.end()..]
    }

    /// Where the records end that were added.
    fn end(&self) -> usize {
        let last = self.spans.last();
        last.map_or(0, |last| last.start + last.bytes as usize)
    }

    /// Adds the record that was begun last.
    pub(crate) fn add(&mut self, folder: &str) {
        let start = self.end();
        let bytes = self.bytes.len() - start;
        let (folder, added) = self.folders.number(folder);
        self.used += bytes as u64 + RECORD_BYTES + added;
        self.spans.push(Span {
            start,
            bytes: bytes as u32,
            folder,
        });
    }

    pub(crate) fn folders(&self) -> usize {
        self.folders.names.len()
    }

    /// The records of each folder, in their order; folders in the order in which they came up.
    pub(crate) fn by_folder(&mut self) -> impl Iterator<Item = (&str, Records<'_>)> {
        // In place, and places are in the order of the records.
        self.spans
            .sort_unstable_by_key(|span| (span.folder, span.start));
        let (bytes, names) = (&self.bytes, &self.folders.names);
        let groups = self.spans.chunk_by(|a, b| a.folder == b.folder);
        groups.map(|spans| {
            let folder = &names[spans[0].folder as usize];
            (folder.as_str(), Records::new(bytes, spans))
        })
    }
}

impl Folders {
    /// The number of a folder, and the bytes that it takes if it is new.
    fn number(&mut self, folder: &str) -> (u32, u64) {
        if self
            .names
            .get(self.last as usize)
            .is_some_and(|last| last == folder)
        {
            return (self.last, 0);
        }
        if let Some(number) = self.numbers.get(folder) {
            self.last = *number;
            return (*number, 0);
        }
        self.last = self.names.len() as u32;
        self.names.push(folder.to_owned());
        self.numbers.insert(folder.to_owned(), self.last);
        (self.last, FOLDER_BYTES + 2 * folder.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_by_folder_in_their_order() {
        let mut batch = Batch::new(1 << 20);
        for (record, folder) in [
            ("a1", "a"),
            ("b1", "b"),
            ("a2", "a"),
            ("c1", ""),
            ("b2", "b"),
        ] {
            let (head, rest) = record.as_bytes().split_at(1);
            batch.begin(head, record.len()).copy_from_slice(rest);
            assert_eq!(batch.begun(), record.as_bytes());
            batch.add(folder);
        }
        let groups: Vec<_> = (batch.by_folder())
            .map(|(folder, records)| {
                (
                    folder.to_owned(),
                    records.iter().collect::<Vec<_>>().concat(),
                )
            })
            .collect();
        let group = |folder: &str, records: &str| (folder.to_owned(), records.as_bytes().to_vec());
        assert_eq!(
            groups,
            [group("a", "a1a2"), group("b", "b1b2"), group("", "c1")]
        );
        batch.clear();
        assert!(batch.is_empty() && batch.folders() == 0);
    }

    #[test]
    fn it_is_full_before_it_holds_more_than_it_may() {
        let bytes_max = 1 << 20;
        let mut batch = Batch::new(bytes_max);
        let mut records = 0;
        while batch.fits(24) {
            batch.begin(&[7; 4], 24).fill(7);
            batch.add(&format!("folder={records}"));
            records += 1;
        }
        let names: usize = batch.folders.names.iter().map(|name| 2 * name.len()).sum();
        let spans = batch.spans.capacity() * size_of::<Span>();
        let numbers = batch.folders.numbers.capacity() * size_of::<(String, u32)>() * 8 / 7;
        let held = batch.bytes.len() + spans + names + numbers;
        assert!(
            records > 1000 && held as u64 <= batch_bytes(bytes_max),
            "{held} of {records}"
        );
    }
}
