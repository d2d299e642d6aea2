//! An HTTP service whose requests and responses are recorded, and what it does with the orders in them.
//!
//!     cargo run -p tipple-recorder --example axum --features tower -- FOLDER
//!
//! Ends on SIGINT. Then: `tipple record pair FOLDER`.
#![expect(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tipple_recorder::tower::{RecordLayer, Side};
use tipple_recorder::{Recorder, RecorderOptions, Stream};

/// What is recorded of a request: its body is a stream, which the layer does not read.
#[derive(Serialize)]
struct Asked {
    method: String,
    path: String,
}

#[derive(Serialize)]
struct Answered {
    status: u16,
}

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    symbol: String,
    #[serde(serialize_with = "tipple_recorder::hide")]
    card: String,
}

#[derive(Serialize)]
struct Receipt {
    id: u64,
}

/// The messages themselves are recorded where they have their types.
async fn place(State(orders): State<Stream>, Json(order): Json<Order>) -> Json<Receipt> {
    orders.received(&order);
    let receipt = Receipt { id: order.id };
    orders.sent(&receipt);
    Json(receipt)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give a folder")?;
    let recorder = Recorder::start(RecorderOptions::new(folder))?;
    let layer = RecordLayer::new(
        recorder.stream("http"),
        Side::Server,
        |request: &Request| Asked {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
        },
        |response: &Response| Answered {
            status: response.status().as_u16(),
        },
    );
    let service = Router::new()
        .route("/orders", post(place))
        .with_state(recorder.stream("orders"))
        .layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/orders", listener.local_addr()?);
    axum::serve(listener, service)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    let report = recorder.shutdown(Duration::from_secs(5));
    println!("{} records, {} lost", report.written, report.lost_total());
    Ok(())
}
