//! The command `tipple`: flags, environment, settings file, output, exit codes. What it does with data is in the crates
//! below.

mod cli;
mod config;
mod endpoint;
mod error;
#[cfg(feature = "failpoints")]
mod failpoints;
mod help;
mod output;
mod ready;
mod record;
mod running;
mod signals;
mod tour;
mod units;
mod verbs;

use std::env;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};

use crate::cli::Cli;
use crate::error::{CliError, Kind};
use crate::output::Output;

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    // A job that panicked has told where; scripts rely on the exit code all the same.
    let exit = catch_unwind(AssertUnwindSafe(|| run(&args))).unwrap_or_else(|_| {
        let message = "this should not have happened; please report it with the lines above";
        fail(&args, &CliError::new(Kind::Unexpected, message))
    });
    ExitCode::from(exit)
}

fn run(args: &[OsString]) -> u8 {
    let matches = match parse(args) {
        Ok(Ok(matches)) => matches,
        // Help and version, as clap words them.
        Ok(Err(help)) => {
            let exit = u8::from(help.use_stderr()) * Kind::Usage.exit();
            let _ = help.print();
            return exit;
        }
        Err(error) => return fail(args, &error),
    };
    #[cfg(feature = "failpoints")]
    if let Err(error) = failpoints::arm() {
        return fail(args, &error);
    }
    let cli = Cli::from_arg_matches(&matches).expect("the matches are those of this command");
    let (_, typed) = matches.subcommand().expect("a verb is required");
    match verbs::output(&cli.verb) {
        Ok(output) => verbs::run(&cli.verb, typed, &output),
        Err(error) => fail(args, &error),
    }
}

/// What was typed, over what the settings file says. The inner error is help that was asked for.
fn parse(args: &[OsString]) -> Result<Result<ArgMatches, clap::Error>, CliError> {
    use clap::error::ErrorKind as K;
    let mut command = cli::command();
    if let Some(path) = config::path(args) {
        command = config::apply(command, &path)?;
    }
    match command.try_get_matches_from(args) {
        Ok(matches) => Ok(Ok(matches)),
        Err(error) => match error.kind() {
            K::DisplayHelp | K::DisplayVersion | K::DisplayHelpOnMissingArgumentOrSubcommand => {
                Ok(Err(error))
            }
            _ => Err(error.into()),
        },
    }
}

/// An error before the flags that say how to tell it were understood.
fn fail(args: &[OsString], error: &CliError) -> u8 {
    let asked = args.iter().any(|arg| arg == "--json")
        || env::var("TIPPLE_JSON").is_ok_and(|json| {
            // What clap takes for a yes.
            ["1", "on", "t", "true", "y", "yes"].contains(&json.to_lowercase().as_str())
        });
    Output::bare(asked).error(error);
    error.kind.exit()
}
