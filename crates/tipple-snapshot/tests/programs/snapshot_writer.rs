//! Writes snapshots, as told: what tests kill.

use std::error::Error;
use std::time::SystemTime;

use tipple_snapshot::{HashMap, Keys, SnapshotFolder, SnapshotOptions, ValueTimes};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let options = SnapshotOptions {
        max_count: 2,
        world_readable: args.get(3).is_some_and(|text| text == "true"),
        ..SnapshotOptions::default()
    };
    let folder = SnapshotFolder::new(&args[2], "kill", options, Keys::none())?;
    loop {
        let time = SystemTime::now();
        let round = time.duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as u64;
        let value: HashMap<u64, u64> = (0..1500 + round % 3000).map(|n| (n, round)).collect();
        folder.write(&value, ValueTimes::at(time))?;
        if args[1] == "once" {
            return Ok(());
        }
    }
}
