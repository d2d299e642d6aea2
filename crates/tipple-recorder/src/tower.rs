//! A tower layer that records requests and responses.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use serde::Serialize;
use tower_layer::Layer;
use tower_service::Service;

use crate::entry::{Direction, Kind};
use crate::stream::Stream;
use crate::trace;

/// Which side of a service this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It answers: requests are `In`, responses `Out`.
    Server,
    /// It asks: requests are `Out`, responses `In`.
    Client,
}

/// Records what `request` and `response` make of requests and responses, as [`Kind::Request`] and [`Kind::Response`] of
/// one number, in the trace that is current when the request is made. Bodies that are streams are not read: what is
/// recorded of them is what these functions say.
///
/// An error of the service is recorded as no response.
#[derive(Clone, Debug)]
pub struct RecordLayer<F, G> {
    stream: Stream,
    side: Side,
    request: F,
    response: G,
    numbers: Arc<AtomicU64>,
}

impl<F, G> RecordLayer<F, G> {
    /// A layer for `stream`.
    pub fn new(stream: Stream, side: Side, request: F, response: G) -> RecordLayer<F, G> {
        RecordLayer {
            stream,
            side,
            request,
            response,
            numbers: Arc::new(AtomicU64::new(1)),
        }
    }
}

impl<S, F: Clone, G: Clone> Layer<S> for RecordLayer<F, G> {
    type Service = RecordService<S, F, G>;

    fn layer(&self, inner: S) -> Self::Service {
        RecordService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service in a [`RecordLayer`].
#[derive(Clone, Debug)]
pub struct RecordService<S, F, G> {
    inner: S,
    layer: RecordLayer<F, G>,
}

impl<S, R, F, G, A, B> Service<R> for RecordService<S, F, G>
where
    S: Service<R>,
    S::Future: Send + 'static,
    F: Fn(&R) -> A,
    G: Fn(&S::Response) -> B + Clone + Send + 'static,
    A: Serialize,
    B: Serialize,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let RecordLayer {
            stream,
            side,
            numbers,
            response,
            ..
        } = &self.layer;
        let id = numbers.fetch_add(1, Ordering::Relaxed);
        let (asked, answered) = match side {
            Side::Server => (Direction::In, Direction::Out),
            Side::Client => (Direction::Out, Direction::In),
        };
        stream.record(asked, Kind::Request(id), &(self.layer.request)(&request));
        let (stream, response) = (stream.clone(), response.clone());
        let trace = stream.trace_of_now();
        let called = self.inner.call(request);
        Box::pin(async move {
            let result = trace::within(trace, called).await;
            if let Ok(answer) = &result {
                let stream = stream.trace(trace);
                stream.record(answered, Kind::Response(id), &response(answer));
            }
            result
        })
    }
}
