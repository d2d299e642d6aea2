//! The settings file: what a user would otherwise type again and again.
//!
//! Its values become the defaults of the flags, so that a flag wins over a variable, a variable over the file, and the
//! file over the default, and `--help` shows what holds.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::error::{CliError, Kind};

/// Where there are settings, if there are any: `--config`, `TIPPLE_CONFIG`, or the file at its usual place.
pub(crate) fn path(args: &[OsString]) -> Option<PathBuf> {
    named(args)
        .or_else(|| env::var_os("TIPPLE_CONFIG").filter(|path| !path.is_empty()))
        .map(PathBuf::from)
        .or_else(usual_path)
}

/// The value of `--config`, before anything else is understood.
fn named(args: &[OsString]) -> Option<OsString> {
    let mut args = args.iter().take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return args.next().cloned();
        }
        if let Some(path) = arg.as_encoded_bytes().strip_prefix(b"--config=") {
            use std::os::unix::ffi::OsStrExt;
            return Some(OsStr::from_bytes(path).to_owned());
        }
    }
    None
}

fn usual_path() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    let path = folder.join("tipple").join("config.toml");
    path.exists().then_some(path)
}

/// The most bytes of a settings or a password file: 1 MiB.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// Reads a file that a person wrote. It may be a pipe; it may not be endless.
pub(crate) fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path)?.take(SMALL_BYTES_MAX + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > SMALL_BYTES_MAX {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("it is longer than {SMALL_BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

/// Makes the values of the file at `path` the defaults of `command`.
pub(crate) fn apply(command: Command, path: &Path) -> Result<Command, CliError> {
    let place = path.display().to_string();
    let text = read_small(path).map_err(|error| {
        let kind = match error.kind() {
            ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::InvalidData => Kind::Usage,
            _ => Kind::Budget,
        };
        CliError::new(
            kind,
            format!("cannot read the settings file {place}: {error}"),
        )
    })?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        CliError::usage(format!("{place}, line {line}: {}", error.message()))
    })?;
    Settings { place }.all(command, table)
}

struct Settings {
    place: String,
}

impl Settings {
    fn all(&self, mut command: Command, table: Table) -> Result<Command, CliError> {
        let verbs: Vec<String> = command
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect();
        let (tables, flags): (Vec<_>, Vec<_>) =
            table.into_iter().partition(|(_, value)| value.is_table());
        for (key, value) in flags {
            let mut known = false;
            for name in &verbs {
                let verb = command.find_subcommand(name).expect("listed above");
                if let Some(arg) = flag(verb, &key) {
                    known = true;
                    let (id, values) = (arg.get_id().clone(), self.values(arg, &key, &value)?);
                    command = command.mut_subcommand(name, |verb| {
                        verb.mut_arg(id, |arg| arg.default_values(values))
                    });
                }
            }
            if !known {
                return Err(self.unknown(&key, "no flag of any verb"));
            }
        }
        for (name, settings) in tables {
            let Value::Table(settings) = settings else {
                unreachable!("partitioned above")
            };
            if !verbs.contains(&name) {
                return Err(
                    self.unknown(&name, &format!("no verb; there are {}", verbs.join(", ")))
                );
            }
            for (key, value) in settings {
                let verb = command.find_subcommand(&name).expect("checked above");
                let Some(arg) = flag(verb, &key) else {
                    return Err(
                        self.unknown(&format!("[{name}] {key}"), &format!("no flag of {name}"))
                    );
                };
                let (id, values) = (arg.get_id().clone(), self.values(arg, &key, &value)?);
                command = command.mut_subcommand(&name, |verb| {
                    verb.mut_arg(id, |arg| arg.default_values(values))
                });
            }
        }
        Ok(command)
    }

    fn unknown(&self, key: &str, what: &str) -> CliError {
        CliError::usage(format!("{}: {key} is {what}", self.place))
    }

    /// The value as it would be typed, and only if the flag takes it.
    fn values(&self, arg: &Arg, key: &str, value: &Value) -> Result<Vec<String>, CliError> {
        let refused = |why: &str| CliError::usage(format!("{}: {key}: {why}", self.place));
        let many =
            matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some();
        let values = match value {
            Value::Array(values) if many => values.iter().map(scalar).collect(),
            Value::Array(_) => None,
            value => scalar(value).map(|value| vec![value]),
        }
        .ok_or_else(|| {
            refused(if many {
                "give text, a number, or a list of them"
            } else {
                "give text, a number, true or false"
            })
        })?;
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            return match value {
                Value::Boolean(_) => Ok(values),
                _ => Err(refused("give true or false")),
            };
        }
        // A value that is bad must be told as one of this file, not as a broken default.
        let typed = values.iter().map(|value| {
            format!(
                "--{}={value}",
                arg.get_long().expect("only flags come here")
            )
        });
        Command::new("settings")
            .no_binary_name(true)
            .arg(arg.clone())
            .try_get_matches_from(typed)
            .map_err(|error| CliError::from(error).of(&self.place))?;
        Ok(values)
    }
}

/// The flag of that name, written with `-` or `_`.
fn flag<'a>(verb: &'a Command, key: &str) -> Option<&'a Arg> {
    let key = key.replace('_', "-");
    verb.get_arguments().find(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long() != Some("config")
            && (arg.get_long() == Some(key.as_str()) || aliases.contains(&key.as_str()))
    })
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    }
}
