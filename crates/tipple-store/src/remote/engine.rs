//! The threads that move bytes: asynchronous inside, synchronous outside.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Two: one is enough for the bytes, the other signs and sums meanwhile.
const THREADS: usize = 2;
/// A thread that reads a file of settings, or waits for a process that gives credentials, ends so soon.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// A runtime of one store. Dropping it ends what it does, without waiting.
pub(super) struct Engine {
    runtime: Option<Runtime>,
}

impl Engine {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(THREADS)
            .thread_keep_alive(IDLE_TIME)
            .thread_name("tipple-store")
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime
            .as_ref()
            .expect("it is there until it is dropped")
    }

    /// Waits for `future` on this thread.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    /// Lets `future` run while this thread does something else.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime().spawn(future)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last handle may be dropped where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}
