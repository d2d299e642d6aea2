//! Errors as the user meets them: one line, one exit code.

use std::error::Error;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use tipple_dump::{DumpError, ErrorKind};

/// What kind of failure ended the command. Each has an exit code. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unexpected,
    Usage,
    Damaged,
    Live,
    Store,
    Budget,
    Version,
    Key,
    Interrupted,
}

/// The job is done, and records were lost, or notifications were not delivered.
pub(crate) const EXIT_LOST: u8 = 3;

impl Kind {
    pub(crate) fn exit(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Damaged => 4,
            Self::Live => 10,
            Self::Store => 11,
            Self::Budget => 12,
            Self::Version | Self::Key => 13,
            Self::Interrupted => 130,
        }
    }

    /// In `--json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unexpected => "unexpected",
            Self::Usage => "usage",
            Self::Damaged => "damaged",
            Self::Live => "live",
            Self::Store => "store",
            Self::Budget => "budget",
            Self::Version => "version",
            Self::Key => "key",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why the command ended without its result. Its text reads after "error: ".
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) kind: Kind,
    message: String,
}

impl CliError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The same, naming the flag or file that the value came from.
    pub(crate) fn of(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever the parts are made of.
        f.write_str(&self.message.replace(['\n', '\r'], " "))
    }
}

/// The error and its causes, without repeating what a message already says.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        // The stores' words for a system error begin in lower case and leave out its number.
        let words = more.split(" (os error").next().unwrap_or(&more);
        if !text.to_lowercase().contains(&words.to_lowercase()) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

impl From<DumpError> for CliError {
    fn from(error: DumpError) -> Self {
        let kind = match error.kind() {
            ErrorKind::Usage => Kind::Usage,
            ErrorKind::Damaged => Kind::Damaged,
            ErrorKind::Live => Kind::Live,
            ErrorKind::Store => Kind::Store,
            ErrorKind::Budget => Kind::Budget,
            ErrorKind::Version => Kind::Version,
            ErrorKind::Key => Kind::Key,
            ErrorKind::Interrupted => Kind::Interrupted,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<tipple_supervise::SuperviseError> for CliError {
    fn from(error: tipple_supervise::SuperviseError) -> Self {
        use tipple_supervise::ErrorKind as K;
        let kind = match error.kind() {
            K::Usage => Kind::Usage,
            K::Damaged => Kind::Damaged,
            K::Live => Kind::Live,
            K::Store => Kind::Store,
            K::Budget => Kind::Budget,
            K::Version => Kind::Version,
            K::Interrupted => Kind::Interrupted,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<tipple_snapshot::SnapshotError> for CliError {
    fn from(error: tipple_snapshot::SnapshotError) -> Self {
        use tipple_snapshot::ErrorKind as K;
        let kind = match error.kind() {
            K::Usage => Kind::Usage,
            K::Truncated | K::Damaged => Kind::Damaged,
            K::Io | K::Busy => Kind::Budget,
            K::Layout | K::Schema => Kind::Version,
            K::Key => Kind::Key,
            K::Cancelled => Kind::Interrupted,
            _ => Kind::Unexpected,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<tipple_flow::Failure> for CliError {
    fn from(failure: tipple_flow::Failure) -> Self {
        DumpError::from(failure).into()
    }
}

impl From<tipple_flow::Stop> for CliError {
    fn from(stop: tipple_flow::Stop) -> Self {
        DumpError::from(stop).into()
    }
}

impl From<tipple_store::StoreError> for CliError {
    fn from(error: tipple_store::StoreError) -> Self {
        DumpError::from(error).into()
    }
}

impl From<crate::units::UnitError> for CliError {
    fn from(error: crate::units::UnitError) -> Self {
        Self::usage(error.to_string())
    }
}

/// A usage error of the parser as one line, without the values that a user might have put secrets into.
impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        if error.kind() == ClapKind::ValueValidation
            && let (Some(ContextValue::String(arg)), Some(reason)) =
                (error.get(ContextKind::InvalidArg), error.source())
        {
            let flag = arg.split(' ').next().unwrap_or(arg);
            return Self::usage(format!("{flag}: {reason}"));
        }
        if let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg)
            && error.kind() == ClapKind::UnknownArgument
            && arg.starts_with("--password")
        {
            return Self::usage(
                "passwords are not given on the command line, where everyone can see them: use --password-file FILE or the variable TIPPLE_MEMCACHED_PASSWORD",
            );
        }
        let rendered = error.render().to_string();
        let mut line = String::new();
        for more in rendered
            .lines()
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let more = more
                .trim_start_matches("error: ")
                .trim_start_matches("tip: ");
            match line.chars().last() {
                None => {}
                Some(':') => line.push(' '),
                Some(_) => line.push_str("; "),
            }
            line.push_str(more);
        }
        Self::usage(format!("{line}; see --help"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let full = std::io::Error::from_raw_os_error(28);
        let store =
            tipple_store::StoreError::from_io(tipple_store::Operation::Write, "/data/d", full);
        let error = CliError::from(store);
        assert_eq!(error.kind, Kind::Budget);
        assert_eq!(
            error.to_string(),
            "cannot write an object to /data/d: no space left on device; free space or choose another folder, then run the same command again"
        );
        let failure = tipple_flow::Failure::new(tipple_flow::Party::Source, "cannot reach it")
            .because(std::io::Error::other("the cable"));
        assert_eq!(
            CliError::from(failure).to_string(),
            "cannot reach it: the cable"
        );
    }
}
