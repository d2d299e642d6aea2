//! Stores in buckets.

use std::time::Duration;

use tipple_store::StoreOptions;
use tipple_testkit::Account;

/// The options for the server of `account`, with short pauses.
pub fn options(account: &Account) -> StoreOptions {
    StoreOptions {
        part_bytes: 5 << 20,
        parts_in_flight: 3,
        retry_pause: Duration::from_millis(5),
        ..StoreOptions::default().with_variables(account.env())
    }
}
