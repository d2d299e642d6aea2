//! A file of a million lines: out, checked, back, killed and gone on with, damaged and found out.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::error::CliError;
use crate::tour::guide::{Guide, stuck};
use crate::tour::server::Killed;
use crate::tour::web_log;
use crate::units;

const LINES: u64 = 1_000_000;

pub(super) fn show(guide: &mut Guide) -> Result<(), CliError> {
    let input = guide.text("input.txt");
    guide.step("A file such as a web server logs");
    let bytes = web_log::write(Path::new(&input), LINES).map_err(stuck)?;
    guide.say(&format!(
        "{input}: {} lines, {}, some not ASCII, the last one without a newline",
        units::count(LINES),
        units::bytes(bytes)
    ));
    dump_and_load(guide, &input)?;
    kill_and_go_on(guide, &input)?;
    damage(guide)
}

fn dump_and_load(guide: &mut Guide, input: &str) -> Result<(), CliError> {
    let source = format!("lines:{input}");
    let dump = guide.text("dump");
    guide.step("Dump it");
    guide.tipple(&["dump", &source, &dump], 0)?;

    guide.step("Verify every checksum and every count, list it, look into it");
    let verified = guide.tipple(&["verify", &dump, "--json"], 0)?;
    let report = last_json(&verified.stdout);
    guide.prove(
        "the dump has every line, and every checksum holds",
        report["records"] == LINES && report["problems_total"] == 0,
    );
    guide.tipple(&["list", &dump], 0)?;
    let shown = guide.tipple(&["cat", &dump, "--limit", "2"], 0)?;
    let shown = shown.stdout.iter().filter(|byte| **byte == b'\n').count();
    guide.prove("records are readable as JSON", shown == 2);

    guide
        .step("It needs no tipple to be checked: the files are plain .zst files with SHA-256 sums");
    let folder = guide.path("dump");
    if let Some(good) = guide.tool("sha256sum", &["--quiet", "-c", "SHA256SUMS"], &folder)? {
        guide.prove("sha256sum finds every file as it was written", good);
    }
    let chunks = guide.names(&folder.join("chunks"))?;
    let mut args = vec!["-q", "-t"];
    args.extend(chunks.iter().map(String::as_str));
    if let Some(good) = guide.tool("zstd", &args, &folder.join("chunks"))? {
        guide.prove("zstd reads every chunk", good);
    }

    guide.step("Load it into another file, and compare");
    let copy = guide.text("copy.txt");
    guide.tipple(&["load", &dump, &format!("lines:{copy}")], 0)?;
    let same = guide.same_bytes(Path::new(input), Path::new(&copy))?;
    guide.prove("what was loaded is what was dumped, byte by byte", same);
    Ok(())
}

fn kill_and_go_on(guide: &mut Guide, input: &str) -> Result<(), CliError> {
    let source = format!("lines:{input}");
    let dump = guide.text("killed");
    let args = ["dump", &source, &dump, "--part-size", "16MiB"];
    guide.step("Kill a dump in the middle, as kill -9 does, and run the same command again");
    let slow: Vec<&str> = args
        .iter()
        .copied()
        .chain(["--rate", "40MiB/s", "--json"])
        .collect();
    guide.show("tipple", &slow);
    let mut child = Killed(
        guide
            .command(&slow)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(stuck)?,
    );
    let stdout = child.0.stdout.take().expect("piped above");
    for line in BufReader::new(stdout).lines() {
        let event: Value = serde_json::from_str(&line.map_err(stuck)?).map_err(stuck)?;
        if event["event"] == "part" {
            break;
        }
    }
    child.0.kill().map_err(stuck)?;
    let status = child.0.wait().map_err(stuck)?;
    let committed = guide.names(&guide.path("killed").join("parts"))?.len();
    guide.prove(
        &format!(
            "killed after {} of it",
            units::counted(committed as u64, "part")
        ),
        status.signal() == Some(9) && committed > 0 && !guide.path("killed/DONE").exists(),
    );
    let verified = guide.tipple(&["verify", &dump], 4)?;
    guide.prove(
        "a dump that was killed is not taken for a whole one",
        verified.status.code() == Some(4),
    );

    let resumed: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let resumed = guide.tipple(&resumed, 0)?;
    let start = json_lines(&resumed.stdout).find(|event| event["event"] == "start");
    let kept = start.map_or(0, |start| start["parts_committed"].as_u64().unwrap_or(0));
    guide.prove(
        "the same command went on where it was",
        kept == committed as u64,
    );
    guide.tipple(&["verify", &dump], 0)?;
    let copy = guide.text("killed.txt");
    guide.tipple(&["load", &dump, &format!("lines:{copy}")], 0)?;
    let same = guide.same_bytes(Path::new(input), Path::new(&copy))?;
    guide.prove("nothing was dumped twice or left out", same);
    Ok(())
}

/// One byte of one chunk is flipped.
fn damage(guide: &mut Guide) -> Result<(), CliError> {
    guide.step("Flip one bit of one file: nothing is lost silently");
    let dump = guide.text("killed");
    let chunks = guide.path("killed").join("chunks");
    let names = guide.names(&chunks)?;
    let name = names
        .first()
        .ok_or_else(|| stuck("the dump has no chunk"))?;
    flip(&chunks.join(name)).map_err(stuck)?;
    guide.say(&format!("flipped one bit in the middle of chunks/{name}"));
    let verified = guide.tipple(&["verify", &dump], 4)?;
    let copy = guide.text("damaged.txt");
    let loaded = guide.tipple(&["load", &dump, &format!("lines:{copy}")], 4)?;
    let refused = [verified, loaded].map(|output| output.status.code()) == [Some(4); 2];
    guide.prove(
        "damage is found, and nothing of it is loaded",
        refused && !Path::new(&copy).exists(),
    );
    Ok(())
}

fn flip(path: &Path) -> std::io::Result<()> {
    let mut permissions = fs::metadata(path)?.permissions();
    // Ours, in our own folder.
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "a file of the tour's own"
    )]
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions)?;
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle))?;
    file.read_exact(&mut byte)?;
    byte[0] ^= 1;
    file.seek(SeekFrom::Start(middle))?;
    file.write_all(&byte)
}

pub(super) fn json_lines(stdout: &[u8]) -> impl Iterator<Item = Value> + '_ {
    stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
}

pub(super) fn last_json(stdout: &[u8]) -> Value {
    json_lines(stdout).last().unwrap_or_default()
}
