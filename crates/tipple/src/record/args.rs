//! What a user may type after `tipple record`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use tipple_recorder::{Direction, FieldEquals, Filter};

use crate::cli::OutputFlags;
use crate::error::CliError;
use crate::units::ByteSize;

#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct RecordArgs {
    #[command(subcommand)]
    pub(crate) verb: RecordVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecordVerb {
    /// Prints the lines that match, in the order of the files
    Search(SearchArgs),
    /// Prints the lines that match as they are recorded
    Follow(FollowArgs),
    /// Counts records by group, class, direction and message
    Stats(SearchArgs),
    /// Looks for numbers that are missing, and holds them against the losses that were recorded; exit 3 if some are unexplained
    Gaps(PathsArgs),
    /// Says how long responses took
    Pair(SearchArgs),
    /// Prints all lines in the order of time
    Sort(SortArgs),
    /// Cuts torn ends of files that a killed program left open, and gives them their names
    Repair(RepairArgs),
    /// Makes the indexes of recordings again
    Index(RepairArgs),
    /// Makes a table of records: CSV or Parquet
    Convert(ConvertArgs),
    /// Compares the messages of two recordings; exit 4 if they differ
    Diff(DiffArgs),
}

impl RecordArgs {
    pub(crate) fn output(&self) -> &OutputFlags {
        match &self.verb {
            RecordVerb::Search(args) | RecordVerb::Stats(args) | RecordVerb::Pair(args) => {
                &args.paths.output
            }
            RecordVerb::Follow(args) => &args.output,
            RecordVerb::Gaps(args) => &args.output,
            RecordVerb::Sort(args) => &args.search.paths.output,
            RecordVerb::Repair(args) | RecordVerb::Index(args) => &args.output,
            RecordVerb::Convert(args) => &args.search.paths.output,
            RecordVerb::Diff(args) => &args.output,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PathsArgs {
    /// Recordings: files, folders of them, or s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(required = true, value_name = "RECORDING", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<OsString>,

    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    #[command(flatten)]
    pub(crate) paths: PathsArgs,
    #[command(flatten)]
    pub(crate) filter: FilterFlags,

    /// At most so many lines
    #[arg(long, value_name = "N", env = "TIPPLE_RECORD_LIMIT")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    /// The folder that is recorded into
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) filter: FilterFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,

    /// End after so many lines
    #[arg(long, value_name = "N", env = "TIPPLE_RECORD_LIMIT")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Files, or folders of them
    #[arg(required = true, value_name = "RECORDING", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct SortArgs {
    #[command(flatten)]
    pub(crate) search: SearchArgs,

    /// The new file; standard output if it is not given
    #[arg(long, value_name = "FILE", env = "TIPPLE_RECORD_OUTPUT", value_hint = ValueHint::FilePath)]
    pub(crate) output_file: Option<PathBuf>,

    /// What does not fit into this memory waits in temporary files
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256MiB",
        env = "TIPPLE_RECORD_MEMORY"
    )]
    pub(crate) memory: ByteSize,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    pub(crate) search: SearchArgs,

    /// The fields that are columns, such as ts,mn,m.symbol; for Parquet with a type if it is not text, such as
    /// m.price:double, of text, json, integer, unsigned, double, bool, time [default: all fields of a line, the message as JSON]
    #[arg(
        long,
        value_name = "PATH",
        value_delimiter = ',',
        env = "TIPPLE_RECORD_COLUMNS"
    )]
    pub(crate) columns: Vec<String>,

    /// What the table is written as [default: parquet if the new file is called so, or else csv]
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        env = "TIPPLE_RECORD_FORMAT",
        hide_env_values = true
    )]
    pub(crate) format: Option<TableFormat>,

    /// The new file; standard output if it is not given
    #[arg(long, value_name = "FILE", env = "TIPPLE_RECORD_OUTPUT", value_hint = ValueHint::FilePath)]
    pub(crate) output_file: Option<PathBuf>,
}

impl ConvertArgs {
    pub(crate) fn table_format(&self) -> TableFormat {
        let is_parquet = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "parquet");
        let by_name = match self.output_file.as_ref().is_some_and(is_parquet) {
            true => TableFormat::Parquet,
            false => TableFormat::Csv,
        };
        self.format.unwrap_or(by_name)
    }
}

/// What a table is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    Csv,
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A recording
    #[arg(value_name = "LEFT", value_hint = ValueHint::AnyPath)]
    pub(crate) left: OsString,
    /// Another one
    #[arg(value_name = "RIGHT", value_hint = ValueHint::AnyPath)]
    pub(crate) right: OsString,

    /// Fields that may differ, such as m.time; * is any field or element
    #[arg(
        long,
        value_name = "PATH",
        value_delimiter = ',',
        env = "TIPPLE_RECORD_IGNORE"
    )]
    pub(crate) ignore: Vec<String>,

    #[command(flatten)]
    pub(crate) filter: FilterFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

/// Which lines are wanted.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which lines")]
pub(crate) struct FilterFlags {
    /// Of this trace
    #[arg(long, value_name = "NUMBER", env = "TIPPLE_RECORD_TRACE")]
    trace: Option<u64>,

    /// Not before this time: 2026-11-20T15:08:58Z, or nanoseconds of Unix time
    #[arg(long, value_name = "TIME", value_parser = time_ns, env = "TIPPLE_RECORD_FROM")]
    from: Option<u64>,

    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = time_ns, env = "TIPPLE_RECORD_TO")]
    to: Option<u64>,

    /// Of this message: Order, Event::Placed; of one of several
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "TIPPLE_RECORD_NAME"
    )]
    name: Vec<String>,

    /// Of this group; of one of several
    #[arg(
        long,
        value_name = "GROUP",
        value_delimiter = ',',
        env = "TIPPLE_RECORD_GROUP"
    )]
    group: Vec<String>,

    /// Of this key; of one of several
    #[arg(
        long,
        value_name = "KEY",
        value_delimiter = ',',
        env = "TIPPLE_RECORD_KEY"
    )]
    key: Vec<String>,

    /// Of this class; of one of several
    #[arg(
        long,
        value_name = "CLASS",
        value_delimiter = ',',
        env = "TIPPLE_RECORD_CLASS"
    )]
    class: Vec<String>,

    /// In this direction: in or out
    #[arg(long, value_name = "DIRECTION", value_parser = direction, env = "TIPPLE_RECORD_DIRECTION")]
    direction: Option<Direction>,

    /// With this number, or one from the first to the last: 7, 7..20
    #[arg(long, value_name = "NUMBERS", value_parser = numbers, env = "TIPPLE_RECORD_SEQ")]
    seq: Option<(u64, u64)>,

    /// With this correlation of a request and its response
    #[arg(long, value_name = "NUMBER", env = "TIPPLE_RECORD_CORRELATION")]
    correlation: Option<u64>,

    /// With a field that equals a value: m.symbol=BTCUSDT, m.price=1.5; all of several
    #[arg(long, value_name = "PATH=VALUE", env = "TIPPLE_RECORD_FIELD")]
    field: Vec<FieldEquals>,

    /// With this text anywhere
    #[arg(long, value_name = "TEXT", env = "TIPPLE_RECORD_TEXT")]
    text: Option<String>,
}

impl FilterFlags {
    pub(crate) fn filter(&self) -> Result<Filter, CliError> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return Err(CliError::usage(
                "--from is not before --to: give an earlier time",
            ));
        }
        Ok(Filter {
            trace: self.trace,
            from_ns: self.from,
            to_ns: self.to,
            names: self.name.clone(),
            groups: self.group.clone(),
            keys: self.key.clone(),
            classes: self.class.clone(),
            direction: self.direction,
            numbers: self.seq,
            correlation: self.correlation,
            fields: self.field.clone(),
            text: self.text.clone(),
            marks: false,
        })
    }
}

fn time_ns(text: &str) -> Result<u64, String> {
    if let Ok(ns) = text.parse() {
        return Ok(ns);
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        "give a time such as 2026-11-20T15:08:58Z, or nanoseconds of Unix time".to_owned()
    })?;
    u64::try_from(time.as_nanosecond()).map_err(|_| "give a time after 1970".to_owned())
}

fn direction(text: &str) -> Result<Direction, String> {
    match text.to_lowercase().as_str() {
        "in" => Ok(Direction::In),
        "out" => Ok(Direction::Out),
        _ => Err("give in or out".to_owned()),
    }
}

fn numbers(text: &str) -> Result<(u64, u64), String> {
    let wrong = || "give a number, or two such as 7..20".to_owned();
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (number(from)?, number(to.trim_start_matches('='))?),
        None => (number(text)?, number(text)?),
    };
    if from > to {
        Err(wrong())
    } else {
        Ok((from, to))
    }
}
