//! The verb `cat`: records, one by one.

use std::cell::RefCell;
use std::io::{self, Write};

use tipple_chunk::{Decoder, KeyRing};
use tipple_flow::{Content, Failure, Party, RecordReader, Stop};
use tipple_store::Store;

use crate::error::DumpError;
use crate::job::Job;
use crate::load::PartRange;
use crate::open_dump::OpenDump;
use crate::part_frames::PartFrames;

/// Which records are shown, and how.
#[derive(Clone, Debug, Default)]
pub struct CatOptions {
    /// Read the committed parts of an unfinished dump.
    pub partial: bool,
    /// Only these parts.
    pub parts: Option<PartRange>,
    /// At most so many records.
    pub records_max: Option<u64>,
    /// Not as JSON but as the source's users know them, where the content has such a form.
    pub raw: bool,
    /// The keys of a sealed dump.
    pub keys: Option<KeyRing>,
}

/// Writes the records of the dump in `store` to `out`, in the order of their parts: one JSON object a line, or raw.
/// Returns how many.
///
/// # Errors
/// [`DumpError`]; `out` has whole records then. A closed `out` is [`DumpError::Disk`] with `BrokenPipe`.
pub fn cat(
    job: &Job,
    store: &dyn Store,
    contents: &[&dyn Content],
    out: &mut dyn Write,
    options: &CatOptions,
) -> Result<u64, DumpError> {
    let dump = OpenDump::open(store, options.partial, options.keys.as_ref())?;
    dump.check_parts()?;
    let content = known_content(&dump, contents)?;
    if let Some(objects) = content.objects() {
        return Err(DumpError::Usage(format!(
            "{} holds {}, which is not shown: {}",
            store.url(),
            content.name(),
            objects.advice()
        )));
    }
    let mut decoder = Decoder::new().map_err(DumpError::chunk("a decoder"))?;
    let mut left = options.records_max.unwrap_or(u64::MAX);
    let mut written = 0;
    for part in crate::load::chosen_parts(&dump, options.parts)? {
        let record = dump.record(&part)?;
        let error = RefCell::new(None);
        let mut frames = PartFrames::new(
            &dump,
            &record,
            (content.name(), content.version()),
            &mut decoder,
            job.progress(),
            &error,
        );
        let mut records = RecordReader::new(job.gate(), &mut frames);
        let mut line = Vec::new();
        while left > 0 {
            line.clear();
            let more = match options.raw {
                true => content
                    .write_raw(&mut records, &mut line)
                    .unwrap_or_else(|| {
                        Err(Stop::Failed(Failure::new(
                            Party::Usage,
                            format!("{} have no raw form: leave out --raw", content.name()),
                        )))
                    }),
                false => content.write_json(&mut records, &mut line),
            };
            if let Some(error) = error.take() {
                return Err(error);
            }
            if !more? {
                break;
            }
            if !options.raw {
                line.push(b'\n');
            }
            write(out, &line)?;
            left -= 1;
            written += 1;
        }
    }
    out.flush().map_err(output_error)?;
    Ok(written)
}

fn write(out: &mut dyn Write, line: &[u8]) -> Result<(), DumpError> {
    out.write_all(line).map_err(output_error)
}

fn output_error(source: io::Error) -> DumpError {
    DumpError::Disk {
        operation: "write to",
        path: "the output".to_owned(),
        source,
    }
}

/// The content of a dump, if this program knows it in that version.
pub(crate) fn known_content<'c>(
    dump: &OpenDump<'_>,
    contents: &[&'c dyn Content],
) -> Result<&'c dyn Content, DumpError> {
    let wanted = &dump.head().content;
    let known = contents
        .iter()
        .find(|content| content.name() == wanted.name);
    match known {
        Some(content) if wanted.version <= content.version() => Ok(*content),
        Some(content) => Err(Failure::new(
            Party::Version,
            format!(
                "{} holds {} version {}, and this program reads up to version {}: use a newer tipple",
                dump.store().url(),
                wanted.name,
                wanted.version,
                content.version()
            ),
        )
        .into()),
        None => Err(Failure::new(
            Party::Version,
            format!(
                "{} holds {}, which this program does not know: use a newer tipple",
                dump.store().url(),
                wanted.name
            ),
        )
        .into()),
    }
}
