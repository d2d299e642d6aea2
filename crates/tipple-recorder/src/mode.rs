//! Fields that are not for recordings: what they look like in one, and only there.

use std::cell::Cell;
use std::fmt::{self, Display, Write as _};
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use serde::ser::Error as _;
use serde::{Serialize, Serializer};

/// What stands in the place of a hidden field.
pub(crate) const HIDDEN: &str = "<hidden>";
/// How a hash begins.
pub(crate) const HASHED: &str = "<hash:";
/// The error by which a recorder knows that a message is not for recordings.
pub(crate) const UNRECORDED: &str = "not for recordings";
/// How a truncated string ends.
pub(crate) const TRUNCATED: &str = "<truncated>";

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode { is_recording: false, has_redacted: false }) };
}

#[derive(Clone, Copy)]
struct Mode {
    is_recording: bool,
    /// Whether a field was redacted since it is recording.
    has_redacted: bool,
}

/// Whether the `Serialize` that asks is called by a recorder: for types that are to look different in a recording.
pub fn is_recording() -> bool {
    MODE.get().is_recording
}

/// Says so of a field that is.
fn note_redacted() {
    MODE.replace(Mode {
        has_redacted: true,
        ..MODE.get()
    });
}

/// While it lives, `Serialize` is called for a recording. Ends with a panic, too.
pub(crate) struct Recording {
    /// What is recorded may record something itself.
    outer: Mode,
}

impl Recording {
    #[inline]
    pub(crate) fn begin() -> Recording {
        // Not `set`, which is no instruction but a call.
        let outer = MODE.replace(Mode {
            is_recording: true,
            has_redacted: false,
        });
        Recording { outer }
    }

    /// Whether a field was redacted since it began.
    #[inline]
    pub(crate) fn has_redacted(&self) -> bool {
        MODE.get().has_redacted
    }
}

impl Drop for Recording {
    #[inline]
    fn drop(&mut self) {
        MODE.replace(self.outer);
    }
}

/// For `#[serde(serialize_with = "tipple_recorder::hide")]`: the field is `"<hidden>"` in recordings, and itself
/// everywhere else.
///
/// # Errors
/// Those of the serializer.
pub fn hide<T: Serialize + ?Sized, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if !is_recording() {
        return value.serialize(serializer);
    }
    note_redacted();
    serializer.serialize_str(HIDDEN)
}

/// For `#[serde(serialize_with = "tipple_recorder::hash")]`: the field is `"<hash:…>"` in recordings, the same for equal
/// values within one run of the program, and itself everywhere else. The hash is keyed with a secret of the process, so
/// that nobody finds the value by trying.
///
/// # Errors
/// Those of the serializer.
pub fn hash<T: Serialize + ?Sized, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if !is_recording() {
        return value.serialize(serializer);
    }
    note_redacted();
    let json = serde_json::to_vec(value).map_err(S::Error::custom)?;
    serializer.collect_str(&Hash::of(&json))
}

/// For `#[serde(serialize_with = "tipple_recorder::truncate::<16, _, _>")]`: of the field's text, 16 characters and
/// `<truncated>` in recordings if it is longer, and all of it everywhere else.
///
/// # Errors
/// Those of the serializer.
pub fn truncate<const CHARACTERS: usize, T: AsRef<str> + ?Sized, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = value.as_ref();
    match truncated(text, CHARACTERS) {
        Some(kept) if is_recording() => {
            note_redacted();
            serializer.collect_str(&format_args!("{kept}{TRUNCATED}"))
        }
        _ => serializer.serialize_str(text),
    }
}

/// For `#[serde(serialize_with = "tipple_recorder::unrecorded")]` on the first field of a message, or on a variant of an
/// enum: the whole message is left out of recordings, and is itself everywhere else. It takes a number, and is a loss by
/// [`Disabled`](crate::Why::Disabled): one who reads the recording knows that there was something. To leave messages out
/// without a trace, and without the price of a call, name them in the [configuration](crate::Config::messages).
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Login {
///     #[serde(serialize_with = "tipple_recorder::unrecorded")]
///     user: String,
///     password: String,
/// }
/// ```
///
/// # Errors
/// Those of the serializer; while it is recorded, always.
pub fn unrecorded<T: Serialize + ?Sized, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match is_recording() {
        true => Err(S::Error::custom(UNRECORDED)),
        false => value.serialize(serializer),
    }
}

/// The first `characters` of `text`, if it has more.
pub(crate) fn truncated(text: &str, characters: usize) -> Option<&str> {
    let (end, _) = text.char_indices().nth(characters)?;
    Some(&text[..end])
}

/// A hash of JSON, keyed with a secret of this process.
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn of(json: &[u8]) -> Hash {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        Hash(KEY.get_or_init(RandomState::new).hash_one(json))
    }
}

impl Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASHED}{:016x}", self.0)?;
        f.write_char('>')
    }
}

/// Whether a string of a recording stands for something that was redacted: by its looks.
pub(crate) fn is_redacted(text: &str) -> bool {
    text == HIDDEN
        || text.ends_with(TRUNCATED)
        || text.starts_with(HASHED) && text.ends_with('>') && text.len() == HASHED.len() + 17
}
