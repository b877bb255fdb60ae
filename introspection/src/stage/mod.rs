//! Where a frame's time in the switch goes.

mod filter;
mod histograms;
mod series;

use serde::{Deserialize, Serialize};

use crate::Instant;
pub use filter::{FilterHistograms, FilterStages, PartStages, PartTime, PartTimes};
pub use histograms::{StageDistributions, StageHistograms, StageSummary};
pub use series::Distribution;

/// The steps that a frame's residence time is split into, in the order in which a frame meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From the doorbell's arrival to the worker's first look at the queue.
    Doorbell,
    /// From there to the frame's burst being taken off the ring.
    QueueWait,
    /// Copying and parsing headers.
    Parse,
    /// In filters, holds left out: judging, and the copy that is judged.
    Filter,
    /// Held by a filter.
    Hold,
    /// Lookup and copy into the receiver's pages.
    Copy,
    /// From there to the receiver's interrupt being raised.
    Notify,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 7] = [
        Self::Doorbell,
        Self::QueueWait,
        Self::Parse,
        Self::Filter,
        Self::Hold,
        Self::Copy,
        Self::Notify,
    ];

    /// The stage's name for people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Doorbell => "doorbell",
            Self::QueueWait => "queue wait",
            Self::Parse => "parse",
            Self::Filter => "filter",
            Self::Hold => "hold",
            Self::Copy => "copy",
            Self::Notify => "notify",
        }
    }

    /// The stage's name in JSON and on labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Doorbell => "doorbell",
            Self::QueueWait => "queue_wait",
            Self::Parse => "parse",
            Self::Filter => "filter",
            Self::Hold => "hold",
            Self::Copy => "copy",
            Self::Notify => "notify",
        }
    }
}

/// When a frame (or a burst that moves together) passed each stage. Each stage lasts from the stamp before it to
/// its own, so the stages' durations sum to the residence time by construction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    /// The doorbell was noticed.
    pub start: Instant,
    /// End of each stage, indexed by `Stage as usize`.
    pub ends: [Instant; Stage::ALL.len()],
}
