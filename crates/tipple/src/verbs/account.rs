//! All streams of an account of NATS: a dump of each in a folder of its own.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tipple_memcached::TlsOptions;
use tipple_store::{Access, ObjectName, Store, StoreErrorKind, open_store};
use tipple_stream::{Nats, NatsAccount, NatsUrl};

use crate::endpoint::store_url;
use crate::error::{CliError, Kind};
use crate::output::Output;
use crate::ready;
use crate::units::counted;

/// Which streams there are, in the place that has a folder for each. Stable.
const NAME: &str = "STREAMS.json";
const BYTES_MAX: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Streams {
    version: u32,
    streams: Vec<String>,
}

/// The account, if `text` means all streams of one.
pub(super) fn of(text: &OsStr) -> Option<NatsAccount<'_>> {
    NatsUrl::of_account(text.to_str()?)
}

/// Dumps each stream by `dump`, which is given the stream's URL and its places. The streams are those that there were when
/// it was given for the first time.
pub(super) fn dump(
    account: NatsAccount<'_>,
    stores: &[OsString],
    tls: Option<TlsOptions>,
    output: &Arc<Output>,
    mut dump: impl FnMut(&OsStr, &[OsString]) -> Result<u8, CliError>,
) -> Result<u8, CliError> {
    let streams = planned(account, stores, tls)?;
    each(&streams, "dumped", output, |name| {
        let places: Vec<_> = stores.iter().map(|store| inside(store, name)).collect();
        dump(OsStr::new(&account.stream(name)), &places)
    })
}

/// Loads each stream by `load`, which is given its place and its URL.
pub(super) fn load(
    place: &OsStr,
    account: NatsAccount<'_>,
    output: &Arc<Output>,
    mut load: impl FnMut(&OsStr, &OsStr) -> Result<u8, CliError>,
) -> Result<u8, CliError> {
    let store = open_store(&store_url(place)?, Access::Read, &ready::store_options())?;
    let streams = read(store.as_ref())?.ok_or_else(|| {
        CliError::usage(format!(
            "{} holds no dump of all streams of an account: give nats://HOST:PORT/STREAM as the sink of a dump",
            store.url()
        ))
    })?;
    drop(store);
    each(&streams, "loaded", output, |name| {
        load(&inside(place, name), OsStr::new(&account.stream(name)))
    })
}

/// What the first of the stores has that has any, in all of them; otherwise what there is now.
fn planned(
    account: NatsAccount<'_>,
    stores: &[OsString],
    tls: Option<TlsOptions>,
) -> Result<Vec<String>, CliError> {
    let opened = stores.iter().map(|store| {
        Ok(open_store(
            &store_url(store)?,
            Access::Write,
            &ready::store_options(),
        )?)
    });
    let opened = opened.collect::<Result<Vec<_>, CliError>>()?;
    let mut known = None;
    for store in &opened {
        known = known.or(read(store.as_ref())?);
    }
    let streams = match known {
        Some(streams) => streams,
        None => {
            // Any name does.
            let any = account.stream("all").parse::<NatsUrl>();
            let url = any.map_err(CliError::usage)?;
            Nats::at(url.with_tls(tls.unwrap_or_default())).streams()?
        }
    };
    if streams.is_empty() {
        return Err(CliError::new(
            Kind::Live,
            "the account has no streams: look at `nats stream ls`",
        ));
    }
    let list = Streams {
        version: 1,
        streams,
    };
    let text = serde_json::to_vec(&list).expect("plain values");
    for store in &opened {
        store.put_if_absent(&name(), &text)?;
    }
    Ok(list.streams)
}

fn name() -> ObjectName {
    ObjectName::try_from(NAME).expect("a good name")
}

fn read(store: &dyn Store) -> Result<Option<Vec<String>>, CliError> {
    let text = match store.get(&name(), BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let refuse =
        |why: String| CliError::new(Kind::Damaged, format!("{NAME} of {}: {why}", store.url()));
    let list: Streams = serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
    match list.version {
        1 => Ok(Some(list.streams)),
        version => Err(refuse(format!(
            "version {version} is newer than this tipple"
        ))),
    }
}

fn inside(place: &OsStr, name: &str) -> OsString {
    let mut inside = place.to_owned();
    if !place.as_encoded_bytes().ends_with(b"/") {
        inside.push("/");
    }
    inside.push(name);
    inside
}

/// One after the other; one that fails does not keep the others from being done.
fn each(
    streams: &[String],
    done: &str,
    output: &Output,
    mut act: impl FnMut(&str) -> Result<u8, CliError>,
) -> Result<u8, CliError> {
    let (mut exit, mut failed) = (0, Vec::new());
    for name in streams {
        let ended = match act(name) {
            Ok(ended) => ended,
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => {
                output.error(&error);
                failed.push(name.as_str());
                error.kind.exit()
            }
        };
        // What failed is worse than what lost something.
        exit = match (exit, ended) {
            (0 | crate::error::EXIT_LOST, worse) if worse != 0 => worse,
            (before, _) => before,
        };
    }
    let good = streams.len() - failed.len();
    let text = format!(
        "{done} {} of {}",
        good,
        counted(streams.len() as u64, "stream")
    );
    match failed.as_slice() {
        [] => output.say(&text),
        failed => output.warn(&format!("{text}; not: {}", failed.join(", "))),
    }
    output.json_report(&json!({ "streams": streams.len(), "failed": failed }), exit);
    Ok(exit)
}
