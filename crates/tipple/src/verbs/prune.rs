//! `tipple prune`.

use std::sync::Arc;

use tipple_dump::{PruneOptions, Pruned};
use tipple_store::{Access, open_store};

use crate::cli::PruneArgs;
use crate::endpoint::store_url;
use crate::error::CliError;
use crate::output::{Output, print};
use crate::ready::{self, Typed};
use crate::units::{bytes, counted};
use crate::verbs::supervise;

pub(super) fn run(
    args: &PruneArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let url = store_url(&args.store)?;
    typed.fit_stores(std::slice::from_ref(&url))?;
    // A look needs no right to write, and makes no folder; nor must a deletion make one.
    let store = open_store(&url, Access::Read, &ready::store_options())?;
    if supervise::is_files(store.as_ref())? {
        let pruned = supervise::prune(args, &url, store.as_ref())?;
        return tell(&pruned, output);
    }
    // Named before anything happens, so that a typing error does not look like a clean dump.
    tipple_dump::OpenDump::look(store.as_ref())?;
    let delete = args.yes && !args.dry_run;
    let store = match delete {
        true => open_store(&url, Access::Write, &ready::fenced(&args.fence))?,
        false => store,
    };
    let options = PruneOptions {
        delete,
        force: args.force,
        older_than: args.older_than.map(|span| span.0),
    };
    let pruned = tipple_dump::prune(store.as_ref(), &options)?;
    tell(&pruned, output)
}

fn tell(pruned: &Pruned, output: &Output) -> Result<u8, CliError> {
    if output.is_json() {
        output.json_report(pruned, 0);
        return Ok(0);
    }
    let lines: String = pruned
        .items
        .iter()
        .map(|item| format!("{}  {}  {}\n", item.name, bytes(item.bytes), item.why))
        .collect();
    print(&lines)?;
    let total = format!(
        "{}, {}",
        counted(pruned.items.len() as u64, "object"),
        bytes(pruned.items.iter().map(|item| item.bytes).sum())
    );
    output.say(&match (pruned.items.is_empty(), pruned.deleted) {
        (true, _) => "nothing to prune".to_owned(),
        (false, true) => format!("deleted {total}"),
        (false, false) => format!("{total} that nothing needs; --yes deletes them"),
    });
    Ok(0)
}
