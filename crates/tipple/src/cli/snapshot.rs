//! What may be typed after `tipple snapshot`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{KeyFlags, OutputFlags};
use crate::units::Span;

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    pub(crate) verb: SnapshotVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Shows what snapshots say about themselves: times, type, counts
    Inspect(LookArgs),
    /// Checks every frame and every value
    Verify(LookArgs),
    /// Prints a value as JSON, a line for each element
    Cat(CatArgs),
    /// Shows what differs between two snapshots of one type: + added, - removed, ~ changed
    Diff(DiffArgs),
    /// Removes what no start needs
    Prune(PruneArgs),
    /// Seals snapshots with the first key of those that are given
    Rekey(LookArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    /// A snapshot, or the folder of a cache's snapshots
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,

    #[command(flatten)]
    pub(crate) sealed: SealedFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// The snapshot; of a folder, the newest one
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,

    /// At most so many lines
    #[arg(long, value_name = "N", env = "TIPPLE_LIMIT")]
    pub(crate) limit: Option<u64>,

    #[command(flatten)]
    pub(crate) sealed: SealedFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The older snapshot
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) old: PathBuf,

    /// The newer one
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) new: PathBuf,

    #[command(flatten)]
    pub(crate) sealed: SealedFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// The folder of a cache's snapshots
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) folder: PathBuf,

    /// How many snapshots of the newest version stay
    #[arg(long, value_name = "N", env = "TIPPLE_MAX_COUNT", default_value_t = 1)]
    pub(crate) max_count: u64,

    /// How many of other builds stay, for a rollback
    #[arg(
        long,
        value_name = "N",
        env = "TIPPLE_PREVIOUS_COUNT",
        default_value_t = 1
    )]
    pub(crate) previous_count: u64,

    /// What is older goes, by the time in its name [default: nothing is too old]
    #[arg(long, value_name = "DURATION", env = "TIPPLE_MAX_AGE")]
    pub(crate) max_age: Option<Span>,

    /// Delete what is shown; without it, nothing is touched
    #[arg(long, env = "TIPPLE_YES")]
    pub(crate) yes: bool,

    #[command(flatten)]
    pub(crate) sealed: SealedFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sealed snapshots")]
#[command(mut_arg("encrypt_key", |arg| arg.help("A key file of `tipple keygen`, instead of --secrets")))]
pub(crate) struct SealedFlags {
    /// The service's file of secrets, with the keys by the names of caches: {"CACHE_DUMP_SECRET_KEYS": {"NAME": "BASE64"}}
    #[arg(long, value_name = "FILE", env = "TIPPLE_SECRETS", value_hint = ValueHint::FilePath, conflicts_with = "encrypt_key")]
    pub(crate) secrets: Option<PathBuf>,

    /// The name of the cache [default: the name of the snapshot's folder]
    #[arg(long, value_name = "NAME", env = "TIPPLE_CACHE_NAME")]
    pub(crate) name: Option<String>,

    #[command(flatten)]
    pub(crate) key: KeyFlags,
}

impl SnapshotArgs {
    pub(crate) fn output(&self) -> &OutputFlags {
        match &self.verb {
            SnapshotVerb::Inspect(args)
            | SnapshotVerb::Verify(args)
            | SnapshotVerb::Rekey(args) => &args.output,
            SnapshotVerb::Cat(args) => &args.output,
            SnapshotVerb::Diff(args) => &args.output,
            SnapshotVerb::Prune(args) => &args.output,
        }
    }
}
