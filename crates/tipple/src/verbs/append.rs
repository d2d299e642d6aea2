//! `tipple append`.

use std::io;
use std::sync::Arc;

use serde_json::json;
use tipple_dump::Job;
use tipple_stream::{Appended, LogWriter, StreamUrl, Text, append};

use crate::cli::{AppendArgs, AppendFormat};
use crate::error::{CliError, EXIT_LOST};
use crate::output::Output;
use crate::signals::Listening;
use crate::verbs::quoted;

pub(super) fn run(args: &AppendArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    let path = match StreamUrl::parse(&args.log) {
        Some(url) => match url? {
            StreamUrl::Log(path) => path,
            other => return Err(not_a_log(&other.to_string())),
        },
        None => return Err(not_a_log(&args.log.to_string_lossy())),
    };
    let text = match args.format {
        AppendFormat::Lines => Text::Lines,
        AppendFormat::Ndjson => Text::Ndjson,
    };
    let job = Arc::new(Job::default());
    let _listening = Listening::start(Arc::clone(&job), Arc::clone(output))?;
    let mut log = LogWriter::open(&path)?;
    let mut appended = Appended::default();
    let mut told = |line: u64, why: &str| {
        output.warn(&format!(
            "line {line} is not appended: {why} (only the first such line is shown)"
        ));
    };
    let ended = append(
        io::stdin(),
        text,
        &mut log,
        job.gate(),
        &mut appended,
        &mut told,
    );
    let shown = format!("log:{}", path.display());
    let lost = appended.outcomes.lost();
    let losses = appended.outcomes.losses();
    let losses: Vec<_> = losses
        .map(|(cause, events)| format!("{events} {cause}"))
        .collect();
    let mut said = format!("appended {} events to {shown}", appended.events);
    if lost > 0 {
        said.push_str(&format!("; lost {lost}: {}", losses.join(", ")));
    }
    if let Err(stop) = ended {
        output.warn(&said);
        return Err(stop.into());
    }
    let exit = match lost {
        0 => 0,
        _ => EXIT_LOST,
    };
    if output.is_json() {
        let report = json!({
            "verb": "append", "log": shown, "records": appended.events, "raw_bytes": appended.bytes, "lost": appended.outcomes,
        });
        output.json_report(&report, exit);
        return Ok(exit);
    }
    match exit {
        0 => output.say(&said),
        _ => output.warn(&said),
    }
    output.say(&format!("next: tipple dump {} STORE", quoted(&shown)));
    Ok(exit)
}

fn not_a_log(text: &str) -> CliError {
    CliError::usage(format!(
        "{text} is no log: give log:FOLDER, such as log:./orders"
    ))
}
