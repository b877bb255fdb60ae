//! Stalls by cause, counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::diagnosis::Cause;
use crate::flow::Cost;

/// Gaps of one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    /// How many.
    pub stalls: u64,
    /// How long all of them were together, in nanoseconds.
    pub total_ns: u64,
    /// The longest.
    pub longest_ns: u64,
}

impl Gaps {
    /// Adds others.
    pub fn add(&mut self, more: &Self) {
        self.stalls = self.stalls.saturating_add(more.stalls);
        self.total_ns = self.total_ns.saturating_add(more.total_ns);
        self.longest_ns = self.longest_ns.max(more.longest_ns);
    }
}

/// Gaps by cause, those that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<Cause, Gaps>", into = "BTreeMap<Cause, Gaps>")]
pub struct CauseTable([Gaps; Cause::ALL.len()]);

impl CauseTable {
    /// Counts a gap.
    pub(super) fn count(&mut self, cause: Cause, gap_ns: u64) {
        let gap = Gaps {
            stalls: 1,
            total_ns: gap_ns,
            longest_ns: gap_ns,
        };
        if let Some(gaps) = self.0.get_mut(cause as usize) {
            gaps.add(&gap);
        }
    }

    /// Gaps of a cause.
    pub fn get(&self, cause: Cause) -> Gaps {
        self.0.get(cause as usize).copied().unwrap_or_default()
    }

    /// The causes that there are, in the order of the documentation.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, Gaps)> {
        let all = Cause::ALL.into_iter().zip(self.0);
        all.filter(|(_, gaps)| gaps.stalls > 0)
    }

    /// Gaps of all causes.
    pub fn total(&self) -> Gaps {
        let mut total = Gaps::default();
        self.0.iter().for_each(|gaps| total.add(gaps));
        total
    }
}

impl From<BTreeMap<Cause, Gaps>> for CauseTable {
    fn from(map: BTreeMap<Cause, Gaps>) -> Self {
        let mut table = Self::default();
        for (cause, gaps) in map {
            if let Some(place) = table.0.get_mut(cause as usize) {
                *place = gaps;
            }
        }
        table
    }
}

impl From<CauseTable> for BTreeMap<Cause, Gaps> {
    fn from(table: CauseTable) -> Self {
        table.iter().collect()
    }
}

/// What stalls cost a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStalls {
    /// By cause.
    pub causes: CauseTable,
}

impl Cost for FlowStalls {
    fn rank(&self) -> u64 {
        self.causes.total().total_ns
    }

    fn add(&mut self, more: &Self) {
        for (gaps, others) in self.causes.0.iter_mut().zip(&more.causes.0) {
            gaps.add(others);
        }
    }
}

/// Why flows stood still, as far as it can be told while they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallSummary {
    /// By cause.
    pub causes: CauseTable,
    /// Gaps that looked like stalls, and in which nobody had anything to send.
    pub think_time: u64,
    /// Stalls among those in `causes` that were not looked at more closely, because there were too many at a time: what looks like a
    /// delayed ACK counts as one.
    pub unjudged: u64,
}
