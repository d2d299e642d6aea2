//! `tipple keygen`.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use serde_json::json;
use tipple_chunk::{KeyId, SealKey};

use crate::cli::KeygenArgs;
use crate::error::{CliError, Kind};
use crate::output::Output;
use crate::verbs::quoted;

pub(super) fn run(args: &KeygenArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    let unmade = |error: &dyn std::fmt::Display| {
        CliError::new(Kind::Unexpected, format!("cannot make a key: {error}"))
    };
    let id = match &args.name {
        Some(id) => id.clone(),
        None => KeyId::random().map_err(|error| unmade(&error))?,
    };
    let key = SealKey::random(id).map_err(|error| unmade(&error))?;
    let file = args.file.display().to_string();
    write(args, key.to_line().as_bytes()).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => CliError::usage(format!(
            "{file} exists, and a key is never written over: choose another file"
        )),
        _ => CliError::new(Kind::Budget, format!("cannot write {file}: {error}")),
    })?;
    if output.is_json() {
        output.json_report(&json!({"verb": "keygen", "key": key.id(), "file": file}), 0);
        return Ok(0);
    }
    output.say(&format!(
        "made the key {} in {file}\nwithout it, nobody reads again what it seals: keep a copy of the file somewhere else\nnext: tipple dump SOURCE STORE --encrypt-key {}",
        key.id(),
        quoted(&file)
    ));
    Ok(0)
}

/// A file of its owner's only; durable, since a dump may rely on it a moment later.
fn write(args: &KeygenArgs, line: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.file)?;
    file.write_all(line)?;
    file.sync_all()
}
