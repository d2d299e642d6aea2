//! Requests to services beside a store: a `POST` with a bounded answer, signed for AWS where that is asked for.
//!
//! ```no_run
//! use std::time::Duration;
//! use tipple_store::StoreOptions;
//! use tipple_store::http::{Poster, Request};
//!
//! let options = StoreOptions::default().with_variables(std::env::vars());
//! let poster = Poster::new(&options)?;
//! let mut request = Request::new("https://sqs.eu-west-1.amazonaws.com/", r#"{"QueueName":"q"}"#);
//! request.headers = vec![
//!     ("content-type".into(), "application/x-amz-json-1.0".into()),
//!     ("x-amz-target".into(), "AmazonSQS.GetQueueUrl".into()),
//! ];
//! request.aws_service = Some("sqs".into());
//! request.time_max = Duration::from_secs(10);
//! let answer = poster.post(&request)?;
//! println!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use crate::remote::post::{Answer, PostError, PostErrorKind, Poster, Request};
