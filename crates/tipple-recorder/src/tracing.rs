//! A layer for `tracing` that makes the trace of a span the trace of what is recorded within it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_core::Subscriber;
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::trace;

/// While a span is entered, [`trace::current`] is its trace: its field `trace_id` if it has one, as a number or as 32
/// hexadecimal digits; else that of the span around it; else one of its own.
#[derive(Debug, Default)]
pub struct TraceLayer {
    next: AtomicU64,
}

impl TraceLayer {
    /// A layer whose own traces begin at a time of day, so that two runs of a program have different ones.
    pub fn new() -> TraceLayer {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        TraceLayer {
            next: AtomicU64::new(now >> 8 << 8 & (u64::MAX >> 1)),
        }
    }
}

/// The trace of a span.
struct TraceOf(u64);

thread_local! {
    /// The spans that were entered and not left, and the trace that was current before each of them.
    static ENTERED: RefCell<Vec<(Id, u64)>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Find(Option<u64>);

impl Visit for Find {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "trace_id" {
            self.0 = Some(value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if let Ok(value) = u64::try_from(value) {
            self.record_u64(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "trace_id" {
            self.0 = match value.len() {
                32 => u128::from_str_radix(value, 16).ok().map(trace::from_w3c),
                _ => value.parse().ok(),
            };
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "trace_id" {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut find = Find::default();
        attributes.record(&mut find);
        let parent = || {
            let parent = span.parent()?;
            let trace = parent.extensions().get::<TraceOf>()?.0;
            Some(trace)
        };
        let trace = find
            .0
            .or_else(parent)
            .unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed) + 1);
        span.extensions_mut().insert(TraceOf(trace));
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let trace = span
            .extensions()
            .get::<TraceOf>()
            .map_or(0, |trace| trace.0);
        ENTERED.with_borrow_mut(|entered| entered.push((id.clone(), trace::current())));
        trace::set(trace);
    }

    fn on_exit(&self, id: &Id, _context: Context<'_, S>) {
        ENTERED.with_borrow_mut(|entered| {
            let Some(at) = entered.iter().rposition(|(span, _)| span == id) else {
                return;
            };
            let (_, before) = entered.remove(at);
            match entered.get_mut(at) {
                None => trace::set(before),
                // Spans need not be left in the order in which they were entered.
                Some((_, before_next)) => *before_next = before,
            }
        });
    }
}
