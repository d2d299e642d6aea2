//! What of a stream is read.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};
use tipple_flow::{Failure, Party};

use crate::content::time_text;
use crate::place::Place;
use crate::source::{Extent, Span, Stream};

/// One end of what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A position.
    Place(Place),
    /// Nanoseconds since 1970, UTC: the first event at that time or later.
    Time(i64),
}

/// A position (`42`, `1526919030474-55`) or an RFC 3339 time (`2026-11-21T12:00:00Z`).
impl FromStr for Bound {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(place) = text.parse() {
            return Ok(Self::Place(place));
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            format!(
                "{text:?} is neither a position, such as 42, nor a time, such as 2026-11-21T12:00:00Z"
            )
        })?;
        let time = i64::try_from(time.as_nanosecond())
            .map_err(|_| format!("{text} is not within 1677 and 2262"))?;
        Ok(Self::Time(time))
    }
}

impl Bound {
    fn to_json(self) -> Value {
        match self {
            Self::Place(place) => json!(place.to_string()),
            Self::Time(time) => json!(time_text(time)),
        }
    }
}

/// What of a stream is read, and in which shares.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The first event to read. Default: the first one that is there.
    pub from: Option<Bound>,
    /// The first event not to read. Default: the end of the stream at the start of the dump.
    pub to: Option<Bound>,
    /// Do not end at the end of the stream: wait for more.
    pub follow: Option<Follow>,
    /// Raw bytes of a part, about, at least [`StreamOptions::PART_BYTES_MIN`]. Default 64 MiB.
    pub part_bytes: u64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            from: None,
            to: None,
            follow: None,
            part_bytes: 64 << 20,
        }
    }
}

/// How a stream is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// An event waits at most about so long, and then a part is made of what there is. Default 1 minute.
    pub age: Duration,
    /// The stream is looked at so often. Default 500 ms.
    pub pace: Duration,
    /// Take only what the stream will soon forget. Default: all that there is.
    pub archive: Option<Archive>,
}

/// What of a stream is archived, so that the archive and the stream together have everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// What is in the older half of what the stream's own limits let it hold.
    OlderHalf,
    /// What is older than this.
    OlderThan(Duration),
}

impl Default for Follow {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(60),
            pace: Duration::from_millis(500),
            archive: None,
        }
    }
}

impl Archive {
    /// Right after the last event that is archived.
    fn end(self, stream: &dyn Stream, extent: &Extent) -> Result<Place, Failure> {
        match self {
            Self::OlderHalf => stream.younger_half(extent)?.ok_or_else(|| {
                let message = format!(
                    "{} says of no limit that would make it forget anything: give the age of what is archived, such as --archive=7d",
                    stream.url()
                );
                Failure::new(Party::Usage, message)
            }),
            Self::OlderThan(age) => stream.place_at(ago(age)),
        }
    }
}

/// So long before now, in nanoseconds since 1970.
pub(crate) fn ago(age: Duration) -> i64 {
    let now = jiff::Timestamp::now().as_nanosecond();
    let then = now.saturating_sub_unsigned(age.as_nanos());
    i64::try_from(then).unwrap_or(i64::MIN)
}

impl StreamOptions {
    /// The smallest [`StreamOptions::part_bytes`].
    pub const PART_BYTES_MIN: u64 = 64 << 10;

    pub(crate) fn validate(&self) -> Result<(), Failure> {
        if self.part_bytes < Self::PART_BYTES_MIN {
            return Err(Failure::new(
                Party::Usage,
                format!(
                    "parts of {} bytes: give at least {}",
                    self.part_bytes,
                    Self::PART_BYTES_MIN
                ),
            ));
        }
        Ok(())
    }

    /// What of `stream` is read, given what it holds.
    ///
    /// # Errors
    /// [`Failure`] if the stream cannot be asked where a time is, or forgets nothing and is to be archived.
    pub fn span(&self, stream: &dyn Stream, extent: &Extent) -> Result<Span, Failure> {
        let place = |bound: Option<Bound>, otherwise: Place| match bound {
            None => Ok(otherwise),
            Some(Bound::Place(place)) => Ok(place),
            Some(Bound::Time(time)) => stream.place_at(time),
        };
        let from = place(self.from, extent.first)?.max(extent.first);
        let mut to = place(self.to, extent.end)?.min(extent.end);
        if let Some(archive) = self.follow.and_then(|follow| follow.archive) {
            to = to.min(archive.end(stream, extent)?);
        }
        Ok(Span {
            from,
            to: to.max(from),
        })
    }

    /// What shapes the data, for the identity of the source.
    pub(crate) fn shape(&self) -> Value {
        json!({
            "from": self.from.map(Bound::to_json),
            "to": self.to.map(Bound::to_json),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_places_or_times() {
        assert_eq!("42".parse(), Ok(Bound::Place(Place::sequence(42))));
        assert_eq!(
            "5-1".parse(),
            Ok(Bound::Place(Place::time_and_number(5, 1)))
        );
        assert_eq!(
            "1970-01-01T00:00:01Z".parse(),
            Ok(Bound::Time(1_000_000_000))
        );
        for bad in ["", "yesterday", "9999-01-01T00:00:00Z", "2026-11-21"] {
            assert!(bad.parse::<Bound>().is_err(), "{bad}");
        }
    }
}
