//! A webhook: one `POST` for each message.

use tipple_budget::Gate;
use tipple_store::StoreOptions;
use tipple_store::http::{Poster, Request};

use super::message::Message;
use super::retry::{Refused, Retry, Trouble};

/// Sends one message. Any 2xx takes it.
pub(crate) fn send(
    poster: &Poster,
    url: &str,
    message: &Message,
    options: &StoreOptions,
    mut retry: Retry,
    gate: &Gate,
) -> Result<(), Refused> {
    let mut request = Request::new(url, message.body.as_bytes());
    request.headers = vec![
        ("content-type".into(), "application/json".into()),
        ("idempotency-key".into(), message.key.clone()),
    ];
    request.time_max = options.request_time;
    retry.run(gate, || match poster.post(&request) {
        Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
        Ok(answer) => Err(Trouble::of_status(&answer, None)),
        Err(error) => Err(Trouble::of_post(&error)),
    })
}
