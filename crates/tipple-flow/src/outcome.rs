//! What became of the records that were not stored or applied.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether a cause is the way of the world or a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CauseKind {
    /// Expired, deleted, filtered: told, and the exit code stays 0.
    Outcome,
    /// Too large, refused, unreadable: told, and the exit code becomes 3.
    Loss,
}

/// Why a record was not stored or applied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    kind: CauseKind,
    name: Cow<'static, str>,
}

impl Cause {
    /// A cause that is no loss.
    pub const fn outcome(name: &'static str) -> Self {
        Self {
            kind: CauseKind::Outcome,
            name: Cow::Borrowed(name),
        }
    }

    /// A cause that is a loss.
    pub const fn loss(name: &'static str) -> Self {
        Self {
            kind: CauseKind::Loss,
            name: Cow::Borrowed(name),
        }
    }

    /// What kind it is.
    pub fn kind(&self) -> CauseKind {
        self.kind
    }

    /// How it is called in reports.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Counts by cause. In JSON: `{"outcomes": {"expired": 3}, "losses": {"too large": 1}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcomes {
    outcomes: BTreeMap<Cow<'static, str>, u64>,
    losses: BTreeMap<Cow<'static, str>, u64>,
}

impl Outcomes {
    /// Counts `records` more under `cause`.
    pub fn add(&mut self, cause: &Cause, records: u64) {
        if records > 0 {
            let count = self.side(cause.kind).entry(cause.name.clone());
            add_to(count.or_default(), records);
        }
    }

    /// Counts one more under `cause`.
    pub fn count(&mut self, cause: &Cause) {
        self.add(cause, 1);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (name, records) in &other.outcomes {
            add_to(self.outcomes.entry(name.clone()).or_default(), *records);
        }
        for (name, records) in &other.losses {
            add_to(self.losses.entry(name.clone()).or_default(), *records);
        }
    }

    /// Records under all causes.
    pub fn total(&self) -> u64 {
        sum(self.outcomes.values()).saturating_add(self.lost())
    }

    /// Records lost.
    pub fn lost(&self) -> u64 {
        sum(self.losses.values())
    }

    /// Outcomes by name.
    pub fn outcomes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.outcomes.iter().map(|(name, n)| (name.as_ref(), *n))
    }

    /// Losses by name.
    pub fn losses(&self) -> impl Iterator<Item = (&str, u64)> {
        self.losses.iter().map(|(name, n)| (name.as_ref(), *n))
    }

    fn side(&mut self, kind: CauseKind) -> &mut BTreeMap<Cow<'static, str>, u64> {
        match kind {
            CauseKind::Outcome => &mut self.outcomes,
            CauseKind::Loss => &mut self.losses,
        }
    }
}

/// Counts that were read from a file may be anything: they stay at the largest number rather than begin anew at 0.
fn add_to(count: &mut u64, records: u64) {
    *count = count.saturating_add(records);
}

fn sum<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, count| sum.saturating_add(*count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_cause_and_reads_back() {
        let mut outcomes = Outcomes::default();
        outcomes.count(&Cause::outcome("expired"));
        outcomes.add(&Cause::loss("too large"), 2);
        outcomes.add(&Cause::loss("refused"), 0);
        let mut twice = outcomes.clone();
        twice.merge(&outcomes);
        assert_eq!((twice.total(), twice.lost()), (6, 4));
        let json = serde_json::to_string(&twice).unwrap();
        assert_eq!(
            json,
            r#"{"outcomes":{"expired":2},"losses":{"too large":4}}"#
        );
        assert_eq!(serde_json::from_str::<Outcomes>(&json).unwrap(), twice);
    }
}
