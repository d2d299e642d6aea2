//! Bringing together what several passes over a server found.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tipple_chunk::{Scratch, SealWriter, seal_bytes};
use tipple_flow::{Failure, Party};

use crate::key_file::{decode, encode};
use crate::metadump::ListedItem;

/// Buckets of keys while several passes are brought together.
const BUCKETS_MAX: u64 = 256;
const BUCKET_KEYS: u64 = 50_000;
const BUCKET_BUFFER_BYTES: usize = 8 << 10;
/// The most that the keys of one bucket may take in memory.
const BUCKET_BYTES_MAX: u64 = 16 << 20;
/// The shortest record: its bits, the length of its key, a byte of key, and two numbers.
const RECORD_BYTES_MIN: u64 = 5;
// All buffers, sealing ones too, take less than one bucket and its offsets do.
const _: () = assert!((BUCKET_BUFFER_BYTES as u64) < seal_bytes());
const _: () = assert!(BUCKETS_MAX * seal_bytes() <= Buckets::MEMORY_BYTES);

/// Keys of several passes, spread over files by a hash of the key, so that each file's keys fit in memory.
///
/// The files lie in the scratch folder itself: of a job that was killed, the next one removes files, and no folders.
pub(super) struct Buckets {
    pub(super) paths: Vec<PathBuf>,
    /// Empty once all passes have ended.
    files: Vec<BucketFile>,
    scratch: Option<Scratch>,
    record: Vec<u8>,
    pub(super) bytes: u64,
}

enum BucketFile {
    Plain(BufWriter<File>),
    Sealed(Box<SealWriter<File>>),
}

impl Buckets {
    /// What they hold at most: one bucket, and the offsets of its records.
    pub(super) const MEMORY_BYTES: u64 = BUCKET_BYTES_MAX + BUCKET_BYTES_MAX / RECORD_BYTES_MIN * 4;

    pub(super) fn create(
        dir: &Path,
        scratch: Option<Scratch>,
        stem: &str,
        curr_items: u64,
    ) -> std::io::Result<Self> {
        let mut buckets = Self {
            paths: Vec::new(),
            files: Vec::new(),
            scratch,
            record: Vec::new(),
            bytes: 0,
        };
        for n in 0..(curr_items / BUCKET_KEYS + 1).min(BUCKETS_MAX) {
            let path = dir.join(format!("{stem}-bucket-{n}"));
            let file = File::create_new(&path)?;
            buckets.paths.push(path);
            let file = match &buckets.scratch {
                None => BucketFile::Plain(BufWriter::with_capacity(BUCKET_BUFFER_BYTES, file)),
                Some(scratch) => {
                    let file = scratch.writer(file).map_err(std::io::Error::other)?;
                    BucketFile::Sealed(Box::new(file))
                }
            };
            buckets.files.push(file);
        }
        Ok(buckets)
    }

    pub(super) fn add(&mut self, item: &ListedItem, base: i64) -> std::io::Result<u64> {
        self.record.clear();
        encode(item, base, &mut self.record);
        let bucket = hash(item.key()) >> 32;
        let bucket = bucket as usize % self.files.len();
        match &mut self.files[bucket] {
            BucketFile::Plain(file) => file.write_all(&self.record)?,
            BucketFile::Sealed(file) => file.write_all(&self.record)?,
        }
        self.bytes += self.record.len() as u64;
        Ok(self.record.len() as u64)
    }

    /// Ends the writing, and gives back the memory of it.
    pub(super) fn end(&mut self) -> std::io::Result<()> {
        for file in self.files.drain(..) {
            match file {
                BucketFile::Plain(mut file) => file.flush()?,
                BucketFile::Sealed(file) => {
                    file.finish().map_err(std::io::Error::other)?;
                }
            }
        }
        Ok(())
    }

    /// All of bucket `n`, whose file is removed. After [`end`](Buckets::end).
    pub(super) fn read(&mut self, n: usize) -> std::io::Result<Vec<u8>> {
        let path = &self.paths[n];
        let (length, mut input): (u64, Box<dyn Read>) = match &self.scratch {
            None => {
                let file = File::open(path)?;
                (file.metadata()?.len(), Box::new(BufReader::new(file)))
            }
            Some(scratch) => {
                let file = scratch.reader(File::open(path)?);
                let file = file.map_err(std::io::Error::other)?;
                (file.plain_bytes(), Box::new(file))
            }
        };
        if length > BUCKET_BYTES_MAX {
            return Err(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                "too many keys to bring several passes together in bounded memory: this needs memcached 1.6.9 or later, which lists its keys in one pass",
            ));
        }
        let mut bytes = Vec::with_capacity(length as usize);
        input.read_to_end(&mut bytes)?;
        std::fs::remove_file(path)?;
        Ok(bytes)
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        for path in &self.paths {
            // Gone already if it was read; else what stays is a leftover that the next start removes.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// FNV-1a with a final mix: spreads keys over buckets, the same in every pass.
fn hash(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in key {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ (hash >> 29)
}

/// The items of a bucket, each key once, as the last pass that found it tells it. Beside the bucket it holds four bytes
/// for each record.
pub(super) fn unique(
    bucket: &[u8],
    base: i64,
) -> Result<impl Iterator<Item = ListedItem>, Failure> {
    let broken = |error| {
        Failure::new(
            Party::Budget,
            "lists of keys came back changed: check the local disk",
        )
        .because(error)
    };
    let mut item = ListedItem::default();
    let mut records = 0;
    let mut rest = bucket;
    while !rest.is_empty() {
        decode(&mut rest, base, &mut item).map_err(broken)?;
        records += 1;
    }
    // Counted first, so that the list never grows beyond what it needs.
    let mut offsets: Vec<u32> = Vec::with_capacity(records);
    let mut rest = bucket;
    while !rest.is_empty() {
        // It fits: a bucket has at most BUCKET_BYTES_MAX.
        offsets.push((bucket.len() - rest.len()) as u32);
        decode(&mut rest, base, &mut item).map_err(broken)?;
    }
    let key_at = move |offset: u32| {
        // A record begins with its bits, the length of its key, and the key.
        let record = &bucket[offset as usize + 1..];
        &record[1..=usize::from(record[0])]
    };
    offsets.sort_unstable_by_key(|&offset| (key_at(offset), offset));
    let mut kept = 0;
    for n in 0..offsets.len() {
        let last = offsets
            .get(n + 1)
            .is_none_or(|&next| key_at(next) != key_at(offsets[n]));
        if last {
            offsets[kept] = offsets[n];
            kept += 1;
        }
    }
    offsets.truncate(kept);
    Ok(offsets.into_iter().map(move |offset| {
        let mut item = ListedItem::default();
        let decoded = decode(&mut &bucket[offset as usize..], base, &mut item);
        decoded.expect("it was decoded before");
        item
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_several_passes_is_one_key_as_the_last_one_told_it() {
        let mut bytes = Vec::new();
        for (key, cas) in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)] {
            let mut item = ListedItem::default();
            item.set_key(key.as_bytes());
            item.cas = cas;
            encode(&item, 100, &mut bytes);
        }
        let found: Vec<_> = unique(&bytes, 100)
            .unwrap()
            .map(|item| (item.key().to_vec(), item.cas))
            .collect();
        assert_eq!(
            found,
            [(b"a".to_vec(), 3), (b"b".to_vec(), 5), (b"c".to_vec(), 4)]
        );
        assert!(unique(&bytes[..bytes.len() - 1], 100).map(drop).is_err());
    }

    #[test]
    fn what_a_killed_listing_leaves_are_plain_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = Buckets::create(dir.path(), None, "keys", 2 * BUCKET_KEYS).unwrap();
        let mut item = ListedItem::default();
        item.set_key(b"k");
        buckets.add(&item, 0).unwrap();
        buckets.end().unwrap();
        let left = || -> Vec<_> { dir.path().read_dir().unwrap().map(Result::unwrap).collect() };
        assert_eq!(left().len(), 3);
        for entry in left() {
            assert!(entry.file_type().unwrap().is_file(), "{entry:?}");
        }
        let read: Vec<_> = (0..3).map(|n| buckets.read(n).unwrap().len()).collect();
        assert!(read.iter().filter(|bytes| **bytes > 0).count() == 1 && left().is_empty());
        drop(Buckets::create(dir.path(), None, "keys", 0).unwrap());
        assert!(left().is_empty());
    }

    #[test]
    fn sealed_buckets_give_back_what_was_put_in_and_show_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::random().unwrap();
        let mut buckets = Buckets::create(dir.path(), Some(scratch), "keys", 0).unwrap();
        let mut expected = Vec::new();
        for n in 0..20_000 {
            let mut item = ListedItem::default();
            item.set_key(format!("plain-key-{n}").as_bytes());
            buckets.add(&item, 0).unwrap();
            encode(&item, 0, &mut expected);
        }
        buckets.end().unwrap();
        let stored = std::fs::read(&buckets.paths[0]).unwrap();
        assert!(stored.len() > expected.len());
        assert_eq!(memchr::memmem::find(&stored, b"plain-key"), None);
        assert!(buckets.read(0).unwrap() == expected);
    }
}
