//! What happens, told to the process's recorder. The names are stable; each has the label `cache_name`.

use metrics::{counter, gauge, histogram};

use crate::UpdateType;
use crate::stats::{Event, WriteOutcome};

pub(crate) fn tell(cache: &str, event: &Event) {
    let cache = cache.to_owned();
    let seconds = |time: &std::time::SystemTime| {
        let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    };
    match event {
        Event::Loaded {
            took,
            bytes,
            updated,
        } => {
            counter!("cache_dump_loads_total", "cache_name" => cache.clone(), "outcome" => "loaded")
                .increment(1);
            gauge!("cache_dump_load_seconds", "cache_name" => cache.clone())
                .set(took.as_secs_f64());
            gauge!("cache_dump_size_bytes", "cache_name" => cache.clone()).set(*bytes as f64);
            gauge!("cache_dump_newest_timestamp_seconds", "cache_name" => cache)
                .set(seconds(updated));
        }
        Event::LoadFailed(kind) => {
            counter!("cache_dump_loads_total", "cache_name" => cache, "outcome" => kind.name())
                .increment(1);
        }
        Event::Wrote {
            outcome,
            took,
            bytes,
            updated,
        } => {
            let name = match outcome {
                WriteOutcome::Written => "written",
                WriteOutcome::Bumped => "bumped",
                WriteOutcome::UpToDate => "up_to_date",
                WriteOutcome::Empty => "empty_value",
            };
            counter!("cache_dump_writes_total", "cache_name" => cache.clone(), "outcome" => name)
                .increment(1);
            if matches!(outcome, WriteOutcome::Written | WriteOutcome::Bumped) {
                gauge!("cache_dump_newest_timestamp_seconds", "cache_name" => cache.clone())
                    .set(seconds(updated));
            }
            if *outcome == WriteOutcome::Written {
                histogram!("cache_dump_write_seconds", "cache_name" => cache.clone())
                    .record(took.as_secs_f64());
                gauge!("cache_dump_size_bytes", "cache_name" => cache).set(*bytes as f64);
            }
        }
        Event::WriteFailed(kind) => {
            counter!("cache_dump_writes_total", "cache_name" => cache, "outcome" => kind.name())
                .increment(1);
        }
        #[cfg(feature = "store")]
        Event::Copied(was_own) => {
            let outcome = if *was_own { "copied" } else { "not_its_turn" };
            counter!("cache_dump_copies_total", "cache_name" => cache, "outcome" => outcome)
                .increment(1);
        }
        #[cfg(feature = "store")]
        Event::CopyFailed(kind) => {
            counter!("cache_dump_copies_total", "cache_name" => cache, "outcome" => kind.name())
                .increment(1);
        }
        Event::Updating(kind) => {
            counter!("cache_update_attempts_total", "cache_name" => cache, "type" => name(*kind))
                .increment(1);
        }
        Event::Updated {
            kind, is_new, took, ..
        } => {
            if !is_new {
                counter!("cache_update_no_changes_total", "cache_name" => cache.clone(), "type" => name(*kind))
                    .increment(1);
            }
            histogram!("cache_update_seconds", "cache_name" => cache, "type" => name(*kind))
                .record(took.as_secs_f64());
        }
        Event::UpdateFailed { kind, .. } => {
            counter!("cache_update_failures_total", "cache_name" => cache, "type" => name(*kind))
                .increment(1);
        }
        Event::Expired => {
            counter!("cache_expirations_total", "cache_name" => cache).increment(1);
        }
        Event::Documents(documents) => {
            if let Some(documents) = documents {
                gauge!("cache_current_documents", "cache_name" => cache).set(*documents as f64);
            }
        }
    }
}

fn name(kind: UpdateType) -> &'static str {
    match kind {
        UpdateType::Full => "full",
        UpdateType::Incremental => "incremental",
    }
}
