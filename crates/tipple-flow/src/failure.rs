//! Why a source or a sink stopped.

use std::error::Error;

use tipple_budget::Cancelled;

/// Why work on a part ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The gate was cancelled: by the user, or because another part of the job failed (which is reported
    /// where it happened).
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// This part of the job failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Who cannot go on. Decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The request itself makes no sense (exit code 2).
    Usage,
    /// The live system that is read (exit code 10).
    Source,
    /// The live system that is written (exit code 10).
    Sink,
    /// A budget or the local disk (exit code 12).
    Budget,
    /// Records that verified, and still cannot be read as what they claim to be (exit code 4).
    Content,
    /// Data of a newer version than this program knows (exit code 13).
    Version,
}

/// A failure that ends the job: who, what was tried, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    party: Party,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure of `party`. The message names the value, the reason and the next step; it reads after "error: ".
    pub fn new(party: Party, message: impl Into<String>) -> Self {
        Self {
            party,
            message: message.into(),
            source: None,
        }
    }

    /// The same with its cause.
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// Who cannot go on.
    pub fn party(&self) -> Party {
        self.party
    }
}
