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
    Settings { place }.table(command, "", table)
}

struct Settings {
    place: String,
}

impl Settings {
    /// A table is for the verb `path` and for all verbs below it: the file itself for all there are, `[snapshot]` for each
    /// verb of `tipple snapshot`, `[snapshot.cat]` for one of them. What is said for fewer verbs wins.
    fn table(&self, mut command: Command, path: &str, table: Table) -> Result<Command, CliError> {
        let (tables, flags): (Vec<_>, Vec<_>) = table
            .into_iter()
            .partition(|(_, value)| value.is_table() && command.has_subcommands());
        let heading = match path {
            "" => String::new(),
            path => format!("[{}] ", path.replace(' ', ".")),
        };
        for (key, value) in flags {
            let mut is_known = false;
            command = self.flag(command, &key, &value, &mut is_known)?;
            if !is_known {
                let whose = if path.is_empty() { "any verb" } else { path };
                let what = format!("no flag of {whose}");
                return Err(self.unknown(&format!("{heading}{key}"), &what));
            }
        }
        for (name, settings) in tables {
            let Value::Table(settings) = settings else {
                unreachable!("partitioned above")
            };
            if command.find_subcommand(&name).is_none() {
                let verbs: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
                let what = format!("no verb; there are {}", verbs.join(", "));
                return Err(self.unknown(&format!("{heading}{name}"), &what));
            }
            let path = format!("{path} {name}");
            let mut settings = Some(settings);
            command = below(command, |verb| match verb.get_name() == name {
                true => self.table(verb, path.trim_start(), settings.take().expect("one of it")),
                false => Ok(verb),
            })?;
        }
        Ok(command)
    }

    /// Sets a flag of `command` and of all verbs below it that have it.
    fn flag(
        &self,
        mut command: Command,
        key: &str,
        value: &Value,
        is_known: &mut bool,
    ) -> Result<Command, CliError> {
        if let Some(arg) = flag(&command, key) {
            *is_known = true;
            let (id, values) = (arg.get_id().clone(), self.values(arg, key, value)?);
            command = command.mut_arg(id, |arg| arg.default_values(values));
        }
        below(command, |verb| self.flag(verb, key, value, is_known))
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

/// Changes each verb of `command`, in order; the first error ends it.
fn below(
    command: Command,
    mut change: impl FnMut(Command) -> Result<Command, CliError>,
) -> Result<Command, CliError> {
    let mut failed = None;
    let command = command.mut_subcommands(|verb| {
        if failed.is_some() {
            return verb;
        }
        let name = verb.get_name().to_owned();
        change(verb).unwrap_or_else(|error| {
            failed = Some(error);
            Command::new(name)
        })
    });
    match failed {
        None => Ok(command),
        Some(error) => Err(error),
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
