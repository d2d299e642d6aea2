//! A gRPC service and its client, both recorded: on either side every message with its type, in one trace.
//!
//!     cargo run -p tipple-recorder --example tonic --features tower -- FOLDER
//!
//! Then: `tipple record pair FOLDER`. With generated code it is the same: the layer goes around the service that `tonic`
//! generates, or around a method as here. Messages are JSON, so that the example needs no compiler of protocols.
#![expect(clippy::print_stdout, reason = "a program")]

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tipple_recorder::tower::{RecordLayer, Side};
use tipple_recorder::{Recorder, RecorderOptions, trace};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status};
use tower_layer::Layer;
use tower_service::Service;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    symbol: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Receipt {
    id: u64,
    cents: u64,
}

/// What the service does: a method of tonic is a tower service of messages.
#[derive(Clone)]
struct Place;

impl Service<Request<Order>> for Place {
    type Response = Response<Receipt>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Receipt>, Status>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Order>) -> Self::Future {
        let order = request.into_inner();
        Box::pin(async move {
            match order.symbol.as_str() {
                "TEA" => Ok(Response::new(Receipt {
                    id: order.id,
                    cents: 495,
                })),
                other => Err(Status::not_found(format!("there is no {other}"))),
            }
        })
    }
}

/// What `tonic-build` would generate: which path is which method.
#[derive(Clone)]
struct Shop<P>(P);

impl<P> tonic::server::NamedService for Shop<P> {
    const NAME: &'static str = "shop.Shop";
}

impl<P> Service<http::Request<Body>> for Shop<P>
where
    P: Service<Request<Order>, Response = Response<Receipt>, Error = Status>
        + Clone
        + Send
        + 'static,
    P::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let place = self.0.clone();
        Box::pin(async move {
            // Who asks says what it works for.
            let trace = request.headers().get("x-trace");
            let trace = trace.and_then(|text| text.to_str().ok()?.parse().ok());
            let mut server = tonic::server::Grpc::new(Json::<Receipt, Order>::new());
            Ok(trace::within(trace.unwrap_or(0), server.unary(place, request)).await)
        })
    }
}

/// Messages as JSON.
struct Json<E, D>(PhantomData<(E, D)>);

impl<E, D> Json<E, D> {
    fn new() -> Json<E, D> {
        Json(PhantomData)
    }
}

impl<E, D> Codec for Json<E, D>
where
    E: Serialize + Send + 'static,
    D: DeserializeOwned + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Json<E, D>;
    type Decoder = Json<E, D>;

    fn encoder(&mut self) -> Self::Encoder {
        Json::new()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Json::new()
    }
}

impl<E: Serialize, D> Encoder for Json<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(out.writer(), &item)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl<E, D: DeserializeOwned> Decoder for Json<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let item = serde_json::from_reader(bytes.reader());
        item.map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give a folder")?;
    let recorder = Recorder::start(RecorderOptions::new(folder))?;

    let served = RecordLayer::new(
        recorder.stream("shop"),
        Side::Server,
        |request: &Request<Order>| request.get_ref().clone(),
        |response: &Response<Receipt>| response.get_ref().clone(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shop = Shop(served.layer(Place));
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .serve_with_incoming(shop, tonic::transport::server::TcpIncoming::from(listener)),
    );

    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    for (id, symbol) in ["TEA", "COFFEE", "TEA"].into_iter().enumerate() {
        let order = Order {
            id: id as u64,
            symbol: symbol.to_owned(),
        };
        let trace = 1000 + id as u64;
        let asking = RecordLayer::new(
            recorder.stream("client").trace(trace),
            Side::Client,
            |request: &Request<Order>| request.get_ref().clone(),
            |response: &Response<Receipt>| response.get_ref().clone(),
        );
        let mut request = Request::new(order);
        request.metadata_mut().insert("x-trace", trace.into());
        let answer = asking.layer(Ask(channel.clone())).call(request).await;
        println!(
            "{symbol}: {:?}",
            answer.map(|receipt| receipt.into_inner().cents)
        );
    }
    server.abort();
    let report = recorder.shutdown(Duration::from_secs(5));
    println!("{} records, {} lost", report.written, report.lost_total());
    Ok(())
}

/// The client's side of the method.
#[derive(Clone)]
struct Ask(tonic::transport::Channel);

impl Service<Request<Order>> for Ask {
    type Response = Response<Receipt>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Receipt>, Status>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Order>) -> Self::Future {
        let mut client = tonic::client::Grpc::new(self.0.clone());
        Box::pin(async move {
            let unready = |error: tonic::transport::Error| Status::unavailable(error.to_string());
            client.ready().await.map_err(unready)?;
            let path = http::uri::PathAndQuery::from_static("/shop.Shop/Place");
            client
                .unary(request, path, Json::<Order, Receipt>::new())
                .await
        })
    }
}
