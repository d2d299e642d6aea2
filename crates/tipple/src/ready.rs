//! From what the user typed to objects that can work.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use tipple_budget::Rates;
use tipple_chunk::{ChunkError, KeyRing};
use tipple_dump::{
    CopyOptions, DumpOptions, LoadOptions, NotifyFormat, NotifyOptions, NotifyTarget,
    QueueLoadOptions, SpoolPlace, StorePolicy, VerifyOptions,
};
use tipple_flow::{Content, Form, Sink, Source};
use tipple_lines::{Lines, LinesOptions, LinesSink, LinesSource};
use tipple_memcached::{
    CachemoverSource, Credentials, Filter, FilterOptions, ItemsContent, MemcachedOptions,
    MemcachedSink, MemcachedSource, RetryOptions, SinkOptions, SourceOptions, StoreMode,
    TlsOptions,
};
use tipple_store::{StoreOptions, StoreUrl};
use tipple_stream::{Archive, Events, Follow, FormKind, Ndjson, Parquet, StreamOptions, StreamUrl};

use crate::cli::{
    BufferFlags, ConnectionFlags, FenceFlags, FilterFlags, FollowFlags, FormFlags, FormName,
    FromQueueFlags, JobFlags, KeyFlags, LinesSinkFlags, LinesSourceFlags, ListingFlags, Mode,
    NoticeFormat, NotifyFlags, PartFlags, Policy, ShapeFlags, SpoolFlags, StoringFlags,
    StreamFlags, ThreadFlags, UploadFlags,
};
use crate::endpoint::{SinkUrl, SourceUrl};
use crate::error::{CliError, Kind};
use crate::output::Output;
use crate::units::{Span, UnitError, rates};

/// Raw bytes of a key file: [`SourceOptions`]' default, as a constant for `--help`.
pub(crate) const KEY_FILE_BYTES: u64 = 4 << 20;

const PASSWORD_VARIABLE: &str = "TIPPLE_MEMCACHED_PASSWORD";

/// What stores are told: the variables of the clouds. For a look at a bucket this is all.
pub(crate) fn store_options() -> StoreOptions {
    let variables = env::vars_os().filter_map(|(name, value)| {
        // What is not UTF-8 says nothing to a store.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    StoreOptions::default().with_variables(variables)
}

/// Who is told of a dump.
pub(crate) fn notify_options(flags: &NotifyFlags) -> Result<NotifyOptions, CliError> {
    // An empty variable is none.
    let given = flags.notify.iter().filter(|text| !text.is_empty());
    let targets = given.map(|text| text.parse::<NotifyTarget>());
    Ok(NotifyOptions {
        targets: (targets.collect::<Result<_, _>>())
            .map_err(|error| CliError::from(error).of("--notify"))?,
        format: match flags.notify_format {
            NoticeFormat::Json => NotifyFormat::Json,
            NoticeFormat::Cachemover => NotifyFormat::Cachemover,
        },
        services: store_options(),
    })
}

/// The queue that chunks are told of in, if there is one.
pub(crate) fn from_queue(flags: &FromQueueFlags) -> Result<Option<NotifyTarget>, CliError> {
    let Some(text) = flags.from_queue.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let target = text.parse::<NotifyTarget>();
    (target.map(Some)).map_err(|error| CliError::from(error).of("--from-queue"))
}

pub(crate) fn queue_load_options(
    job: &JobFlags,
    flags: &FromQueueFlags,
    keys: Option<KeyRing>,
) -> Result<QueueLoadOptions, CliError> {
    let options = QueueLoadOptions {
        threads: threads(&job.threads),
        memory_bytes_max: job.memory.map(|size| size.0),
        visibility: flags.queue_visibility.0,
        services: store_options(),
        keys,
        ..QueueLoadOptions::default()
    };
    options.validate()?;
    Ok(options)
}

/// The same, with what is known of writers.
pub(crate) fn fenced(flags: &FenceFlags) -> StoreOptions {
    StoreOptions {
        single_writer: flags.single_writer,
        ..store_options()
    }
}

/// The same, for uploads.
pub(crate) fn upload_options(flags: &UploadFlags) -> Result<StoreOptions, CliError> {
    let sizes = StoreOptions::PART_BYTES_MIN..=StoreOptions::PART_BYTES_MAX;
    if !sizes.contains(&flags.upload_part_size.0) {
        return Err(CliError::usage(format!(
            "--upload-part-size {}: give 5MiB to 5GiB",
            flags.upload_part_size
        )));
    }
    Ok(StoreOptions {
        part_bytes: flags.upload_part_size.0,
        parts_in_flight: flags.upload_parts_in_flight,
        parts_max: flags.upload_parts_max,
        ..fenced(&flags.fence)
    })
}

/// The contents that this program knows.
pub(crate) const CONTENTS: &[&dyn Content] = &[&ItemsContent, &Lines, &Events, &Ndjson, &Parquet];

/// How keys are listed, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listing(pub(crate) tipple_memcached::Listing);

impl FromStr for Listing {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        use tipple_memcached::Listing as L;
        let passes = match text {
            "auto" => return Ok(Self(L::Auto)),
            "hash" => return Ok(Self(L::Hash)),
            "all" => Some(1),
            _ => text.strip_prefix("all:").and_then(|n| n.parse().ok()),
        };
        match passes {
            Some(passes) if (1..=L::PASSES_MAX).contains(&passes) => Ok(Self(L::All { passes })),
            _ => Err(UnitError::new(format!(
                "{text:?} is no way to list keys: give auto, hash, all or all:PASSES with 1 to {} passes, such as all:3",
                L::PASSES_MAX
            ))),
        }
    }
}

/// Which flags the user typed on the command line: those must fit the sources and sinks that were given.
pub(crate) struct Typed<'a> {
    pub(crate) matches: &'a ArgMatches,
}

const FOLLOW_FLAGS: &[&str] = &["follow", "archive", "chunk_age"];
const FORM_FLAGS: &[&str] = &["format", "path"];
pub(crate) const STREAM_FLAGS: &[&str] = &["from", "to"];
const LISTING_FLAGS: &[&str] = &["listing", "key_file_size", "key_space"];
const FILTER_FLAGS: &[&str] = &[
    "key_prefix",
    "key_regex",
    "min_ttl",
    "ring",
    "own",
    "ring_buckets",
];
const BUCKET_FLAGS: &[&str] = &[
    "single_writer",
    "upload_part_size",
    "upload_parts_in_flight",
    "upload_parts_max",
];
const STORING_FLAGS: &[&str] = &["mode"];
const CONNECTION_FLAGS: &[&str] = &[
    "connect_timeout",
    "io_timeout",
    "attempts",
    "user",
    "password_file",
];
const TLS_FLAGS: &[&str] = &["tls_ca", "tls_name", "tls_insecure"];

impl Typed<'_> {
    pub(crate) fn has(&self, flag: &str) -> bool {
        // A verb without the flag has no such id, and asking for it would be a mistake in the program.
        self.matches.ids().any(|id| id.as_str() == flag)
            && self.matches.value_source(flag) == Some(ValueSource::CommandLine)
    }

    /// Refuses a flag that would have no effect.
    pub(crate) fn refuse(&self, flags: &[&str], why: &str) -> Result<(), CliError> {
        match flags.iter().find(|flag| self.has(flag)) {
            Some(flag) => Err(CliError::usage(format!(
                "--{} {why}: leave it out",
                flag.replace('_', "-")
            ))),
            None => Ok(()),
        }
    }

    /// Refuses what a source does not understand.
    pub(crate) fn fit_source(&self, source: &SourceUrl) -> Result<(), CliError> {
        if !matches!(source, SourceUrl::Memcached(_)) {
            let why = format!(
                "is for memcached sources, and {source} is {}",
                source.kind()
            );
            self.refuse(LISTING_FLAGS, &why)?;
        }
        if !matches!(source, SourceUrl::Lines(_) | SourceUrl::Stream(_)) {
            let why = format!("is for lines: files and streams, and the source is {source}");
            self.refuse(&["part_size"], &why)?;
        }
        if !matches!(source, SourceUrl::Stream(_)) {
            let why = format!("is for streams, and the source is {source}");
            self.refuse(STREAM_FLAGS, &why)?;
            self.refuse(FOLLOW_FLAGS, &why)?;
            self.refuse(FORM_FLAGS, &why)?;
        }
        Ok(())
    }

    /// Refuses what a sink does not understand.
    pub(crate) fn fit_sink(&self, sink: &SinkUrl) -> Result<(), CliError> {
        if !matches!(sink, SinkUrl::Memcached(_)) {
            let why = format!("is for memcached sinks, and {sink} is {}", sink.kind());
            self.refuse(STORING_FLAGS, &why)?;
        }
        if !matches!(sink, SinkUrl::Lines(_) | SinkUrl::Files(_)) {
            let why = format!("is for lines: files, and the sink is {sink}");
            self.refuse(&["overwrite"], &why)?;
        }
        if !matches!(sink, SinkUrl::Stream(_)) {
            let why = format!("is for streams, and the sink is {sink}");
            self.refuse(&["speed"], &why)?;
        }
        if !matches!(sink, SinkUrl::Stream(StreamUrl::Nats(_))) {
            let why = format!("is for streams of NATS, and the sink is {sink}");
            self.refuse(&["split"], &why)?;
        }
        Ok(())
    }

    /// Refuses flags of buckets where there is none.
    pub(crate) fn fit_stores(&self, stores: &[StoreUrl]) -> Result<(), CliError> {
        match stores {
            [first, ..] if !stores.iter().any(StoreUrl::is_remote) => {
                let why = format!("is for s3://, gs:// and az:// stores, and {first} is none");
                self.refuse(BUCKET_FLAGS, &why)
            }
            _ => Ok(()),
        }
    }

    /// Refuses flags of memcached where there is none on either side, and those of TLS where nothing speaks it.
    pub(crate) fn fit_connections(&self, memcached: bool, tls: bool) -> Result<(), CliError> {
        if !tls {
            let why = "is for memcached, NATS and Redis, which are on neither side";
            self.refuse(TLS_FLAGS, why)?;
        }
        if memcached {
            return Ok(());
        }
        let why = "is for memcached, which is on neither side";
        self.refuse(FILTER_FLAGS, why)?;
        self.refuse(CONNECTION_FLAGS, why)
    }
}

/// The flags that describe memcached, together.
pub(crate) struct MemcachedFlags<'a> {
    pub(crate) connection: &'a ConnectionFlags,
    pub(crate) filter: &'a FilterFlags,
}

impl MemcachedFlags<'_> {
    fn filter_options(&self) -> FilterOptions {
        let flags = self.filter;
        FilterOptions {
            prefixes: flags.key_prefix.clone(),
            regex: flags.key_regex.clone(),
            min_ttl_s: flags.min_ttl.0.as_secs() + u64::from(flags.min_ttl.0.subsec_nanos() > 0),
            ring: flags.ring.clone(),
            own: flags.own.clone(),
            ring_bucket: flags.ring_buckets,
        }
    }
}

/// How seldom a stream is looked at that is archived.
const ARCHIVE_PACE_MAX: Duration = Duration::from_secs(5);

fn followed(flags: &FollowFlags) -> Option<Follow> {
    let archive = flags.archive.map(|archived| archived.0);
    let follow = Follow::default();
    (flags.follow || archive.is_some()).then(|| Follow {
        age: flags.chunk_age.0,
        // Where the age of events counts, looking takes the server more than a glance.
        pace: match archive {
            Some(_) => flags.chunk_age.0.clamp(follow.pace, ARCHIVE_PACE_MAX),
            None => follow.pace,
        },
        archive,
    })
}

/// What is archived, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Archived(Archive);

impl FromStr for Archived {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        Ok(Self(match text {
            "auto" => Archive::OlderHalf,
            age => Archive::OlderThan(age.parse::<Span>()?.0),
        }))
    }
}

pub(crate) fn source(
    url: &SourceUrl,
    lines: &LinesSourceFlags,
    stream: &StreamFlags,
    follow: Option<&FollowFlags>,
    listing: &ListingFlags,
    memcached: &MemcachedFlags<'_>,
) -> Result<Box<dyn Source>, CliError> {
    Ok(match url {
        SourceUrl::Stream(url) => url.source(StreamOptions {
            from: stream.from,
            to: stream.to,
            follow: follow.and_then(followed),
            part_bytes: lines.part_size.0,
        })?,
        SourceUrl::Memcached(url) => Box::new(MemcachedSource::new(
            url.clone(),
            connection(memcached.connection)?,
            SourceOptions {
                filter: memcached.filter_options(),
                listing: listing.listing.0,
                key_file_bytes: listing.key_file_size.0,
                key_space_bytes: listing.key_space.map(|size| size.0),
                ..SourceOptions::default()
            },
        )?),
        SourceUrl::Lines(path) => Box::new(LinesSource::file(
            path,
            LinesOptions {
                part_bytes: lines.part_size.0,
                ..LinesOptions::default()
            },
        )?),
        SourceUrl::Stdin => Box::new(LinesSource::stdin()),
        SourceUrl::Cachemover(path) => Box::new(CachemoverSource::open(path)?),
    })
}

/// The form in which events of `url` are written, if one was asked for.
pub(crate) fn form(
    url: &SourceUrl,
    flags: &FormFlags,
    shape: &ShapeFlags,
) -> Result<Option<Arc<dyn Form>>, CliError> {
    let SourceUrl::Stream(url) = url else {
        return Ok(None);
    };
    let Some(name) = flags.format else {
        return match &flags.path {
            None => Ok(None),
            Some(path) => Err(CliError::usage(format!(
                "--path {} is for --format ndjson or parquet: give one, or leave it out",
                path.as_str()
            ))),
        };
    };
    let kind = match name {
        FormName::Ndjson => FormKind::Ndjson,
        FormName::Parquet => FormKind::Parquet,
    };
    let form = url.form(kind, flags.path.clone(), shape.compress);
    Ok(Some(Arc::new(form)))
}

/// A finished cachemover folder, or an unfinished one where that is accepted.
pub(crate) fn cachemover(path: &Path, partial: bool) -> Result<CachemoverSource, CliError> {
    Ok(match partial {
        true => CachemoverSource::open_partial(path)?,
        false => CachemoverSource::open(path)?,
    })
}

/// `filtering`: whether the sink is where items are chosen; a copy chooses at its source.
pub(crate) fn sink(
    url: &SinkUrl,
    lines: &LinesSinkFlags,
    storing: &StoringFlags,
    memcached: &MemcachedFlags<'_>,
    filtering: bool,
) -> Result<Box<dyn Sink>, CliError> {
    Ok(match url {
        SinkUrl::Stream(url) => url.sink()?,
        SinkUrl::Memcached(url) => {
            let filter = if filtering {
                Filter::new(memcached.filter_options())?
            } else {
                Filter::default()
            };
            Box::new(MemcachedSink::new(
                url.clone(),
                connection(memcached.connection)?,
                SinkOptions {
                    mode: match storing.mode {
                        Mode::Set => StoreMode::Set,
                        Mode::Add => StoreMode::Add,
                    },
                    filter,
                    ring_bucket: memcached.filter.ring_buckets,
                    ..SinkOptions::default()
                },
            )?)
        }
        SinkUrl::Lines(path) => Box::new(LinesSink::file(
            path,
            LinesOptions {
                overwrite: lines.overwrite,
                ..LinesOptions::default()
            },
        )?),
        SinkUrl::Stdout => Box::new(LinesSink::stdout()?),
        SinkUrl::Files(path) => {
            return Err(CliError::usage(format!(
                "files:{} takes files that `tipple supervise` stored, and not records",
                path.display()
            )));
        }
    })
}

/// How to speak TLS, if anything is said of it.
pub(crate) fn tls(flags: &ConnectionFlags) -> Option<TlsOptions> {
    let wants_tls = flags.tls_ca.is_some() || flags.tls_name.is_some() || flags.tls_insecure;
    wants_tls.then(|| TlsOptions {
        ca_file: flags.tls_ca.clone(),
        insecure: flags.tls_insecure,
        server_name: flags.tls_name.clone(),
    })
}

pub(crate) fn connection(flags: &ConnectionFlags) -> Result<MemcachedOptions, CliError> {
    let options = MemcachedOptions {
        tls: tls(flags),
        auth: credentials(flags)?,
        connect_timeout: flags.connect_timeout.0,
        io_timeout: flags.io_timeout.0,
        retry: RetryOptions {
            attempts_max: flags.attempts,
            ..RetryOptions::default()
        },
        ..MemcachedOptions::default()
    };
    options.validate()?;
    Ok(options)
}

fn credentials(flags: &ConnectionFlags) -> Result<Option<Credentials>, CliError> {
    let from_file = flags
        .password_file
        .as_deref()
        .map(|path| {
            crate::config::read_small(path).map_err(|error| {
                CliError::new(
                    Kind::Usage,
                    format!("--password-file {}: {error}", path.display()),
                )
            })
        })
        .transpose()?;
    let password = match from_file {
        Some(password) => Some(password),
        None => match env::var(PASSWORD_VARIABLE) {
            Ok(password) => Some(password),
            Err(env::VarError::NotPresent) => None,
            Err(env::VarError::NotUnicode(_)) => {
                return Err(CliError::usage(format!("{PASSWORD_VARIABLE} is not UTF-8")));
            }
        },
    };
    match (&flags.user, password) {
        (None, None) => Ok(None),
        (Some(user), Some(password)) => {
            let password = password.trim_end_matches(['\r', '\n']);
            Ok(Some(Credentials::new(user, password)?))
        }
        // memcached's own file has both in a line.
        (None, Some(both)) if flags.password_file.is_some() => Ok(Some(both.parse()?)),
        // A variable that is set for other commands too must not break this one.
        (None, Some(_)) => Ok(None),
        (Some(_), None) => Err(CliError::usage(format!(
            "--user needs a password: give --password-file FILE, or the variable {PASSWORD_VARIABLE}"
        ))),
    }
}

pub(crate) fn threads(flags: &ThreadFlags) -> usize {
    flags
        .threads
        .unwrap_or_else(|| VerifyOptions::default().threads)
}

pub(crate) fn job_rates(flags: &JobFlags) -> Result<Rates, CliError> {
    Ok(rates(&flags.rate)?)
}

fn buffer_bytes(flags: &BufferFlags) -> usize {
    usize::try_from(flags.buffer.0).unwrap_or(usize::MAX)
}

/// What `--spool` takes besides a folder.
const SPOOL_NONE: &str = "none";

/// The keys of the file that was given, if any. A file that others can read is told.
pub(crate) fn keys(flags: &KeyFlags, output: &Output) -> Result<Option<KeyRing>, CliError> {
    let Some(path) = &flags.encrypt_key else {
        return Ok(None);
    };
    let refused = |error: &dyn fmt::Display| {
        CliError::usage(format!("--encrypt-key {}: {error}", path.display()))
    };
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => refused(&"there is no such file; `tipple keygen` makes one"),
        _ => refused(&error),
    })?;
    let meta = file.metadata().map_err(|error| refused(&error))?;
    if meta.is_dir() {
        return Err(refused(
            &"it is a folder: give a file, `tipple keygen` makes one",
        ));
    }
    if meta.is_file() && meta.permissions().mode() & 0o077 != 0 {
        output.warn(&format!(
            "warning: others than its owner can read the key file: chmod 600 {}",
            crate::verbs::quoted(&path.display().to_string())
        ));
    }
    let ring = KeyRing::read(file).map_err(|error| match error {
        ChunkError::Io { source, .. } => refused(&source),
        error => refused(&error),
    })?;
    Ok(Some(ring))
}

pub(crate) fn dump_options(
    job: &JobFlags,
    buffers: &BufferFlags,
    shape: &ShapeFlags,
    spool: &SpoolFlags,
    notify: &NotifyFlags,
    keys: Option<KeyRing>,
    form: Option<Arc<dyn Form>>,
) -> Result<DumpOptions, CliError> {
    let options = DumpOptions {
        threads: threads(&job.threads),
        buffer_bytes: buffer_bytes(buffers),
        chunk_bytes_max: shape.chunk_size.0,
        codec: shape.compress,
        memory_bytes_max: job.memory.map(|size| size.0),
        spool: match &buffers.spool {
            None => SpoolPlace::Default,
            Some(none) if none.as_os_str() == SPOOL_NONE => SpoolPlace::Memory,
            Some(dir) => SpoolPlace::Dir(dir.clone()),
        },
        spool_bytes_max: spool.spool_limit.map(|size| size.0),
        store_policy: match spool.store_policy {
            Policy::All => StorePolicy::All,
            Policy::Any => StorePolicy::Any,
        },
        detach_after: spool.detach_after.map(|after| after.0),
        keys,
        form,
        notify: notify_options(notify)?,
    };
    options.validate()?;
    Ok(options)
}

pub(crate) fn copy_options(job: &JobFlags, buffers: &BufferFlags) -> Result<CopyOptions, CliError> {
    if buffers
        .spool
        .as_ref()
        .is_some_and(|dir| dir.as_os_str() == SPOOL_NONE)
    {
        return Err(CliError::usage(
            "--spool none is for dumps into a store: here, give a folder, or leave it out",
        ));
    }
    Ok(CopyOptions {
        threads: threads(&job.threads),
        buffer_bytes: buffer_bytes(buffers),
        memory_bytes_max: job.memory.map(|size| size.0),
        spool_dir: buffers.spool.clone(),
    })
}

pub(crate) fn load_options(
    job: &JobFlags,
    parts: &PartFlags,
    state: Option<&Path>,
    keys: Option<KeyRing>,
) -> LoadOptions {
    LoadOptions {
        threads: threads(&job.threads),
        partial: parts.partial,
        parts: parts.parts,
        state_dir: state.map(Path::to_owned),
        memory_bytes_max: job.memory.map(|size| size.0),
        keys,
    }
}

/// "4 threads × (2 buffers of 8 MiB + 1.2 MiB …)": where the memory of a dump goes.
pub(crate) struct MemoryStory<'a> {
    pub(crate) total: u64,
    pub(crate) threads: usize,
    pub(crate) buffer_bytes: u64,
    /// What each worker holds besides: a name and bytes.
    pub(crate) others: &'a [(&'a str, u64)],
    pub(crate) planner_bytes: u64,
    /// Held once, whatever the number of workers: a name and bytes.
    pub(crate) shared: &'a [(&'a str, u64)],
}

impl fmt::Display for MemoryStory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::units::{bytes, counted};
        write!(
            f,
            "{}: {} × (2 buffers × {}",
            bytes(self.total),
            counted(self.threads as u64, "thread"),
            bytes(self.buffer_bytes)
        )?;
        for (name, amount) in self.others.iter().filter(|(_, amount)| *amount > 0) {
            write!(f, " + {name} {}", bytes(*amount))?;
        }
        f.write_str(")")?;
        let planner = ("listing", self.planner_bytes);
        for (name, amount) in [planner].iter().chain(self.shared) {
            if *amount > 0 {
                write!(f, " + {name} {}", bytes(*amount))?;
            }
        }
        Ok(())
    }
}
