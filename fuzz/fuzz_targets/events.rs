//! Reads arbitrary bytes, cut into arbitrary frames, as events: no panic, no memory by a claimed length; what is checked
//! piece by piece is what is read whole, and what is read encodes to an event that is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tipple_budget::{Gate, Rates};
use tipple_flow::{Content, FrameSource, RecordReader, Stop};
use tipple_stream::{EventRef, Events};

struct Frames<'a> {
    frames: std::slice::Chunks<'a, u8>,
    frame: &'a [u8],
}

impl FrameSource for Frames<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        let next = self.frames.next();
        self.frame = next.unwrap_or_default();
        Ok(next.map(|_| 1))
    }
    fn bytes(&self) -> &[u8] {
        self.frame
    }
}

/// Records and bytes up to the end, or to where the bytes are none, and whether that was the end.
fn read(
    frame_bytes: usize,
    bytes: &[u8],
    mut next: impl FnMut(&mut RecordReader<'_>) -> Result<bool, Stop>,
) -> (u64, bool) {
    let mut frames = Frames {
        frames: bytes.chunks(frame_bytes),
        frame: &[],
    };
    let gate = Gate::new(Rates::default());
    let mut records = RecordReader::new(&gate, &mut frames);
    loop {
        match next(&mut records) {
            Ok(true) => {}
            ended => return (records.records(), ended.is_ok()),
        }
    }
}

fuzz_target!(|input: (u16, &[u8])| {
    let (frame_bytes, bytes) = input;
    let frame_bytes = usize::from(frame_bytes).max(1);
    let checked = read(frame_bytes, bytes, |records| Events.skip(records));
    let mut lines = Vec::new();
    let shown = read(frame_bytes, bytes, |records| {
        lines.clear();
        Events.write_json(records, &mut lines)
    });
    assert_eq!(checked, shown);
    let raw = read(frame_bytes, bytes, |records| {
        lines.clear();
        Events.write_raw(records, &mut lines).expect("events have")
    });
    assert_eq!(checked, raw);
    if let Ok(event) = EventRef::parse(bytes) {
        let (own, mut again) = (event.to_event(), Vec::new());
        assert!(event.is(&own));
        own.encode(event.place(), event.numbering(), &mut again)
            .expect("it was read");
        assert!(EventRef::parse(&again).expect("just encoded").is(&own));
    }
});
