//! `tipple completions` and `tipple man`: what packagers and shells want.

use crate::cli::{self, CompletionsArgs, ManArgs};
use crate::error::{CliError, Kind};
use crate::output::print;

pub(super) fn completions(args: &CompletionsArgs) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "tipple", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

pub(super) fn man(args: &ManArgs) -> Result<u8, CliError> {
    let unwritable =
        |place: &str, error| CliError::new(Kind::Budget, format!("cannot write {place}: {error}"));
    let mut command = cli::command();
    if let Some(dir) = &args.dir {
        let place = dir.display().to_string();
        std::fs::create_dir_all(dir).map_err(|error| unwritable(&place, error))?;
        clap_mangen::generate_to(command, dir).map_err(|error| unwritable(&place, error))?;
        return Ok(0);
    }
    // Gives the verbs their full names.
    command.build();
    let page = match &args.verb {
        None => command,
        Some(name) => {
            let verbs: Vec<&str> = command
                .get_subcommands()
                .map(|verb| verb.get_name())
                .filter(|name| *name != "help")
                .collect();
            let Some(verb) = command.find_subcommand(name) else {
                return Err(CliError::usage(format!(
                    "{name:?} is no verb: there are {}",
                    verbs.join(", ")
                )));
            };
            let full_name = format!("tipple-{name}");
            verb.clone().name(full_name)
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| unwritable("the page", error))?;
    print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}
