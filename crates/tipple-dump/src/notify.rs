//! Notifications: who is told what is in the stores, how, and what was told already.
//!
//! What a message holds is in `FORMAT.md` of this crate. What was delivered is recorded in the stores, part by part, so
//! that a dump that goes on sends what is missing: at least once.

mod message;
mod notifier;
mod record;
mod retry;
pub(crate) mod sqs;
mod target;
mod webhook;

use tipple_store::StoreOptions;

pub use message::NotifyFormat;
pub(crate) use message::{NOTICE_VERSION, Notice};
pub(crate) use notifier::{Notifier, to_notifier};
pub(crate) use record::{delivered_parts, is_all_delivered};
pub(crate) use retry::{Refused, Retry, Trouble};
pub use target::NotifyTarget;
pub(crate) use target::QueuePlace;

/// Whom a dump tells what it has put into its stores.
#[derive(Clone, Debug, Default)]
pub struct NotifyOptions {
    /// All of them get all messages. Default: none.
    pub targets: Vec<NotifyTarget>,
    /// What a message holds.
    pub format: NotifyFormat,
    /// Credentials, region and endpoint of queues, and for how long a message is tried again.
    pub services: StoreOptions,
}
