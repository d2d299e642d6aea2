//! Reads arbitrary bytes, cut into arbitrary frames, as events: no panic, no memory by a claimed length; what is checked
//! piece by piece is what is read whole, and what is read encodes to an event that is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tipple_budget::{Gate, Rates};
use tipple_flow::{Content, RecordReader, Stop};
use tipple_fuzz::Frames;
use tipple_stream::{EventRef, Events};

/// Records and bytes up to the end, or to where the bytes are none, and whether that was the end.
fn read(
    frame_bytes: usize,
    bytes: &[u8],
    mut next: impl FnMut(&mut RecordReader<'_>) -> Result<bool, Stop>,
) -> (u64, bool) {
    let mut frames = Frames::new(bytes, frame_bytes);
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
