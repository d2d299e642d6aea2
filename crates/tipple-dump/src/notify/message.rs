//! What a message holds. `FORMAT.md` has the tables; stable.

use std::fs;

use serde::{Deserialize, Serialize};
use tipple_chunk::Sha256Digest;
use tipple_flow::PartName;
use tipple_store::Store;

use crate::layout::{ChunkEntry, ContentVersion, Done, Head, PartRecord};

/// Readers leave other versions alone.
pub(crate) const NOTICE_VERSION: u32 = 1;

/// What a message holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NotifyFormat {
    /// JSON of our own: everything that is known of a chunk; and a last message when the dump is done.
    #[default]
    Json,
    /// The body that Netflix cachemover sends, with a truthful count of each chunk; no last message.
    Cachemover,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The same whenever it is sent again, and no other message's: a receiver, or a queue that keeps an order, may drop
    /// what it has seen. Not the chunk's checksum alone: of a file that is dumped twice, the chunks of both dumps have
    /// the same one.
    pub(crate) key: String,
    /// What keeps its order in a queue that keeps one: the dump.
    pub(crate) group: String,
    pub(crate) body: String,
}

/// A message's fields.
#[derive(Debug, Serialize)]
struct Body<'a, T> {
    version: u32,
    event: &'static str,
    id: &'a Sha256Digest,
    dump: &'a str,
    store: &'a str,
    stores: &'a [String],
    uri: String,
    content: &'a ContentVersion,
    #[serde(flatten)]
    rest: T,
}

#[derive(Debug, Serialize)]
struct ChunkBody<'a> {
    part: &'a PartName,
    bytes: u64,
    raw_bytes: u64,
    records: u64,
    sha256: &'a Sha256Digest,
    begins_inside: bool,
    ends_inside: bool,
}

#[derive(Debug, Serialize)]
struct DoneBody {
    parts: u64,
    chunks: u64,
    bytes: u64,
    raw_bytes: u64,
    records: u64,
    lost: u64,
}

/// What a receiver needs of a message: the rest is in the store.
#[derive(Debug, Deserialize)]
pub(crate) struct Notice {
    pub(crate) version: u32,
    pub(crate) event: String,
    pub(crate) id: Sha256Digest,
    pub(crate) dump: String,
    #[serde(default)]
    pub(crate) part: Option<PartName>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CachemoverBody<'a> {
    req_id: &'a str,
    host: &'a str,
    uri: String,
    keys_count: u64,
    dump_format: &'static str,
}

/// Writes the messages of one dump.
pub(crate) struct Messages {
    format: NotifyFormat,
    dump: String,
    content: ContentVersion,
    host: String,
}

impl Messages {
    pub(crate) fn new(format: NotifyFormat, head: &Head) -> Self {
        Self {
            format,
            dump: head.dump.clone(),
            content: head.content.clone(),
            host: host_name(),
        }
    }

    /// Of a chunk of a committed part, which is in all of `stores`, at least one.
    pub(crate) fn chunk(
        &self,
        stores: &[String],
        part: &PartRecord,
        chunk: &ChunkEntry,
    ) -> Message {
        let uri = format!("{}/{}", stores[0], chunk.name);
        let body = match self.format {
            NotifyFormat::Cachemover => to_text(&CachemoverBody {
                req_id: &self.dump,
                host: &self.host,
                uri,
                keys_count: chunk.records,
                dump_format: "BINARY",
            }),
            NotifyFormat::Json => to_text(&self.body(
                "chunk",
                &chunk.sha256,
                stores,
                uri,
                ChunkBody {
                    part: &part.part,
                    bytes: chunk.stored_bytes,
                    raw_bytes: chunk.raw_bytes,
                    records: chunk.records,
                    sha256: &chunk.sha256,
                    begins_inside: chunk.begins_inside,
                    ends_inside: chunk.ends_inside,
                },
            )),
        };
        let file = chunk.name.rsplit('/').next().unwrap_or_default();
        Message {
            key: file.split('.').next().unwrap_or_default().to_owned(),
            group: self.dump.clone(),
            body,
        }
    }

    /// The last one of a dump, if there is one in this format.
    pub(crate) fn done(&self, stores: &[String], done: &Done) -> Option<Message> {
        if self.format == NotifyFormat::Cachemover {
            return None;
        }
        let rest = DoneBody {
            parts: done.parts,
            chunks: done.chunks,
            bytes: done.stored_bytes,
            raw_bytes: done.raw_bytes,
            records: done.records,
            lost: done.lost,
        };
        let uri = format!("{}/{}", stores[0], crate::layout::DONE);
        Some(Message {
            key: format!("{}-DONE", self.dump),
            group: self.dump.clone(),
            body: to_text(&self.body("done", &done.digest, stores, uri, rest)),
        })
    }

    fn body<'a, T>(
        &'a self,
        event: &'static str,
        id: &'a Sha256Digest,
        stores: &'a [String],
        uri: String,
        rest: T,
    ) -> Body<'a, T> {
        Body {
            version: NOTICE_VERSION,
            event,
            id,
            dump: &self.dump,
            store: &stores[0],
            stores,
            uri,
            content: &self.content,
            rest,
        }
    }
}

fn to_text(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("plain values serialize")
}

/// A store as another machine with the same disks would write it, and as `tipple` takes it.
pub(crate) fn store_url(store: &dyn Store) -> String {
    match store.staging_dir() {
        // A folder, maybe named from the current one. What cannot be made absolute stays as it is.
        Some(_) => std::path::absolute(store.url()).map_or_else(
            |_| store.url().to_owned(),
            |path| format!("file://{}", path.display()),
        ),
        None => store.url().to_owned(),
    }
}

/// This machine's, as far as it tells.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &str = include_str!("../../tests/fixtures/notify/chunk.json");
    const DONE: &str = include_str!("../../tests/fixtures/notify/done.json");
    const CACHEMOVER: &str = include_str!("../../tests/fixtures/notify/cachemover.json");
    const STORES: [&str; 2] = ["s3://bucket/cache", "file:///backup/cache"];

    fn messages(format: NotifyFormat) -> Messages {
        Messages {
            format,
            dump: "0123456789abcdef".to_owned(),
            content: ContentVersion {
                name: "items".to_owned(),
                version: 1,
            },
            host: "cache-1".to_owned(),
        }
    }

    fn stores() -> Vec<String> {
        STORES.map(str::to_owned).to_vec()
    }

    /// The chunk of the fixtures, in a record as it lies in a store.
    fn record() -> PartRecord {
        let sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let part = "1f2e3d4c-00000042";
        serde_json::from_value(serde_json::json!({
            "format": {"major": 1, "minor": 0},
            "part": part,
            "records": 17, "raw_bytes": 4000, "stored_bytes": 1000,
            "chunks": [{
                "name": format!("chunks/{part}-0003-{}.items.zst", &sha256[..32]),
                "stored_bytes": 1000, "raw_bytes": 4000, "records": 17, "frames": 1,
                "sha256": sha256, "index_sha256": sha256, "ends_inside": true,
            }],
            "outcomes": {}, "losses": {},
        }))
        .unwrap()
    }

    fn chunk(format: NotifyFormat) -> Message {
        let record = record();
        messages(format).chunk(&stores(), &record, &record.chunks[0])
    }

    #[test]
    fn chunks_are_told_as_they_were_in_version_1() {
        let message = chunk(NotifyFormat::Json);
        assert_eq!(message.body, CHUNK.trim_end());
        assert_eq!(
            message.key,
            "1f2e3d4c-00000042-0003-9f86d081884c7d659a2feaa0c55ad015"
        );
        assert_eq!(message.group, "0123456789abcdef");
    }

    #[test]
    fn the_end_is_told_as_it_was_in_version_1() {
        let done: Done = serde_json::from_value(serde_json::json!({
            "format": {"major": 1, "minor": 0},
            "plan": "1f2e3d4c",
            "parts": 43, "chunks": 99, "records": 1700, "raw_bytes": 400_000,
            "stored_bytes": 100_000, "lost": 2,
            "outcomes": {}, "losses": {}, "digest": "aa".repeat(32), "finished": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let message = messages(NotifyFormat::Json).done(&stores(), &done).unwrap();
        assert_eq!(message.body, DONE.trim_end());
        assert_eq!(message.key, "0123456789abcdef-DONE");
        assert_eq!(
            messages(NotifyFormat::Cachemover).done(&stores(), &done),
            None
        );
    }

    #[test]
    fn cachemover_bodies_have_its_fields_in_its_order() {
        assert_eq!(chunk(NotifyFormat::Cachemover).body, CACHEMOVER.trim_end());
    }

    #[test]
    fn receivers_read_version_1() {
        let notice: Notice = serde_json::from_str(CHUNK).unwrap();
        assert_eq!((notice.version, &*notice.event), (NOTICE_VERSION, "chunk"));
        assert_eq!(notice.dump, "0123456789abcdef");
        assert_eq!(notice.id, record().chunks[0].sha256);
        assert_eq!(notice.part, Some(record().part));
        let notice: Notice = serde_json::from_str(DONE).unwrap();
        assert_eq!((&*notice.event, notice.part), ("done", None));
        assert!(serde_json::from_str::<Notice>(CACHEMOVER).is_err());
    }

    #[test]
    fn keys_fit_where_a_queue_takes_them() {
        // SQS: up to 128 of A-Z a-z 0-9 and punctuation.
        let key = chunk(NotifyFormat::Json).key;
        assert!(key.len() <= 128 && key.chars().all(|c| c.is_ascii_graphic()));
    }
}
