//! Channels of tokio that record what goes through them.

use std::fmt;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TryRecvError, TrySendError};

use crate::stream::Stream;

/// A bounded channel: what is sent is recorded as `Out` of `sender`, what is received as `In` of `receiver`.
pub fn channel<T: Serialize>(
    buffer: usize,
    sender: Stream,
    receiver: Stream,
) -> (Sender<T>, Receiver<T>) {
    let (inner_sender, inner_receiver) = mpsc::channel(buffer);
    (
        Sender {
            inner: inner_sender,
            stream: sender,
        },
        Receiver {
            inner: inner_receiver,
            stream: receiver,
        },
    )
}

/// Sends and records. As tokio's otherwise.
pub struct Sender<T> {
    inner: mpsc::Sender<T>,
    stream: Stream,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender {
            inner: self.inner.clone(),
            stream: self.stream.clone(),
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl<T: Serialize> Sender<T> {
    /// Waits for room, records and sends: what could not be sent is not recorded. Cancelled while it waits, nothing
    /// happened.
    ///
    /// # Errors
    /// If the receiver is gone.
    pub async fn send(&self, message: T) -> Result<(), SendError<T>> {
        match self.inner.reserve().await {
            Ok(permit) => {
                self.stream.sent(&message);
                permit.send(message);
                Ok(())
            }
            Err(SendError(())) => Err(SendError(message)),
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// If there is no room, or the receiver is gone.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        match self.inner.try_reserve() {
            Ok(permit) => {
                self.stream.sent(&message);
                permit.send(message);
                Ok(())
            }
            Err(TrySendError::Full(())) => Err(TrySendError::Full(message)),
            Err(TrySendError::Closed(())) => Err(TrySendError::Closed(message)),
        }
    }

    /// tokio's own, which records nothing.
    pub fn inner(&self) -> &mpsc::Sender<T> {
        &self.inner
    }
}

/// Receives and records. As tokio's otherwise.
pub struct Receiver<T> {
    inner: mpsc::Receiver<T>,
    stream: Stream,
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl<T: Serialize> Receiver<T> {
    /// Waits for the next message; `None` when all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        let message = self.inner.recv().await?;
        self.stream.received(&message);
        Some(message)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// If there is none.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let message = self.inner.try_recv()?;
        self.stream.received(&message);
        Ok(message)
    }

    /// tokio's own, which records nothing.
    pub fn inner(&mut self) -> &mut mpsc::Receiver<T> {
        &mut self.inner
    }
}
