//! Histograms of what each stage took.

use core::array;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::series::{Distribution, Series};
use super::{Stage, Stamps};

/// One distribution for each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // each is the stage of that name
pub struct StageDistributions {
    pub doorbell: Distribution,
    pub queue_wait: Distribution,
    pub parse: Distribution,
    pub filter: Distribution,
    pub hold: Distribution,
    pub copy: Distribution,
    pub notify: Distribution,
}

impl StageDistributions {
    /// The distribution of one stage.
    pub const fn get(&self, stage: Stage) -> &Distribution {
        match stage {
            Stage::Doorbell => &self.doorbell,
            Stage::QueueWait => &self.queue_wait,
            Stage::Parse => &self.parse,
            Stage::Filter => &self.filter,
            Stage::Hold => &self.hold,
            Stage::Copy => &self.copy,
            Stage::Notify => &self.notify,
        }
    }
}

/// Where frames' time went. The stages' `total_ns` sum to the residence's, and so do their means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// Frames recorded.
    pub frames: u64,
    /// From the doorbell to the receiver's interrupt.
    pub residence: Distribution,
    /// The parts of it.
    pub stages: StageDistributions,
}

/// A histogram for each stage and one for the residence time. The first record takes the memory, about 300 KiB; further ones
/// allocate nothing.
#[derive(Clone, Default)]
pub struct StageHistograms {
    recorded: Option<Box<Recorded>>,
}

#[derive(Clone)]
struct Recorded {
    stages: [Series; Stage::ALL.len()],
    residence: Series,
    frames: u64,
}

impl fmt::Debug for StageHistograms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StageHistograms")
            .field("frames", &self.frames())
            .finish_non_exhaustive()
    }
}

impl StageHistograms {
    /// Empty ones.
    pub const fn new() -> Self {
        Self { recorded: None }
    }

    /// Counts `frames` frames that went through together. A stamp before the one that should precede it counts as
    /// equal to it, so the stages' durations always sum to the residence time.
    pub fn record(&mut self, stamps: &Stamps, frames: u64) {
        if frames > 0 {
            self.recorded.get_or_insert_default().record(stamps, frames);
        }
    }

    /// Frames recorded.
    pub fn frames(&self) -> u64 {
        self.recorded.as_ref().map_or(0, |recorded| recorded.frames)
    }

    /// What was recorded so far.
    pub fn summary(&self) -> StageSummary {
        self.recorded
            .as_ref()
            .map_or_else(StageSummary::default, |recorded| recorded.summary())
    }

    /// Adds what another (of another worker) recorded.
    pub fn merge(&mut self, other: &Self) {
        if let Some(other) = &other.recorded {
            self.recorded.get_or_insert_default().merge(other);
        }
    }

    /// Forgets what was recorded; keeps the memory.
    pub fn reset(&mut self) {
        if let Some(recorded) = &mut self.recorded {
            recorded.reset();
        }
    }

    /// Hands out what was recorded and starts from zero.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let taken = self.clone();
        self.reset();
        taken
    }
}

impl Default for Recorded {
    fn default() -> Self {
        let residence = Series::new();
        Self {
            stages: array::from_fn(|_| residence.clone()),
            residence,
            frames: 0,
        }
    }
}

impl Recorded {
    fn record(&mut self, stamps: &Stamps, frames: u64) {
        let mut reached = stamps.start;
        for (series, end) in self.stages.iter_mut().zip(stamps.ends) {
            series.record(end.since(reached), frames);
            reached = reached.max(end);
        }
        self.residence.record(reached.since(stamps.start), frames);
        self.frames = self.frames.saturating_add(frames);
    }

    fn summary(&self) -> StageSummary {
        let [doorbell, queue_wait, parse, filter, hold, copy, notify] =
            self.stages.each_ref().map(|series| series.summary(self.frames));
        StageSummary {
            frames: self.frames,
            residence: self.residence.summary(self.frames),
            stages: StageDistributions {
                doorbell,
                queue_wait,
                parse,
                filter,
                hold,
                copy,
                notify,
            },
        }
    }

    fn merge(&mut self, other: &Self) {
        for (series, more) in self.stages.iter_mut().zip(&other.stages) {
            series.merge(more);
        }
        self.residence.merge(&other.residence);
        self.frames = self.frames.saturating_add(other.frames);
    }

    fn reset(&mut self) {
        for series in &mut self.stages {
            series.reset();
        }
        self.residence.reset();
        self.frames = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instant;
    use proptest::prelude::*;

    fn stamps(start: u64, steps: [u64; 7]) -> Stamps {
        let mut at = start;
        let ends = steps.map(|step| {
            at += step;
            Instant(at)
        });
        Stamps {
            start: Instant(start),
            ends,
        }
    }

    #[test]
    fn each_stage_lasts_from_the_stamp_before_to_its_own() {
        let mut histograms = StageHistograms::new();
        histograms.record(&stamps(1000, [1, 2, 3, 4, 200_000_000, 6, 7]), 3);
        histograms.record(&stamps(9000, [0; 7]), 1);
        let summary = histograms.summary();
        assert_eq!(summary.frames, 4);
        let totals = Stage::ALL.map(|stage| summary.stages.get(stage).total_ns);
        assert_eq!(totals, [3, 6, 9, 12, 600_000_000, 18, 21]);
        assert_eq!(summary.residence.total_ns, 600_000_069);
        assert!((summary.stages.hold.p50 - 200_000.0).abs() <= 2_000.0);
        assert!((summary.stages.hold.max - 200_000.0).abs() < f64::EPSILON);
        assert!((summary.stages.hold.mean - 150_000.0).abs() < f64::EPSILON);
    }

    #[test]
    fn quantiles_saturate_and_never_exceed_the_maximum() {
        let mut histograms = StageHistograms::new();
        histograms.record(&stamps(0, [90_000_000_000, 0, 0, 0, 0, 0, 0]), 2);
        let doorbell = histograms.summary().stages.doorbell;
        assert_eq!(doorbell.total_ns, 180_000_000_000);
        assert!((doorbell.max - 90_000_000.0).abs() < f64::EPSILON);
        assert!((60_000_000.0..61_000_000.0).contains(&doorbell.p999));
    }

    #[test]
    fn merging_is_recording_together_and_taking_starts_anew() {
        let (first, second) = (stamps(0, [5, 4, 3, 2, 1, 0, 9]), stamps(7, [1; 7]));
        let mut together = StageHistograms::new();
        together.record(&first, 1);
        together.record(&second, 32);
        let (mut one, mut other) = (StageHistograms::new(), StageHistograms::new());
        one.record(&first, 1);
        other.record(&second, 32);
        one.merge(&other);
        assert_eq!(one.summary(), together.summary());
        assert_eq!(one.take().summary(), together.summary());
        assert_eq!(one.summary(), StageHistograms::new().summary());
    }

    proptest! {
        #[test]
        fn stages_sum_to_the_residence_exactly(
            records in proptest::collection::vec(
                (0u64..1 << 40, proptest::array::uniform7(0u64..1 << 36), 1u64..33, proptest::bool::ANY), 1..50)
        ) {
            let mut histograms = StageHistograms::new();
            for (start, steps, frames, disorder) in records {
                let mut stamps = stamps(start, steps);
                if disorder {
                    stamps.ends.reverse();
                }
                histograms.record(&stamps, frames);
            }
            let summary = histograms.summary();
            let sum: u64 = Stage::ALL.iter().map(|stage| summary.stages.get(*stage).total_ns).sum();
            prop_assert_eq!(sum, summary.residence.total_ns);
            let means: f64 = Stage::ALL.iter().map(|stage| summary.stages.get(*stage).mean).sum();
            prop_assert!((means - summary.residence.mean).abs() <= summary.residence.mean * 1e-12);
        }
    }
}
