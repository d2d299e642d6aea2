//! A shop that records the orders that it gets and the receipts that it gives, and that is tested with them later.
//!
//!     cargo run --release --example shop -- record FOLDER [ORDERS]
//!     cargo run --release --example shop -- replay FOLDER [--discount PERCENT]
#![expect(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tipple_recorder::{
    Direction, Filter, FolderShelf, Ignored, Kind, Pace, Player, Recorder, RecorderOptions,
};

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    symbol: String,
    count: u64,
}

#[derive(Serialize)]
struct Receipt {
    id: u64,
    cents: u64,
}

/// What the shop is about.
fn sell(order: &Order, discount: u64) -> Receipt {
    let price = match order.symbol.as_str() {
        "TEA" => 495,
        "COFFEE" => 350,
        _ => 100,
    };
    Receipt {
        id: order.id,
        cents: order.count * price * (100 - discount) / 100,
    }
}

fn record(folder: PathBuf, orders: u64) -> Result<(), Box<dyn Error>> {
    let recorder = Recorder::start(RecorderOptions::new(folder))?;
    let shop = recorder.stream("shop");
    for id in 1..=orders {
        let order = Order {
            id,
            symbol: ["TEA", "COFFEE", "CAKE"][id as usize % 3].to_owned(),
            count: 1 + id % 5,
        };
        // Everything that is done for this order has its trace.
        let shop = shop.clone().trace(id);
        shop.record(Direction::In, Kind::Request(id), &order);
        shop.record(Direction::Out, Kind::Response(id), &sell(&order, 0));
    }
    let report = recorder.shutdown(Duration::from_secs(5));
    println!("{} records, {} lost", report.written, report.lost_total());
    Ok(())
}

/// Whether the shop still gives the receipts that it gave.
fn replay(folder: PathBuf, discount: u64) -> Result<bool, Box<dyn Error>> {
    let shelf = FolderShelf::open(&[folder])?;
    let mut player = Player::load(&shelf, &Filter::default(), Ignored::default())?;
    let outcome = player.run(Pace::Instant, |played, sent| {
        let order: Order = played.message()?;
        sent.send("Receipt", &sell(&order, discount));
        Ok(())
    })?;
    println!(
        "{} orders, {} receipts as they were, {} different",
        outcome.played, outcome.same, outcome.different
    );
    if let Some(first) = outcome.differences.first() {
        println!("the first: {} {} / {}", first.path, first.left, first.right);
    }
    Ok(outcome.is_same())
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let is_same = match args[..] {
        ["record", folder] => record(folder.into(), 1000).map(|()| true)?,
        ["record", folder, orders] => record(folder.into(), orders.parse()?).map(|()| true)?,
        ["replay", folder] => replay(folder.into(), 0)?,
        ["replay", folder, "--discount", percent] => replay(folder.into(), percent.parse()?)?,
        _ => return Err("give `record FOLDER` or `replay FOLDER`".into()),
    };
    Ok(match is_same {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
