//! What a user may type: the verbs and what each takes. Flags of several verbs are in [`flags`].

mod flags;
pub(crate) mod snapshot;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Command, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use tipple_chunk::KeyId;

pub(crate) use self::flags::*;
use self::snapshot::SnapshotArgs;
use crate::help;
use crate::units::{self, ByteSize, Span, UnitError};

/// The command with all its verbs. Two rules hold for every flag, so that none can forget them: help names its variable and
/// never shows the variable's value, which may be a secret; and the variable of a switch takes yes or no in any usual spelling.
pub(crate) fn command() -> Command {
    with_rules(Cli::command())
}

fn with_rules(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let arg = arg.hide_env_values(true);
        match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            _ => arg,
        }
    });
    command.mut_subcommands(with_rules)
}

/// Gets data out of live systems into verified files, and back.
#[derive(Debug, Parser)]
#[command(
    name = "tipple",
    version,
    long_about = help::ABOUT,
    after_help = help::AFTER,
    after_long_help = help::AFTER_LONG,
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// From a live system into a folder of verified files
    #[command(long_about = help::DUMP, after_long_help = help::DUMP_EXAMPLES)]
    Dump(Box<DumpArgs>),
    /// From a dump back into a live system
    #[command(long_about = help::LOAD, after_long_help = help::LOAD_EXAMPLES)]
    Load(Box<LoadArgs>),
    /// Straight from one live system into another, no files in between
    #[command(long_about = help::COPY, after_long_help = help::COPY_EXAMPLES)]
    Copy(Box<CopyArgs>),
    /// Checks a dump: every checksum, every count
    #[command(long_about = help::VERIFY, after_long_help = help::VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Shows what is in a dump
    #[command(long_about = help::LIST, after_long_help = help::LIST_EXAMPLES)]
    List(ListArgs),
    /// Prints the records of a dump, one JSON object a line
    #[command(long_about = help::CAT, after_long_help = help::CAT_EXAMPLES)]
    Cat(CatArgs),
    /// Removes what unfinished attempts left in a dump
    #[command(long_about = help::PRUNE, after_long_help = help::PRUNE_EXAMPLES)]
    Prune(PruneArgs),
    /// Appends events from standard input to an embedded stream
    #[command(long_about = help::APPEND, after_long_help = help::APPEND_EXAMPLES)]
    Append(AppendArgs),
    /// Makes a key for sealed dumps
    #[command(long_about = help::KEYGEN, after_long_help = help::KEYGEN_EXAMPLES)]
    Keygen(KeygenArgs),
    /// Runs a command that writes files, inside a disk budget, and stores its files
    #[command(long_about = help::SUPERVISE, after_long_help = help::SUPERVISE_EXAMPLES)]
    Supervise(Box<SuperviseArgs>),
    /// Looks at snapshots of a service's cache, and tidies them up
    #[command(long_about = help::SNAPSHOT, after_long_help = help::SNAPSHOT_EXAMPLES)]
    Snapshot(SnapshotArgs),
    /// Searches, checks and converts recordings of programs
    #[command(long_about = help::RECORD, after_long_help = help::RECORD_EXAMPLES)]
    Record(Box<crate::record::RecordArgs>),
    /// Says what a store or a source can do
    #[command(long_about = help::DOCTOR, after_long_help = help::DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Shows all of it on real data in a temporary folder
    #[command(long_about = help::TOUR, after_long_help = help::TOUR_EXAMPLES)]
    Tour(TourArgs),
    /// Prints the completions of a shell
    #[command(long_about = help::COMPLETIONS, after_long_help = help::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Prints a manual page
    #[command(long_about = help::MAN, after_long_help = help::MAN_EXAMPLES)]
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// What to dump: memcached://HOST:PORT[,HOST:PORT…], memcacheds://… (TLS), memcached:///PATH.sock, log:FOLDER, nats://HOST:PORT/STREAM, redis://HOST:PORT/KEY, lines:FILE, or - for the lines of standard input
    pub(crate) source: OsString,

    /// Where the dump goes: an empty or new folder, or that of the same dump when it was broken off; the same dump goes to each of several
    #[arg(value_hint = ValueHint::DirPath, required = true, value_name = "STORE")]
    pub(crate) stores: Vec<OsString>,

    #[command(flatten)]
    pub(crate) job: JobFlags,
    #[command(flatten)]
    pub(crate) buffers: BufferFlags,
    #[command(flatten)]
    pub(crate) shape: ShapeFlags,
    #[command(flatten)]
    pub(crate) upload: UploadFlags,
    #[command(flatten)]
    pub(crate) notify: NotifyFlags,
    #[command(flatten)]
    pub(crate) spool: SpoolFlags,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
    #[command(flatten)]
    pub(crate) lines: LinesSourceFlags,
    #[command(flatten)]
    pub(crate) stream: StreamFlags,
    #[command(flatten)]
    pub(crate) follow: FollowFlags,
    #[command(flatten)]
    pub(crate) form: FormFlags,
    #[command(flatten)]
    pub(crate) listing: ListingFlags,
    #[command(flatten)]
    pub(crate) filter: FilterFlags,
    #[command(flatten)]
    pub(crate) connection: ConnectionFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) watch: WatchFlags,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The dump: its folder, also one in the cachemover layout, or s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) store: OsString,

    /// Where the records go: memcached://HOST:PORT[,HOST:PORT…], memcacheds://… (TLS), memcached:///PATH.sock, log:FOLDER, nats://HOST:PORT/STREAM, redis://HOST:PORT/KEY, lines:FILE, - for standard output, or files:FOLDER for files that `tipple supervise` stored
    pub(crate) sink: OsString,

    #[command(flatten)]
    pub(crate) job: JobFlags,
    #[command(flatten)]
    pub(crate) parts: PartFlags,

    /// Keep in this folder how far the load is, so that the same command goes on after a kill; for memcached sinks
    #[arg(long, value_name = "DIR", env = "TIPPLE_STATE", value_hint = ValueHint::DirPath, help_heading = "Job")]
    pub(crate) state: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) from_queue: FromQueueFlags,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
    #[command(flatten)]
    pub(crate) lines: LinesSinkFlags,
    #[command(flatten)]
    pub(crate) pace: PaceFlags,
    #[command(flatten)]
    pub(crate) storing: StoringFlags,
    #[command(flatten)]
    pub(crate) filter: FilterFlags,
    #[command(flatten)]
    pub(crate) connection: ConnectionFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) watch: WatchFlags,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// What to copy: memcached://HOST:PORT[,HOST:PORT…], memcacheds://… (TLS), memcached:///PATH.sock, log:FOLDER, nats://HOST:PORT/STREAM, redis://HOST:PORT/KEY, lines:FILE, -, or a folder in the cachemover layout
    pub(crate) source: OsString,

    /// Where the records go: memcached://HOST:PORT[,HOST:PORT…], memcacheds://… (TLS), memcached:///PATH.sock, log:FOLDER, nats://HOST:PORT/STREAM, redis://HOST:PORT/KEY, lines:FILE, or - for standard output
    pub(crate) sink: OsString,

    #[command(flatten)]
    pub(crate) job: JobFlags,
    #[command(flatten)]
    pub(crate) buffers: BufferFlags,
    #[command(flatten)]
    pub(crate) lines: LinesSourceFlags,
    #[command(flatten)]
    pub(crate) stream: StreamFlags,
    #[command(flatten)]
    pub(crate) lines_sink: LinesSinkFlags,
    #[command(flatten)]
    pub(crate) listing: ListingFlags,
    #[command(flatten)]
    pub(crate) pace: PaceFlags,
    #[command(flatten)]
    pub(crate) storing: StoringFlags,
    #[command(flatten)]
    pub(crate) filter: FilterFlags,
    #[command(flatten)]
    pub(crate) connection: ConnectionFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) watch: WatchFlags,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The dump: its folder, also one in the cachemover layout, or s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) store: OsString,

    /// Only the checksums of the stored bytes; no frame is decoded and no record read
    #[arg(long, env = "TIPPLE_QUICK")]
    pub(crate) quick: bool,

    /// Accept an unfinished dump, and verify its committed parts
    #[arg(long, env = "TIPPLE_PARTIAL")]
    pub(crate) partial: bool,

    /// Only say what it would take: parts, bytes, time and memory
    #[arg(long, env = "TIPPLE_DRY_RUN")]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) threads: ThreadFlags,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) watch: WatchFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The dump: its folder, also one in the cachemover layout, or s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) store: OsString,

    /// Show every part and its chunks
    #[arg(long, env = "TIPPLE_LIST_PARTS")]
    pub(crate) parts: bool,

    /// Only say what it would take: bytes, time and memory
    #[arg(long, env = "TIPPLE_DRY_RUN")]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) key: KeyFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// The dump: its folder, also one in the cachemover layout, or s3://BUCKET/PREFIX, gs://…, az://…; or an embedded stream, log:FOLDER
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) store: OsString,

    /// At most so many records
    #[arg(long, value_name = "N", env = "TIPPLE_LIMIT", value_parser = limit)]
    pub(crate) limit: Option<u64>,

    /// The bytes of the records as they are instead of JSON, where the content has such a form: lines, and of events the payload with a newline
    #[arg(long, env = "TIPPLE_RAW")]
    pub(crate) raw: bool,

    #[command(flatten)]
    pub(crate) parts: PartFlags,
    #[command(flatten)]
    pub(crate) stream: StreamFlags,
    #[command(flatten)]
    pub(crate) key: KeyFlags,
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// The dump: its folder, or s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) store: OsString,

    /// Delete what is shown; without it, nothing is touched
    #[arg(long, env = "TIPPLE_YES")]
    pub(crate) yes: bool,

    /// Also in an unfinished dump, whose writer might still be at work elsewhere
    #[arg(long, env = "TIPPLE_FORCE")]
    pub(crate) force: bool,

    /// In an unfinished dump, only staged files that nobody has written to for so long
    #[arg(long, value_name = "DURATION", env = "TIPPLE_OLDER_THAN")]
    pub(crate) older_than: Option<Span>,

    /// Only show what could be deleted, even with --yes
    #[arg(long, env = "TIPPLE_DRY_RUN")]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) fence: FenceFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct AppendArgs {
    /// The stream: log:FOLDER, which is made if it is not there
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) log: OsString,

    /// How standard input says events
    #[arg(
        long,
        value_name = "FORMAT",
        env = "TIPPLE_FORMAT",
        default_value = "lines"
    )]
    pub(crate) format: AppendFormat,

    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

/// How text says events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AppendFormat {
    /// Each line is the payload of an event
    Lines,
    /// Each line is a JSON object: key, headers, payload, time, as `tipple cat` prints them
    Ndjson,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// The new key file, which nobody else may read
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// The key's name, which every dump that it seals tells: 1 to 32 of A-Z a-z 0-9 . _ - [default: key- and random digits]
    #[arg(long, value_name = "NAME", env = "TIPPLE_KEY_NAME")]
    pub(crate) name: Option<KeyId>,

    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct SuperviseArgs {
    /// Where the files go: an empty or new folder, or that of the same command when it was broken off; if it is not given, what TIPPLE_STORE says
    #[arg(env = "TIPPLE_STORE", hide_env = true, value_hint = ValueHint::DirPath)]
    pub(crate) store: OsString,

    /// The command and its arguments, after --; {dir} in an argument is replaced by the folder [default: mydumper, as the flags below say]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// The folder that the command writes into; everything in it is stored and removed
    #[arg(long, value_name = "DIR", env = "TIPPLE_SUPERVISE_DIR", value_hint = ValueHint::DirPath, help_heading = "Folder")]
    pub(crate) dir: PathBuf,

    /// The most bytes in the folder, at least 2MiB; the command is stopped before it passes that
    #[arg(
        long,
        value_name = "SIZE",
        env = "TIPPLE_SUPERVISE_LIMIT",
        help_heading = "Folder"
    )]
    pub(crate) limit: ByteSize,

    /// Names, with * for any characters, that are not taken while the command runs, since it renames them or comes back to them
    #[arg(long, value_name = "NAMES", env = "TIPPLE_HOLD", value_delimiter = ',', action = ArgAction::Append, default_value = ".*,*.tmp,*.partial,*.part", help_heading = "Folder")]
    pub(crate) hold: Vec<String>,

    /// Where it is noted whose the folder is, outside of it [default: DIR.tipple]
    #[arg(long, value_name = "DIR", env = "TIPPLE_SUPERVISE_STATE", value_hint = ValueHint::DirPath, help_heading = "Folder")]
    pub(crate) state: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) pausing: PausingFlags,
    #[command(flatten)]
    pub(crate) uploading: UploadingFlags,
    #[command(flatten)]
    pub(crate) upload: UploadFlags,
    #[command(flatten)]
    pub(crate) mydumper: MydumperFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) watch: WatchFlags,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A store (a folder, s3://BUCKET/PREFIX) or a source (memcached://…, lines:FILE)
    pub(crate) what: OsString,

    #[command(flatten)]
    pub(crate) connection: ConnectionFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct TourArgs {
    /// Keep the temporary folder
    #[arg(long, env = "TIPPLE_KEEP")]
    pub(crate) keep: bool,

    #[command(flatten)]
    pub(crate) settings: SettingFlags,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The verb whose page is printed; without it, the page of tipple itself
    pub(crate) verb: Option<String>,

    /// Write all pages into this folder instead
    #[arg(long, value_name = "DIR", env = "TIPPLE_MAN_DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}

fn limit(text: &str) -> Result<u64, UnitError> {
    units::number(text, "records", 0, u64::MAX)
}
