//! One object in one request, once: see the module above for its table.

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};

use super::answer::{Again, Cause, Failure};
use super::core::Core;
use super::retry::{Attempts, ask};
use crate::Put;

/// What decides whether an object that is there is the one that was to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Same {
    /// Its bytes.
    Bytes,
    /// Its length: the name is its content.
    Length,
}

/// What is stored under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Same,
    /// Another object of so many bytes.
    Other(u64),
}

/// Why a put failed.
#[derive(Debug)]
pub(super) enum PutFailure {
    /// Another object of so many bytes is there.
    Taken(u64),
    Failed {
        failure: Failure,
        /// Some attempt may have been applied.
        maybe_applied: bool,
    },
}

impl From<Failure> for PutFailure {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            failure,
            maybe_applied: false,
        }
    }
}

impl Core {
    /// Puts `payload` under a name that is free, or finds it there.
    pub(super) async fn put(
        &self,
        path: &Path,
        payload: &PutPayload,
        same: Same,
    ) -> Result<Put, PutFailure> {
        let facts = self.facts();
        if !facts.honoured {
            match self.there_again(path, payload, same).await? {
                There::Nothing => {}
                There::Same => return Ok(Put::AlreadySame),
                There::Other(bytes) => return Err(PutFailure::Taken(bytes)),
            }
        }
        let mode = match facts.honoured {
            true => PutMode::Create,
            false => PutMode::Overwrite,
        };
        let time = self.bounds.request_time(payload.content_length() as u64);
        let mut attempts = Attempts::new(self.bounds);
        let mut maybe_applied = false;
        loop {
            let options = PutOptions::from(mode.clone());
            let put = self.client.backend.put_opts(path, payload.clone(), options);
            let mut failure = match ask(time, put).await {
                Ok(_) if !facts.read_back => return Ok(Put::Created),
                Ok(_) => match self.there_again(path, payload, Same::Bytes).await? {
                    There::Same => return Ok(Put::Created),
                    There::Nothing => Failure::with_words(
                        Cause::Nonsense,
                        "it said that it stored the object, and has none",
                    ),
                    There::Other(_) => {
                        // Nobody may take these bytes for the object.
                        self.remove(path).await?;
                        Failure::with_words(Cause::Damaged, "it stored other bytes")
                    }
                },
                Err(failure) => failure,
            };
            // A refusal is not believed: the object may be ours, of an attempt whose answer was lost, or not be there at
            // all, as when two conditional puts met.
            let doubtful = failure.cause == Cause::Condition || failure.again() == Again::Ambiguous;
            if doubtful {
                let refused = failure.cause == Cause::Condition;
                match self.there(path, payload, same).await {
                    Ok(There::Same) if refused && !maybe_applied => return Ok(Put::AlreadySame),
                    Ok(There::Same) => return Ok(Put::Created),
                    Ok(There::Other(bytes)) => return Err(PutFailure::Taken(bytes)),
                    Ok(There::Nothing) if refused => failure.cause = Cause::Conflict,
                    // Asked again after the next attempt.
                    Ok(There::Nothing) | Err(_) => {
                        if refused {
                            failure.cause = Cause::Conflict;
                        }
                    }
                }
                maybe_applied |= !refused;
            }
            if let Err(failure) = attempts.after(failure).await {
                return Err(PutFailure::Failed {
                    failure,
                    maybe_applied,
                });
            }
        }
    }

    /// Asks once what is there.
    pub(super) async fn there(
        &self,
        path: &Path,
        payload: &PutPayload,
        same: Same,
    ) -> Result<There, Failure> {
        let bytes = payload.content_length() as u64;
        let asked = ask(self.bounds.request_time(bytes), async {
            let options = GetOptions {
                head: same == Same::Length,
                ..GetOptions::default()
            };
            let found = self.client.backend.get_opts(path, options).await?;
            if found.meta.size != bytes {
                return Ok(There::Other(found.meta.size));
            }
            if same == Same::Length {
                return Ok(There::Same);
            }
            let (mut stored, mut given) = (found.into_stream(), Given::of(payload));
            while let Some(piece) = stored.next().await {
                if !given.starts_with(&piece?) {
                    return Ok(There::Other(bytes));
                }
            }
            Ok(There::Same)
        });
        match asked.await {
            Ok(there) => Ok(there),
            Err(failure) if failure.cause == Cause::NotFound => Ok(There::Nothing),
            Err(failure) => Err(failure),
        }
    }

    /// Asks until it is known what is there.
    pub(super) async fn there_again(
        &self,
        path: &Path,
        payload: &PutPayload,
        same: Same,
    ) -> Result<There, Failure> {
        let mut attempts = Attempts::new(self.bounds);
        loop {
            match self.there(path, payload, same).await {
                Ok(there) => return Ok(there),
                Err(failure) => attempts.after(failure).await?,
            };
        }
    }
}

/// The bytes of a payload, compared piece by piece.
struct Given<'a> {
    pieces: std::slice::Iter<'a, bytes::Bytes>,
    rest: &'a [u8],
}

impl<'a> Given<'a> {
    fn of(payload: &'a PutPayload) -> Self {
        Self {
            pieces: payload.as_ref().iter(),
            rest: &[],
        }
    }

    /// Whether the next bytes are these; then they are done with.
    fn starts_with(&mut self, mut piece: &[u8]) -> bool {
        while !piece.is_empty() {
            if self.rest.is_empty() {
                match self.pieces.next() {
                    Some(next) => self.rest = next,
                    None => return false,
                }
                continue;
            }
            let length = piece.len().min(self.rest.len());
            if piece[..length] != self.rest[..length] {
                return false;
            }
            (piece, self.rest) = (&piece[length..], &self.rest[length..]);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_compared_piece_by_piece() {
        let pieces: Vec<bytes::Bytes> = ["ab", "", "cde", "f"].map(Into::into).into();
        let payload = PutPayload::from_iter(pieces);
        for (given, same) in [
            (vec!["abcdef"], true),
            (vec!["a", "bcd", "", "ef"], true),
            (vec!["ab", "cd", "eF"], false),
            (vec!["abcdef", "g"], false),
        ] {
            let mut all = Given::of(&payload);
            let compared = given.iter().all(|piece| all.starts_with(piece.as_bytes()));
            assert_eq!(compared, same, "{given:?}");
        }
    }
}
