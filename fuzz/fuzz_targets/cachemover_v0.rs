//! Reads arbitrary bytes as a data file of the cachemover layout whose MD5 is right: no panic, no allocation by a
//! claimed length, and items out of it that read back.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};
use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{Block, Drain, Outcomes, Part, PartName, PlanRead, RecordWriter, Source, Stop};
use tipple_memcached::CachemoverSource;

struct Nothing;

impl Drain for Nothing {
    fn block(&mut self, _block: Block) -> Result<(), Stop> {
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

struct OnePart {
    name: PartName,
    body: String,
}

impl Part for OnePart {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        Ok(Box::new(Cursor::new(self.body.clone())))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let dir = std::env::temp_dir().join(format!("tipple-fuzz-{}", std::process::id()));
    let completed = dir.join("datafiles_completed");
    std::fs::create_dir_all(&completed).expect("a folder");
    let md5: String = Md5::digest(bytes)
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect();
    let file = format!("data_127.0.0.1__0_{md5}");
    let path = completed.join(&file);
    std::fs::write(&path, bytes).expect("a file");
    let source = CachemoverSource::open_partial(&dir).expect("the layout");
    let part = OnePart {
        name: "0".parse().expect("a name"),
        body: format!("{{\"file\":\"{file}\"}}"),
    };
    let gate = Gate::new(Rates::default());
    let memory = Budget::new("memory", 128 << 10);
    let pool = BufferPool::new(2, 64 << 10, &memory).expect("memory");
    let mut drain = Nothing;
    let mut out = RecordWriter::new(&gate, &pool, &mut drain);
    let mut reader = source.open().expect("a reader");
    if reader
        .read_part(&part, &mut out, &mut Outcomes::default())
        .is_ok()
    {
        out.finish().expect("whole records");
    }
    std::fs::remove_file(&path).expect("removed");
});
