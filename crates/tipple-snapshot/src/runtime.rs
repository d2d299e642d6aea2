//! Updaters that are asynchronous, on tokio.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::{
    BoxError, Cache, CacheBuilder, ErrorKind, SnapshotError, Update, UpdateRequest, UpdateType,
    Updater, WriteOutcome,
};

/// Gives a cache its value, asynchronously: as [`Updater`].
///
/// Its future is polled by the cache's own thread, within the runtime: connections and timers work as everywhere, and no worker
/// of the runtime is kept busy with making a value out of what came. When the cache ends, the future is dropped.
pub trait AsyncUpdater<T>: Send + 'static {
    /// Makes an update.
    ///
    /// # Errors
    /// As [`Updater::update`].
    fn update(
        &mut self,
        request: UpdateRequest<T>,
    ) -> impl Future<Output = Result<Update<T>, BoxError>> + Send;

    /// As [`Updater::pre_assign_check`].
    ///
    /// # Errors
    /// Why the new value may not replace the old one.
    fn pre_assign_check(&self, old: Option<&T>, new: &T) -> Result<(), BoxError> {
        let _ = (old, new);
        Ok(())
    }
}

impl<T, F, R> AsyncUpdater<T> for F
where
    T: Send + 'static,
    F: FnMut(UpdateRequest<T>) -> R + Send + 'static,
    R: Future<Output = Result<Update<T>, BoxError>> + Send,
{
    fn update(
        &mut self,
        request: UpdateRequest<T>,
    ) -> impl Future<Output = Result<Update<T>, BoxError>> + Send {
        self(request)
    }
}

/// An asynchronous updater on its runtime.
pub struct OnTokio<U> {
    handle: Handle,
    updater: U,
    stopped: watch::Receiver<bool>,
}

impl<T: Send + Sync + 'static, U: AsyncUpdater<T>> Updater<T> for OnTokio<U> {
    fn update(&mut self, request: UpdateRequest<T>) -> Result<Update<T>, BoxError> {
        let mut update = pin!(self.updater.update(request));
        let stopped = &mut self.stopped;
        self.handle.block_on(async {
            let mut stopped = pin!(stopped.wait_for(|stopped| *stopped));
            poll_fn(|context| match update.as_mut().poll(context) {
                Poll::Ready(updated) => Poll::Ready(updated),
                Poll::Pending => stopped
                    .as_mut()
                    .poll(context)
                    .map(|_| Err("the cache ended before the update did".into())),
            })
            .await
        })
    }

    fn pre_assign_check(&self, old: Option<&T>, new: &T) -> Result<(), BoxError> {
        self.updater.pre_assign_check(old, new)
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    /// A cache whose value comes from an asynchronous updater, on the runtime that this is called in.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn builder_async<U: AsyncUpdater<T>>(
        name: impl Into<String>,
        updater: U,
    ) -> CacheBuilder<T, OnTokio<U>> {
        let (stop, stopped) = watch::channel(false);
        let updater = OnTokio {
            handle: Handle::current(),
            updater,
            stopped,
        };
        Cache::builder(name, updater).stopping(move || {
            stop.send_replace(true);
        })
    }

    /// As [`update_now`](Cache::update_now).
    ///
    /// # Errors
    /// As there.
    pub async fn update_now_async(&self, kind: UpdateType) -> Result<(), SnapshotError> {
        let cache = self.clone();
        blocking(move || cache.update_now(kind)).await
    }

    /// As [`write_snapshot_now`](Cache::write_snapshot_now).
    ///
    /// # Errors
    /// As there.
    pub async fn write_snapshot_now_async(&self) -> Result<WriteOutcome, SnapshotError> {
        let cache = self.clone();
        blocking(move || cache.write_snapshot_now()).await
    }

    /// As [`shutdown`](Cache::shutdown).
    ///
    /// # Errors
    /// As there.
    pub async fn shutdown_async(&self, timeout: Duration) -> Result<WriteOutcome, SnapshotError> {
        let cache = self.clone();
        blocking(move || cache.shutdown(timeout)).await
    }
}

impl<T: Send + Sync + 'static, U: Updater<T>> CacheBuilder<T, U> {
    /// As [`start`](CacheBuilder::start), without keeping a worker of the runtime waiting.
    ///
    /// # Errors
    /// As there.
    pub async fn start_async(self) -> Result<Cache<T>, SnapshotError> {
        blocking(move || self.start()).await
    }
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, SnapshotError> + Send + 'static,
) -> Result<R, SnapshotError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(
            SnapshotError::new(ErrorKind::Cancelled, "the runtime ended first")
                .because(Arc::new(error).to_string()),
        )
    })
}
