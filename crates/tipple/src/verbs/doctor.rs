//! `tipple doctor`.

use std::sync::Arc;

use serde_json::{Value, json};
use tipple_flow::{Party, Source};
use tipple_lines::{LinesOptions, LinesSource};
use tipple_memcached::{
    CachemoverSource, Connection, MemcachedOptions, MemcachedUrl, Server, Stats, TlsOptions,
};
use tipple_store::{Access, PutIfAbsent, StoreErrorKind, StoreUrl, open_store};

use crate::cli::DoctorArgs;
use crate::endpoint::{SourceUrl, store_url};
use crate::error::CliError;
use crate::output::{Answer, Output};
use crate::ready::{self, Typed};
use crate::units::{bytes, count};

pub(super) fn run(args: &DoctorArgs, typed: &Typed<'_>, output: &Arc<Output>) -> Result<u8, CliError> {
    let text = args.what.to_string_lossy();
    let is_source = text == "-"
        || ["memcached:", "memcacheds:", "lines:"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
    let mut answer = Answer::default();
    let value = if is_source {
        let url = SourceUrl::parse(&args.what)?;
        typed.fit_memcached(matches!(url, SourceUrl::Memcached(_)))?;
        source(&url, args, &mut answer)?
    } else {
        typed.fit_memcached(false)?;
        match SourceUrl::parse(&args.what) {
            Ok(url @ SourceUrl::Cachemover(_)) => source(&url, args, &mut answer)?,
            _ => store(&store_url(&args.what)?, &mut answer)?,
        }
    };
    answer.print(output, &value)?;
    Ok(0)
}

fn store(url: &StoreUrl, answer: &mut Answer) -> Result<Value, CliError> {
    // It must exist: a question makes no folder.
    let read_only = open_store(url, Access::Read)?;
    let (store, writable) = match open_store(url, Access::Write) {
        Ok(store) => (store, true),
        Err(error) if error.kind() == StoreErrorKind::Denied => (read_only, false),
        Err(error) => return Err(error.into()),
    };
    let can = store.capabilities()?;
    let absent = match can.put_if_absent {
        PutIfAbsent::Honoured => "an object is never overwritten: tried, and refused",
        PutIfAbsent::Ignored => "OVERWRITES objects: two writers would destroy each other's work",
        PutIfAbsent::Refused => "cannot refuse to overwrite",
        PutIfAbsent::NotProbed => "not tried",
    };
    answer
        .row("store", url.to_string())
        .row("is", can.description.clone())
        .row("writable", if writable { "yes" } else { "no" })
        .row("conditions", absent)
        .row(
            "durable",
            if can.durable { "yes" } else { "no: gone with this process" },
        )
        .row(
            "free",
            can.free_bytes.map_or_else(|| "no limit known".to_owned(), bytes),
        );
    Ok(json!({
        "store": url.to_string(),
        "description": can.description,
        "writable": writable,
        "put_if_absent": format!("{:?}", can.put_if_absent).to_lowercase(),
        "durable": can.durable,
        "free_bytes": can.free_bytes,
    }))
}

fn source(url: &SourceUrl, args: &DoctorArgs, answer: &mut Answer) -> Result<Value, CliError> {
    let estimate = match url {
        SourceUrl::Memcached(url) => {
            let options = ready::connection(&args.connection)?;
            return servers(url, options, answer);
        }
        SourceUrl::Lines(path) => LinesSource::file(path, LinesOptions::default())?.check()?,
        SourceUrl::Cachemover(path) => CachemoverSource::open_partial(path)?.check()?,
        SourceUrl::Stdin => {
            return Err(CliError::usage(
                "standard input can only be read: there is nothing to ask it",
            ));
        }
    };
    answer
        .row("source", url.to_string())
        .row("is", url.kind())
        .row("size", bytes(estimate.bytes))
        .row("parts", count(estimate.parts));
    Ok(json!({
        "source": url.to_string(),
        "kind": url.kind(),
        "raw_bytes": estimate.bytes,
        "parts": estimate.parts,
    }))
}

fn servers(
    url: &MemcachedUrl,
    mut options: MemcachedOptions,
    answer: &mut Answer,
) -> Result<Value, CliError> {
    if url.tls() {
        options.tls.get_or_insert_with(TlsOptions::default);
    }
    let mut all = Vec::new();
    for server in url.servers() {
        all.push(ask(server, &options, answer)?);
    }
    Ok(json!({ "source": url.to_string(), "servers": all }))
}

fn ask(
    server: &Server,
    options: &MemcachedOptions,
    answer: &mut Answer,
) -> Result<Value, CliError> {
    let lost = |error: tipple_memcached::ConnectionError| error.into_stop(Party::Source);
    let mut connection = Connection::connect(server, options, None).map_err(lost)?;
    let stats = Stats::read(&mut connection, None).map_err(lost)?;
    let version = connection.version();
    let can_dump = version.is_at_least(1, 6, 0) && stats.lru_crawler;
    let can_load = version.is_at_least(1, 6, 10);
    let listing = match (stats.lru_crawler, version.is_at_least(1, 6, 9)) {
        (false, _) => "not at all: turn its LRU crawler on with the command `lru_crawler enable`",
        (true, true) => "hash, which misses nothing",
        (true, false) => "all, which misses items that clients read meanwhile: use --listing all:3",
    };
    let yes = |can: bool| if can { "yes" } else { "no" };
    answer
        .row("server", server.to_string())
        .row("version", version.as_str())
        .row("items", format!("{}, {}", count(stats.curr_items), bytes(stats.bytes)))
        .row("largest item", bytes(stats.item_size_max))
        .row("lists keys by", listing)
        .row("can be dumped", yes(can_dump))
        .row("can be loaded", yes(can_load));
    if options.tls.is_some() {
        answer.row("TLS", "yes");
    }
    Ok(json!({
        "server": server.to_string(),
        "version": version.as_str(),
        "items": stats.curr_items,
        "bytes": stats.bytes,
        "item_bytes_max": stats.item_size_max,
        "lru_crawler": stats.lru_crawler,
        "lists_by_hash": version.is_at_least(1, 6, 9),
        "can_be_dumped": can_dump,
        "can_be_loaded": can_load,
        "tls": options.tls.is_some(),
    }))
}
