//! Events as Parquet files: written here, and read back here to verify them.
//! One row group each.

mod column;
mod read;
mod write;

pub use read::Parquet;
pub(super) use write::{Writer, encoder_bytes, object_bytes_max};

pub(super) const NAME: &str = "parquet";
pub(super) const VERSION: u16 = 1;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use tipple_budget::{Gate, Rates};
    use tipple_chunk::{Codec, Encoder, Sealed};
    use tipple_flow::{ObjectContent, ObjectCounts, Records, Span};
    use tipple_parquet::MAGIC;

    use super::*;
    use crate::event::Event;
    use crate::form::ObjectWriter;
    use crate::place::{Numbering, Place};

    const BYTES_MAX: u64 = 1 << 20;

    fn written(events: &[Event], numbering: Numbering, codec: Codec) -> (Vec<u8>, Sealed) {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for (event, number) in events.iter().zip(7..) {
            let place = match numbering {
                Numbering::Sequence => Place::sequence(number),
                Numbering::TimeAndNumber => Place::time_and_number(number, 3),
            };
            let start = bytes.len();
            event.encode(place, numbering, &mut bytes).unwrap();
            spans.push(Span {
                start,
                bytes: (bytes.len() - start) as u32,
                folder: 0,
            });
        }
        let mut writer = Writer::new(Encoder::new(codec).unwrap(), "s", numbering, BYTES_MAX);
        let mut file = Vec::new();
        let sealed = writer.object(Records::new(&bytes, &spans), &mut file);
        (file, sealed.unwrap())
    }

    fn counted(file: &[u8]) -> Result<ObjectCounts, String> {
        let gate = Gate::new(Rates::default());
        let counted = Parquet.count(&mut Cursor::new(file), file.len() as u64, &gate);
        counted.map_err(|stop| stop.to_string())
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "[a-c]{0,3}".prop_map(String::into_bytes),
            vec(any::<u8>(), 0..9)
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        let headers = vec((bytes(), option::of(bytes())), 0..4);
        (
            any::<Option<i64>>(),
            option::of(bytes()),
            headers,
            option::of(bytes()),
        )
            .prop_map(|(time, key, headers, payload)| Event {
                time,
                key,
                headers,
                payload,
            })
    }

    proptest! {
        #[test]
        fn what_was_written_is_counted(
            events in vec(event(), 1..60),
            is_redis in any::<bool>(),
            compresses in any::<bool>(),
            (at, bit) in (any::<prop::sample::Index>(), 0..8_u32),
        ) {
            let numbering = if is_redis { Numbering::TimeAndNumber } else { Numbering::Sequence };
            let codec = if compresses { Codec::Zstd { level: 1 } } else { Codec::None };
            let (mut file, sealed) = written(&events, numbering, codec);
            prop_assert_eq!(file.len() as u64, sealed.stored_bytes);
            prop_assert!(sealed.stored_bytes <= object_bytes_max(BYTES_MAX));
            prop_assert_eq!(counted(&file), Ok(ObjectCounts {
                records: events.len() as u64,
                raw_bytes: sealed.raw_bytes,
                first_position: sealed.first_position.clone(),
                last_position: sealed.last_position.clone(),
            }));
            // The same again, byte for byte.
            prop_assert!(written(&events, numbering, codec).0 == file);
            // Any damage is an error, or nothing that counting sees. It ends in any case.
            let at = at.index(file.len());
            file[at] ^= 1_u8 << bit;
            let _ = counted(&file);
            let _ = counted(&file[..at]);
        }

        #[test]
        fn any_bytes_are_a_file_or_an_error(bytes in vec(any::<u8>(), 0..200), len in 0..200_u32) {
            let _ = counted(&bytes);
            let _ = counted(&[MAGIC, &bytes[..], &len.to_le_bytes(), MAGIC].concat());
        }
    }

    /// Rows, values and bytes that are not what the footer says.
    #[test]
    fn a_footer_that_lies_is_told() {
        let events = vec![Event::default(); 300];
        let (file, _) = written(&events, Numbering::Sequence, Codec::None);
        let end = file.len() - 8;
        let len = u32::from_le_bytes(file[end..end + 4].try_into().unwrap()) as usize;
        let mut told = 0;
        for at in end - len..end {
            let mut file = file.clone();
            file[at] ^= 2;
            told += usize::from(counted(&file).is_err());
        }
        // What is not counted are names, types, minima and maxima.
        assert!(told > 100, "{told} of {len}");
    }

    #[test]
    fn as_many_rows_as_fit() {
        let payload = Some(vec![b'x'; 100_000]);
        let event = Event {
            payload,
            ..Event::default()
        };
        let (_, sealed) = written(&vec![event; 30], Numbering::Sequence, Codec::None);
        assert_eq!(sealed.records, 10);
    }

    /// What is done again after a kill, maybe by a newer tipple, must have the same name. Frozen.
    #[test]
    fn the_same_events_always_give_the_same_bytes() {
        let event = Event {
            time: Some(1_795_219_199_123_456_789),
            key: Some(b"orders.eu".to_vec()),
            headers: vec![
                (b"x".to_vec(), None),
                (b"\xff".to_vec(), Some(b"1".to_vec())),
            ],
            payload: Some(b"hello".to_vec()),
        };
        let events = [event, Event::default()];
        let sha256 = [Numbering::Sequence, Numbering::TimeAndNumber].map(|numbering| {
            let (_, sealed) = written(&events, numbering, Codec::None);
            sealed.sha256.to_string()
        });
        assert_eq!(
            sha256,
            [
                "74304d91a09a2046f3fa7b17e4244b36624909862f35f1aa2e3b69375c31de7b",
                "93bddfaa8a667ab8a1b3969a759bf675adde5e5548e356bc6eed12ccb5aa6e86"
            ]
        );
    }
}
