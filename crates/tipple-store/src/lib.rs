//! Where objects go: a local folder, a bucket of S3, Google or Azure, or memory for tests.
//!
//! A store holds *objects*: named bytes that are written once, durably, and never changed,
//! appended to or renamed (invariant I5). Two writers of one name cannot both win, on any store,
//! at any moment; a writer who repeats a put that already happened is told so and has succeeded.
//! Everything above this crate builds on that: a dump is resumed, shared between machines and
//! sealed by nothing but puts of names that are not there yet.
//!
//! This crate never sees a record. It does not know what a dump, a chunk or a part is; it does
//! not compress, encrypt, read the environment, or print. Requests to a bucket are tried again here
//! and nowhere else.
//!
//! ```
//! use tipple_store::{Access, ObjectName, Put, StoreErrorKind, StoreOptions, open_store};
//!
//! let store = open_store(&"memory:example".parse()?, Access::Write, &StoreOptions::default())?;
//! let name: ObjectName = "parts/00000001.json".parse()?;
//!
//! assert_eq!(store.put_if_absent(&name, b"{}")?, Put::Created);
//! assert_eq!(store.put_if_absent(&name, b"{}")?, Put::AlreadySame); // a retry has succeeded
//! let other = store.put_if_absent(&name, b"[]").unwrap_err();
//! assert_eq!(other.kind(), StoreErrorKind::AlreadyExists); // another writer was first
//! assert_eq!(store.get(&name, 1024)?, b"{}");
//! # Ok::<(), tipple_store::StoreError>(())
//! ```
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `s3` | `s3://` stores, and [`http`] |
//! | `gcp`, `azure` | `gs://` and `az://` stores, with no further crates |
//! | `conformance` | the suite for tests |
//!
//! # Tests
//!
//! The feature `conformance` adds the module of that name: every rule of [`Store`], to be run
//! against any implementation.

#![deny(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
#[cfg(feature = "s3")]
pub mod http;
mod local;
mod memory;
mod name;
mod options;
#[cfg(feature = "s3")]
mod remote;
mod store;
mod url;

pub use error::{Operation, Retryable, StoreError, StoreErrorKind};
pub use name::ObjectName;
pub use options::{StoreOptions, Variables};
pub use store::{
    Access, Capabilities, ConfirmedBy, Leftover, ObjectEntry, ObjectMeta, ObjectRead, Put,
    PutIfAbsent, Store, StoreLock, open_store,
};
pub use url::StoreUrl;
