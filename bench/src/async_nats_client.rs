//! The client of NATS that Rust programs use, doing nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt;

/// Messages that a publisher has on their way, as the bare one.
const WINDOW: usize = 4096;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

async fn connect(port: &str) -> jetstream::Context {
    let client = async_nats::connect(format!("127.0.0.1:{port}")).await;
    let mut context = jetstream::new(client.expect("connected"));
    context.set_timeout(Duration::from_secs(60));
    context
}

/// Reads `events` messages by an ordered pull consumer, and throws them away.
pub fn pull(port: &str, stream: &str, events: u64) {
    run(async {
        let stream = connect(port).await.get_stream(stream).await;
        let config = consumer::pull::OrderedConfig::default();
        let ordered = stream.expect("there").create_consumer(config).await;
        let mut messages = ordered.expect("made").messages().await.expect("asked for");
        for _ in 0..events {
            let message = messages.next().await.expect("goes on");
            std::hint::black_box(message.expect("read").payload.len());
        }
    });
}

/// Publishes `events` messages of `bytes` bytes, with a window of acknowledgements.
pub fn publish(port: &str, stream: &str, events: u64, bytes: usize) {
    run(async {
        let context = connect(port).await;
        let subject = format!("{stream}.x");
        // Shared by all: it copies no payload before it is sent.
        let payloads = std::iter::repeat_n(vec![b'x'; bytes].into(), events as usize);
        let mut acknowledgements = VecDeque::with_capacity(WINDOW);
        for payload in payloads {
            if acknowledgements.len() == WINDOW {
                let oldest: jetstream::context::PublishAckFuture =
                    acknowledgements.pop_front().expect("a full window");
                oldest.await.expect("acknowledged");
            }
            let sent = context.publish(subject.clone(), payload).await;
            acknowledgements.push_back(sent.expect("sent"));
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await.expect("acknowledged");
        }
    });
}
