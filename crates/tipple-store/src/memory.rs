//! A store in the memory of this process, for tests: the same semantics as a folder, without a
//! disk. It is gone with the process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Cursor;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{conflict, system_reason};
use crate::name::split_prefix;
use crate::{
    Access, Capabilities, Leftover, ObjectEntry, ObjectMeta, ObjectName, ObjectRead, Operation,
    Put, PutIfAbsent, Retryable, Store, StoreError, StoreErrorKind, StoreLock,
};

/// Names copied out of the map at a time, so that a listing holds no lock while it visits.
const LIST_PAGE_NAMES: usize = 1000;

/// Every memory store of the process by name. Entries stay until the process ends.
static STORES: Mutex<BTreeMap<String, Arc<Contents>>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Contents {
    objects: Mutex<BTreeMap<ObjectName, Arc<[u8]>>>,
    locked: AtomicBool,
}

impl Contents {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Arc<[u8]>>> {
        self.objects
            .lock()
            .expect("no code that holds this lock panics")
    }
}

pub(crate) struct MemoryStore {
    url: String,
    access: Access,
    contents: Arc<Contents>,
}

impl MemoryStore {
    fn local_file(
        &self,
        name: &ObjectName,
        path: &Path,
        verb: &str,
        source: std::io::Error,
    ) -> StoreError {
        let reason = format!(
            "cannot {verb} {}: {}",
            path.display(),
            system_reason(&source)
        );
        self.error(StoreErrorKind::LocalFile, Operation::Write, reason)
            .with_object(name)
            .with_source(source)
    }

    pub(crate) fn open(name: &str, access: Access) -> Result<Self, StoreError> {
        let url = format!("memory:{name}");
        let mut stores = STORES.lock().expect("no code that holds this lock panics");
        let contents = match (stores.get(name), access) {
            (Some(contents), _) => Arc::clone(contents),
            (None, Access::Write) => {
                let contents = Arc::<Contents>::default();
                stores.insert(name.to_owned(), Arc::clone(&contents));
                contents
            }
            (None, Access::Read) => {
                return Err(StoreError::new(
                    StoreErrorKind::NotFound,
                    Operation::Open,
                    &url,
                    "nothing was written to it in this process",
                )
                .with_next_step("check the name"));
            }
        };
        Ok(Self {
            url,
            access,
            contents,
        })
    }

    fn error(
        &self,
        kind: StoreErrorKind,
        operation: Operation,
        reason: impl Into<std::borrow::Cow<'static, str>>,
    ) -> StoreError {
        StoreError::new(kind, operation, &self.url, reason)
    }

    fn check_writable(&self, operation: Operation) -> Result<(), StoreError> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(self
                .error(
                    StoreErrorKind::Denied,
                    operation,
                    "it was opened for reading",
                )
                .with_next_step("open it for writing")),
        }
    }

    fn bytes_of(&self, name: &ObjectName) -> Result<Arc<[u8]>, StoreError> {
        let objects = self.contents.objects();
        if let Some(bytes) = objects.get(name) {
            return Ok(Arc::clone(bytes));
        }
        let (kind, reason) = match is_folder(&objects, name) {
            true => (StoreErrorKind::Blocked, "it is a folder"),
            false => (StoreErrorKind::NotFound, "there is no such object"),
        };
        Err(self.error(kind, Operation::Read, reason).with_object(name))
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError> {
        let mut objects = self.contents.objects();
        let blocked = |reason: String| {
            Err(self
                .error(StoreErrorKind::Blocked, Operation::Write, reason)
                .with_object(name))
        };
        if is_folder(&objects, name) {
            return blocked(format!("{name} is a folder"));
        }
        if let Some(object) = folders_of(name).find(|folder| objects.contains_key(folder)) {
            return blocked(format!("{object} is an object, not a folder"));
        }
        match objects.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(bytes.into());
                Ok(Put::Created)
            }
            Entry::Occupied(entry) if **entry.get() == *bytes => Ok(Put::AlreadySame),
            Entry::Occupied(entry) => Err(self
                .error(
                    StoreErrorKind::AlreadyExists,
                    Operation::Write,
                    conflict(entry.get().len() as u64, bytes.len() as u64),
                )
                .with_object(name)),
        }
    }

    /// The first names from `after` on that start with `prefix`, with their sizes.
    fn page(&self, prefix: &str, after: Option<&ObjectName>) -> Vec<ObjectEntry> {
        let objects = self.contents.objects();
        let start = match after {
            Some(name) => Bound::Excluded(name),
            None => Bound::Unbounded,
        };
        objects
            .range((start, Bound::Unbounded))
            .skip_while(|(name, _)| name.as_str() < prefix)
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .take(LIST_PAGE_NAMES)
            .map(|(name, bytes)| ObjectEntry::new(name.clone(), bytes.len() as u64))
            .collect()
    }
}

fn folders_of(name: &ObjectName) -> impl Iterator<Item = ObjectName> {
    name.as_str().match_indices('/').map(|(slash, _)| {
        name.as_str()[..slash]
            .try_into()
            .expect("segments of a name")
    })
}

fn is_folder(objects: &BTreeMap<ObjectName, Arc<[u8]>>, name: &ObjectName) -> bool {
    // Names like `a-b` sort between `a` and `a/b`, so the next name alone does not tell.
    objects
        .range((Bound::Excluded(name), Bound::Unbounded))
        .take_while(|(other, _)| other.as_str().starts_with(name.as_str()))
        .any(|(other, _)| other.as_str()[name.as_str().len()..].starts_with('/'))
}

impl Store for MemoryStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError> {
        self.check_writable(Operation::Write)
            .map_err(|error| error.with_object(name))?;
        self.put(name, bytes)
    }

    fn put_file(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        let put = self.put_copy(name, path)?;
        fs::remove_file(path).map_err(|source| {
            self.local_file(name, path, "remove", source)
                .with_retryable(Retryable::MayHaveBeenApplied)
        })?;
        Ok(put)
    }

    fn put_copy(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.check_writable(Operation::Write)
            .map_err(|error| error.with_object(name))?;
        if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
            let reason = format!("{} is not a regular file", path.display());
            return Err(self
                .error(StoreErrorKind::LocalFile, Operation::Write, reason)
                .with_object(name));
        }
        let bytes = fs::read(path).map_err(|source| self.local_file(name, path, "read", source))?;
        self.put(name, &bytes)
    }

    fn staging_dir(&self) -> Option<&Path> {
        None
    }

    fn get(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.bytes_of(name)?;
        if bytes.len() as u64 > bytes_max {
            let reason = format!("it has {} bytes, {bytes_max} are allowed", bytes.len());
            return Err(self
                .error(StoreErrorKind::TooLarge, Operation::Read, reason)
                .with_object(name));
        }
        Ok(bytes.to_vec())
    }

    fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        Ok(ObjectMeta::new(self.bytes_of(name)?.len() as u64))
    }

    fn open(&self, name: &ObjectName) -> Result<Box<dyn ObjectRead>, StoreError> {
        Ok(Box::new(Cursor::new(self.bytes_of(name)?)))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if split_prefix(prefix).is_none() {
            return Err(self
                .error(
                    StoreErrorKind::Invalid,
                    Operation::List,
                    "no object name starts like this",
                )
                .with_object(format_args!("{prefix:?}")));
        }
        let mut last = None;
        loop {
            let page = self.page(prefix, last.as_ref());
            let Some(end) = page.last() else {
                return Ok(());
            };
            last = Some(end.name.clone());
            for entry in page {
                if visit(entry).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.check_writable(Operation::Delete)
            .map_err(|error| error.with_object(name))?;
        let mut objects = self.contents.objects();
        if objects.remove(name).is_none() && is_folder(&objects, name) {
            return Err(self
                .error(StoreErrorKind::Blocked, Operation::Delete, "it is a folder")
                .with_object(name));
        }
        Ok(())
    }

    fn lock(&self) -> Result<StoreLock, StoreError> {
        struct Held(Arc<Contents>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.locked.store(false, Ordering::Release);
            }
        }

        self.check_writable(Operation::Lock)?;
        if self.contents.locked.swap(true, Ordering::Acquire) {
            return Err(self
                .error(
                    StoreErrorKind::Locked,
                    Operation::Lock,
                    "this process holds the lock",
                )
                .with_next_step("finish the other job in this store first"));
        }
        Ok(StoreLock::new(Held(Arc::clone(&self.contents))))
    }

    fn capabilities(&self) -> Result<Capabilities, StoreError> {
        Ok(Capabilities::new(
            match self.access {
                // One lock around the map: nothing to try.
                Access::Write => PutIfAbsent::Honoured,
                Access::Read => PutIfAbsent::NotProbed,
            },
            false,
            "memory of this process, for tests",
        ))
    }

    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        Ok(Vec::new())
    }

    fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        Err(self
            .error(
                StoreErrorKind::Invalid,
                Operation::RemoveLeftover,
                "memory has no leftovers",
            )
            .with_object(&leftover.name))
    }
}
