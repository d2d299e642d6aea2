//! Flags that several verbs take, in groups, and those that are many for one verb.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum, ValueHint};
use tipple_chunk::Codec;
use tipple_dump::PartRange;
use tipple_store::StoreOptions;
use tipple_stream::{Bound, PathTemplate, Speed, StreamSinkOptions};

use crate::ready::{Archived, Listing};
use crate::units::{self, ByteSize, Rate, Span, UnitError};

#[derive(Debug, Args)]
#[command(next_help_heading = "Job")]
pub(crate) struct ThreadFlags {
    /// Workers, 1 to 1024; each has its own connection to every server [default: one per core]
    #[arg(
        long,
        value_name = "N",
        env = "TIPPLE_THREADS",
        visible_alias = "connections",
        value_parser = threads
    )]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Job")]
pub(crate) struct JobFlags {
    #[command(flatten)]
    pub(crate) threads: ThreadFlags,

    /// At most so much a second: raw bytes (60MiB/s) or records (5000/s); give it twice for both [default: no limit]
    #[arg(long, value_name = "RATE", env = "TIPPLE_RATE", value_delimiter = ',', action = ArgAction::Append)]
    pub(crate) rate: Vec<Rate>,

    /// The most memory for buffers, codecs and connections; refused at the start if the job needs more [default: what it needs, printed at the start]
    #[arg(long, value_name = "SIZE", env = "TIPPLE_MEMORY")]
    pub(crate) memory: Option<ByteSize>,

    /// Only say what it would take: parts, bytes, time, memory and disk
    #[arg(long, env = "TIPPLE_DRY_RUN")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Job")]
pub(crate) struct BufferFlags {
    /// One buffer, 64KiB to 1GiB; each worker has two
    #[arg(long, value_name = "SIZE", env = "TIPPLE_BUFFER", default_value_t = ByteSize(8 << 20))]
    pub(crate) buffer: ByteSize,

    /// Where files wait: sealed chunks for their stores, key files for their turn; none keeps a dump's chunks in memory [default: inside a single local store, otherwise the system's folder for temporary files]
    #[arg(long, value_name = "DIR", env = "TIPPLE_SPOOL", value_hint = ValueHint::DirPath)]
    pub(crate) spool: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Job")]
pub(crate) struct SpoolFlags {
    /// The most bytes of sealed chunks on this disk, at least two chunks a thread; a full spool makes the source wait [default: three chunks a thread, and at least 1GiB if a store is not local]
    #[arg(long, value_name = "SIZE", env = "TIPPLE_SPOOL_LIMIT")]
    pub(crate) spool_limit: Option<ByteSize>,

    /// With several stores: all fails the job when one of them fails, any goes on without it
    #[arg(
        long,
        value_name = "POLICY",
        env = "TIPPLE_STORE_POLICY",
        default_value = "all"
    )]
    pub(crate) store_policy: Policy,

    /// With several stores: one that holds up the others for so long is left behind, and catches up from another store [default: never, the others wait]
    #[arg(long, value_name = "DURATION", env = "TIPPLE_DETACH_AFTER")]
    pub(crate) detach_after: Option<Span>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Buckets (s3://, gs://, az://)")]
pub(crate) struct FenceFlags {
    /// Nobody else writes to this prefix: needed where the server cannot refuse to overwrite, as `tipple doctor` says
    #[arg(long, env = "TIPPLE_SINGLE_WRITER")]
    pub(crate) single_writer: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Buckets (s3://, gs://, az://)")]
pub(crate) struct UploadFlags {
    #[command(flatten)]
    pub(crate) fence: FenceFlags,

    /// One part of an upload, 5MiB to 5GiB; what is not larger goes in one request
    #[arg(long, value_name = "SIZE", env = "TIPPLE_UPLOAD_PART_SIZE", default_value_t = ByteSize(16 << 20))]
    pub(crate) upload_part_size: ByteSize,

    /// Parts under way at once for all workers, 1 to 256; each has a buffer of the part's size
    #[arg(long, value_name = "N", env = "TIPPLE_UPLOAD_PARTS_IN_FLIGHT", default_value_t = 4, value_parser = parts_in_flight)]
    pub(crate) upload_parts_in_flight: usize,

    /// The most parts of one upload that the provider allows, 1 to 10000; parts of larger files grow
    #[arg(long, value_name = "N", env = "TIPPLE_UPLOAD_PARTS_MAX", default_value_t = 10_000, value_parser = parts_max)]
    pub(crate) upload_parts_max: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Files of the dump")]
pub(crate) struct ShapeFlags {
    /// The most raw bytes in one chunk (or data file), at least 1MiB; a larger record goes on in the next chunk
    #[arg(long, value_name = "SIZE", env = "TIPPLE_CHUNK_SIZE", default_value_t = ByteSize(64 << 20))]
    pub(crate) chunk_size: ByteSize,

    /// none, zstd or zstd:LEVEL, level 1 to 22, or below 0 for more speed; all are valid .zst files
    #[arg(long, value_name = "CODEC", env = "TIPPLE_COMPRESS", default_value_t = Codec::default())]
    pub(crate) compress: Codec,

    /// The files' layout
    #[arg(
        long,
        value_name = "NAME",
        env = "TIPPLE_LAYOUT",
        default_value = "tipple"
    )]
    pub(crate) layout: Layout,
}

/// What a failing store does to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// The job fails
    All,
    /// The job goes on without it
    Any,
}

/// The layout of a dump's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// Chunks in .zst files, with checksums; resumable
    Tipple,
    /// The data files of Netflix cachemover, version 0; for memcached sources, begins anew after a kill
    Cachemover,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct KeyFlags {
    /// The file of the keys: the first one seals a new dump, each of them opens what it has sealed; `tipple keygen` makes one [default: the dump is not sealed]
    #[arg(long, value_name = "FILE", env = "TIPPLE_ENCRYPT_KEY", value_hint = ValueHint::FilePath)]
    pub(crate) encrypt_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Parts")]
pub(crate) struct PartFlags {
    /// Accept an unfinished dump, and take its committed parts
    #[arg(long, env = "TIPPLE_PARTIAL")]
    pub(crate) partial: bool,

    /// Only these parts, counted from 0 in the order of their names, without TO
    #[arg(long, value_name = "FROM..TO", env = "TIPPLE_PARTS", value_parser = units::part_range)]
    pub(crate) parts: Option<PartRange>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "lines: and stream sources")]
pub(crate) struct LinesSourceFlags {
    /// Bytes of a file, or about so many of a stream, in one part, the unit of resume
    #[arg(long, value_name = "SIZE", env = "TIPPLE_PART_SIZE", default_value_t = ByteSize(256 << 20))]
    pub(crate) part_size: ByteSize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "stream sources")]
pub(crate) struct StreamFlags {
    /// The first event to read: a position, such as 42, or a time, such as 2026-11-21T12:00:00Z [default: the first one there is]
    #[arg(long, value_name = "PLACE", env = "TIPPLE_FROM")]
    pub(crate) from: Option<Bound>,

    /// The first event not to read, likewise [default: the end of the stream when the dump begins]
    #[arg(long, value_name = "PLACE", env = "TIPPLE_TO")]
    pub(crate) to: Option<Bound>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "stream sources")]
pub(crate) struct FollowFlags {
    /// Do not end at the end of the stream: wait for more, until interrupted; the same command goes on, and without --follow it finishes the dump
    #[arg(long, env = "TIPPLE_FOLLOW")]
    pub(crate) follow: bool,

    /// Follow the stream, but take only what it will soon forget: the older half of what its limits let it hold, or what is older than AGE, such as --archive=7d
    #[arg(long, value_name = "AGE", env = "TIPPLE_ARCHIVE", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub(crate) archive: Option<Archived>,

    /// With --follow or --archive: an event waits so long at most, then a part is made of what there is; or as soon as there are --part-size bytes
    #[arg(
        long,
        value_name = "DURATION",
        env = "TIPPLE_CHUNK_AGE",
        default_value = "1m"
    )]
    pub(crate) chunk_age: Span,
}

/// In which form other programs get events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormName {
    /// JSON lines, in .ndjson.zst files
    Ndjson,
    /// Parquet files
    Parquet,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Queries of streams")]
pub(crate) struct FormFlags {
    /// Write events as files below STORE/data that DuckDB, Spark or Athena read; such a dump can be verified, and not loaded. Without it, a stream is dumped as exact bytes, which can be loaded
    #[arg(long, value_name = "FORM", env = "TIPPLE_DUMP_FORMAT")]
    pub(crate) format: Option<FormName>,

    /// With --format, the folder of each event below STORE/data: text, {time:%Y-%m-%d} (UTC, %Y %m %d %H %M %S %j %F %G %V %u %y), {stream}, {key} or {subject}
    #[arg(long, value_name = "TEMPLATE", env = "TIPPLE_DUMP_PATH")]
    pub(crate) path: Option<PathTemplate>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "stream sinks")]
pub(crate) struct PaceFlags {
    /// Events come as far apart as they were, times this: 1 for the original timing, 10 for ten times as fast [default: as fast as it goes]
    #[arg(long, value_name = "FACTOR", env = "TIPPLE_SPEED")]
    pub(crate) speed: Option<Speed>,

    /// Write an event that is too large for a message of NATS as several, with headers that tell, instead of counting it as lost
    #[arg(long, env = "TIPPLE_SPLIT")]
    pub(crate) split: bool,
}

impl PaceFlags {
    pub(crate) fn options(&self) -> StreamSinkOptions {
        StreamSinkOptions {
            speed: self.speed,
            split: self.split,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "lines: and files: sinks")]
pub(crate) struct LinesSinkFlags {
    /// Replace the file if it exists, once the new one is whole
    #[arg(long, env = "TIPPLE_OVERWRITE")]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "memcached sources")]
pub(crate) struct ListingFlags {
    /// How keys are listed: auto, hash (misses nothing; memcached 1.6.9 or newer), all or all:PASSES (misses items that clients read meanwhile; 1 to 100 passes, what several find is dumped once)
    #[arg(
        long,
        value_name = "HOW",
        env = "TIPPLE_LISTING",
        default_value = "auto"
    )]
    pub(crate) listing: Listing,

    /// Keys of about so many listed bytes make one part, the unit of resume
    #[arg(long, value_name = "SIZE", env = "TIPPLE_KEY_FILE_SIZE", default_value_t = ByteSize(crate::ready::KEY_FILE_BYTES))]
    pub(crate) key_file_size: ByteSize,

    /// The most disk for key files [default: computed from the number of items]
    #[arg(long, value_name = "SIZE", env = "TIPPLE_KEY_SPACE")]
    pub(crate) key_space: Option<ByteSize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "memcached sinks")]
pub(crate) struct StoringFlags {
    /// What becomes of an item that is there already: set replaces it, add leaves it and counts it
    #[arg(
        long,
        value_name = "MODE",
        env = "TIPPLE_MODE",
        default_value = "set",
        hide_possible_values = true
    )]
    pub(crate) mode: Mode,
}

/// What becomes of an item that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// It is replaced
    Set,
    /// It stays
    Add,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Which items (memcached)")]
pub(crate) struct FilterFlags {
    /// Only keys that begin with this; may be given more than once
    #[arg(long, value_name = "PREFIX", env = "TIPPLE_KEY_PREFIX", action = ArgAction::Append)]
    pub(crate) key_prefix: Vec<String>,

    /// Only keys in which this regular expression matches
    #[arg(long, value_name = "REGEX", env = "TIPPLE_KEY_REGEX")]
    pub(crate) key_regex: Option<String>,

    /// Only items that live longer than this; those that never expire are kept
    #[arg(long, value_name = "DURATION", env = "TIPPLE_MIN_TTL", default_value_t = Span(std::time::Duration::ZERO))]
    pub(crate) min_ttl: Span,

    /// The hosts of a ketama ring, HOST:PORT[,HOST:PORT…], exactly as the clients name and order them; with --own
    #[arg(long, value_name = "HOSTS", env = "TIPPLE_RING", value_delimiter = ',')]
    pub(crate) ring: Vec<String>,

    /// Only keys that these hosts of the ring own
    #[arg(long, value_name = "HOSTS", env = "TIPPLE_OWN", value_delimiter = ',')]
    pub(crate) own: Vec<String>,

    /// Points of each host on the ring, also on the one that spreads a load over several servers
    #[arg(long, value_name = "N", env = "TIPPLE_RING_BUCKETS", value_parser = ring_buckets, default_value_t = tipple_memcached::BUCKET_DEFAULT)]
    pub(crate) ring_buckets: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connections (memcached)")]
pub(crate) struct ConnectionFlags {
    /// How long a connection may take to be made, at least 1ms
    #[arg(
        long,
        value_name = "DURATION",
        env = "TIPPLE_CONNECT_TIMEOUT",
        default_value = "5s"
    )]
    pub(crate) connect_timeout: Span,

    /// How long a server may keep silent while it owes an answer, at least 100ms
    #[arg(
        long,
        value_name = "DURATION",
        env = "TIPPLE_IO_TIMEOUT",
        default_value = "30s"
    )]
    pub(crate) io_timeout: Span,

    /// How often a connection is tried, the first time included, with growing pauses for at most 5 minutes
    #[arg(
        long,
        value_name = "N",
        env = "TIPPLE_ATTEMPTS",
        default_value_t = 10,
        value_parser = attempts
    )]
    pub(crate) attempts: u32,

    /// The user, for servers that ask; the password comes from --password-file or the variable TIPPLE_MEMCACHED_PASSWORD
    #[arg(long, env = "TIPPLE_USER")]
    pub(crate) user: Option<String>,

    /// A file with the password, or with user:password if --user is not given; the line end after it is ignored
    #[arg(long, value_name = "FILE", env = "TIPPLE_PASSWORD_FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,

    /// PEM file of certificates to trust instead of the system's
    #[arg(long, help_heading = "TLS (memcached, NATS, Redis)", value_name = "FILE", env = "TIPPLE_TLS_CA", value_hint = ValueHint::FilePath)]
    pub(crate) tls_ca: Option<PathBuf>,

    /// The name that the certificate must have, if it is not the host of the URL
    #[arg(
        long,
        help_heading = "TLS (memcached, NATS, Redis)",
        value_name = "NAME",
        env = "TIPPLE_TLS_NAME"
    )]
    pub(crate) tls_name: Option<String>,

    /// Believe any certificate: encrypted, but with whom is not known
    #[arg(
        long,
        help_heading = "TLS (memcached, NATS, Redis)",
        env = "TIPPLE_TLS_INSECURE"
    )]
    pub(crate) tls_insecure: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output and settings")]
pub(crate) struct OutputFlags {
    /// One JSON object a line on standard output; the last one is the report or the error
    #[arg(long, env = "TIPPLE_JSON")]
    pub(crate) json: bool,

    /// Only warnings, losses and errors on standard error
    #[arg(long, short, env = "TIPPLE_QUIET")]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) settings: SettingFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output and settings")]
pub(crate) struct WatchFlags {
    /// No progress on standard error
    #[arg(long, env = "TIPPLE_NO_PROGRESS")]
    pub(crate) no_progress: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output and settings")]
pub(crate) struct SettingFlags {
    /// Append what happens to this file, a line each, with UTC times
    #[arg(long, value_name = "FILE", env = "TIPPLE_LOG_FILE", value_hint = ValueHint::FilePath)]
    pub(crate) log_file: Option<PathBuf>,

    /// How much goes into the log file: error, warn, info, debug (every part)
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TIPPLE_LOG_LEVEL",
        default_value = "info",
        hide_possible_values = true
    )]
    pub(crate) log_level: Level,

    /// Settings file (TOML) [default: ~/.config/tipple/config.toml if it exists]
    #[arg(long, value_name = "FILE", env = "TIPPLE_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

/// How much goes into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Notifications")]
pub(crate) struct NotifyFlags {
    /// Tell of each chunk once it is in every store, and of the end: sqs://NAME, sqs://HOST/ACCOUNT/NAME, sqs://https://… with a queue's URL, or a webhook https://…; several, comma-separated in the variable, which hides a webhook's secret from other users
    #[arg(
        long,
        value_name = "URL",
        env = "TIPPLE_NOTIFY",
        value_delimiter = ',',
        action = ArgAction::Append
    )]
    pub(crate) notify: Vec<String>,

    /// What a message holds: json (FORMAT.md of tipple-dump), or the body that Netflix cachemover sends
    #[arg(
        long,
        value_name = "FORMAT",
        env = "TIPPLE_NOTIFY_FORMAT",
        default_value = "json",
        hide_possible_values = true
    )]
    pub(crate) notify_format: NoticeFormat,
}

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NoticeFormat {
    /// Everything that is known of a chunk, and a last message
    Json,
    /// The body that Netflix cachemover sends
    Cachemover,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "From a queue")]
pub(crate) struct FromQueueFlags {
    /// Apply chunks as the messages of `tipple dump --notify` tell of them, also while the dump still runs; ends when the dump is done and the queue is empty. Several loaders share a queue. For memcached sinks: sqs://NAME, sqs://HOST/ACCOUNT/NAME, or sqs://https://… with a queue's URL
    #[arg(long, value_name = "URL", env = "TIPPLE_FROM_QUEUE")]
    pub(crate) from_queue: Option<String>,

    /// Messages that a loader has received are seen by others again so long after it was killed, 3s to 12h
    #[arg(long, value_name = "DURATION", env = "TIPPLE_QUEUE_VISIBILITY", default_value_t = Span(std::time::Duration::from_secs(60)))]
    pub(crate) queue_visibility: Span,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Stopping the command")]
pub(crate) struct PausingFlags {
    /// The longest pause, at least 100ms; servers give up clients that are silent for longer (MySQL: net_write_timeout, 60s)
    #[arg(
        long,
        value_name = "DURATION",
        env = "TIPPLE_PAUSE_MAX",
        default_value = "45s"
    )]
    pub(crate) pause_max: Span,

    /// Pause with SIGTSTP first, which a program may catch, and with SIGSTOP 50ms later
    #[arg(long, env = "TIPPLE_GENTLE")]
    pub(crate) gentle: bool,

    /// How long the command may take to end after SIGTERM, before SIGKILL
    #[arg(
        long,
        value_name = "DURATION",
        env = "TIPPLE_GRACE",
        default_value = "10s"
    )]
    pub(crate) grace: Span,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Uploads")]
pub(crate) struct UploadingFlags {
    /// Uploads at a time, 1 to 1024
    #[arg(
        long,
        value_name = "N",
        env = "TIPPLE_THREADS",
        value_parser = threads,
        default_value_t = 4
    )]
    pub(crate) threads: usize,

    /// How often an upload is tried, the first time included, with growing pauses for at most 5 minutes
    #[arg(
        long,
        value_name = "N",
        env = "TIPPLE_ATTEMPTS",
        default_value_t = 10,
        value_parser = attempts
    )]
    pub(crate) attempts: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "mydumper, where no COMMAND is given")]
pub(crate) struct MydumperFlags {
    /// The server's host; localhost is its socket
    #[arg(
        long,
        value_name = "HOST",
        env = "TIPPLE_MYSQL_HOST",
        default_value = "localhost"
    )]
    pub(crate) mysql_host: String,

    /// The server's port
    #[arg(
        long,
        value_name = "PORT",
        env = "TIPPLE_MYSQL_PORT",
        default_value_t = 3306
    )]
    pub(crate) mysql_port: u16,

    /// The user
    #[arg(
        long,
        value_name = "USER",
        env = "TIPPLE_MYSQL_USER",
        default_value = "root"
    )]
    pub(crate) mysql_user: String,

    /// A file with the password, whose line end is ignored; or give it in the variable TIPPLE_MYSQL_PASSWORD
    #[arg(long, value_name = "FILE", env = "TIPPLE_MYSQL_PASSWORD_FILE", value_hint = ValueHint::FilePath)]
    pub(crate) mysql_password_file: Option<PathBuf>,

    /// Tables are split into files of about so many bytes, in whole MiB
    #[arg(long, value_name = "SIZE", env = "TIPPLE_MYDUMPER_CHUNK_SIZE", default_value_t = ByteSize(1 << 20))]
    pub(crate) mydumper_chunk_size: ByteSize,
}

fn threads(text: &str) -> Result<usize, UnitError> {
    units::number(text, "threads", 1, 1024).map(|n| n as usize)
}

fn parts_in_flight(text: &str) -> Result<usize, UnitError> {
    let most = StoreOptions::PARTS_IN_FLIGHT_MAX as u64;
    units::number(text, "parts in flight", 1, most).map(|n| n as usize)
}

fn parts_max(text: &str) -> Result<u32, UnitError> {
    let most = u64::from(StoreOptions::PARTS_MAX);
    units::number(text, "parts", 1, most).map(|n| n as u32)
}

fn attempts(text: &str) -> Result<u32, UnitError> {
    units::number(text, "attempts", 1, 1000).map(|n| n as u32)
}

fn ring_buckets(text: &str) -> Result<usize, UnitError> {
    // More than a million points for each host help nobody; what else is asked of it, the ring says.
    units::number(text, "points", 1, 1_000_000).map(|n| n as usize)
}
