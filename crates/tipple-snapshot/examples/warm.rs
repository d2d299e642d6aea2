//! A service whose second start is warm:
//!
//!     cargo run --release -p tipple-snapshot --example warm -- /tmp/warm
//!     cargo run --release -p tipple-snapshot --example warm -- /tmp/warm
//!
//! Its source is slow: it takes two seconds to give 200,000 articles. The first start waits for it; the second one has them after
//! some milliseconds, and updates them afterwards. The folder is the first argument, the number of articles the second, and the
//! seconds that the source takes the third.

#![expect(clippy::print_stdout, reason = "an example that shows its figures")]

use std::error::Error;
use std::time::{Duration, Instant};

use tipple_snapshot::{
    AsyncUpdater, BoxError, Cache, CacheOptions, Dumpable, HashMap, SnapshotOptions, Update,
    UpdateRequest,
};

#[derive(Dumpable)]
struct Article {
    title: String,
    cents: u64,
}

type Articles = HashMap<u64, Article>;

/// What would be a database.
struct Source {
    articles: u64,
    takes: Duration,
}

impl AsyncUpdater<Articles> for Source {
    async fn update(&mut self, _: UpdateRequest<Articles>) -> Result<Update<Articles>, BoxError> {
        tokio::time::sleep(self.takes).await;
        let article = |n| Article {
            title: format!("article {n}"),
            cents: n * 7 % 1000,
        };
        Ok(Update::New(
            (0..self.articles).map(|n| (n, article(n))).collect(),
        ))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let root = args.next().unwrap_or_else(|| "/tmp/warm".to_owned());
    let source = Source {
        articles: args.next().map_or(Ok(200_000), |text| text.parse())?,
        takes: Duration::from_secs_f64(args.next().map_or(Ok(2.0), |text| text.parse())?),
    };

    let begin = Instant::now();
    let day = Duration::from_secs(86_400);
    let cache = Cache::builder_async("articles", source)
        .options(CacheOptions::every(Duration::from_secs(60)))
        .snapshots(root, SnapshotOptions::warm(day))
        .start_async()
        .await?;
    let ready = begin.elapsed();

    let stats = cache.stats();
    let (sum, count) = {
        let articles = cache.get()?;
        let cents: u64 = articles.values().map(|article| article.cents).sum();
        (cents, articles.len())
    };
    match stats.load_duration {
        Some(took) => println!(
            "warm start: {count} articles after {ready:.0?}, {took:.0?} of it to load {} bytes",
            stats.last_write_bytes.unwrap_or(0)
        ),
        None => println!("cold start: {count} articles after {ready:.0?}"),
    }
    println!("sum of all prices: {sum}");

    // Here the service would serve. What is new when it ends is written, within five seconds.
    let written = cache.shutdown_async(Duration::from_secs(5)).await?;
    println!("at the end: {written:?}");
    Ok(())
}
